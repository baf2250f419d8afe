# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets of micrographs as they are compared: read one at a time, kept as averages and pieces of fixed number."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cryogem_scipion.engine.compute.parallel import map_in_order
from cryogem_scipion.engine.compute.resampling import fourier_crop, working_shape
from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.io.mrc import read_header, read_mrc
from cryogem_scipion.engine.realism.artefacts import TILES, Artefacts, artefacts
from cryogem_scipion.engine.realism.comparison import Pieces, Sample
from cryogem_scipion.engine.realism.summary import Summary, blocks, standardised, summary
from cryogem_scipion.engine.realism.textures import textures
from cryogem_scipion.engine.runs.progress import track_progress

__all__ = ["Measured", "MicrographSet", "measure", "network_pieces", "opened", "texture_pieces"]

GROUPS = 200
"""Micrographs of larger sets are averaged in so many groups, so that memory does not grow."""
SAME = 0.01
"""Largest relative difference of pixel sizes within a set."""
PIECES = 20_000
"""Pieces of each set at most."""
SHOWN = 256
"""Edge (px) of the examples."""
EXAMPLES = 2

Means = TypeVar("Means", bound=tuple[Tensor, ...])


@dataclass(frozen=True)
class MicrographSet:
    """Files of one kind, and the pixel size they are brought to."""

    name: str
    files: tuple[Path, ...]
    pixel_size: float
    """As recorded, or as given."""
    working_pixel_size: float

    def image(self, path: Path) -> Float[Tensor, "y x"]:
        """One micrograph at the working pixel size."""
        data, _ = read_mrc(path, 2)
        target = working_shape((data.shape[0], data.shape[1]), self.pixel_size, self.working_pixel_size)
        return fourier_crop(torch.tensor(data)[:target.crop[0], :target.crop[1]], target.shape)

    def smallest(self) -> int:
        """Shortest edge (px) of all images at the working pixel size; from the headers alone."""
        shapes = {read_header(path, 2)[0] for path in self.files}
        return min(min(working_shape((y, x), self.pixel_size, self.working_pixel_size).shape) for y, x in shapes)


@dataclass(frozen=True)
class Measured:
    """What is known of a set."""

    summaries: Sample[Summary]
    artefacts: Sample[Artefacts] | None
    """None where images are too small to look for lattices."""
    coarse_deviation: float
    """Of the standardised images, their pixels averaged for the features."""
    grey: tuple[float, float]
    """Mean and standard deviation of the grey values."""
    examples: Float[Tensor, "examples y x"]


def opened(name: str, files: Sequence[Path], pixel_size: float | None) -> MicrographSet:
    """Read a set's headers; its working pixel size is its own.

    Raises
    ------
    DataError
        Pixel sizes are missing or differ, or a file is no micrograph.
    """
    found: dict[float, Path] = {}
    for path in files:
        recorded = read_header(path, 2)[1]
        if pixel_size is None and recorded is None:
            raise DataError(f"{path} has no pixel size in its header; set {name}_pixel_size")
        found.setdefault(pixel_size or recorded or 0.0, path)
    low, high = min(found), max(found)
    if high > low * (1 + SAME):
        raise DataError(f"{found[low]} has {low:g} and {found[high]} has {high:g} Å per pixel; compare micrographs of "
                        f"one pixel size, or set {name}_pixel_size")
    return MicrographSet(name, tuple(files), low, low)


def measure(micrographs: MicrographSet, binning: int, threads: int) -> Measured:
    """Read a set once, some micrographs at a time.

    Parameters
    ----------
    binning
        Pixels a side that are averaged for the features.
    """
    lattices = micrographs.smallest() >= TILES[-1]

    def work(path: Path) -> tuple[Summary, Artefacts | None, tuple[float, float, float], Tensor]:
        image = micrographs.image(path)
        coarse = _coarse(standardised(image), binning)
        numbers = (float(coarse.square().mean()), float(image.mean()), float(image.std()))
        return summary(image), artefacts(image) if lattices else None, numbers, _middle(standardised(image))

    count = len(micrographs.files)
    summaries: _Groups[Summary] = _Groups(min(GROUPS, count))
    found: _Groups[Artefacts] = _Groups(min(GROUPS, count))
    totals, examples = torch.zeros(3, dtype=torch.float64), []
    results = map_in_order(work, micrographs.files, threads)
    for number, (one, other, numbers, example) in enumerate(
            track_progress(results, count, f"reading {micrographs.name} micrograph")):
        summaries.add(number, one)
        if other is not None:
            found.add(number, other)
        totals += torch.tensor(numbers, dtype=torch.float64) / count
        if number < EXAMPLES:
            examples.append(example)
    edge = min(min(example.shape) for example in examples)
    return Measured(summaries.sample(), found.sample() if lattices else None, float(totals[0]) ** 0.5,
                    (float(totals[1]), float(totals[2])), torch.stack([example[:edge, :edge] for example in examples]))


