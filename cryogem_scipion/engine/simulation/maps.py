# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading of a simulation's maps and atomic models, and their common density scale."""
from dataclasses import replace
from pathlib import Path

import torch

from cryogem_scipion.engine.errors import SettingsError
from cryogem_scipion.engine.io.mrc import read_mrc
from cryogem_scipion.engine.settings import SimulateSettings
from cryogem_scipion.engine.simulation.atomic_model import SOFT_EDGE, read_atomic_density
from cryogem_scipion.engine.simulation.volume import Volume, particle_voxels, read_volume

__all__ = ["is_atomic_model", "read_volumes"]

ATOMIC_MODEL_SUFFIXES = {".pdb", ".ent", ".cif", ".mmcif"}


def is_atomic_model(path: Path) -> bool:
    """Whether the suffix of a file's name is that of an atomic model."""
    return Path(path.name.removesuffix(".gz")).suffix.lower() in ATOMIC_MODEL_SUFFIXES


def read_volumes(settings: SimulateSettings) -> tuple[list[Volume], float]:
    """Read the maps and atomic models of the settings.

    Maps have arbitrary units. To allow mixtures, each density is scaled so that its mean inside the particle is that of
    the first one.

    Returns
    -------
    The densities, and the working pixel size (Å).

    Raises
    ------
    DataError
        A file cannot be used.
    SettingsError
        All files are atomic models, and no pixel size is set.
    """
    map_files = [path for path in settings.volume if not is_atomic_model(path)]
    maps = {path: read_volume(path, settings.volume_pixel_size) for path in map_files}
    pixel_size = settings.pixel_size or next((volume.pixel_size for volume in maps.values()), None)
    if pixel_size is None:
        raise SettingsError(f"{settings.volume[0]} is an atomic model and has no pixel size; set pixel_size")
    if settings.map_correction:
        maps = _corrected(maps, settings)
    volumes = [maps[path] if path in maps else _atomic_model_density(path, pixel_size, settings.resolution_angstrom)
               for path in settings.volume]
    if len(volumes) > 1:
        levels = [float(volume.density[particle_voxels(volume)].double().mean()) for volume in volumes]
        volumes = [replace(volume, density=volume.density * (levels[0] / level))
                   for volume, level in zip(volumes, levels, strict=True)]
    return volumes, pixel_size


def _corrected(maps: dict[Path, Volume], settings: SimulateSettings) -> dict[Path, Volume]:
    """The map with its correction; ``SettingsError`` if their sizes differ."""
    path = settings.map_correction
    assert path is not None
    if len(settings.volume) != 1 or not maps:
        raise SettingsError(f"map_correction {path} belongs to one density map, and the simulation has other "
                            "specimens; leave it empty")
    (name, volume), = maps.items()
    correction, _ = read_mrc(path, 3)
    if correction.shape != volume.density.shape:
        sizes = (" x ".join(map(str, shape)) for shape in (correction.shape, volume.density.shape))
        raise SettingsError("map_correction {} has {} voxels, and the map {}; give that of this map, or leave it "
                            "empty".format(path, *sizes))
    return {name: replace(volume, density=volume.density + torch.tensor(correction).to(volume.density))}


def _atomic_model_density(path: Path, pixel_size: float, resolution_angstrom: float | None) -> Volume:
    """Density of an atomic model; without a resolution, up to the Nyquist frequency of the working pixel size."""
    limit = max(resolution_angstrom or 0.0, 2 * pixel_size * (1 - SOFT_EDGE))
    return read_atomic_density(path, min(pixel_size, limit / 2), limit)
