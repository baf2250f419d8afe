# SPDX-License-Identifier: GPL-3.0-or-later
"""Thon rings of the background: the share of the noise that the CTF modulates, and the defocus of each micrograph.

Ice scatters electrons as particles do, so |CTF|² modulates its part of the noise, but not the counting noise. The
background of each micrograph has the rings of its own defocus. They average out in the mean spectrum of a set.
"""
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryogem_scipion.engine.compute.threads import parallel_map
from cryogem_scipion.engine.noise.exposure import Exposure
from cryogem_scipion.engine.noise.rotational_power import LOSS
from cryogem_scipion.engine.noise.spectrum import TILE, tile_periodograms

__all__ = ["MAX_MODULATED_SHARE", "ThonRings", "fit_thon_rings", "measure_modulated_share", "without_thon_rings"]

EDGE = 512
"""Largest edge (px) of the tiles that rings are fitted on."""
MIN_FREQUENCY, MAX_FREQUENCY = 0.15, 0.97
"""Frequencies that are fitted, in units of Nyquist. Lower ones have particles and ice, higher ones filters' edges."""
DEFOCI = np.arange(2000.0, 60_000.0, 100.0)
"""Defocus values that are tried, Å."""
BACKGROUND_DEGREE, SHARE_DEGREE = 6, 3
"""Degrees of the polynomials for the background and for the modulated share."""
MIN_EXPLAINED = 0.5
"""Smallest share of a profile's variance that rings have to explain."""
ROUNDS = 2
"""Rounds in which the modulated share and the defocus of all micrographs are fitted in turn."""
EXPECTED_SHARE = 0.5
"""Size of the modulated share that is expected before a measurement. It counts only where the pixels are so coarse that
there are few rings: then a smooth background can look like rings, and the micrographs alone tell no share."""
MAX_MODULATED_SHARE = 0.98
"""Largest share of the noise that the CTF may modulate, so that no frequency has zero power."""


@dataclass(frozen=True)
class ThonRings:
    """Thon rings of a set of micrographs."""

    modulated_share: Float[Tensor, " half"]
    """Share of the noise's mean power that the CTF modulates, at the frequencies of a tile."""
    exposures: tuple[Exposure, ...]
    """Optics of each micrograph; without astigmatism if they were fitted."""


def fit_thon_rings(images: Sequence[Float[Tensor, "_ _"]], exposure: Exposure,
                   known: Sequence[Exposure | None] = ()) -> ThonRings | None:
    """Fit the Thon rings of real micrographs; None if most of them show none and have no known CTF.

    Parameters
    ----------
    images
        Micrographs without ice at the pixel size of ``exposure``; 128 pixels a side or more.
    exposure
        Gives voltage, spherical aberration, amplitude contrast and phase shift; the defocus is fitted.
    known
        Optics of each micrograph that were measured before, at a finer pixel size; None for one without. Empty: none.

    References
    ----------
    doi:10.1016/j.jsb.2015.08.008, for the fit of a background and rings to rotational means.
    """
    known = known or [None] * len(images)
    profiles = _profiles(images)
    defoci, explained = profiles.defoci(exposure)
    chosen = np.flatnonzero((explained >= MIN_EXPLAINED) | [optics is not None for optics in known])
    if 2 * len(chosen) < len(images):
        return None
    modulated_share = _share(profiles.subset(chosen), [known[index] or exposure.at_defocus(defoci[index])
                                                       for index in chosen])
    for _ in range(ROUNDS):
        # Micrographs whose rings are too weak alone may fit with the modulated share of the others.
        fitted = profiles.defoci_with(modulated_share, exposure)
        exposures = [optics or exposure.at_defocus(defocus) for optics, defocus in zip(known, fitted, strict=True)]
        modulated_share = _share(profiles, exposures)
    return ThonRings(modulated_share, tuple(exposures))


def measure_modulated_share(images: Sequence[Float[Tensor, "_ _"]],
                            exposures: Sequence[Exposure]) -> Float[Tensor, " half"]:
    """Return the share of the noise that the CTF modulates, from images of known defocus."""
    return _share(_profiles(images), exposures)


def without_thon_rings(powers: Float[Tensor, "tiles n half"], modulated_share: Float[Tensor, " half"],
                       exposure: Exposure) -> Float[Tensor, "tiles n half"]:
    """Return the periodograms of tiles of TILE pixels divided by their Thon rings."""
    return powers / exposure.modulation(modulated_share, (TILE, TILE), 4)


