# SPDX-License-Identifier: GPL-3.0-or-later
"""What simulate and generate share: a folder of labelled micrographs, written one at a time."""
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

__all__ = ["LabelledFolder"]


class LabelledFolder:
    """Micrographs, masks and stacks of one run under their final names, then its tables."""

    def __init__(self, out: Path, run: Microscope, sources: Sequence[Source], extract: bool):
        self.out, self.run, self.extract = out, run, extract
        self._names = [Path(source.path).name for source in sources]
        self.count = self.wanted = self.whole = 0
        for name in ["micrographs", "masks", *(["particles"] if extract else [])]:
            (out / name).mkdir(exist_ok=True)
        self._micrographs = StarTableWriter(out / MICROGRAPHS, "micrographs")
        self._particles = StarTableWriter(out / PARTICLES, "particles")
        self._extracted = StarTableWriter(out / EXTRACTED, "particles") if extract else None

    def has(self, index: int) -> bool:
        """Whether micrograph ``index`` is whole; it is written after all that belongs to it."""
        return (self.out / _micrograph(index)).is_file()

    def write(self, index: int, image: Float[Tensor, "y x"], clean: CleanMicrograph) -> None:
        """Write the stack, the mask and last the image of micrograph ``index``."""
        pixel_size = self.run.pixel_size
        if self.extract and bool(clean.specimen.whole.any()):
            boxes = extract_boxes(image, clean.specimen, self.run.box_size)
            with replacing(self.out / _stack(index)) as path:
                write_mrc(path, boxes.cpu().numpy(), pixel_size, stack=True)
        mask = clean.mask.cpu()
        with replacing(self.out / _mask(index)) as path:
            write_mrc(path, (mask if self.run.settings.soft_mask else mask.to(torch.uint8)).numpy(), pixel_size)
        with replacing(self.out / _micrograph(index)) as path:
            write_mrc(path, image.cpu().numpy(), pixel_size)

    def record(self, index: int, specimen: Specimen) -> None:
        """Remember the labels of micrograph ``index``; in order of the micrographs."""
        name = _micrograph(index)
        self._micrographs.append(pd.DataFrame([micrograph_row(name, _mask(index), specimen)]))
        rows = particle_rows(name, specimen, self.run.pixel_size, self.count)
        rows["cryogemSource"] = [self._names[source] for source in specimen.sources.tolist()]
        self._particles.append(rows)
        if self._extracted:
            whole = rows[rows["cryogemWhole"] == 1]
            images = [f"{place:06d}@{_stack(index)}" for place in range(1, len(whole) + 1)]
            self._extracted.append(whole.assign(rlnImageName=images))
        self.count += len(rows)
        self.whole += int(specimen.whole.sum())
        self.wanted += specimen.wanted

    def write_tables(self) -> None:
        """Write the tables of everything recorded."""
        self._micrographs.finish(optics_table(self.run, images=False))
        # RELION asks for the box in this table even where it has yet to cut the particles.
        optics = optics_table(self.run, images=True)
        self._particles.finish(optics)
        if self._extracted:
            self._extracted.finish(optics)

    def warnings(self) -> tuple[str, ...]:
        """What a user should know of the set."""
        if self.count < self.wanted:
            return (f"{self.wanted - self.count} of {self.wanted} particles did not fit and were left out; lower "
                    "particles_mean or particle_distance, or enlarge micrograph_size",)
        return ()


def _micrograph(index: int) -> str:
    return f"micrographs/mic_{index:06d}.mrc"


def _mask(index: int) -> str:
    return f"masks/mic_{index:06d}.mrc"


def _stack(index: int) -> str:
    return f"particles/mic_{index:06d}.mrcs"
