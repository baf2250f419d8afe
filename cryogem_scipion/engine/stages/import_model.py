# SPDX-License-Identifier: GPL-3.0-or-later
"""``cryogem import-model``: turns a checkpoint of the published program into a noise model."""
import logging
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion import __version__
from cryogem_scipion.engine.compute.devices import chosen_device
from cryogem_scipion.engine.io.dataset import Manifest, write_manifest
from cryogem_scipion.engine.runs.folder import check_disk_space, fingerprint, open_run_folder, provenance
from cryogem_scipion.engine.settings import ImportModelSettings
from cryogem_scipion.engine.translator.model import MODEL, Translator, save_model
from cryogem_scipion.engine.translator.preview import PREVIEWS, write_preview
from cryogem_scipion.engine.translator.published_checkpoint import import_published

__all__ = ["run"]

log = logging.getLogger("cryogem")

MAX_PREVIEW_EDGE = 512
"""Largest edge of the preview in pixels, because the published networks are slow."""


def run(settings: ImportModelSettings) -> Manifest:
    """Write ``model.safetensors``, a preview of its input and output, and the manifest.

    Raises
    ------
    CheckpointError
        A file is damaged, holds more than tensors, or has another layout. Nothing has been written then.
    """
    device = chosen_device(settings.device)
    model = import_published(settings.generator, settings.features, settings.pixel_size, settings.snr)
    files = [path for path in (settings.generator, settings.features) if path is not None]
    model = replace(model, details={"version": __version__, "crop": 2 ** int(model.config["levels"]), "imported": {
        path.name: fingerprint(path) for path in files}})
    weights = sum(tensor.numel() for tensor in [*model.network.state_dict().values(), *model.features.values()])
    check_disk_space(settings.out, 4 * weights + 1024**2)
    out = open_run_folder(settings, inputs=model.details["imported"])
    save_model(out / MODEL, model)
    (out / PREVIEWS).mkdir(exist_ok=True)
    _write_preview(model, out / PREVIEWS / "imported.png", device)
    manifest = Manifest(stage="import-model", **provenance(),
                        settings=settings.model_dump(mode="json"), seed=settings.seed, pixel_size=model.pixel_size,
                        micrographs=0, model=MODEL, figures={
                            "levels": model.config["levels"], "width": model.config["width"],
                            "weights": sum(tensor.numel() for tensor in model.network.state_dict().values())})
    write_manifest(out, manifest)
    log.info("imported %s (%d levels, %.1f million weights): %s", settings.generator, model.config["levels"],
             manifest.figures["weights"] / 1e6, out / MODEL)
    return manifest


def _write_preview(model: Translator, path: Path, device: torch.device) -> None:
    """Write an image of dark discs in white noise, and the network's translation of it."""
    edge = min(MAX_PREVIEW_EDGE, model.network.multiple)
    generator = torch.Generator().manual_seed(0)
    clean = _discs(edge, model)
    physical = model.physical.deviations(clean, generator)
    translated = replace(model, network=model.network.to(device)).translate(physical, generator)
    physical = (physical - physical.mean()) / physical.std()
    write_preview(path, physical[None], translated[None])


def _discs(edge: int, model: Translator) -> Float[Tensor, "y x"]:
    """Clean image of sixteen discs with about the contrast of particles at the model's signal-to-noise ratio."""
    y, x = torch.meshgrid(*[torch.arange(edge, dtype=torch.float32) / edge * 4 % 1 - 0.5] * 2, indexing="ij")
    signal: Tensor = 2 * model.snr**0.5 * model.background_deviation * (torch.hypot(y, x) < 0.25)
    return 1 - signal