def network_pieces(micrographs: MicrographSet, network: nn.Module, device: torch.device, binning: int,
                   deviation: float, edge: int, threads: int) -> Pieces:
    """Features that a network sees in pieces of every micrograph, in a set whose pixels deviate by 1 on the whole.

    Parameters
    ----------
    network
        On the device; of pieces (n, y, x).
    deviation
        ``Measured.coarse_deviation``.
    edge
        Of the pieces, px.
    threads
        Micrographs that are worked on at a time.
    """
    most = max(1, PIECES // len(micrographs.files))

    def work(path: Path) -> Tensor:
        pieces = _some(blocks(_coarse(standardised(micrographs.image(path)), binning) / deviation, edge), most)
        with torch.no_grad():
            return torch.cat([network(part.to(device)).float().cpu() for part in torch.split(pieces, 16)])

    return _collected(micrographs, work, threads if device.type == "cpu" else 1)


def texture_pieces(micrographs: MicrographSet, threads: int) -> Pieces:
    """Features of squares of every micrograph that need no network."""
    most = max(1, PIECES // len(micrographs.files))
    return _collected(micrographs, lambda path: _some(textures(standardised(micrographs.image(path))), most), threads)


def _some(pieces: Tensor, most: int) -> Tensor:
    """At most so many, evenly taken."""
    if len(pieces) <= most:
        return pieces
    return pieces[torch.linspace(0, len(pieces) - 1, most).round().long()]


def _collected(micrographs: MicrographSet, work: Callable[[Path], Tensor], threads: int) -> Pieces:
    results = track_progress(map_in_order(work, micrographs.files, threads), len(micrographs.files),
                      f"features of {micrographs.name} micrograph")
    vectors = list(results)
    owners = torch.arange(len(vectors)).repeat_interleave(torch.tensor([len(part) for part in vectors]))
    return Pieces(torch.cat(vectors), owners)


class _Groups(Generic[Means]):
    """Averages added up in groups."""

    def __init__(self, groups: int) -> None:
        self.sums: list[Means | None] = [None] * groups
        self.counts = torch.zeros(groups, dtype=torch.float64)

    def add(self, number: int, averages: Means) -> None:
        """Add those of micrograph ``number``."""
        group = number % len(self.sums)
        before = self.sums[group]
        parts = averages if before is None else map(torch.add, before, averages)
        self.sums[group] = type(averages)(*parts)
        self.counts[group] += 1

    def sample(self) -> Sample[Means]:
        """The set so far."""
        sums = [part for part in self.sums if part is not None]
        stacks = (torch.stack([part.double() for part in column]) for column in zip(*sums, strict=True))
        return Sample(type(sums[0])(*(stack / self.counts.view(-1, *[1] * (stack.dim() - 1)) for stack in stacks)),
                      self.counts)


def _coarse(image: Float[Tensor, "y x"], binning: int) -> Float[Tensor, "v u"]:
    """Means over squares of pixels."""
    if binning == 1:
        return image
    return torch.nn.functional.avg_pool2d(image[None, None], binning)[0, 0]


def _middle(image: Float[Tensor, "y x"]) -> Float[Tensor, "v u"]:
    """The middle of an image, at most ``SHOWN`` pixels a side."""
    (top, height), (left, width) = ((max(0, (size - SHOWN) // 2), min(size, SHOWN)) for size in image.shape)
    return image[top:top + height, left:left + width].clone()
