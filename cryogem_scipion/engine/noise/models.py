# SPDX-License-Identifier: GPL-3.0-or-later
"""The physical image, and noise models that need no training: Gaussian, and measured from real micrographs."""
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cryogem_scipion.engine.noise.contaminants import Contaminant, Cover, covered, draw_frame, lay
from cryogem_scipion.engine.noise.exposure import Exposure
from cryogem_scipion.engine.noise.ice import IceMap, framed_ice
from cryogem_scipion.engine.noise.spectrum import ColouredNoise, white

__all__ = ["AnalyticModel", "GreyScale", "NoiseModel", "PhysicalNoise", "Scene"]


@runtime_checkable
class NoiseModel(Protocol):
    """Makes a micrograph of a clean image."""

    def __call__(self, clean: Float[Tensor, "y x"], generator: torch.Generator,
                 scene: "Scene | None" = None) -> Float[Tensor, "y x"]:
        """Return the micrograph in the real set's grey values; ``clean`` is 1 - s at the model's contrast."""
        ...


@dataclass(frozen=True)
class GreyScale:
    """How grey values and deviations of the noise belong together: grey = median + spread · deviations."""

    median: float
    spread: float
    """Grey values of one standard deviation of the background's noise."""

    def grey(self, deviations: Float[Tensor, "*batch y x"]) -> Float[Tensor, "*batch y x"]:
        """Grey values of an image in deviations of the noise around the background."""
        return self.median + self.spread * deviations

    def deviations(self, grey: Float[Tensor, "*batch y x"]) -> Float[Tensor, "*batch y x"]:
        """The inverse of ``grey``."""
        return (grey - self.median) / self.spread


@dataclass(frozen=True)
class Scene:
    """What an image is seen through: ice, contaminants over it, and the optics."""

    ice: Float[Tensor, "y x"]
    cover: Cover | None = None
    exposure: Exposure | None = None
    """None is that of no micrograph in particular."""

    def hidden(self, centres: Float[Tensor, "n 2"]) -> Bool[Tensor, " n"]:
        """Which particles lie under a contaminant."""
        return covered(self.cover, centres)


@dataclass(frozen=True)
class PhysicalNoise:
    """I_phy = T + σ_n T^γ n with T = ice · (1 - s), contaminants over it; everything drawn anew for every call."""

    background_deviation: float
    """σ_n, of the background over its mean."""
    ice: tuple[IceMap, ...] = ()
    noise: ColouredNoise = field(default_factory=white)
    """n; of variance near 1."""
    exponent: float = 0.0
    """γ: 0 for noise that is the same everywhere, 1/2 for counted electrons."""
    contaminants: tuple[tuple[Contaminant, ...] | None, ...] = ()
    """Of the micrograph of each ice map, None where nobody looked; or nothing at all."""

    def scene(self, shape: tuple[int, int], generator: torch.Generator, exposure: Exposure | None = None,
              chosen: int | None = None) -> Scene:
        """Draw ice and contaminants; they come from one real micrograph, where it was searched for them.

        Parameters
        ----------
        chosen
            Number of that micrograph's ice map; any, when it is not given.
        """
        if not self.ice:
            return Scene(torch.ones(shape), exposure=exposure)
        fields = [one.field for one in self.ice]
        frame = draw_frame(fields, shape, generator, chosen)
        ice = framed_ice(self.ice, frame, shape)
        searched = [number for number, pieces in enumerate(self.contaminants) if pieces is not None]
        if not searched:
            return Scene(ice, exposure=exposure)
        number = frame.number
        pieces = self.contaminants[number]
        if pieces is None:
            number = searched[int(torch.randint(len(searched), (), generator=generator))]
            pieces = tuple(piece for piece in self.contaminants[number] or () if not piece.fixed)
        return Scene(ice, lay(pieces, fields[number], frame, shape, generator), exposure)

    def __call__(self, clean: Float[Tensor, "y x"], generator: torch.Generator,
                 scene: Scene | None = None) -> Float[Tensor, "y x"]:
        """Return the physical image in units of transmission; device and dtype follow ``clean``.

        Parameters
        ----------
        scene
            From ``scene``, with the same generator; drawn here when it is not given.
        """
        shape = (clean.shape[0], clean.shape[1])
        scene = self.scene(shape, generator) if scene is None else scene
        ice = scene.ice.to(clean)
        transmission = ice * clean
        noise = self.noise.draw(shape, generator, scene.exposure).to(clean)
        if self.exponent:
            noise = noise * transmission.clamp(min=0.05) ** self.exponent
        image = transmission + self.background_deviation * noise
        return image if scene.cover is None else scene.cover.over(image, ice, self.background_deviation)

    def deviations(self, clean: Float[Tensor, "y x"], generator: torch.Generator,
                   scene: Scene | None = None) -> Float[Tensor, "y x"]:
        """The physical image around the background, in σ_n: what the networks see."""
        return (self(clean, generator, scene) - 1) / self.background_deviation

    def batch(self, clean: Float[Tensor, "b y x"], exposures: Sequence[Exposure | None],
              generator: torch.Generator) -> Float[Tensor, "b y x"]:
        """``deviations`` of several images, each with its exposure."""
        shape = (clean.shape[1], clean.shape[2])
        return torch.stack([self.deviations(image, generator, self.scene(shape, generator, exposure))
                            for image, exposure in zip(clean, exposures, strict=True)])


@dataclass(frozen=True)
class AnalyticModel:
    """The physical image in the grey values of the real set: a ``NoiseModel`` without training."""

    physical: PhysicalNoise
    scale: GreyScale

    def __call__(self, clean: Float[Tensor, "y x"], generator: torch.Generator,
                 scene: Scene | None = None) -> Float[Tensor, "y x"]:
        """Return a micrograph in grey values."""
        return self.scale.grey(self.physical.deviations(clean, generator, scene))
