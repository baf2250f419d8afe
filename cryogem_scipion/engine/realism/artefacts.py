# SPDX-License-Identifier: GPL-3.0-or-later
"""What networks leave in images and microscopes do not: lattices, and lines along the border.

As in ``summary``, what is measured of an image is an average, and that of a set the mean of those of its images.
"""
import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.engine.compute import fourier
from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.realism.summary import standardised

__all__ = ["PERIODS", "Artefacts", "artefacts", "excesses", "lattice_excess_db"]

LONGEST = 64
PERIODS = (2, 4, 8, 16, 32, 64)
"""Periods (px) that are looked for: a network that halves and doubles its fields can leave any of them."""
TILES = (512, 256)
"""Edges of the pieces whose spectra are averaged: the first that fits."""
DEPTH = 8
"""Rows and columns at each border that are looked at."""
INSIDE = 32
"""Rows and columns behind them that they are compared with."""


class Artefacts(NamedTuple):
    """Of an image or, as means, of a set; leading axes stand for several."""

    lattice: Float[Tensor, "*s 2 rows columns"]
    """Power at the frequencies (m / 64, n / 64) of the half plane (float64), and around each of them."""
    border: Float[Tensor, "*s 2 sides depth"]
    """Mean of each row or column from the top, bottom, left and right, in deviations, less that of those behind; and
    the logarithm of its deviation over theirs."""


def artefacts(image: Float[Tensor, "y x"]) -> Artefacts:
    """Measure one image.

    Raises
    ------
    DataError
        It is constant, or has fewer than 256 pixels a side.
    """
    values = standardised(image)
    return Artefacts(_lattice(values), _border(values))


def excesses(one: Artefacts, other: Artefacts) -> dict[str, Float[Tensor, "*s"]]:
    """How much a set has of what the other has not.

    Returns
    -------
    lattice
        dB, the largest of all periods; see ``lattice_excess_db``.
    border
        Largest difference of a row or column along the border from the other set's, in deviations: of its mean, or
        of its own deviation.
    """
    lattice = torch.stack([*lattice_excess_db(one.lattice, other.lattice).values()]).amax(0)
    return {"lattice": lattice, "border": (one.border - other.border).abs().flatten(-3).amax(-1)}


def lattice_excess_db(one: Float[Tensor, "*s 2 rows columns"], other: Float[Tensor, "*s 2 rows columns"]
                      ) -> dict[int, Float[Tensor, "*s"]]:
    """How far the lattice of each period stands above the other set's own spectrum there.

    A pattern that repeats after P pixels has its power at the frequencies (m / P, n / P); those that a shorter
    period has as well are counted there. The strongest is compared with the other set's power at this point or
    around it, whichever is larger: a peak that the other set has, too, is no excess. Chance makes the strongest of
    many points stand out by itself, by 1 to 2 dB where a dozen micrographs are averaged: compare with two halves of
    the other set.

    Returns
    -------
    dB for each of ``PERIODS``.
    """
    ratio = one[..., 0, :, :] / other.amax(-3).clamp(min=1e-30)
    return {period: 10 * ratio[..., _points(period)].amax(-1).clamp(min=1e-30).log10() for period in PERIODS}


def _points(period: int) -> Tensor:
    """Which of the frequencies (m / 64, n / 64) belong to a period and to no shorter one."""
    step = LONGEST // period
    rows, columns = torch.arange(LONGEST)[:, None], torch.arange(LONGEST // 2 + 1)
    on = (rows % step == 0) & (columns % step == 0)
    shorter = (rows % (2 * step) == 0) & (columns % (2 * step) == 0)
    return on & ~shorter


def _lattice(values: Float[Tensor, "y x"]) -> Float[Tensor, "2 rows columns"]:
    edge = next((size for size in TILES if size <= min(values.shape)), None)
    if edge is None:
        raise DataError(f"image of {values.shape[0]} x {values.shape[1]} pixels (y x); to look for lattices takes "
                        f"{TILES[-1]} a side")
    window = torch.hann_window(edge, dtype=values.dtype, device=values.device)
    window = window / window.square().mean().sqrt()
    power = torch.zeros(edge, edge // 2 + 1, dtype=torch.float64, device=values.device)
    corners = [(top, left) for top in _starts(values.shape[0], edge) for left in _starts(values.shape[1], edge)]
    for top, left in corners:
        tile = values[top:top + edge, left:left + edge]
        tile = (tile - tile.mean()) * window[:, None] * window
        power += fourier.rfft2(tile).abs().square() / edge**2
    power = (power / len(corners)).cpu()
    # The window spreads a wave over the next bins; two further on none of it is left, and it is no other lattice point.
    whole = torch.cat([power, power[:, 1:-1].flip(1).roll(-1, 0).flip(0)], 1)
    around = torch.stack([whole.roll((dy, dx), (0, 1)) for dy in (-2, 0, 2) for dx in (-2, 0, 2) if dy or dx]).mean(0)
    step = edge // LONGEST
    return torch.stack([part[::step, ::step][:, :LONGEST // 2 + 1] for part in (whole, around)])


def _starts(size: int, edge: int) -> list[int]:
    """First pixels of pieces that overlap by half, evenly spread."""
    count = max(1, math.ceil((size - edge) / (edge // 2)) + 1)
    return [round(i * (size - edge) / max(1, count - 1)) for i in range(count)]


def _border(values: Float[Tensor, "y x"]) -> Float[Tensor, "2 sides depth"]:
    sides = []
    for side in (values, values.flip(0), values.T, values.T.flip(0)):
        lines, inside = side[:DEPTH], side[DEPTH:DEPTH + INSIDE]
        sides.append(torch.stack([lines.mean(1) - inside.mean(),
                                  (lines.std(1) / inside.std(1).mean()).clamp(min=1e-6).log()]))
    return torch.stack(sides, 1).to("cpu", torch.float64)
