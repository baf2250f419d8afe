# SPDX-License-Identifier: GPL-3.0-or-later
"""The virtual microscope: forms clean, labelled micrographs from maps, poses, positions and optics."""
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cryogem_scipion.engine.errors import SettingsError
from cryogem_scipion.engine.settings import SimulateSettings
from cryogem_scipion.engine.simulation.broken_particles import cut_volume
from cryogem_scipion.engine.simulation.composition import (
    boxes_inside,
    compose,
    compose_defocused,
    particle_mask,
    subpixel_shifts,
)
from cryogem_scipion.engine.simulation.ctf import (
    Measured,
    Optics,
    apply_ctf,
    choose_measured,
    delocalisation_margin,
    draw_optics,
    fast_shape,
)
from cryogem_scipion.engine.simulation.maps import read_volumes
from cryogem_scipion.engine.simulation.measured_star import read_measured_optics, read_measured_orientations
from cryogem_scipion.engine.simulation.motion import Motion
from cryogem_scipion.engine.simulation.placement import draw_particle_count, place_centres
from cryogem_scipion.engine.simulation.projection import Projector, prepare_projector, project
from cryogem_scipion.engine.simulation.specimen import (
    Specimen,
    draw_heights,
    draw_map_indices,
    draw_orientations,
    seeded_generator,
)
from cryogem_scipion.engine.simulation.variation import draw_variation
from cryogem_scipion.engine.simulation.volume import Volume, diameter_angstrom

__all__ = [
    "CleanMicrograph",
    "Microscope",
    "Specimen",
    "prepare_microscope",
    "projection_box_size",
    "seeded_generator",
]


MIN_DIAMETER_PIXELS = 4
"""Smallest diameter of a particle, pixels."""


@dataclass(frozen=True)
class CleanMicrograph:
    """Clean image of one micrograph, with the mask of its particles."""

    signal: Float[Tensor, "y x"]
    """s = CTF ⊗ projections, at the contrast in use; the clean image is 1 - s."""
    mask: Bool[Tensor, "y x"] | Float[Tensor, "y x"]
    """Mask of the particles; values from 0 to 1 if it is soft."""
    specimen: Specimen

    @property
    def image(self) -> Float[Tensor, "y x"]:
        """The clean image 1 - s."""
        return 1 - self.signal


