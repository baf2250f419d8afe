# SPDX-License-Identifier: GPL-3.0-or-later
"""Noise models without a network: Gaussian noise, and noise measured from real micrographs."""
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cryogem_scipion.engine.noise.contaminants import (
    Contaminant,
    ContaminantLayer,
    draw_field_part,
    hidden_particles,
    lay_contaminants,
)
from cryogem_scipion.engine.noise.exposure import Exposure
from cryogem_scipion.engine.noise.ice import IceMap, ice_of_part
from cryogem_scipion.engine.noise.spectrum import ColouredNoise, turned_half_plane, white_noise
from cryogem_scipion.engine.simulation.specimen import Specimen, seeded_generator

__all__ = ["AnalyticModel", "GreyScale", "NoiseModel", "PhysicalNoise", "Scene"]


@runtime_checkable
class NoiseModel(Protocol):
    """Turns a clean image into a micrograph: ice and noise, then the network if the model has one."""

    @property
    def physical(self) -> "PhysicalNoise":
        """Ice and noise of the physical image."""
        ...

    @property
    def scale(self) -> "GreyScale":
        """Grey scale of the micrographs."""
        ...

    @property
    def snr(self) -> float:
        """Signal-to-noise ratio of the physical image at the working pixel size."""
        ...

    def __call__(self, clean: Float[Tensor, "y x"], generator: torch.Generator,
                 scene: "Scene | None" = None) -> Float[Tensor, "y x"]:
        """Return the micrograph in the real set's grey values; ``clean`` is 1 - s at the model's contrast."""
        ...


@dataclass(frozen=True)
class GreyScale:
    """Scale of grey values: grey = median + spread · deviations, with deviations in units of the noise's σ."""

    median: float
    spread: float
    """Grey values that correspond to one standard deviation of the background's noise."""

    def grey(self, deviations: Float[Tensor, "*batch y x"]) -> Float[Tensor, "*batch y x"]:
        """Return the grey values of an image that is given in standard deviations of the noise."""
        return self.median + self.spread * deviations

    def deviations(self, grey: Float[Tensor, "*batch y x"]) -> Float[Tensor, "*batch y x"]:
        """Return the image in standard deviations of the noise: the inverse of ``grey``."""
        return (grey - self.median) / self.spread


@dataclass(frozen=True)
class Scene:
    """Ice, contaminants and optics of one image."""

    ice: Float[Tensor, "y x"]
    """Transmission of the ice."""
    contaminants: ContaminantLayer | None = None
    """None: no contaminant reaches into the image."""
    exposure: Exposure | None = None
    """None: the optics are not known, so the noise has no Thon rings."""
    relative_power: Float[Tensor, "n half"] | None = None
    """Power of this image's noise over that of the set; None: 1."""

    def hidden(self, centres: Float[Tensor, "n 2"]) -> Bool[Tensor, " n"]:
        """Return for each particle whether it lies under a contaminant."""
        return hidden_particles(self.contaminants, centres)

    def visible(self, specimen: Specimen) -> Specimen:
        """Return the specimen without the particles that a contaminant hides."""
        hidden = self.hidden(specimen.centres)
        return replace(specimen.subset(~hidden), requested_count=specimen.requested_count - int(hidden.sum()))


