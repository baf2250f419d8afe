# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of a simulation of which some were measured: what the user has chosen wins."""
import math
from pathlib import Path
from typing import Any

from cryogem_scipion.engine.settings.base import read_json

__all__ = ["GUESSED", "MEASURED", "NEEDED", "measurement_problems", "read_measurement", "with_chosen", "with_measured"]

MEASURED = ("micrograph_size", "particles_mean", "particles_sigma", "particle_distance", "snr", "defocus_min",
            "defocus_max", "astigmatism_angstrom", "clusters", "contrast_variation")
"""Settings of a simulation that ``cryogem measure`` gives if they can be measured. Forms leave them empty."""
GUESSED = tuple(name for name in MEASURED if name not in {"clusters", "contrast_variation"})
"""Those whose default is a guess. Particles at random places and of one contrast are no guess, but the plain case."""
NEEDED = ("particles_mean", "defocus_min", "defocus_max")
"""Settings without which no simulation is like the real micrographs; a default would be a guess."""
SPECIMEN = {"volume", "volume_pixel_size"}
"""Settings of the measured map. A simulation names its own specimen."""
ALTERNATIVES = {"overlap": ("particle_distance",), "b_factor_angstrom2": ("signal_envelope", "motion"),
                "signal_envelope": ("motion",), "defocus_min": ("ctfs",), "defocus_max": ("ctfs",),
                "astigmatism_angstrom": ("ctfs",)}
"""Settings that a simulation does not use if it has certain others, or that do not belong to these. If they are chosen,
the others are not measured."""
FILES = {"ctfs": "ctfs.star", "map_correction": "map_correction.mrc"}
"""Settings that name a file of the measurement, and the file."""
PIXEL_SIZE_TOLERANCE = 1e-3


def read_measurement(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the settings that a measurement gives, and the reason for each one that is not reliable.

    Parameters
    ----------
    folder
        Folder that ``cryogem measure`` wrote.

    Raises
    ------
    SettingsError
        A file of the measurement is missing or damaged.
    """
    reasons = read_json(folder / "measurement.json").get("not_reliable")
    settings = read_json(folder / "settings.json")
    for name, file in FILES.items():
        if (folder / file).is_file() and name in settings:
            settings[name] = str((folder / file).absolute())  # the folder may have been moved
    return settings, reasons if isinstance(reasons, dict) else {}


def with_chosen(chosen: dict[str, Any], measured: dict[str, Any]) -> dict[str, Any]:
    """Return the chosen settings and those measured ones that do not keep a chosen one from being used.

    The correction of a map belongs to this map only, and the rows of motions to their table of CTFs.
    """
    replaced = {other for name, others in ALTERNATIVES.items() if _is_chosen(chosen, name)
                for other in others if not chosen.get(other)}
    if chosen.get("volume") and not _same_map(chosen, measured):
        replaced.add("map_correction")
    kept = {name: value for name, value in measured.items() if name not in replaced}
    if "motion" in kept and chosen.get("ctfs") and str(chosen["ctfs"]) != str(measured.get("ctfs")):
        kept["motion"] = [":".join(motion.split(":")[:3]) for motion in kept["motion"]]
    return {**kept, **chosen}


def _is_chosen(chosen: dict[str, Any], name: str) -> bool:
    """Whether the user has set it; no overlap is no choice against a distance."""
    return bool(chosen.get(name)) if name == "overlap" else chosen.get(name) is not None


def with_measured(chosen: dict[str, Any], measured: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a simulation: the chosen ones, and the measured ones where none was chosen.

    The measured number of particles is that of a whole real micrograph. On micrographs of another size the mean grows
    with the area. The part of the variance that independent positions have, which equals the mean, grows with it too.
    The rest comes from differences between micrographs, and it grows with the square of the area.

    Parameters
    ----------
    chosen
        Settings that the user has set, which may be wrong values.
    measured
        Settings that a measurement gives.
    """
    values = {name: value for name, value in with_chosen(chosen, measured).items()
              if name in chosen or name not in SPECIMEN}
    if "volume" not in values:
        values.pop("map_correction", None)
    try:
        scale = float(measured["pixel_size"]) / float(values["pixel_size"])
        size = [round(float(edge) * scale) for edge in measured["micrograph_size"]]
        values["micrograph_size"] = chosen.get("micrograph_size", size)
        area = math.prod(map(float, values["micrograph_size"])) / math.prod(size)
        mean, variance = float(measured["particles_mean"]), float(measured.get("particles_sigma", math.nan))**2
    except (KeyError, TypeError, ValueError, ZeroDivisionError):  # not measured, or not a number
        return values
    if "particles_mean" not in chosen:
        values["particles_mean"] = round(area * mean, 1)
    if "particles_sigma" not in chosen:
        # Without a measured deviation, the positions count as independent.
        chance = mean if math.isnan(variance) else min(variance, mean)
        rest = 0.0 if math.isnan(variance) else variance - chance
        values["particles_sigma"] = round(math.sqrt(area * chance + area**2 * rest), 1)
    return values


def _same_map(chosen: dict[str, Any], measured: dict[str, Any]) -> bool:
    """Whether a simulation uses the map that was measured, to which the correction belongs."""
    try:
        files = [[Path(name).resolve() for name in values["volume"]] for values in (chosen, measured)]
    except (KeyError, TypeError):
        return False
    return files[0] == files[1]


def measurement_problems(chosen: dict[str, Any], measured: dict[str, Any], reasons: dict[str, str]) -> list[str]:
    """Return one line for each reason why measured and chosen settings together do not make a simulation.

    Parameters
    ----------
    chosen
        Settings that the user has set.
    measured
        Settings that a measurement gives.
    reasons
        Why the others were not measured reliably, by setting.
    """
    needed = [name for name in NEEDED if not (chosen.get("ctfs") and name.startswith("defocus"))]
    lines = [f"{name}: it could not be measured ({reasons.get(name, 'the measurement does not contain it')}); set it"
             for name in needed if name not in chosen and name not in measured]
    size, wanted = measured.get("pixel_size"), chosen.get("pixel_size")
    if "snr" in measured and "snr" not in chosen and size and wanted:
        try:
            wanted, size = float(wanted), float(size)
        except (TypeError, ValueError):  # an error of its own
            return lines
        if abs(wanted / size - 1) > PIXEL_SIZE_TOLERANCE:
            lines.append(f"pixel_size: {wanted:g} Å is not that of the measurement ({size:g} Å), for which the "
                         f"signal-to-noise ratio holds; leave it empty, measure at {wanted:g} Å, or set snr too")
    return lines
