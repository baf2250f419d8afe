# SPDX-License-Identifier: GPL-3.0-or-later
"""Clean and physical images beside the generated ones (``--keep``), as ground truth for denoisers."""
from pathlib import Path

import torch

from cryogem_scipion.engine.io.dataset import replacing
from cryogem_scipion.engine.io.mrc import write_mrc
from cryogem_scipion.engine.noise.models import PhysicalNoise, Scene
from cryogem_scipion.engine.simulation.labels import cut_boxes
from cryogem_scipion.engine.simulation.microscope import CleanMicrograph, Microscope

__all__ = ["IntermediateImages"]


class IntermediateImages:
    """Writes the clean (``optical``) and physical images of micrographs into folders of these names.

    Parameters
    ----------
    out
        Folder of the run.
    keep
        Images to write: ``optical``, ``physical``, both or none.
    extract
        Whether clean images also get stacks of the whole particles.
    """

    def __init__(self, out: Path, keep: tuple[str, ...], microscope: Microscope, extract: bool):
        self.out, self.keep, self.microscope, self.extract = out, keep, microscope, extract
        for name in keep:
            (out / name).mkdir(exist_ok=True)

    def write(self, index: int, clean: CleanMicrograph, physical: PhysicalNoise, scene: Scene,
              generator: torch.Generator) -> None:
        """Write the images of micrograph ``index``.

        Parameters
        ----------
        generator
            Random generator of the micrograph's noise; its state stays as it is.
        """
        pixel_size, name = self.microscope.pixel_size, f"mic_{index:06d}.mrc"
        if "optical" in self.keep:
            with replacing(self.out / "optical" / name) as path:
                write_mrc(path, clean.image.cpu().numpy(), pixel_size)
            if self.extract and bool(clean.specimen.is_whole.any()):
                boxes = cut_boxes(clean.signal, clean.specimen, self.microscope.box_size)
                with replacing(self.out / "optical" / f"{name}s") as path:
                    write_mrc(path, boxes.cpu().numpy(), pixel_size, stack=True)
        if "physical" in self.keep:
            generator_copy = torch.Generator()
            generator_copy.set_state(generator.get_state())
            with replacing(self.out / "physical" / name) as path:
                write_mrc(path, physical(clean.image, generator_copy, scene).cpu().numpy(), pixel_size)
