# SPDX-License-Identifier: GPL-3.0-or-later
"""The trained noise translator: how it makes a micrograph, and its model file."""
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
from cryogem_scipion.engine.noise.spectrum import ColouredNoise, CurvePlace
from cryogem_scipion.engine.translator.networks import Generator, build_generator
from cryogem_scipion.engine.translator.tensor_files import load_tensors, mismatches, save_tensors, strip_prefix
from cryogem_scipion.engine.translator.tiling import largest_tile, translate_in_tiles

__all__ = ["MODEL", "Translator", "load_model", "save_model", "to_bf16"]

MODEL = "model.safetensors"

CURVES: dict[CurvePlace, str] = {"filtered": "noise.curve", "pixels": "noise.curve_pixels", "fine": "noise.curve_fine"}
"""Name of the grey-value curve in a model file, by what it maps; version 0.1.0 had one kind."""


@dataclass(frozen=True)
class Translator:
    """``NoiseModel`` with a trained network: it makes the physical image and translates it.

    References
    ----------
    arXiv:2312.02235
    """

    network: Generator
    config: dict[str, Any]
    """Configuration of the network; see ``build_generator``."""
    physical: PhysicalNoise
    """Ice and noise of the physical images."""
    scale: GreyScale
    """Grey values of the real set."""
    pixel_size: float
    """Å per pixel of the images that it was trained on."""
    snr: float
    """Signal-to-noise ratio of the physical images."""
    signal_factor: float
    """Factor by which the signal s of the training's simulation was multiplied to get this SNR."""
    details: dict[str, Any]
    """Information only: steps, version, source files."""
    standardised: bool = False
    """Whether every generated image gets mean 0 and standard deviation 1, because the real set is not known."""
    precision: Literal["float32", "bf16"] = "float32"
    """Precision of the network's computation."""
    features: dict[str, Tensor] = field(default_factory=dict)
    """Weights of the projection networks of the contrastive loss, if an imported model has them."""

    @property
    def background_deviation(self) -> float:
        """Standard deviation of the background divided by its mean."""
        return self.physical.background_deviation

    @property
    def memory_bytes(self) -> int:
        """Approximate memory in bytes that the network needs for one micrograph."""
        return 20 * int(self.config["width"]) * largest_tile(self.network) ** 2

    def __call__(self, clean: Float[Tensor, "y x"], generator: torch.Generator,
                 scene: Scene | None = None) -> Float[Tensor, "y x"]:
        """Generated micrograph from a clean image of any size, in the grey values of the real set.

        Parameters
        ----------
        clean
            1 - s.
        generator
            Random generator of the noise and the latent noise.
        scene
            Ice, contaminants and exposure; None: they are drawn.
        """
        return self.translate(self.physical.deviations(clean, generator, scene), generator)

    @torch.no_grad()
    def translate(self, deviations: Float[Tensor, "y x"], generator: torch.Generator) -> Float[Tensor, "y x"]:
        """Generated micrograph from a physical image.

        Parameters
        ----------
        deviations
            Physical image, in standard deviations of the noise around the background.
        generator
            Random generator of the latent noise.
        """
        device = next(self.network.parameters()).device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            image = translate_in_tiles(self.network, deviations, generator)
        if self.standardised:
            image = (image - image.mean()) / image.std().clamp(min=1e-12)
        return self.scale.grey(image)


def to_bf16(model: Translator) -> Translator:
    """The same model, computed in bfloat16 with the channels last: faster on processors with bfloat16 instructions.

    The network of ``model`` itself changes its memory format.
    """
    model.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return replace(model, precision="bf16")


