# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets of micrographs, reduced to averages and to a limited number of features while they are read one by one."""
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
from cryogem_scipion.engine.realism.artefacts import TILE_EDGES, Artefacts, measure_artefacts
from cryogem_scipion.engine.realism.features.random_filters import random_filter_features
from cryogem_scipion.engine.realism.image_statistics import (
    ImageStatistics,
    image_statistics,
    split_into_blocks,
    standardise,
)
from cryogem_scipion.engine.realism.set_distances import GroupAverages, PatchFeatures
from cryogem_scipion.engine.runs.progress import track_progress

__all__ = ["MicrographSet", "SetMeasurements", "measure_set", "network_patch_features", "open_set",
           "random_filter_patch_features"]

GROUPS = 200
"""Largest number of groups whose averages are kept. Larger sets need no more memory."""
PIXEL_SIZE_TOLERANCE = 0.01
"""Largest relative difference of pixel sizes within a set."""
MAX_PATCHES = 20_000
"""Largest number of patches of a set."""
EXAMPLE_EDGE = 256
"""Edge (px) of the example images."""
EXAMPLES = 2
"""Example images of a set."""

Means = TypeVar("Means", bound=tuple[Tensor, ...])


@dataclass(frozen=True)
class MicrographSet:
    """Micrograph files with one pixel size, and the pixel size at which they are compared."""

    name: str
    """generated or real, for messages."""
    files: tuple[Path, ...]
    pixel_size: float
    """Å per pixel of the files."""
    working_pixel_size: float
    """Å per pixel of the images from ``image``."""

    def image(self, path: Path) -> Float[Tensor, "y x"]:
        """One micrograph at the working pixel size."""
        data, _ = read_mrc(path, 2)
        target = working_shape((data.shape[0], data.shape[1]), self.pixel_size, self.working_pixel_size)
        return fourier_crop(torch.tensor(data)[:target.crop[0], :target.crop[1]], target.shape)

    def shortest_edge(self) -> int:
        """Shortest edge (px) of all images at the working pixel size; reads only headers."""
        shapes = {read_header(path, 2)[0] for path in self.files}
        return min(min(working_shape((y, x), self.pixel_size, self.working_pixel_size).shape) for y, x in shapes)


@dataclass(frozen=True)
class SetMeasurements:
    """Statistics, artefacts and examples of a set of micrographs."""

    statistics: GroupAverages[ImageStatistics]
    artefacts: GroupAverages[Artefacts] | None
    """None if an image has less than 256 pixels a side."""
    binned_deviation: float
    """Standard deviation of the standardised images after binning; the root of the mean square over the set."""
    grey_mean_and_deviation: tuple[float, float]
    """Mean and standard deviation of the grey values, both averaged over the micrographs."""
    example_images: Float[Tensor, "examples y x"]


def open_set(name: str, files: Sequence[Path], pixel_size: float | None) -> MicrographSet:
    """Set of micrographs from files, of which only the headers are read.

    Parameters
    ----------
    name
        generated or real, for messages.
    pixel_size
        Å per pixel; None: the value in the headers.

    Returns
    -------
    The set; its working pixel size is the pixel size of the files.

    Raises
    ------
    DataError
        A pixel size is missing, pixel sizes differ by more than 1 %, or a file is not a micrograph.
    """
    files_by_pixel_size: dict[float, Path] = {}
    for path in files:
        header_pixel_size = read_header(path, 2)[1]
        if pixel_size is None and header_pixel_size is None:
            raise DataError(f"{path} has no pixel size in its header; set {name}_pixel_size")
        files_by_pixel_size.setdefault(pixel_size or header_pixel_size or 0.0, path)
    low, high = min(files_by_pixel_size), max(files_by_pixel_size)
    if high > low * (1 + PIXEL_SIZE_TOLERANCE):
        raise DataError(f"{files_by_pixel_size[low]} has {low:g} and {files_by_pixel_size[high]} has {high:g} Å per "
                        f"pixel; give micrographs with the same pixel size, or set {name}_pixel_size")
    return MicrographSet(name, tuple(files), low, low)


def measure_set(micrographs: MicrographSet, binning: int, threads: int) -> SetMeasurements:
    """Measure a set of micrographs; every file is read once.

    Parameters
    ----------
    binning
        Edge (px) of the squares of pixels that are averaged for the features.
    threads
        Number of micrographs that are measured at the same time.

    Raises
    ------
    DataError
        A micrograph has no contents, or is smaller than 64 pixels a side.
    """
    large_enough = micrographs.shortest_edge() >= TILE_EDGES[-1]

    def measure(path: Path) -> tuple[ImageStatistics, Artefacts | None, tuple[float, float, float], Tensor]:
        image = micrographs.image(path)
        binned = _binned(standardise(image), binning)
        moments = (float(binned.square().mean()), float(image.mean()), float(image.std()))
        return (image_statistics(image), measure_artefacts(image) if large_enough else None, moments,
                _centre(standardise(image)))

    count = len(micrographs.files)
    statistics: _GroupSums[ImageStatistics] = _GroupSums(min(GROUPS, count))
    artefacts: _GroupSums[Artefacts] = _GroupSums(min(GROUPS, count))
    mean_moments, example_images = torch.zeros(3, dtype=torch.float64), []
    results = map_in_order(measure, micrographs.files, threads)
    for index, (image_averages, image_artefacts, moments, example) in enumerate(
            track_progress(results, count, f"reading {micrographs.name} micrograph")):
        statistics.add(index, image_averages)
        if image_artefacts is not None:
            artefacts.add(index, image_artefacts)
        mean_moments += torch.tensor(moments, dtype=torch.float64) / count
        if index < EXAMPLES:
            example_images.append(example)
    edge = min(min(example.shape) for example in example_images)
    return SetMeasurements(statistics.averages(), artefacts.averages() if large_enough else None,
                           float(mean_moments[0]) ** 0.5, (float(mean_moments[1]), float(mean_moments[2])),
                           torch.stack([example[:edge, :edge] for example in example_images]))


