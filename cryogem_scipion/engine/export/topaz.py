# SPDX-License-Identifier: GPL-3.0-or-later
"""For Topaz: images normalised and downsampled as ``topaz preprocess`` does, and the tables that training takes."""
import math
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
import torch

from cryogem_scipion.engine.compute.resampling import fourier_crop
from cryogem_scipion.engine.errors import SettingsError
from cryogem_scipion.engine.export.images import is_current, path_prefix
from cryogem_scipion.engine.export.selection import Selection
from cryogem_scipion.engine.io.dataset import path_inside, replacing
from cryogem_scipion.engine.io.mrc import read_mrc, write_mrc
from cryogem_scipion.engine.runs.progress import track_progress
from cryogem_scipion.engine.settings import ExportSettings

__all__ = ["check", "needed", "write"]

IMAGES = "images"
LIST = "images.txt"
COORDINATES = "coordinates.txt"
SMALLEST = 32


def check(selection: Selection, settings: ExportSettings) -> None:
    """Refuse a binning that leaves nothing to see, and paths that cannot be made relative."""
    path_prefix(settings)
    if min(_shape(selection, settings)) < SMALLEST:
        y, x = selection.shape
        raise SettingsError(f"binning {settings.binning} leaves fewer than {SMALLEST} pixels of {y} x {x} (y x); give "
                            f"up to {max(1, min(y, x) // SMALLEST)}")


def needed(selection: Selection, settings: ExportSettings) -> int:
    """Disk space."""
    y, x = _shape(selection, settings)
    return (4 * y * x + 1024) * len(selection.micrographs) + 60 * len(selection.particles)


def write(selection: Selection, settings: ExportSettings, out: Path) -> list[str]:
    """Write the export; returns what to do next."""
    (out / IMAGES).mkdir(exist_ok=True)
    names = list(selection.micrographs["rlnMicrographName"])
    for name in track_progress(names, len(names), "exporting micrograph"):
        _write_image(selection, settings, path_inside(selection.folder, name), out / IMAGES / PurePosixPath(name).name)
    prefix = path_prefix(settings)
    before = f"{out.resolve().as_posix()}/" if prefix is None else prefix
    _write_table(out / LIST, pd.DataFrame({
        "image_name": [_stem(name) for name in names],
        "path": [f"{before}{IMAGES}/{PurePosixPath(name).name}" for name in names]}))
    # Centres in the downsampled image, whose pixel (0, 0) is that of the original.
    places = np.rint(selection.centres / settings.binning).astype(int)
    places = np.minimum(places, np.array(_shape(selection, settings)[::-1]) - 1)
    _write_table(out / COORDINATES, pd.DataFrame({
        "image_name": [_stem(name) for name in selection.particles["rlnMicrographName"]],
        "x_coord": places[:, 0], "y_coord": places[:, 1]}))
    return _next(selection, settings, before)


def _write_image(selection: Selection, settings: ExportSettings, source: Path, target: Path) -> None:
    """One micrograph, Fourier-cropped by the binning, mean 0 and deviation 1, protein dark."""
    if is_current(target, source):
        return
    image, _ = read_mrc(source, 2)
    y, x = _shape(selection, settings)
    whole = np.array(image[:y * settings.binning, :x * settings.binning])
    small = fourier_crop(torch.from_numpy(whole), (y, x)).numpy()
    normal = (small - small.mean(dtype=np.float64)) / small.std(dtype=np.float64)
    with replacing(target) as path:
        write_mrc(path, normal, selection.pixel_size * settings.binning)


def _shape(selection: Selection, settings: ExportSettings) -> tuple[int, int]:
    """Size (y, x) of the images written."""
    y, x = selection.shape
    return y // settings.binning, x // settings.binning


def _stem(name: str) -> str:
    return PurePosixPath(name).stem


def _write_table(path: Path, rows: pd.DataFrame) -> None:
    with replacing(path) as temporary:
        rows.to_csv(temporary, sep="\t", index=False)


def _next(selection: Selection, settings: ExportSettings, before: str) -> list[str]:
    pixel_size = selection.pixel_size * settings.binning
    diameter = selection.manifest.particle_diameter_angstrom or selection.box_size * selection.pixel_size / 1.5
    radius = max(1, round(0.5 * diameter / pixel_size))
    # Topaz wants more than what is labelled: those that the border cuts are not.
    labelled = len(selection.particles) / len(selection.micrographs)
    expected = math.ceil(max(labelled + 1, selection.manifest.particles / selection.manifest.micrographs))
    where = "any folder" if settings.relative_to is None else str(settings.relative_to.resolve())
    images, coordinates = (_quoted(f"{before}{name}") for name in (LIST, COORDINATES))
    return [f"Topaz, started in {where}. Images are normalised (as 'topaz preprocess' leaves them), at "
            f"{pixel_size:.6g} Å/px; {len(selection.particles)} particles of {2 * radius} px on "
            f"{len(selection.micrographs)} micrographs.",
            f"  topaz train --train-images {images} --train-targets {coordinates} -n {expected} "
            "--save-prefix model",
            f"Then pick your own micrographs, normalised and brought to {pixel_size:.4g} Å/px; N is that over their "
            "own pixel size.",
            "  topaz preprocess -s N -o small/ micrographs/*.mrc",
            f"  topaz extract -m model_epoch10.sav -r {radius} -x N -o picks.txt small/*.mrc"]


def _quoted(path: str) -> str:
    return f"'{path}'" if " " in path else path
