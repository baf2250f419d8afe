# SPDX-License-Identifier: GPL-3.0-or-later
"""``cryogem preview``: makes the images that a wizard shows, as arrays (preview.npz) and as one image (preview.png)."""
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryogem_scipion.engine.compute.resampling import PIXEL_SIZE_TOLERANCE, fourier_crop, working_shape
from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.io.dataset import Manifest, replacing, write_manifest
from cryogem_scipion.engine.io.mrc import read_mrc
from cryogem_scipion.engine.runs.folder import open_run_folder, provenance
from cryogem_scipion.engine.settings import PreviewSettings, SimulateSettings, parse
from cryogem_scipion.engine.simulation.composition import typical_peaks
from cryogem_scipion.engine.simulation.microscope import (
    Microscope,
    prepare_microscope,
    projection_box_size,
    seeded_generator,
)
from cryogem_scipion.engine.simulation.poses import uniform_rotations
from cryogem_scipion.engine.simulation.projection import project

__all__ = ["run"]

log = logging.getLogger("cryogem")
PREVIEW_EDGE = 160
"""Edge (px) of each image in preview.png."""


def run(settings: PreviewSettings) -> Manifest:
    """Write preview.npz, whose arrays ``_views`` and ``_fields`` describe, preview.png and the manifest.

    Raises
    ------
    CryogemError
        Input or settings are unusable; nothing has been written then.
    """
    microscope = _microscope(settings) if settings.volume else None
    arrays = _views(microscope, settings) if microscope else {}
    if settings.real is not None:
        arrays |= _fields(settings, settings.real)
    out = open_run_folder(settings)
    with replacing(out / "preview.npz") as path:
        np.savez_compressed(path, **arrays)
    _write_picture(out / "preview.png", arrays)
    manifest = Manifest(
        stage="preview", **provenance(), settings=settings.model_dump(mode="json"),
        seed=settings.seed, micrographs=0,
        pixel_size=microscope.pixel_size if microscope else float(arrays["pixel_sizes"][0]),
        box_size=microscope.box_size if microscope else None,
        particle_diameter_angstrom=microscope.diameter_angstrom if microscope else None)
    write_manifest(out, manifest)
    log.info("previews in %s", out)
    return manifest


def _microscope(settings: PreviewSettings) -> Microscope:
    """The microscope of a simulation with this map: it gives the diameter and box size that a simulation would use."""
    values = settings.model_dump(include={"volume", "volume_pixel_size", "resolution_angstrom", "pixel_size", "out"})
    return prepare_microscope(parse(SimulateSettings, {**values, "micrograph_size": (65536, 65536)}))


def _views(microscope: Microscope, settings: PreviewSettings) -> dict[str, NDArray[Any]]:
    """``views`` (n, y, x): random views of all maps in turn; ``peaks`` (n): their values for the mask's threshold."""
    edge = max(projection_box_size(projector, microscope.pixel_size) for projector in microscope.projectors)
    rotations = uniform_rotations(settings.views, seeded_generator(settings.seed, "preview"))
    views = torch.cat([
        project(microscope.projectors[index % len(microscope.projectors)], rotation[None],
                torch.zeros(1, 2, dtype=torch.float64), edge, microscope.pixel_size)
        for index, rotation in enumerate(rotations)])
    return {"views": views.numpy(), "peaks": typical_peaks(views)[:, 0, 0].numpy()}


def _fields(settings: PreviewSettings, path: Path) -> dict[str, NDArray[Any]]:
    """The middle of a real micrograph at each pixel size.

    ``pixel_sizes`` (n); ``shapes`` (n, 2): size of the whole micrograph at each pixel size; ``field_0``, ``field_1``, …
    (y, x): the middle at each pixel size.
    """
    data, header_pixel_size = read_mrc(path, 2)
    pixel_size = settings.real_pixel_size or header_pixel_size
    if pixel_size is None:
        raise DataError(f"{path} has no pixel size in its header; set real_pixel_size")
    finest = pixel_size * (1 - PIXEL_SIZE_TOLERANCE)
    sizes = sorted({size for size in settings.pixel_sizes if size >= finest} or {pixel_size})
    middle = torch.tensor(_middle(data, round(settings.field_angstrom / pixel_size)))
    shape = (data.shape[0], data.shape[1])
    arrays: dict[str, NDArray[Any]] = {
        "pixel_sizes": np.array(sizes),
        "shapes": np.array([working_shape(shape, pixel_size, size).shape for size in sizes])}
    for index, size in enumerate(sizes):
        arrays[f"field_{index}"] = _resampled(middle, pixel_size, size).numpy()
    return arrays


def _middle(data: NDArray[np.float32], edge: int) -> NDArray[np.float32]:
    """The square of at most ``edge`` pixels in the middle."""
    y, x = (slice(max(0, (length - edge) // 2), (length + edge) // 2) for length in data.shape)
    return data[y, x]


def _resampled(image: Float[Tensor, "y x"], pixel_size: float, working_pixel_size: float) -> Float[Tensor, "y2 x2"]:
    """The image at the working pixel size."""
    target = working_shape((image.shape[0], image.shape[1]), pixel_size, working_pixel_size)
    return fourier_crop(image[:target.crop[0], :target.crop[1]], target.shape)


def _write_picture(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Write all images side by side, protein dark."""
    from PIL import Image
    images = [array for name, array in arrays.items() if name.startswith("field_")]
    images = [-view for view in arrays.get("views", ())] + images
    strip = Image.new("L", (PREVIEW_EDGE * len(images), PREVIEW_EDGE))
    for column, image in enumerate(images):
        low, high = np.percentile(image, [0.5, 99.5])
        grey = ((image - low) / max(high - low, 1e-12)).clip(0, 1) * 255
        resized = Image.fromarray(grey.astype(np.uint8)).resize((PREVIEW_EDGE, PREVIEW_EDGE))
        strip.paste(resized, (PREVIEW_EDGE * column, 0))
    with replacing(path) as temporary:
        strip.save(temporary, format="PNG")