def network_patch_features(micrographs: MicrographSet, network: nn.Module, device: torch.device, binning: int,
                           deviation: float, edge: int, threads: int) -> PatchFeatures:
    """Features of patches of every micrograph by a network.

    The grey values of the binned patches have standard deviation 1 over the whole set.

    Parameters
    ----------
    network
        Network on ``device`` that returns a feature vector for each patch of an array (n, y, x).
    binning
        Edge (px) of the squares of pixels that are averaged first.
    deviation
        ``SetMeasurements.binned_deviation``.
    edge
        Edge of the patches in binned pixels.
    threads
        Number of micrographs that are read at the same time on the CPU.
    """
    patches_per_micrograph = max(1, MAX_PATCHES // len(micrographs.files))

    def features(path: Path) -> Tensor:
        binned = _binned(standardise(micrographs.image(path)), binning) / deviation
        patches = _evenly_chosen(split_into_blocks(binned, edge), patches_per_micrograph)
        with torch.no_grad():
            return torch.cat([network(batch.to(device)).float().cpu() for batch in torch.split(patches, 16)])

    return _collect_features(micrographs, features, threads if device.type == "cpu" else 1)


def random_filter_patch_features(micrographs: MicrographSet, threads: int) -> PatchFeatures:
    """Features of patches of every micrograph by random filters; see ``random_filter_features``.

    Parameters
    ----------
    threads
        Number of micrographs that are read at the same time.
    """
    patches_per_micrograph = max(1, MAX_PATCHES // len(micrographs.files))

    def features(path: Path) -> Tensor:
        return _evenly_chosen(random_filter_features(standardise(micrographs.image(path))), patches_per_micrograph)

    return _collect_features(micrographs, features, threads)


def _evenly_chosen(rows: Tensor, count: int) -> Tensor:
    """At most ``count`` rows, evenly spaced."""
    if len(rows) <= count:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, count).round().long()]


def _collect_features(micrographs: MicrographSet, features: Callable[[Path], Tensor], threads: int) -> PatchFeatures:
    vectors = list(track_progress(map_in_order(features, micrographs.files, threads), len(micrographs.files),
                                  f"features of {micrographs.name} micrograph"))
    micrograph_indices = torch.arange(len(vectors)).repeat_interleave(torch.tensor([len(rows) for rows in vectors]))
    return PatchFeatures(torch.cat(vectors), micrograph_indices)


class _GroupSums(Generic[Means]):
    """Sums of the averages of micrographs, in groups."""

    def __init__(self, groups: int) -> None:
        self.sums: list[Means | None] = [None] * groups
        self.counts = torch.zeros(groups, dtype=torch.float64)

    def add(self, index: int, averages: Means) -> None:
        """Add the averages of micrograph ``index``."""
        group = index % len(self.sums)
        group_sum = self.sums[group]
        new_sum = averages if group_sum is None else map(torch.add, group_sum, averages)
        self.sums[group] = type(averages)(*new_sum)
        self.counts[group] += 1

    def averages(self) -> GroupAverages[Means]:
        """Averages of the groups."""
        sums = [group_sum for group_sum in self.sums if group_sum is not None]
        columns = (torch.stack([part.double() for part in column]) for column in zip(*sums, strict=True))
        means = (column / self.counts.view(-1, *[1] * (column.dim() - 1)) for column in columns)
        return GroupAverages(type(sums[0])(*means), self.counts)


def _binned(image: Float[Tensor, "y x"], binning: int) -> Float[Tensor, "v u"]:
    """Means over squares of ``binning`` x ``binning`` pixels."""
    if binning == 1:
        return image
    return torch.nn.functional.avg_pool2d(image[None, None], binning)[0, 0]


def _centre(image: Float[Tensor, "y x"]) -> Float[Tensor, "v u"]:
    """Centre of an image, at most ``EXAMPLE_EDGE`` pixels a side."""
    (top, height), (left, width) = ((max(0, (size - EXAMPLE_EDGE) // 2), min(size, EXAMPLE_EDGE))
                                    for size in image.shape)
    return image[top:top + height, left:left + width].clone()
