# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings that travel with a dataset folder: enough to simulate again from the folder alone."""
from pathlib import Path
from typing import Any

import torch

from cryogem_scipion.engine.errors import DataError, SettingsError
from cryogem_scipion.engine.io.dataset import MANIFEST, Manifest, Source, path_inside
from cryogem_scipion.engine.settings import SimulateSettings, parse
from cryogem_scipion.engine.simulation.microscope import Microscope, prepare_microscope

__all__ = ["OTHER_FILES", "microscope_of_folder", "portable_settings"]

OTHER_FILES = ("map_correction", "ctfs", "orientations")
"""Settings of a simulation that name an input file, besides the maps."""


def portable_settings(microscope: Microscope, sources: tuple[Source, ...]) -> dict[str, Any]:
    """Return the microscope's settings with all derived values filled in and files named as in ``source/``.

    Parameters
    ----------
    sources
        Copies of the maps, then of the map's correction, the measured CTFs and the orientations where there are any.
    """
    settings, names = microscope.settings, iter(source.path for source in sources)
    filled = settings.model_copy(update={
        "pixel_size": microscope.pixel_size, "box_size": microscope.box_size,
        "particle_distance": microscope.particle_distance,
        "volume": tuple(next(names) for _ in settings.volume),
        **{name: next(names) if getattr(settings, name) else None for name in OTHER_FILES}})
    return filled.model_dump(mode="json", exclude={"out", "device", "threads", "cryodrgn_activation"}, warnings=False)


def microscope_of_folder(folder: Path, manifest: Manifest, device: torch.device, **changes: Any) -> Microscope:
    """Return the microscope of a simulation, from the copies of its input files in the simulation's folder.

    Parameters
    ----------
    changes
        Settings that differ from those of the simulation.

    Raises
    ------
    DataError
        The manifest does not hold the settings of a simulation, or a copy is missing.
    """
    values = dict(manifest.simulation or {})
    try:
        values["volume"] = [str(path_inside(folder, name)) for name in values["volume"]]
        for name in OTHER_FILES:
            if values.get(name):
                values[name] = str(path_inside(folder, values[name]))
        settings = parse(SimulateSettings, values | changes)
    except (KeyError, TypeError, SettingsError) as error:
        raise DataError(f"{folder / MANIFEST} does not contain the settings of the simulation ({error}); simulate "
                        "again") from None
    return prepare_microscope(settings, device=device)