@dataclass(frozen=True)
class PhysicalNoise:
    """The physical image I_phy = T + σ_n T^γ n with T = ice · (1 - s), and contaminants over it.

    Noise n, ice and contaminants are drawn anew for every call. The published form (doi:10.48550/arXiv.2312.02235) has
    white noise, γ = 0 and no contaminants.
    """

    background_deviation: float
    """σ_n: standard deviation of the background divided by its mean."""
    ice: tuple[IceMap, ...] = ()
    noise: ColouredNoise = field(default_factory=white_noise)
    """The noise n; its variance is about 1."""
    exponent: float = 0.0
    """γ: 0 if the noise is the same everywhere, 1/2 for counted electrons."""
    contaminants: tuple[tuple[Contaminant, ...] | None, ...] = ()
    """For each ice map, the contaminants of its micrograph, or None if that micrograph was not searched. Empty: the
    noise has no contaminants."""
    relative_powers: tuple[Float[Tensor, "n half"] | None, ...] = ()
    """For each ice map, how the noise's power on its micrograph differs from that of the set, or None if that was not
    measured. Without ice maps, those of the measured micrographs. Empty: all images have the same noise."""

    def subset(self, indices: Sequence[int]) -> "PhysicalNoise":
        """Return the same noise with the ice maps at these ``indices`` only, and with what belongs to them."""
        if not self.ice:
            return self
        contaminants = tuple(self.contaminants[index] for index in indices) if self.contaminants else ()
        powers = tuple(self.relative_powers[index] for index in indices) if self.relative_powers else ()
        return replace(self, ice=tuple(self.ice[index] for index in indices), contaminants=contaminants,
                       relative_powers=powers)

    def ice_map_of(self, index: int, seed: int) -> int | None:
        """Return the index of the ice map that generated micrograph ``index`` gets; None if there are no ice maps.

        All ice maps are used in turn, in random order, so that carbon edges are as frequent as in the real set.
        """
        if not self.ice:
            return None
        turn, position = divmod(index, len(self.ice))
        return int(torch.randperm(len(self.ice), generator=seeded_generator(seed, "scenes", turn))[position])

    def scene(self, shape: tuple[int, int], generator: torch.Generator, exposure: Exposure | None = None,
              chosen: int | None = None) -> Scene:
        """Draw ice and contaminants, both from one real micrograph if it was searched for contaminants.

        Parameters
        ----------
        chosen
            Index of the ice map; None: a random one.
        """
        if not self.ice:
            return Scene(torch.ones(shape), None, exposure, self._relative_power(None, 0, False, generator))
        fields = [ice.field for ice in self.ice]
        part = draw_field_part(fields, shape, generator, chosen)
        ice = ice_of_part(self.ice, part, shape)
        power = self._relative_power(part.index, part.turns, part.mirrored, generator)
        searched = [index for index, contaminants in enumerate(self.contaminants) if contaminants is not None]
        if not searched:
            return Scene(ice, None, exposure, power)
        index = part.index
        contaminants = self.contaminants[index]
        if contaminants is None:
            index = searched[int(torch.randint(len(searched), (), generator=generator))]
            contaminants = tuple(contaminant for contaminant in self.contaminants[index] or () if not contaminant.fixed)
        return Scene(ice, lay_contaminants(contaminants, fields[index], part, shape, generator), exposure,
                     power)

    def _relative_power(self, index: int | None, turns: int, mirrored: bool, generator: torch.Generator
                        ) -> Float[Tensor, "n half"] | None:
        """The relative power of a micrograph as it is rotated and mirrored, or of a random one if it has none."""
        measured = [power for power in self.relative_powers if power is not None]
        if not measured:
            return None
        power = None if index is None else self.relative_powers[index]
        if power is None:
            power = measured[int(torch.randint(len(measured), (), generator=generator))]
        return turned_half_plane(power, turns, mirrored)

    def __call__(self, clean: Float[Tensor, "y x"], generator: torch.Generator,
                 scene: Scene | None = None) -> Float[Tensor, "y x"]:
        """Return the physical image in units of transmission; device and dtype follow ``clean``.

        Parameters
        ----------
        scene
            Result of ``scene`` with the same generator; None: it is drawn here.
        """
        shape = (clean.shape[0], clean.shape[1])
        scene = self.scene(shape, generator) if scene is None else scene
        ice = scene.ice.to(clean)
        transmission = ice * clean
        noise = self.noise.draw(shape, generator, scene.exposure, scene.relative_power).to(clean)
        if self.exponent:
            noise = noise * transmission.clamp(min=0.05) ** self.exponent
        image = transmission + self.background_deviation * noise
        return image if scene.contaminants is None else scene.contaminants.over(image, ice, self.background_deviation)

    def deviations(self, clean: Float[Tensor, "y x"], generator: torch.Generator,
                   scene: Scene | None = None) -> Float[Tensor, "y x"]:
        """Return the physical image minus the background in units of σ_n, as the networks take it."""
        return (self(clean, generator, scene) - 1) / self.background_deviation

    def batch(self, clean: Float[Tensor, "b y x"], exposures: Sequence[Exposure | None],
              generator: torch.Generator) -> Float[Tensor, "b y x"]:
        """Return ``deviations`` of several images, each with its own optics."""
        shape = (clean.shape[1], clean.shape[2])
        return torch.stack([self.deviations(image, generator, self.scene(shape, generator, exposure))
                            for image, exposure in zip(clean, exposures, strict=True)])


@dataclass(frozen=True)
class AnalyticModel:
    """A ``NoiseModel`` without training: the physical image in the grey values of the real set."""

    physical: PhysicalNoise
    scale: GreyScale
    snr: float
    """Signal-to-noise ratio at the working pixel size."""

    def __call__(self, clean: Float[Tensor, "y x"], generator: torch.Generator,
                 scene: Scene | None = None) -> Float[Tensor, "y x"]:
        """Return a micrograph in grey values."""
        return self.scale.grey(self.physical.deviations(clean, generator, scene))
