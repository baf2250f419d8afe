# SPDX-License-Identifier: GPL-3.0-or-later
"""Writing of a dataset folder, one labelled micrograph at a time, for ``simulate`` and ``generate``."""
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.engine.io.dataset import EXTRACTED, MICROGRAPHS, PARTICLES, Source, replacing
from cryogem_scipion.engine.io.mrc import write_mrc
from cryogem_scipion.engine.io.star_writer import StarTableWriter
from cryogem_scipion.engine.simulation.labels import extract_boxes, micrograph_row, optics_table, particle_rows
from cryogem_scipion.engine.simulation.microscope import CleanMicrograph, Microscope, Specimen

__all__ = ["DatasetWriter"]


class DatasetWriter:
    """Writes the micrographs, masks and particle stacks of one run, and at the end its tables.

    Parameters
    ----------
    out
        The dataset folder; it exists.
    microscope
        Gives pixel size, box size and settings.
    sources
        Copies of the maps in the folder ``source``, in the order of the map indices.
    extract
        Also write the whole particles as stacks.
    """

    def __init__(self, out: Path, microscope: Microscope, sources: Sequence[Source], extract: bool):
        self.out, self.microscope, self.extract = out, microscope, extract
        self._map_names = [Path(source.path).name for source in sources]
        self.particle_count = self.requested_count = self.whole_particle_count = 0
        for name in ["micrographs", "masks", *(["particles"] if extract else [])]:
            (out / name).mkdir(exist_ok=True)
        self._micrographs = StarTableWriter(out / MICROGRAPHS, "micrographs")
        self._particles = StarTableWriter(out / PARTICLES, "particles")
        self._extracted = StarTableWriter(out / EXTRACTED, "particles") if extract else None

    def has_micrograph(self, index: int) -> bool:
        """Whether the folder holds micrograph ``index``. Its mask and its stack are written before it."""
        return (self.out / _micrograph(index)).is_file()

    def write_images(self, index: int, image: Float[Tensor, "y x"], clean: CleanMicrograph) -> None:
        """Write the particle stack, the mask and last the micrograph.

        Parameters
        ----------
        index
            Index of the micrograph, from 0.
        image
            The micrograph, clean or generated, protein dark.
        clean
            Gives the mask and the positions of the particles.
        """
        pixel_size = self.microscope.pixel_size
        if self.extract and bool(clean.specimen.is_whole.any()):
            boxes = extract_boxes(image, clean.specimen, self.microscope.box_size)
            with replacing(self.out / _stack(index)) as path:
                write_mrc(path, boxes.cpu().numpy(), pixel_size, stack=True)
        mask = clean.mask.cpu()
        with replacing(self.out / _mask(index)) as path:
            write_mrc(path, (mask if self.microscope.settings.soft_mask else mask.to(torch.uint8)).numpy(), pixel_size)
        with replacing(self.out / _micrograph(index)) as path:
            write_mrc(path, image.cpu().numpy(), pixel_size)

    def add_labels(self, index: int, specimen: Specimen) -> None:
        """Add the labels of micrograph ``index`` to the tables; call in the order of the micrographs."""
        name = _micrograph(index)
        self._micrographs.append(pd.DataFrame([micrograph_row(name, _mask(index), specimen)]))
        rows = particle_rows(name, specimen, self.microscope.pixel_size, self.particle_count)
        rows["cryogemSource"] = [self._map_names[number] for number in specimen.map_indices.tolist()]
        self._particles.append(rows)
        if self._extracted:
            whole = rows[rows["cryogemWhole"] == 1]
            image_names = [f"{number:06d}@{_stack(index)}" for number in range(1, len(whole) + 1)]
            self._extracted.append(whole.assign(rlnImageName=image_names))
        self.particle_count += len(rows)
        self.whole_particle_count += int(specimen.is_whole.sum())
        self.requested_count += specimen.requested_count

    def write_tables(self) -> None:
        """Write micrographs.star, particles.star and, with stacks, extracted.star."""
        self._micrographs.finish(optics_table(self.microscope, with_images=False))
        # RELION needs the box size in this table even before it extracts the particles.
        optics = optics_table(self.microscope, with_images=True)
        self._particles.finish(optics)
        if self._extracted:
            self._extracted.finish(optics)

    def warnings(self) -> tuple[str, ...]:
        """Warnings to the user about this dataset: particles that did not fit."""
        if self.particle_count < self.requested_count:
            missing = self.requested_count - self.particle_count
            return (f"{missing} of {self.requested_count} particles did not fit and were left out; lower "
                    "particles_mean or particle_distance, or enlarge micrograph_size",)
        return ()


def _micrograph(index: int) -> str:
    return f"micrographs/mic_{index:06d}.mrc"


def _mask(index: int) -> str:
    return f"masks/mic_{index:06d}.mrc"


def _stack(index: int) -> str:
    return f"particles/mic_{index:06d}.mrcs"
