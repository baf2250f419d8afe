# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks whether real micrographs have inverted contrast, before a run begins."""
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.engine.compute.threads import one_thread
from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.noise.contrast_sign import measure_contrast_sign
from cryogem_scipion.engine.noise.ice_map import upsample_ice
from cryogem_scipion.engine.noise.real_micrograph import evenly_spaced, read_real_micrograph
from cryogem_scipion.engine.noise.simulated_set import SimulatedSet
from cryogem_scipion.engine.noise.spectrum import TILE
from cryogem_scipion.engine.settings import GenerateSettings, TrainSettings
from cryogem_scipion.engine.simulation.microscope import seeded_generator

__all__ = ["check_contrast_sign"]

MAX_REAL, MAX_SIMULATED = 6, 12
"""Largest number of real micrographs that are read, spread evenly, and of simulated ones to compare them with."""
CLIP = 6
"""Standard deviations at which pixels are clipped."""


def check_contrast_sign(settings: TrainSettings | GenerateSettings, simulated: SimulatedSet,
                        files: Sequence[Path]) -> tuple[str, ...]:
    """Return a warning if particles in the real micrographs are probably bright; writes nothing.

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
        count = min(MAX_SIMULATED, len(simulated.micrographs))
        signals = [1 - simulated.clean_image(index, 1) for index in range(count)]
        has_particles = any(bool(signal.any()) for signal in signals)
        if min(min(image.shape) for image in [*flats, *signals]) < TILE or not has_particles:
            return ()
        sign = measure_contrast_sign(flats, signals, simulated.contrast.signal_deviation, simulated.diameter_pixels,
                                     seeded_generator(settings.seed, "polarity"))
    figures = f"asymmetry {sign.measured:+.3f} ± {sign.error:.3f}; {sign.expected:+.3f} in the simulation"
    if sign.inverted:
        raise DataError(f"particles are bright in the real micrographs ({figures}), so the contrast is inverted. Set "
                        "real_contrast to bright to invert the micrographs, or to dark if the particles are dark and "
                        "this check is wrong")
    if sign.doubtful:
        return (f"particles may be bright in the real micrographs ({figures}); look at the micrographs, and set "
                "real_contrast to bright or dark",)
    return ()


def _flat(path: Path, working_pixel_size: float, pixel_size: float | None) -> Float[Tensor, "y x"]:
    """The image without ice in standard deviations of the noise, outliers clipped."""
    image, real = read_real_micrograph(path, working_pixel_size, pixel_size)
    if real.ice is not None:
        image = image / upsample_ice(real.ice.grid, (image.shape[0], image.shape[1]))
    return ((image - image.median()) / real.deviation).clamp(-CLIP, CLIP)
