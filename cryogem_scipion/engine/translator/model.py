# SPDX-License-Identifier: GPL-3.0-or-later
"""A trained translator: its file, and the micrographs it makes."""
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.engine.errors import CheckpointError, CryogemError
from cryogem_scipion.engine.noise.contaminants import Contaminant
from cryogem_scipion.engine.noise.ice import IceMap
from cryogem_scipion.engine.noise.models import GreyScale, PhysicalNoise, Scene
from cryogem_scipion.engine.noise.spectrum import ColouredNoise
from cryogem_scipion.engine.translator.networks import Generator, generator
from cryogem_scipion.engine.translator.tensor_files import load_tensors, mismatches, part, save_tensors
from cryogem_scipion.engine.translator.tiling import largest_tile, translate_in_tiles

__all__ = ["MODEL", "Translator", "load_model", "save_model", "to_bf16"]

MODEL = "model.safetensors"

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
    """What the s of the simulation that it was trained with was multiplied by, to have this SNR."""
    details: dict[str, Any]
    """For the record: steps, losses, settings, source files."""
    standardised: bool = False
    """Whether every image is brought to mean 0 and deviation 1, for want of a real set to compare with."""
    precision: Literal["float32", "bf16"] = "float32"
    """Of the network's arithmetic."""
    features: dict[str, Tensor] = field(default_factory=dict)
    """Weights of the contrastive loss's projections, where an imported model came with them."""

    @property
    def sigma_n(self) -> float:
        """The background's standard deviation over its mean."""
        return self.physical.background_deviation

    @property
    def memory(self) -> int:
        """Bytes, roughly, that the network takes for one micrograph."""
        return 20 * int(self.config["width"]) * largest_tile(self.network) ** 2

    def __call__(self, clean: Float[Tensor, "y x"], generator: torch.Generator,
                 scene: Scene | None = None) -> Float[Tensor, "y x"]:
        """Return a micrograph in the real set's grey values; any size."""
        return self.translate(self.physical.deviations(clean, generator, scene), generator)

    @torch.no_grad()
    def translate(self, deviations: Float[Tensor, "y x"], generator: torch.Generator) -> Float[Tensor, "y x"]:
        """Translate a physical image (deviations of the noise around the background) into grey values."""
        device = next(self.network.parameters()).device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            image = translate_in_tiles(self.network, deviations, generator)
        if self.standardised:
            image = (image - image.mean()) / image.std().clamp(min=1e-12)
        return self.scale.grey(image)


def to_bf16(model: Translator) -> Translator:
    """The same model for processors that are faster in bfloat16, its weights laid out as they like them."""
    model.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return replace(model, precision="bf16")


def save_model(path: Path, model: Translator) -> None:
    """Write a model; tensors and JSON only."""
    physical = model.physical
    tensors = {f"generator.{name}": tensor for name, tensor in model.network.state_dict().items()}
    tensors |= {f"ice.{i:05d}": ice.grid for i, ice in enumerate(physical.ice)}
    tensors |= {f"features.{name}": tensor for name, tensor in model.features.items()}
    tensors |= {"noise.power": physical.noise.power, "noise.curve": physical.noise.curve}
    if physical.noise.share is not None:
        tensors["noise.share"] = physical.noise.share
    pieces = [None if found is None else [[*piece.corner, piece.fixed] for piece in found]
              for found in physical.contaminants]
    for number, found in enumerate(physical.contaminants):
        for place, piece in enumerate(found or ()):
            tensors[f"contaminants.{number:05d}.{place:05d}"] = torch.stack([piece.values, piece.weight])
    save_tensors(path, "model", tensors, {
        "network": model.config, "pixel_size": model.pixel_size, "snr": model.snr, "contrast": model.contrast,
        "sigma_n": physical.background_deviation, "exponent": physical.exponent,
        "ice_fields": [list(ice.field) for ice in physical.ice], "contaminants": pieces,
        "median": model.scale.median, "spread": model.scale.spread, "standardised": model.standardised,
        "details": model.details})


def load_model(path: Path, device: torch.device | None = None) -> Translator:
    """Read a model that ``save_model`` wrote.

    Raises
    ------
    CheckpointError
        The file is missing, damaged, foreign or newer than this program; the message names what is wrong.
    """
    tensors, values = load_tensors(path, "model")
    try:
        with torch.device("meta"):  # without memory: the file says how large it is
            network = generator(values["network"])
        _load(network, part(tensors, "generator."), path)
        ice = tuple(IceMap(grid, (int(size[0]), int(size[1]))) for (_, grid), size in
                    zip(sorted(part(tensors, "ice.").items()), values["ice_fields"], strict=True))
        noise = ColouredNoise(tensors["noise.power"], tensors["noise.curve"], tensors.get("noise.share"))
        physical = PhysicalNoise(float(values["sigma_n"]), ice, noise, float(values["exponent"]),
                                 _contaminants(values.get("contaminants", ()), tensors))
        scale = GreyScale(float(values["median"]), float(values["spread"]))
        return Translator(
            network.to(device).eval(), values["network"], physical, scale,
            float(values["pixel_size"]), float(values["snr"]), float(values["contrast"]), dict(values["details"]),
            bool(values["standardised"]), features=part(tensors, "features."))
    except CheckpointError:
        raise
    except (CryogemError, KeyError, TypeError, ValueError, IndexError) as error:
        raise CheckpointError(f"{path} lacks something or holds it in a wrong form ({error}); make it again") from None


def _contaminants(places: Any, tensors: dict[str, Tensor]) -> tuple[tuple[Contaminant, ...] | None, ...]:
    """Pieces of each micrograph; models made before there were any have none."""
    def piece(number: int, place: int, y: int, x: int, fixed: bool) -> Contaminant:
        values, weight = tensors[f"contaminants.{number:05d}.{place:05d}"]
        return Contaminant(values, weight, (int(y), int(x)), bool(fixed))

    return tuple(None if found is None else tuple(piece(number, place, *values) for place, values in enumerate(found))
                 for number, found in enumerate(places))


def _load(network: Generator, tensors: dict[str, Tensor], path: Path) -> None:
    """Put weights into a network; every missing, surplus or misshapen one is named."""
    problems = mismatches({name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}, tensors)
    if problems:
        raise CheckpointError(f"{path} does not fit its network: {', '.join(problems)}; make it again")
    broken = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if broken:
        raise CheckpointError(f"{path} holds values that are not finite in {', '.join(broken)}; give an earlier one, "
                              "or train again")
    network.load_state_dict(tensors, assign=True)
