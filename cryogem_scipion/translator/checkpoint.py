# SPDX-License-Identifier: GPL-3.0-or-later
"""A trained translator: its file, and the micrographs it makes."""
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.errors import CheckpointError, CryogemError
from cryogem_scipion.translator.analytic import GreyScale, PhysicalNoise
from cryogem_scipion.translator.ice import IceMap
from cryogem_scipion.translator.networks import Generator, generator, latent_noise
from cryogem_scipion.translator.spectrum import ColouredNoise
from cryogem_scipion.translator.tensors import load_tensors, part, save_tensors

__all__ = ["Translator", "load_model", "save_model"]

TILE = 512


@dataclass(frozen=True)
class Translator:
    """A ``NoiseModel``: physical image, then the trained network."""

    network: Generator
    config: dict[str, Any]
    """Of the network."""
    physical: PhysicalNoise
    scale: GreyScale
    pixel_size: float
    """Å."""
    snr: float
    contrast: float
    """What projections are multiplied by (density x Å to contrast) at this SNR."""
    details: dict[str, Any]
    """For the record: steps, losses, settings, source files."""

    @property
    def sigma_n(self) -> float:
        """The background's standard deviation over its mean."""
        return self.physical.background_deviation

    def __call__(self, clean: Float[Tensor, "y x"], generator: torch.Generator) -> Float[Tensor, "y x"]:
        """Return a micrograph in the real set's grey values; any size."""
        return self.translate(self.physical.deviations(clean, generator), generator)

    @torch.no_grad()
    def translate(self, deviations: Float[Tensor, "y x"], generator: torch.Generator) -> Float[Tensor, "y x"]:
        """Translate a physical image (deviations of the noise around the background) into grey values."""
        device = next(self.network.parameters()).device
        canvas, corner = _padded(deviations, self.network)
        latent = latent_noise(self.network, 1, (canvas.shape[0], canvas.shape[1]), generator)
        y, x = deviations.shape
        tile = max(TILE, self.network.multiple)
        result = torch.empty_like(canvas)
        for top in range(0, canvas.shape[0], tile):
            for left in range(0, canvas.shape[1], tile):
                _fill(result, canvas, latent, self.network, (top, left), tile, device)
        return self.scale.grey(result[corner[0]:corner[0] + y, corner[1]:corner[1] + x].to(deviations))


def save_model(path: Path, model: Translator) -> None:
    """Write a model; tensors and JSON only."""
    physical = model.physical
    tensors = {f"generator.{name}": tensor for name, tensor in model.network.state_dict().items()}
    tensors |= {f"ice.{i:05d}": ice.grid for i, ice in enumerate(physical.ice)}
    tensors |= {"noise.power": physical.noise.power, "noise.curve": physical.noise.curve}
    save_tensors(path, "model", tensors, {
        "network": model.config, "pixel_size": model.pixel_size, "snr": model.snr, "contrast": model.contrast,
        "sigma_n": physical.background_deviation, "exponent": physical.exponent,
        "ice_fields": [list(ice.field) for ice in physical.ice],
        "median": model.scale.median, "spread": model.scale.spread, "details": model.details})


def load_model(path: Path, device: torch.device | None = None) -> Translator:
    """Read a model that ``save_model`` wrote.

    Raises
    ------
    CheckpointError
        The file is missing, damaged, foreign or newer than this program; the message names what is wrong.
    """
    tensors, values = load_tensors(path, "model")
    try:
        network = generator(values["network"])
        _load(network, part(tensors, "generator."), path)
        ice = tuple(IceMap(grid, (int(field[0]), int(field[1]))) for (_, grid), field in
                    zip(sorted(part(tensors, "ice.").items()), values["ice_fields"], strict=True))
        noise = ColouredNoise(tensors["noise.power"], tensors["noise.curve"])
        physical = PhysicalNoise(float(values["sigma_n"]), ice, noise, float(values["exponent"]))
        scale = GreyScale(float(values["median"]), float(values["spread"]))
        return Translator(
            network.to(device).eval(), values["network"], physical, scale,
            float(values["pixel_size"]), float(values["snr"]), float(values["contrast"]), dict(values["details"]))
    except CheckpointError:
        raise
    except (CryogemError, KeyError, TypeError, ValueError, IndexError) as error:
        raise CheckpointError(f"{path} lacks something or holds it in a wrong form ({error}); make it again") from None


def _load(network: Generator, tensors: dict[str, Tensor], path: Path) -> None:
    """Put weights into a network; every missing, surplus or misshapen one is named."""
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    problems = [f"{name} is missing" for name in expected if name not in tensors]
    problems += [f"{name} is unknown" for name in tensors if name not in expected]
    problems += [f"{name} has shape {tuple(tensors[name].shape)}, not {shape}" for name, shape in expected.items()
                 if name in tensors and tuple(tensors[name].shape) != shape]
    if problems:
        raise CheckpointError(f"{path} does not fit its network: {'; '.join(problems)}")
    network.load_state_dict(tensors)


def _padded(image: Float[Tensor, "y x"], network: Generator) -> tuple[Float[Tensor, "v u"], tuple[int, int]]:
    """The image, mirrored beyond its borders, at a multiple of the network's size; and where it begins."""
    margin = -(-network.margin // network.multiple) * network.multiple
    result = image
    for axis in (0, 1):
        size = image.shape[axis]
        total = -(-(size + 2 * margin) // network.multiple) * network.multiple
        # 0 1 2 1 0 1 2 …: any margin, also wider than the image.
        place = (torch.arange(total) - margin) % max(2 * size - 2, 1)
        result = result.index_select(axis, torch.minimum(place, 2 * size - 2 - place).clamp(min=0).to(image.device))
    return result, (margin, margin)


def _fill(result: Float[Tensor, "y x"], canvas: Float[Tensor, "y x"], latent: list[Tensor] | None,
          network: Generator, corner: tuple[int, int], tile: int, device: torch.device) -> None:
    """Translate one tile of the canvas, seen with a margin, into the result."""
    margin = -(-network.margin // network.multiple) * network.multiple
    outer = [slice(max(0, start - margin), min(size, start + tile + margin))
             for start, size in zip(corner, canvas.shape, strict=True)]
    inner = [slice(start, min(size, start + tile)) for start, size in zip(corner, canvas.shape, strict=True)]
    seen = None if latent is None else [
        noise[..., outer[0].start // step:outer[0].stop // step, outer[1].start // step:outer[1].stop // step]
        for noise, step in zip(latent, (8, 16), strict=True)]
    image, _ = network(canvas[outer[0], outer[1]][None, None].to(device), seen)
    result[inner[0], inner[1]] = image[0, 0, inner[0].start - outer[0].start:inner[0].stop - outer[0].start,
                                       inner[1].start - outer[1].start:inner[1].stop - outer[1].start].to(result)
