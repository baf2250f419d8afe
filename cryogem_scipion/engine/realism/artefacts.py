# SPDX-License-Identifier: GPL-3.0-or-later
"""Artefacts of convolutional networks: lattices, and lines along the border of the image.

The values of a set are the means of the values of its images, as in ``image_statistics``.
"""
import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.engine.compute import fourier
from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.realism.image_statistics import standardise

__all__ = ["PERIODS", "Artefacts", "artefact_excess", "lattice_excess_db", "measure_artefacts"]

MAX_PERIOD = 64
PERIODS = (2, 4, 8, 16, 32, 64)
"""Periods (px) of the lattices. A network that halves and doubles its feature maps can leave any of them."""
TILE_EDGES = (512, 256)
"""Edges (px) of the tiles whose power spectra are averaged. The first one that fits into the image is taken."""
BORDER_DEPTH = 8
"""Number of rows or columns at each border that are measured."""
INNER_DEPTH = 32
"""Number of rows or columns next to them, with which they are compared."""


class Artefacts(NamedTuple):
    """Values of one image, or the means over a set. Leading axes stand for several sets."""

    lattice: Float[Tensor, "*s 2 rows columns"]
    """Index 0: power at the frequencies (m / 64, n / 64) of the half plane. Index 1: mean power around each of them.
    float64."""
    border: Float[Tensor, "*s 2 sides depth"]
    """Rows or columns at the top, bottom, left and right border, compared with the rows or columns next to them. Index
    0: difference of the means, in standard deviations of the image. Index 1: natural logarithm of the ratio of the
    standard deviations."""


def measure_artefacts(image: Float[Tensor, "y x"]) -> Artefacts:
    """Measure the artefacts of one image.

    Raises
    ------
    DataError
        The image is constant, or one of its sides has fewer than 256 pixels.
    """
    values = standardise(image)
    return Artefacts(_lattice(values), _border(values))


def artefact_excess(generated: Artefacts, real: Artefacts) -> dict[str, Float[Tensor, "*s"]]:
    """Artefacts of the generated set that the real set does not have.

    Returns
    -------
    lattice
        Largest lattice excess over all periods, in dB; see ``lattice_excess_db``.
    border
        Largest absolute difference of ``Artefacts.border`` between the sets.
    """
    lattice = torch.stack([*lattice_excess_db(generated.lattice, real.lattice).values()]).amax(0)
    return {"lattice": lattice, "border": (generated.border - real.border).abs().flatten(-3).amax(-1)}


def lattice_excess_db(generated: Float[Tensor, "*s 2 rows columns"], real: Float[Tensor, "*s 2 rows columns"]
                      ) -> dict[int, Float[Tensor, "*s"]]:
    """Excess of lattice power in the generated set over the real set, for each period.

    A pattern with a period of P pixels has its power at the frequencies (m / P, n / P). A frequency that also
    belongs to a shorter period is counted for the shorter period only. The power at each frequency is divided by the
    power of the real set there or around it, whichever is larger: a peak that the real set also has is no excess.
    The largest of these ratios counts. With a dozen micrographs it is 1 to 2 dB by chance, so compare it with
    the excess between two halves of the real set.

    Returns
    -------
    Excess in dB for each of ``PERIODS``.
    """
    ratio = generated[..., 0, :, :] / real.amax(-3).clamp(min=1e-30)
    return {period: 10 * ratio[..., _points(period)].amax(-1).clamp(min=1e-30).log10() for period in PERIODS}


def _points(period: int) -> Tensor:
    """Mask of the frequencies (m / 64, n / 64) that belong to a period and to no shorter one."""
    step = MAX_PERIOD // period
    rows, columns = torch.arange(MAX_PERIOD)[:, None], torch.arange(MAX_PERIOD // 2 + 1)
    of_period = (rows % step == 0) & (columns % step == 0)
    of_shorter_period = (rows % (2 * step) == 0) & (columns % (2 * step) == 0)
    return of_period & ~of_shorter_period


def _lattice(values: Float[Tensor, "y x"]) -> Float[Tensor, "2 rows columns"]:
    edge = next((size for size in TILE_EDGES if size <= min(values.shape)), None)
    if edge is None:
        raise DataError(f"the image has {values.shape[0]} x {values.shape[1]} pixels (y x), but lattices can be "
                        f"measured only from {TILE_EDGES[-1]} pixels on each side; give larger images")
    window = torch.hann_window(edge, dtype=values.dtype, device=values.device)
    window = window / window.square().mean().sqrt()
    power = torch.zeros(edge, edge // 2 + 1, dtype=torch.float64, device=values.device)
    corners = [(top, left) for top in _starts(values.shape[0], edge) for left in _starts(values.shape[1], edge)]
    for top, left in corners:
        tile = values[top:top + edge, left:left + edge]
        tile = (tile - tile.mean()) * window[:, None] * window
        power += fourier.rfft2(tile).abs().square() / edge**2
    power = (power / len(corners)).cpu()
    # The window spreads a wave over the neighbouring frequencies. Two frequencies away the wave has no power,
    # and no other lattice point lies there.
    full = torch.cat([power, power[:, 1:-1].flip(1).roll(-1, 0).flip(0)], 1)
    around = torch.stack([full.roll((dy, dx), (0, 1)) for dy in (-2, 0, 2) for dx in (-2, 0, 2) if dy or dx]).mean(0)
    step = edge // MAX_PERIOD
    return torch.stack([plane[::step, ::step][:, :MAX_PERIOD // 2 + 1] for plane in (full, around)])


def _starts(size: int, edge: int) -> list[int]:
    """First pixels of evenly spaced tiles that overlap by half or more."""
    count = max(1, math.ceil((size - edge) / (edge // 2)) + 1)
    return [round(i * (size - edge) / max(1, count - 1)) for i in range(count)]


def _border(values: Float[Tensor, "y x"]) -> Float[Tensor, "2 sides depth"]:
    sides = []
    for side in (values, values.flip(0), values.T, values.T.flip(0)):
        lines, inside = side[:BORDER_DEPTH], side[BORDER_DEPTH:BORDER_DEPTH + INNER_DEPTH]
        sides.append(torch.stack([lines.mean(1) - inside.mean(),
                                  (lines.std(1) / inside.std(1).mean()).clamp(min=1e-6).log()]))
    return torch.stack(sides, 1).to("cpu", torch.float64)