@dataclass(frozen=True)
class _Profiles:
    """Rotational means of power spectra, divided by smooth curves through them."""

    frequency: NDArray[np.float64]
    """In units of Nyquist."""
    values: NDArray[np.float64]
    """(frequency, micrograph)"""
    smooth: NDArray[np.float64]
    """(frequency, micrograph)"""

    def subset(self, chosen: NDArray[np.int64]) -> "_Profiles":
        """Return the profiles of some micrographs."""
        return _Profiles(self.frequency, self.values[:, chosen], self.smooth[:, chosen])

    def defoci(self, exposure: Exposure) -> tuple[list[float], NDArray[np.float64]]:
        """Return each micrograph's best-fitting defocus (Å), and the share of the variance that its rings explain."""
        background, strength = (_curves(self.frequency, degree) for degree in (BACKGROUND_DEGREE, SHARE_DEGREE))
        whole = _residuals(background, self.values)
        squares = (exposure.at_defocus(defocus).squared_ctf(self.frequency)[:, None] for defocus in DEFOCI)
        residuals = np.stack([_residuals(np.hstack([background, strength * square]), self.values)
                              for square in squares])
        best = residuals.argmin(0)
        return DEFOCI[best].tolist(), 1 - residuals.min(0) / np.maximum(whole, 1e-30)

    def defoci_with(self, modulated_share: Float[Tensor, " half"], exposure: Exposure) -> list[float]:
        """Return for each micrograph the defocus (Å) at which rings of a known modulated share fit best."""
        known = np.interp(self.frequency, np.linspace(0, 1, len(modulated_share)), modulated_share.double().numpy())
        background = np.linalg.qr(_curves(self.frequency, BACKGROUND_DEGREE - 2))[0]
        measured = np.log(self.values * self.smooth)
        rings = np.stack([np.log(1 + known * (2 * exposure.at_defocus(defocus).squared_ctf(self.frequency) - 1))
                          for defocus in DEFOCI], axis=1)
        measured, rings = (columns - background @ (background.T @ columns) for columns in (measured, rings))
        best: list[float] = DEFOCI[((rings**2).sum(0)[:, None] - 2 * rings.T @ measured).argmin(0)].tolist()
        return best


def _profiles(images: Sequence[Float[Tensor, "_ _"]]) -> _Profiles:
    tile = min(EDGE, *(1 << (min(image.shape).bit_length() - 1) for image in images))
    radius = np.hypot(np.fft.fftfreq(tile, 1 / tile)[:, None], np.arange(tile // 2 + 1)).round().astype(int).ravel()
    frequency = np.arange(tile // 2) / (tile // 2)
    used = (frequency >= MIN_FREQUENCY) & (frequency <= MAX_FREQUENCY)
    powers = parallel_map(lambda image: tile_periodograms(image, tile).median(0).values.double().numpy().ravel(),
                          images)
    means = np.stack([np.bincount(radius, power) / np.bincount(radius) for power in powers], axis=1)
    means = np.maximum(means[:tile // 2][used], 1e-12)
    terms = _curves(frequency[used], BACKGROUND_DEGREE)
    smooth = np.exp(terms @ np.linalg.lstsq(terms, np.log(means), rcond=None)[0])
    return _Profiles(frequency[used], means / smooth, smooth)


def _share(profiles: _Profiles, exposures: Sequence[Exposure]) -> Float[Tensor, " half"]:
    """Modulated share, by least squares: a smooth background for each profile, and rings of one common strength.

    The strength is that of highest probability, if it is normally distributed around 0 before (ridge regression).
    """
    size, terms, count = BACKGROUND_DEGREE + 1, SHARE_DEGREE + 1, len(exposures)
    background, strength = (_curves(profiles.frequency, degree) for degree in (BACKGROUND_DEGREE, SHARE_DEGREE))
    rows = np.zeros((count, len(profiles.frequency), size * count + terms))
    for index, exposure in enumerate(exposures):
        # values = background + strength · (2 |CTF|² - 1)
        rows[index, :, index * size:(index + 1) * size] = background
        rows[index, :, -terms:] = strength * (2 * exposure.squared_ctf(profiles.frequency) - 1)[:, None]
    equations, values = rows.reshape(-1, rows.shape[2]), profiles.values.T.ravel()
    free = np.linalg.lstsq(equations, values, rcond=None)[0]
    freedom = max(len(values) - len(free), 1)
    deviation = np.sqrt(LOSS * ((values - equations @ free) ** 2).sum() / freedom)
    expected = np.eye(equations.shape[1])[-terms:] * (deviation / EXPECTED_SHARE)
    solution = np.linalg.lstsq(np.vstack([equations, expected]), np.pad(values, (0, terms)), rcond=None)[0]
    frequency = np.clip(np.linspace(0, 1, TILE // 2 + 1), MIN_FREQUENCY, MAX_FREQUENCY)
    rings = _curves(frequency, SHARE_DEGREE) @ solution[-terms:]
    mean = _curves(frequency, BACKGROUND_DEGREE) @ solution[:-terms].reshape(count, size).mean(0)
    return torch.from_numpy(np.clip(rings / np.maximum(mean, 1e-6), 0, MAX_MODULATED_SHARE)).float()


def _residuals(terms: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Residual sum of squares of each column after a linear fit."""
    basis = np.linalg.qr(terms)[0]
    residuals: NDArray[np.float64] = (values**2).sum(0) - ((basis.T @ values) ** 2).sum(0)
    return residuals


def _curves(frequency: NDArray[np.float64], degree: int) -> NDArray[np.float64]:
    """Chebyshev polynomials up to a degree on the fitted range, one in each column."""
    position = 2 * (frequency - MIN_FREQUENCY) / (MAX_FREQUENCY - MIN_FREQUENCY) - 1
    curves: NDArray[np.float64] = np.cos(np.arange(degree + 1) * np.arccos(np.clip(position, -1, 1))[:, None])
    return curves
