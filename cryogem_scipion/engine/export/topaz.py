# SPDX-License-Identifier: GPL-3.0-or-later
"""Export for Topaz (doi:10.1038/s41592-019-0575-8): normalised, binned micrographs and the tables for its training."""
import math
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
import torch

from cryogem_scipion.engine.compute.resampling import fourier_crop
from cryogem_scipion.engine.errors import SettingsError
from cryogem_scipion.engine.export.images import is_up_to_date, path_prefix
from cryogem_scipion.engine.export.selection import SelectedDataset
from cryogem_scipion.engine.io.dataset import path_inside, replacing
from cryogem_scipion.engine.io.mrc import read_mrc, write_mrc
from cryogem_scipion.engine.runs.progress import track_progress
from cryogem_scipion.engine.settings import ExportSettings

__all__ = ["check", "disk_bytes", "write"]

IMAGES = "images"
LIST = "images.txt"
COORDINATES = "coordinates.txt"
MIN_SIZE_PIXELS = 32


def check(dataset: SelectedDataset, settings: ExportSettings) -> None:
    """Refuse a binning that leaves too few pixels, and an export outside ``relative_to``.

    Raises
    ------
    SettingsError
        The binning is too large, or ``out`` is not inside ``relative_to``.
    """
    path_prefix(settings)
    if min(_shape(dataset, settings)) < MIN_SIZE_PIXELS:
        y, x = dataset.shape
        raise SettingsError(f"binning {settings.binning} leaves fewer than {MIN_SIZE_PIXELS} pixels of {y} x {x} (y "
                            f"x); give up to {max(1, min(y, x) // MIN_SIZE_PIXELS)}")


def disk_bytes(dataset: SelectedDataset, settings: ExportSettings) -> int:
    """Disk space that the export needs, bytes."""
    y, x = _shape(dataset, settings)
    return (4 * y * x + 1024) * len(dataset.micrographs) + 60 * len(dataset.particles)


def write(dataset: SelectedDataset, settings: ExportSettings, out: Path) -> list[str]:
    """Write images and tables into the folder ``out``; return the lines of its README.txt."""
    (out / IMAGES).mkdir(exist_ok=True)
    names = list(dataset.micrographs["rlnMicrographName"])
    for name in track_progress(names, len(names), "exporting micrograph"):
        _write_image(dataset, settings, path_inside(dataset.folder, name), out / IMAGES / PurePosixPath(name).name)
    prefix = path_prefix(settings)
    path_start = f"{out.resolve().as_posix()}/" if prefix is None else prefix
    _write_table(out / LIST, pd.DataFrame({
        "image_name": [_stem(name) for name in names],
        "path": [f"{path_start}{IMAGES}/{PurePosixPath(name).name}" for name in names]}))
    # Centres in the binned image; its pixel (0, 0) lies at pixel (0, 0) of the original.
    coordinates = np.rint(dataset.centres / settings.binning).astype(int)
    coordinates = np.minimum(coordinates, np.array(_shape(dataset, settings)[::-1]) - 1)
    _write_table(out / COORDINATES, pd.DataFrame({
        "image_name": [_stem(name) for name in dataset.particles["rlnMicrographName"]],
        "x_coord": coordinates[:, 0], "y_coord": coordinates[:, 1]}))
    return _instructions(dataset, settings, path_start)


def _write_image(dataset: SelectedDataset, settings: ExportSettings, source: Path, target: Path) -> None:
    """Write one micrograph: Fourier-cropped by the binning, mean 0, standard deviation 1, protein dark."""
    if is_up_to_date(target, source):
        return
    image, _ = read_mrc(source, 2)
    y, x = _shape(dataset, settings)
    cropped = np.array(image[:y * settings.binning, :x * settings.binning])
    binned = fourier_crop(torch.from_numpy(cropped), (y, x)).numpy()
    normalised = (binned - binned.mean(dtype=np.float64)) / binned.std(dtype=np.float64)
    with replacing(target) as path:
        write_mrc(path, normalised, dataset.pixel_size * settings.binning)


def _shape(dataset: SelectedDataset, settings: ExportSettings) -> tuple[int, int]:
    """Size (y, x) of the binned images, pixels."""
    y, x = dataset.shape
    return y // settings.binning, x // settings.binning


def _stem(name: str) -> str:
    return PurePosixPath(name).stem


def _write_table(path: Path, rows: pd.DataFrame) -> None:
    with replacing(path) as temporary:
        rows.to_csv(temporary, sep="\t", index=False)


def _instructions(dataset: SelectedDataset, settings: ExportSettings, path_start: str) -> list[str]:
    pixel_size = dataset.pixel_size * settings.binning
    diameter = dataset.manifest.particle_diameter_angstrom or dataset.box_size * dataset.pixel_size / 1.5
    radius = max(1, round(0.5 * diameter / pixel_size))
    # Topaz needs a number above that of the labelled particles; particles cut by the border have no label.
    labelled = len(dataset.particles) / len(dataset.micrographs)
    expected = math.ceil(max(labelled + 1, dataset.manifest.particles / dataset.manifest.micrographs))
    where = "any folder" if settings.relative_to is None else str(settings.relative_to.resolve())
    images, coordinates = (_quoted(f"{path_start}{name}") for name in (LIST, COORDINATES))
    return [f"Topaz, started in {where}. Images are normalised as by 'topaz preprocess', at {pixel_size:.6g} Å/px; "
            f"{len(dataset.particles)} particles of {2 * radius} px on {len(dataset.micrographs)} micrographs.",
            f"  topaz train --train-images {images} --train-targets {coordinates} -n {expected} "
            "--save-prefix model",
            f"Then pick your own micrographs. They have to be normalised and binned to {pixel_size:.4g} Å/px. N is "
            f"{pixel_size:.4g} divided by the pixel size (Å) of your micrographs.",
            "  topaz preprocess -s N -o small/ micrographs/*.mrc",
            f"  topaz extract -m model_epoch10.sav -r {radius} -x N -o picks.txt small/*.mrc"]


def _quoted(path: str) -> str:
    return f"'{path}'" if " " in path else path
