# SPDX-License-Identifier: GPL-3.0-or-later
"""A simulated dataset folder as the input of training and generation."""
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.io.dataset import (
    MANIFEST,
    MICROGRAPHS,
    Contrast,
    Manifest,
    path_inside,
    read_manifest,
    read_table,
)
from cryogem_scipion.engine.io.mrc import read_header
from cryogem_scipion.engine.noise.exposure import Exposure
from cryogem_scipion.engine.noise.real_micrograph import check_real_micrographs
from cryogem_scipion.engine.noise.real_set import memory_mapped
from cryogem_scipion.engine.noise.spectrum import TILE
from cryogem_scipion.engine.runs.folder import fingerprint
from cryogem_scipion.engine.simulation.measured_star import read_measured_optics
from cryogem_scipion.engine.simulation.optics import Optics

__all__ = ["SimulatedSet", "check_sizes", "input_fingerprints", "open_simulated_set"]


@dataclass(frozen=True)
class SimulatedSet:
    """A simulation, or some of its micrographs."""

    folder: Path
    """Dataset folder of the simulation."""
    manifest: Manifest
    contrast: Contrast
    """Contrast of the images in the files."""
    micrographs: tuple[Path, ...]
    """Files of the clean images 1 - s."""
    masks: tuple[Path, ...]
    exposures: tuple[Exposure, ...]
    """Optics of each micrograph."""

    def clean_image(self, index: int, signal_factor: float) -> Float[Tensor, "y x"]:
        """Return the clean image of micrograph ``index``, with its signal s multiplied by ``signal_factor``."""
        return 1 - signal_factor * (1 - torch.tensor(memory_mapped(self.micrographs[index])))

    def signal_factor(self, snr: float, background_deviation: float) -> float:
        """Return the factor by which the signal s of the files is multiplied to have this signal-to-noise ratio.

        Parameters
        ----------
        background_deviation
            σ_n: standard deviation of the background divided by its mean.
        """
        return self.contrast.rescaled(snr, background_deviation).scale / self.contrast.scale

    def measured_exposures(self, files: Sequence[Path]) -> list[Exposure | None]:
        """Return the optics that the simulation's table of CTFs has for some micrographs; None for others.

        Parameters
        ----------
        files
            Micrographs. Their names are compared without the folder; a name that the table has twice tells nothing.
        """
        table = self.manifest.simulation and self.manifest.simulation.get("ctfs")
        if not table:
            return [None] * len(files)
        path = path_inside(self.folder, table)
        _, rows = read_table(path, "micrographs")
        if "rlnMicrographName" not in rows:
            return [None] * len(files)
        names = [Path(str(name)).name for name in rows["rlnMicrographName"]]
        optics = dict(zip(names, read_measured_optics(path, self.exposures[0].optics), strict=True))
        return [Exposure(optics[file.name], self.manifest.pixel_size) if names.count(file.name) == 1 else None
                for file in files]

    @property
    def keep_snr(self) -> bool:
        """Whether the simulation's signal-to-noise ratio was measured before, and is not to be measured again."""
        return bool(self.manifest.settings.get("keep_snr", False))

    @property
    def specimen_indices(self) -> list[int]:
        """Indices that the specimens of the micrographs have in the simulation; ``DataError`` if a name has none."""
        matches = [re.fullmatch(r"mic_(\d{1,9})", path.stem) for path in self.micrographs]
        if None in matches:
            raise DataError(f"{self.micrographs[matches.index(None)]} does not have a file name of 'cryogem simulate' "
                            "(mic_000000.mrc); do not rename its micrographs")
        return [int(match[1]) for match in matches if match]

    @property
    def diameter_pixels(self) -> float:
        """Diameter of the largest particle in pixels."""
        assert self.manifest.particle_diameter_angstrom is not None
        return self.manifest.particle_diameter_angstrom / self.manifest.pixel_size