@dataclass(frozen=True)
class Microscope:
    """What all micrographs of a run have in common. Micrograph ``i`` depends only on this, on the seed and on ``i``."""

    settings: SimulateSettings
    projectors: tuple[Projector, ...]
    """One for each map."""
    pixel_size: float
    """Å per pixel of the micrographs."""
    diameter_angstrom: float
    """Largest extent of the largest particle, Å."""
    box_size: int
    """Pixels."""
    projection_scale: float = 1.0
    """Factor on the projections, which sets the contrast; ``Contrast.scale`` in the manifest."""
    measured_optics: tuple[Optics, ...] = ()
    """Measured microscope states; if there are any, each micrograph has one of them, and all are used equally often."""
    measured_motions: tuple[Motion, ...] = ()
    """Measured residual motions, used in the same way where ``measured_optics`` have none."""
    measured_orientations: Float[Tensor, "m 3 3"] | None = None
    """Measured orientations to draw from; None for preferred views or uniform orientations."""
    volumes: tuple[Volume, ...] = ()
    """The maps themselves, from which broken particles are cut; empty if no particle is broken."""

    @property
    def particle_distance(self) -> float:
        """Smallest distance between the centres of two particles, Å."""
        distance = self.settings.particle_distance
        return (1 - self.settings.overlap) * self.diameter_angstrom if distance is None else distance

    @property
    def memory_bytes(self) -> int:
        """Rough estimate of the memory that ``form_image`` needs, bytes."""
        y, x = self.settings.micrograph_size
        edge = max(projection_box_size(projector, self.pixel_size) for projector in self.projectors)
        return 40 * y * x + int(5 * self.settings.particles_mean * edge**2)

    def draw_specimen(self, seed: int, index: int) -> Specimen:
        """Draw the particles and the microscope state of one micrograph: all its labels, without any image.

        Parameters
        ----------
        seed
            Seed of the run.
        index
            Index of the micrograph, from 0.
        """
        settings = self.settings
        generator = seeded_generator(seed, "specimen", index)
        shape = settings.micrograph_size
        requested_count = draw_particle_count(settings.particles_mean, settings.particles_sigma, generator)
        inset = self.box_size / 2 + 1 if settings.border == "inside" else 0.0
        centres = place_centres(requested_count, shape, self.particle_distance / self.pixel_size, generator, inset,
                                settings.clusters)
        count = len(centres)
        rotations = draw_orientations(settings, count, generator, self.measured_orientations)
        map_indices = draw_map_indices(settings.volume_proportions or (1.0,) * len(self.projectors), count, generator)
        optics = self._draw_optics(seed, index, generator)
        heights = draw_heights(settings, centres, self.pixel_size, generator)
        is_whole = boxes_inside(centres, self.box_size, shape)
        variation = draw_variation(settings, count, seeded_generator(seed, "variation", index))
        return Specimen(centres, heights, rotations, map_indices, is_whole, optics, requested_count, variation)

    def form_image(self, specimen: Specimen) -> CleanMicrograph:
        """Form the clean image of a specimen and its mask: project the particles, sum, convolve with the CTF."""
        settings = self.settings
        shape = settings.micrograph_size
        projections = self.project_particles(specimen)
        mask = particle_mask(projections, specimen.centres, shape, settings.mask_threshold, settings.soft_mask)
        if specimen.variation is not None:
            projections *= specimen.variation.contrasts.to(projections)[:, None, None]
        if specimen.same_optics:
            margin = delocalisation_margin(self.pixel_size, specimen.optics)
            canvas = compose(projections, specimen.centres + margin, fast_shape(shape, margin))
            image = apply_ctf(canvas, self.pixel_size, specimen.optics)
            signal = image[margin:margin + shape[0], margin:margin + shape[1]]
        else:
            signal = compose_defocused(projections, specimen.particle_optics, specimen.centres, shape, self.pixel_size)
        return CleanMicrograph(signal * self.projection_scale, mask, specimen)

    def project_particles(self, specimen: Specimen) -> Float[Tensor, "n box box"]:
        """Projections of the particles (density x Å), shifted by the sub-pixel part of their centres."""
        edge = max(projection_box_size(projector, self.pixel_size) for projector in self.projectors)
        shifts = subpixel_shifts(specimen.centres)
        result = torch.empty(len(shifts), edge, edge, device=self.projectors[0].spectrum.device)
        for map_index, projector in enumerate(self.projectors):
            rows = (specimen.map_indices == map_index).nonzero()[:, 0]
            images = project(projector, specimen.rotations[rows], shifts[rows], edge, self.pixel_size)
            result[rows.to(images.device)] = images
        for index in [] if specimen.variation is None else specimen.variation.broken.nonzero()[:, 0].tolist():
            result[index] = self._project_broken(specimen, index, shifts[index], edge)
        return result

    def _project_broken(self, specimen: Specimen, index: int, shift: Float[Tensor, "2"], edge: int
                        ) -> Float[Tensor, "box box"]:
        """Projection of one broken particle; its map is cut and transformed for it alone."""
        assert specimen.variation is not None
        volume = cut_volume(self.volumes[int(specimen.map_indices[index])], specimen.variation.cut_normals[index],
                            float(specimen.variation.remaining[index]))
        return project(prepare_projector(volume), specimen.rotations[index][None], shift[None], edge,
                       self.pixel_size)[0]

    def _draw_optics(self, seed: int, index: int, generator: torch.Generator) -> Optics:
        """Draw a microscope state: a measured one if there are any, else one from the defocus range."""
        if self.measured_optics:
            optics = _measured_in_turn(self.measured_optics, seed, "optics", index)
        else:
            optics = self._draw_defocus(generator)
        if optics.motion or not self.measured_motions:
            return optics
        return replace(optics, motion=_measured_in_turn(self.measured_motions, seed, "motion", index))

    def _draw_defocus(self, generator: torch.Generator) -> Optics:
        settings = self.settings
        return draw_optics(
            generator, voltage_kv=settings.voltage_kv, cs_mm=settings.cs_mm,
            amplitude_contrast=settings.amplitude_contrast, defocus_min_angstrom=settings.defocus_min,
            defocus_max_angstrom=settings.defocus_max, astigmatism_max_angstrom=settings.astigmatism_angstrom,
            phase_shift_degrees=settings.phase_shift_degrees, b_factor_angstrom2=_b_factor(settings),
            envelope=settings.parsed_signal_envelope())


