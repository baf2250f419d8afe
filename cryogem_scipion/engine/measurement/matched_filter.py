# SPDX-License-Identifier: GPL-3.0-or-later
"""Search for particles in a micrograph by matched filters: projections of the map through the micrograph's CTF."""
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from cryogem_scipion.engine.compute import fourier
from cryogem_scipion.engine.simulation.composition import compose
from cryogem_scipion.engine.simulation.poses import uniform_rotations
from cryogem_scipion.engine.simulation.projection import Projector, project
from cryogem_scipion.engine.simulation.specimen import seeded_generator

__all__ = ["MatchedFilter", "Peaks", "centred_spectrum", "templates"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Peaks:
    """Local maxima of the score, the highest first."""

    centres: Array
    """(peak, 2): (y, x) in whole pixels."""
    scores: Array
    """Standard deviations of the score where there are no particles."""
    templates: NDArray[np.int64]
    """The template that fits best at each peak."""

    def part(self, chosen: NDArray[np.bool_] | slice) -> "Peaks":
        """Return some of the peaks."""
        return Peaks(self.centres[chosen], self.scores[chosen], self.templates[chosen])


def templates(projector: Projector, pixel_size: float, count: int) -> Float[Tensor, "n box box"]:
    """Return projections of the map at orientations that are spread evenly at random, always the same ones."""
    box = 2 * (int(projector.radius_angstrom / pixel_size) + 2)
    rotations = uniform_rotations(count, seeded_generator("templates"))
    return project(projector, rotations, torch.zeros(count, 2), box, pixel_size)


def centred_spectrum(image: Float[Tensor, "box box"], shape: tuple[int, int]) -> Tensor:
    """Return the spectrum of an image in a larger field, with its origin box // 2 at pixel (0, 0)."""
    box = image.shape[-1]
    field = torch.zeros(shape)
    rows, columns = min(box, shape[0]), min(box, shape[1])
    field[:rows, :columns] = image[:rows, :columns]
    return fourier.rfft2(field.roll((-(box // 2), -(box // 2)), (0, 1)))


class MatchedFilter:
    """Scores of all templates at every place of micrographs of one size."""

    def __init__(self, images: Float[Tensor, "n box box"], shape: tuple[int, int]) -> None:
        """Transform the templates once for all micrographs."""
        self.images, self.shape = images, shape
        self._spectra = [centred_spectrum(image, shape) for image in images]
        half = shape[1] // 2 + 1
        self._weights = torch.full((half,), 2.0)
        self._weights[0] = 1
        if shape[1] % 2 == 0:
            self._weights[-1] = 1

    def scores(self, spectrum: Tensor, transfer: Float[Tensor, "y xh"], power: Float[Tensor, "y xh"],
               used: Float[Tensor, "y xh"] | None = None) -> tuple[Float[Tensor, "y x"], Tensor]:
        """Return the best template's score at each pixel, and which template it is.

        Parameters
        ----------
        spectrum
            The micrograph's ``rfft2``.
        transfer
            What the microscope multiplies the particles' spectra with; negative where they become dark.
        power
            Power spectrum of the micrograph; a score has a standard deviation of 1 where there is nothing else.
        used
            1 for the Fourier coefficients that are searched, 0 for the others. None: all.
        """
        weighted = transfer / power if used is None else transfer / power * used
        best, number = None, torch.zeros(self.shape, dtype=torch.int64)
        for index, template in enumerate(self._spectra):
            kernel = template * weighted
            variance = float(((kernel.abs().square() * power) * self._weights).sum()) / math.prod(self.shape)
            score = fourier.irfft2(spectrum * kernel.conj(), self.shape) / math.sqrt(max(variance, 1e-30))
            if best is None:
                best = score
                continue
            higher = score > best
            best = torch.where(higher, score, best)
            number[higher] = index
        assert best is not None
        return best, number

    def peaks(self, scores: tuple[Float[Tensor, "y x"], Tensor], distance: float,
              excluded: NDArray[np.bool_]) -> Peaks:
        """Return maxima that are at least ``distance`` pixels from any higher one, outside excluded places."""
        values = np.where(excluded, -np.inf, scores[0].numpy())
        found = _local_maxima(values, max(distance / 2, 1))
        height = values[found[:, 0], found[:, 1]]
        order = np.argsort(-height, kind="stable")
        kept = _spaced(found[order], distance, self.shape)
        chosen = found[order][kept]
        return Peaks(chosen.astype(float), height[order][kept].astype(float),
                     scores[1].numpy()[chosen[:, 0], chosen[:, 1]])

    def drawn(self, peaks: Peaks) -> Tensor:
        """Return the spectrum of a field with the templates at the peaks, before the optics."""
        centres = torch.from_numpy(peaks.centres).reshape(-1, 2)
        field = compose(self.images[torch.from_numpy(peaks.templates)], centres, self.shape)
        return fourier.rfft2(field)


def _local_maxima(values: NDArray[np.float32], radius: float) -> NDArray[np.int64]:
    """Places (y, x) of the finite values that no other value within a radius in pixels exceeds."""
    reach = int(radius)
    # The square inside the disc is searched first: a filter over squares is many times faster than one over discs.
    square = ndimage.maximum_filter(values, size=2 * int(radius / math.sqrt(2)) + 1)
    places = np.argwhere((values == square) & np.isfinite(values))
    disc = np.where(np.hypot(*np.ogrid[-reach:reach + 1, -reach:reach + 1]) <= radius, 0, -np.inf)
    padded = np.pad(values, reach, constant_values=-np.inf)
    width = 2 * reach + 1
    highest = [(padded[y:y + width, x:x + width] + disc).max() for y, x in places.tolist()]
    maxima: NDArray[np.int64] = places[values[places[:, 0], places[:, 1]] == np.array(highest, values.dtype)]
    return maxima


def _spaced(places: NDArray[np.int64], distance: float, shape: tuple[int, int]) -> list[int]:
    """Numbers of the places that are not too near to an earlier one."""
    reach = max(1, int(distance))
    disc = np.hypot(*np.ogrid[-reach:reach + 1, -reach:reach + 1]) <= distance
    taken = np.zeros((shape[0] + 2 * reach, shape[1] + 2 * reach), bool)
    kept = []
    for number, (y, x) in enumerate(places.tolist()):
        if not taken[y + reach, x + reach]:
            kept.append(number)
            taken[y:y + 2 * reach + 1, x:x + 2 * reach + 1] |= disc
    return kept


def halves(shape: tuple[int, int], seed: Sequence[object]) -> tuple[Tensor, Tensor]:
    """Return two complementary random halves of the Fourier coefficients of an image.

    Particles are found with one half and their amplitude is measured on the other: noise that looks like a template
    in one half is unlike it in the other.
    """
    chosen = (torch.rand(shape[0], shape[1] // 2 + 1, generator=seeded_generator("halves", *seed)) < 0.5).float()
    return chosen, 1 - chosen
