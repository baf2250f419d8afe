# SPDX-License-Identifier: GPL-3.0-or-later
"""The densities of a simulation, from maps and atomic models, on one scale."""
from dataclasses import replace
from pathlib import Path

from cryogem_scipion.engine.errors import SettingsError
from cryogem_scipion.engine.settings import SimulateSettings
from cryogem_scipion.engine.simulation.atomic_model import SOFT_EDGE, read_structure
from cryogem_scipion.engine.simulation.volume import Volume, read_volume, support

__all__ = ["is_structure", "read_volumes"]

STRUCTURES = {".pdb", ".ent", ".cif", ".mmcif"}


def is_structure(path: Path) -> bool:
    """Whether a file's name is that of an atomic model."""
    return Path(path.name.removesuffix(".gz")).suffix.lower() in STRUCTURES


def read_volumes(settings: SimulateSettings) -> tuple[list[Volume], float]:
    """Return the densities, and the working pixel size (Å).

    Maps have arbitrary units. So that species can be mixed, each is brought to the mean density that the first
    has inside its particle.

    Raises
    ------
    DataError
        A file cannot be used.
    SettingsError
        There are only atomic models, and no pixel size.
    """
    maps = {path: read_volume(path, settings.volume_pixel_size) for path in settings.volume if not is_structure(path)}
    pixel_size = settings.pixel_size or next((volume.pixel_size for volume in maps.values()), None)
    if pixel_size is None:
        raise SettingsError(f"{settings.volume[0]} is an atomic model and has no pixel size; set pixel_size")
    volumes = [maps[path] if path in maps else _modelled(path, pixel_size, settings.resolution_angstrom)
               for path in settings.volume]
    if len(volumes) > 1:
        levels = [float(volume.density[support(volume)].double().mean()) for volume in volumes]
        volumes = [replace(volume, density=volume.density * (levels[0] / level))
                   for volume, level in zip(volumes, levels, strict=True)]
    return volumes, pixel_size


def _modelled(path: Path, pixel_size: float, resolution_angstrom: float | None) -> Volume:
    """The density of a model; its soft limit lies beyond the working Nyquist frequency where none is asked for."""
    limit = max(resolution_angstrom or 0.0, 2 * pixel_size * (1 - SOFT_EDGE))
    return read_structure(path, min(pixel_size, limit / 2), limit)