def prepare_microscope(settings: SimulateSettings, projection_scale: float = 1.0, device: torch.device | None = None
                       ) -> Microscope:
    """Read the maps and atomic models and prepare them for projection.

    Parameters
    ----------
    settings
        Settings of the simulation.
    projection_scale
        Factor on the projections, which sets the contrast; ``contrast.measure_contrast`` measures it.
    device
        Device of the maps and images; the CPU by default.

    Raises
    ------
    DataError
        A file cannot be used.
    SettingsError
        The particle has too few pixels, or its box is larger than the micrograph.
    """
    volumes, pixel_size = read_volumes(settings)
    diameter = max(diameter_angstrom(volume) for volume in volumes)
    if diameter < MIN_DIAMETER_PIXELS * pixel_size:
        raise SettingsError(f"the particle's diameter of {diameter:.3g} Å is less than {MIN_DIAMETER_PIXELS} pixels of "
                            f"{pixel_size:g} Å; lower pixel_size, or correct that of the map (volume_pixel_size)")
    box_size = settings.box_size or 2 * round(0.75 * diameter / pixel_size)
    if box_size > min(settings.micrograph_size):
        y, x = settings.micrograph_size
        raise SettingsError(f"the box of {box_size} pixels is larger than the micrograph ({y} x {x} pixels at "
                            f"{pixel_size:g} Å); enlarge micrograph_size or pixel_size, or give a smaller box_size")
    volumes = [replace(volume, density=volume.density.to(device)) for volume in volumes]
    projectors = tuple(prepare_projector(volume) for volume in volumes)
    default_optics = Optics(settings.voltage_kv, settings.cs_mm, settings.amplitude_contrast, 0.0, 0.0, 0.0,
                            settings.phase_shift_degrees, _b_factor(settings), settings.parsed_signal_envelope())
    measured_optics = read_measured_optics(settings.ctfs, default_optics) if settings.ctfs else ()
    motions = {row or -number: Motion(u, v, angle)
               for number, (u, v, angle, row) in enumerate(settings.parsed_motion(), 1)}
    measured_optics = tuple(replace(optics, motion=motions.get(row)) for row, optics in enumerate(measured_optics, 1))
    measured_orientations = read_measured_orientations(settings.orientations) if settings.orientations else None
    return Microscope(settings, projectors, pixel_size, diameter, box_size, projection_scale, measured_optics,
                      tuple(motions.values()), measured_orientations,
                      tuple(volumes) if settings.broken_fraction else ())


def _measured_in_turn(measured: Sequence[Measured], seed: int, name: str, index: int) -> Measured:
    """The measured state of one micrograph: all are used equally often, in random order."""
    repetition, place = divmod(index, len(measured))
    return choose_measured(seeded_generator(seed, name, repetition), measured, place)


def _b_factor(settings: SimulateSettings) -> float:
    """B-factor of the micrographs, Å²; an envelope of the signal replaces it."""
    return 0.0 if settings.signal_envelope else settings.b_factor_angstrom2


def projection_box_size(projector: Projector, pixel_size: float) -> int:
    """Even box size (px) that holds the whole particle at ``pixel_size`` (Å), for any shift below one pixel."""
    return 2 * (int(projector.radius_angstrom / pixel_size) + 2)