def save_model(path: Path, model: Translator) -> None:
    """Write a model file, which holds tensors and JSON only."""
    physical = model.physical
    tensors = {f"generator.{name}": tensor for name, tensor in model.network.state_dict().items()}
    tensors |= {f"ice.{i:05d}": ice.grid for i, ice in enumerate(physical.ice)}
    tensors |= {f"features.{name}": tensor for name, tensor in model.features.items()}
    tensors |= {"noise.power": physical.noise.power, CURVES[physical.noise.curve_at]: physical.noise.curve}
    if physical.noise.modulated_share is not None:
        tensors["noise.share"] = physical.noise.modulated_share
    tensors |= {f"noise.relative.{i:05d}": power for i, power in enumerate(physical.relative_powers)
                if power is not None}
    contaminants = [None if micrograph_contaminants is None else
                    [[*contaminant.corner, contaminant.fixed] for contaminant in micrograph_contaminants]
                    for micrograph_contaminants in physical.contaminants]
    for micrograph, micrograph_contaminants in enumerate(physical.contaminants):
        for index, contaminant in enumerate(micrograph_contaminants or ()):
            tensors[f"contaminants.{micrograph:05d}.{index:05d}"] = torch.stack(
                [contaminant.values, contaminant.opacity])
    save_tensors(path, "model", tensors, {
        "network": model.config, "pixel_size": model.pixel_size, "snr": model.snr, "contrast": model.signal_factor,
        "sigma_n": physical.background_deviation, "exponent": physical.exponent,
        "ice_fields": [list(ice.field) for ice in physical.ice], "contaminants": contaminants,
        "relative_powers": len(physical.relative_powers),
        "median": model.scale.median, "spread": model.scale.spread, "standardised": model.standardised,
        "details": model.details})


def load_model(path: Path, device: torch.device | None = None) -> Translator:
    """Read a model file.

    Parameters
    ----------
    device
        Device of the network; None: the CPU.

    Raises
    ------
    CheckpointError
        The file is missing, is damaged, comes from another program or from a newer version; the message names what is
        wrong.
    """
    tensors, values = load_tensors(path, "model")
    try:
        with torch.device("meta"):  # no memory before the weights are checked: the sizes come from the file
            network = build_generator(values["network"])
        _load_weights(network, strip_prefix(tensors, "generator."), path)
        ice = tuple(IceMap(grid, (int(size[0]), int(size[1]))) for (_, grid), size in
                    zip(sorted(strip_prefix(tensors, "ice.").items()), values["ice_fields"], strict=True))
        curve_at: CurvePlace = next((place for place, name in CURVES.items() if name in tensors), "pixels")
        noise = ColouredNoise(tensors["noise.power"], tensors[CURVES[curve_at]], tensors.get("noise.share"), curve_at)
        physical = PhysicalNoise(float(values["sigma_n"]), ice, noise, float(values["exponent"]),
                                 _contaminants(values.get("contaminants", ()), tensors),
                                 tuple(tensors.get(f"noise.relative.{index:05d}")
                                       for index in range(int(values.get("relative_powers", 0)))))
        scale = GreyScale(float(values["median"]), float(values["spread"]))
        return Translator(
            network.to(device).eval(), values["network"], physical, scale,
            float(values["pixel_size"]), float(values["snr"]), float(values["contrast"]), dict(values["details"]),
            bool(values["standardised"]), features=strip_prefix(tensors, "features."))
    except CheckpointError:
        raise
    except (CryogemError, KeyError, TypeError, ValueError, IndexError) as error:
        raise CheckpointError(f"{path} has missing values or values in a wrong form ({error}); make it again") from None


def _contaminants(entries: Any, tensors: dict[str, Tensor]) -> tuple[tuple[Contaminant, ...] | None, ...]:
    """Contaminants of each micrograph; empty for model files from before contaminants were measured."""
    def contaminant(micrograph: int, index: int, y: int, x: int, fixed: bool) -> Contaminant:
        values, opacity = tensors[f"contaminants.{micrograph:05d}.{index:05d}"]
        return Contaminant(values, opacity, (int(y), int(x)), bool(fixed))

    return tuple(None if micrograph_contaminants is None else
                 tuple(contaminant(micrograph, index, *entry) for index, entry in enumerate(micrograph_contaminants))
                 for micrograph, micrograph_contaminants in enumerate(entries))


def _load_weights(network: Generator, tensors: dict[str, Tensor], path: Path) -> None:
    """Put the weights of a file into a network; the message of an error names every missing or wrong tensor."""
    problems = mismatches({name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}, tensors)
    if problems:
        raise CheckpointError(f"{path} does not fit its network: {', '.join(problems)}; make it again")
    not_finite = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if not_finite:
        raise CheckpointError(f"{path} holds values that are not finite in {', '.join(not_finite)}; give an earlier "
                              "one, or train again")
    network.load_state_dict(tensors, assign=True)
