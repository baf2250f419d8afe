# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks whether real micrographs have inverted contrast, before a run begins."""
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.engine.compute.threads import one_thread
from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.io.dataset import PARTICLES, read_table
from cryogem_scipion.engine.noise.contrast_sign import measure_contrast_sign
from cryogem_scipion.engine.noise.ice_map import upsample_ice
from cryogem_scipion.engine.noise.real_micrograph import evenly_spaced, read_real_micrograph
from cryogem_scipion.engine.noise.simulated_set import SimulatedSet
from cryogem_scipion.engine.noise.spectrum import TILE
from cryogem_scipion.engine.settings import GenerateSettings, TrainSettings

__all__ = ["check_contrast_sign"]

MAX_REAL, MAX_SIMULATED = 6, 12
"""Largest number of real micrographs that are read, spread evenly, and of simulated ones to compare them with."""
COLUMNS = ("rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY", "rlnOriginXAngst", "rlnOriginYAngst")
"""Columns of the table of particles that are read."""
CLIP = 6
"""Standard deviations at which pixels are clipped."""


def check_contrast_sign(settings: TrainSettings | GenerateSettings, simulated: SimulatedSet,
                        files: Sequence[Path]) -> tuple[str, ...]:
    """Return a warning if it cannot be told whether particles are dark in the real micrographs; writes nothing.

    Raises
    ------
    DataError
        Particles are certainly bright.
    """
    if settings.real_contrast != "auto" or not files:
        return ()
    with one_thread():
        flats = [_flat(path, simulated.manifest.pixel_size, settings.real_pixel_size)
                 for path in evenly_spaced(files, MAX_REAL)]
        indices = range(min(MAX_SIMULATED, len(simulated.micrographs)))
        signals = [1 - simulated.clean_image(index, 1) for index in indices]
        has_particles = any(bool(signal.any()) for signal in signals)
        if min(min(image.shape) for image in [*flats, *signals]) < TILE or not has_particles:
            return ()
        sign = measure_contrast_sign(flats, signals, _centres(simulated, indices), simulated.diameter_pixels)
    figures = (f"asymmetry {sign.measured:+.3f}, {abs(sign.errors):.1f} standard errors from 0; negative for dark "
               f"particles, {sign.expected:+.3f} in the simulation without noise")
    if sign.inverted:
        raise DataError(f"particles are bright in the real micrographs ({figures}), so the contrast is inverted. Set "
                        "real_contrast to bright to invert the micrographs, or to dark if the particles are dark and "
                        "this check is wrong")
    if sign.doubtful:
        return (f"particles may be bright in the real micrographs ({figures}). Dark particles are assumed; look at the "
                "micrographs, and set real_contrast to bright or dark",)
    if not sign.dark:
        return (f"the real micrographs do not tell whether particles are dark or bright ({figures}). Dark particles "
                "are assumed; if they are bright, set real_contrast to bright",)
    return ()


def _centres(simulated: SimulatedSet, indices: Sequence[int]) -> list[Float[Tensor, "_ 2"]]:
    """Centres (y, x) of the particles in simulated micrographs, pixels."""
    _, particles = read_table(simulated.folder / PARTICLES, "particles", COLUMNS)
    pixel_size = simulated.manifest.pixel_size
    places = np.stack([particles[f"rlnCoordinate{axis}"] - particles[f"rlnOrigin{axis}Angst"] / pixel_size
                       for axis in "YX"], 1).astype(np.float32)
    names = np.array([Path(name).name for name in particles["rlnMicrographName"]])
    return [torch.from_numpy(places[names == simulated.micrographs[index].name]) for index in indices]


def _flat(path: Path, working_pixel_size: float, pixel_size: float | None) -> Float[Tensor, "y x"]:
    """The image without ice in standard deviations of the noise, outliers clipped."""
    image, real = read_real_micrograph(path, working_pixel_size, pixel_size)
    if real.ice is not None:
        image = image / upsample_ice(real.ice.grid, (image.shape[0], image.shape[1]))
    # The robust deviation of very few counts is 0.
    deviation = real.deviation or max(float(image.std()), 1e-20)
    return ((image - image.median()) / deviation).clamp(-CLIP, CLIP)