def open_simulated_set(folder: Path, part: Path | None = None) -> SimulatedSet:
    """Open a simulation.

    Parameters
    ----------
    folder
        Output folder of ``cryogem simulate``.
    part
        A table like the folder's micrographs.star with some of its rows; None: all micrographs.

    Raises
    ------
    DataError
        The folder holds no simulation, or the table names a file that is not in the folder.
    """
    manifest = read_manifest(folder)
    if manifest.stage != "simulate" or manifest.contrast is None:
        raise DataError(f"{folder} was made by 'cryogem {manifest.stage}'; give a folder of 'cryogem simulate'")
    table = part or folder / MICROGRAPHS
    optics, rows = read_table(table, "micrographs", ("rlnMicrographName", "cryogemMask"))
    if rows.empty:
        raise DataError(f"{table} has no rows; choose at least one simulated micrograph")
    files = [[path_inside(folder, name) for name in rows[column]] for column in ("rlnMicrographName", "cryogemMask")]
    missing = [path for path in [*files[0], *files[1]] if not path.is_file()]
    if missing:
        raise DataError(f"{missing[0]} is missing ({len(missing)} files in all); simulate again")
    for micrograph, mask in zip(*files, strict=True):
        shapes = [read_header(path, 2)[0] for path in (micrograph, mask)]
        if shapes[0] != shapes[1]:
            sizes = " and ".join(" x ".join(map(str, shape[::-1])) for shape in shapes)
            raise DataError(f"{micrograph} and its mask {mask} have {sizes} pixels; simulate again")
    exposures = tuple(Exposure(state, manifest.pixel_size)
                      for state in read_measured_optics(table, _optics(table, optics)))
    return SimulatedSet(folder, manifest, manifest.contrast, tuple(files[0]), tuple(files[1]), exposures)


def _optics(table: Path, optics: pd.DataFrame) -> Optics:
    """Optics that all micrographs share, with defocus 0."""
    names = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")
    try:
        voltage, cs, contrast = (float(optics[name].iloc[0]) for name in names)
    except (KeyError, IndexError, TypeError, ValueError):
        raise DataError(f"{table} has no table data_optics with numbers in {', '.join(names)}; simulate "
                        "again") from None
    return Optics(voltage, cs, contrast, 0.0, 0.0, 0.0)


def input_fingerprints(simulated: SimulatedSet, reals: Sequence[Path], model: Path | None = None) -> dict[str, str]:
    """Return fingerprints of a run's inputs, so that the run never continues with changed inputs.

    The fingerprint of real micrographs is made of names and sizes only, because they may be terabytes.
    """
    fingerprints = {"simulation": fingerprint(simulated.folder / MANIFEST)}
    if reals:
        names_and_sizes = repr([(str(path), path.stat().st_size) for path in reals])
        fingerprints["set of real micrographs"] = hashlib.sha256(
            names_and_sizes.encode("utf-8", "surrogateescape")).hexdigest()
    return fingerprints if model is None else {**fingerprints, "model": fingerprint(model)}


def check_sizes(simulated: SimulatedSet, files: Sequence[Path], real_pixel_size: float | None,
                coloured: bool) -> list[tuple[int, int]]:
    """Return the sizes (y, x) of real micrographs at the working pixel size; reads only headers.

    Raises
    ------
    DataError
        A micrograph cannot be used, or is too small for a noise spectrum, which ``coloured`` noise needs.
    """
    if coloured:
        path = min(simulated.micrographs, key=lambda path: min(read_header(path, 2)[0]))
        y, x = read_header(path, 2)[0]
        if min(y, x) < TILE:
            raise DataError(f"{path} has {x} x {y} pixels, but a noise spectrum needs {TILE} on each side; simulate "
                            "larger micrographs, or use gaussian noise")
    return check_real_micrographs(files, simulated.manifest.pixel_size, real_pixel_size, TILE if coloured else 1)
