# SPDX-License-Identifier: GPL-3.0-or-later
"""The virtual microscope: composes map, poses, placement and optics into clean, labelled micrographs."""
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cryogem_scipion.engine.errors import DataError, SettingsError
from cryogem_scipion.engine.io.dataset import Contrast
from cryogem_scipion.engine.settings import SimulateSettings
from cryogem_scipion.engine.simulation.composition import (
    compose,
    compose_defocused,
    field_mask,
    subpixel_shifts,
    whole_boxes,
)
from cryogem_scipion.engine.simulation.ctf import (
    Optics,
    apply_ctf,
    choose_optics,
    delocalisation_margin,
    draw_optics,
    fast_shape,
)
from cryogem_scipion.engine.simulation.maps import read_volumes
from cryogem_scipion.engine.simulation.measured_star import measured_orientations, measured_states
from cryogem_scipion.engine.simulation.placement import draw_count, place_centres
from cryogem_scipion.engine.simulation.poses import uniform_rotations
from cryogem_scipion.engine.simulation.projection import Projector, prepare, project
from cryogem_scipion.engine.simulation.specimen import Specimen, drawn_heights, drawn_poses, drawn_sources, seeded
from cryogem_scipion.engine.simulation.volume import diameter_angstrom

__all__ = ["CleanMicrograph", "Microscope", "Specimen", "drawing_box", "measure_contrast", "microscope", "seeded"]

CALIBRATION_PARTICLES = 30
SMALLEST = 4
"""Pixels that a particle has to have."""


@dataclass(frozen=True)
class CleanMicrograph:
    """What the microscope would form without noise, and where the particles are in it."""

    signal: Float[Tensor, "y x"]
    """s of the contrast in use; the image is 1 - s."""
    mask: Bool[Tensor, "y x"] | Float[Tensor, "y x"]
    """Where particles are; from 0 to 1 when soft."""
    specimen: Specimen


@dataclass(frozen=True)
class Microscope:
    """All that a run's micrographs share; micrograph ``i`` depends on it, the seed and ``i`` alone."""

    settings: SimulateSettings
    projectors: tuple[Projector, ...]
    pixel_size: float
    """Å per pixel of the micrographs."""
    diameter_angstrom: float
    """Of the largest particle."""
    box_size: int
    scale: float = 1.0
    """Projections are multiplied by this."""
    states: tuple[Optics, ...] = ()
    """Measured states to draw from instead of the defocus range."""
    orientations: Float[Tensor, "m 3 3"] | None = None
    """Measured orientations to draw from."""

    @property
    def particle_distance(self) -> float:
        """Smallest distance of two centres, Å."""
        given = self.settings.particle_distance
        return (1 - self.settings.overlap) * self.diameter_angstrom if given is None else given

    @property
    def memory(self) -> int:
        """Bytes, roughly, that it takes to expose one micrograph."""
        y, x = self.settings.micrograph_size
        edge = max(drawing_box(projector, self.pixel_size) for projector in self.projectors)
        return 40 * y * x + int(5 * self.settings.particles_mean * edge**2)

    def specimen(self, seed: int, index: int) -> Specimen:
        """Draw the particles and optics of micrograph ``index``; all its labels, at no cost."""
        settings = self.settings
        draw = seeded(seed, "specimen", index)
        shape = settings.micrograph_size
        wanted = draw_count(settings.particles_mean, settings.particles_sigma, draw)
        inset = self.box_size / 2 + 1 if settings.border == "inside" else 0.0
        centres = place_centres(wanted, shape, self.particle_distance / self.pixel_size, draw, inset, settings.clusters)
        count = len(centres)
        rotations = drawn_poses(settings, count, draw, self.orientations)
        sources = drawn_sources(settings.volume_proportions or (1.0,) * len(self.projectors), count, draw)
        optics = self._draw_optics(draw)
        heights = drawn_heights(settings, centres, self.pixel_size, draw)
        whole = whole_boxes(centres, self.box_size, shape)
        return Specimen(centres, heights, rotations, sources, whole, optics, wanted)

    def expose(self, specimen: Specimen) -> CleanMicrograph:
        """Form the image of a specimen: projections, summed, through the optics; and its mask."""
        shape = self.settings.micrograph_size
        projections = self.projections(specimen)
        mask = field_mask(projections, specimen.centres, shape, self.settings.mask_threshold, self.settings.soft_mask)
        if specimen.level:
            margin = delocalisation_margin(self.pixel_size, specimen.optics)
            canvas = compose(projections, specimen.centres + margin, fast_shape(shape, margin))
            image = apply_ctf(canvas, self.pixel_size, specimen.optics)
            signal = image[margin:margin + shape[0], margin:margin + shape[1]]
        else:
            signal = compose_defocused(projections, specimen.states, specimen.centres, shape, self.pixel_size)
        return CleanMicrograph(signal * self.scale, mask, specimen)

    def projections(self, specimen: Specimen) -> Float[Tensor, "n box box"]:
        """Line integrals (density x Å) of the particles, with the sub-pixel part of their centres as shift."""
        edge = max(drawing_box(projector, self.pixel_size) for projector in self.projectors)
        shifts = subpixel_shifts(specimen.centres)
        result = torch.empty(len(shifts), edge, edge, device=self.projectors[0].spectrum.device)
        for source, projector in enumerate(self.projectors):
            rows = (specimen.sources == source).nonzero()[:, 0]
            images = project(projector, specimen.rotations[rows], shifts[rows], edge, self.pixel_size)
            result[rows.to(images.device)] = images
        return result

    def _draw_optics(self, draw: torch.Generator) -> Optics:
        """One state of the microscope: drawn from the range, or one of the measured ones."""
        if self.states:
            return choose_optics(draw, self.states)
        s = self.settings
        return draw_optics(draw, voltage_kv=s.voltage_kv, cs_mm=s.cs_mm, amplitude_contrast=s.amplitude_contrast,
                           defocus_min_angstrom=s.defocus_min, defocus_max_angstrom=s.defocus_max,
                           astigmatism_max_angstrom=s.astigmatism_angstrom, phase_shift_degrees=s.phase_shift_degrees,
                           b_factor_angstrom2=s.b_factor_angstrom2)


def microscope(settings: SimulateSettings, scale: float = 1.0, device: torch.device | None = None) -> Microscope:
    """Read the maps and models and prepare a run.

    Raises
    ------
    DataError
        A map cannot be used, or is larger than the micrograph.
    """
    volumes, pixel_size = read_volumes(settings)
    diameter = max(diameter_angstrom(volume) for volume in volumes)
    if diameter < SMALLEST * pixel_size:
        raise SettingsError(f"the particle of {diameter:.3g} Å has less than {SMALLEST} pixels of {pixel_size:g} Å; "
                            "lower pixel_size, or correct that of the map (volume_pixel_size)")
    box_size = settings.box_size or 2 * round(0.75 * diameter / pixel_size)
    if box_size > min(settings.micrograph_size):
        y, x = settings.micrograph_size
        raise SettingsError(f"the box of {box_size} pixels is larger than the micrograph ({y} x {x} pixels at "
                            f"{pixel_size:g} Å); enlarge micrograph_size or pixel_size, or give a smaller box_size")
    projectors = tuple(prepare(replace(volume, density=volume.density.to(device))) for volume in volumes)
    base = Optics(settings.voltage_kv, settings.cs_mm, settings.amplitude_contrast, 0.0, 0.0, 0.0,
                  settings.phase_shift_degrees, settings.b_factor_angstrom2)
    states = measured_states(settings.ctfs, base) if settings.ctfs else ()
    orientations = measured_orientations(settings.orientations) if settings.orientations else None
    return Microscope(settings, projectors, pixel_size, diameter, box_size, scale, states, orientations)


def measure_contrast(run: Microscope, seed: int) -> Contrast:
    """Return the contrast at which the run's first whole particles have the settings' SNR.

    The deviation of s inside their masks becomes sqrt(SNR) times that of the background.
    """
    settings = run.settings
    values = np.concatenate([clean.signal[clean.mask > 0.5].cpu().numpy() for clean in _calibration(run, seed)])
    # numpy: the order in which torch sums, and so the last bit, depends on the number of threads.
    deviation = float(values.std(dtype=np.float64)) if values.size else 0.0
    if not deviation > 0:
        raise DataError(f"the particles of {settings.volume[0]} give no contrast; check the map and the optics")
    wanted = settings.snr ** 0.5 * settings.background_deviation
    return Contrast(snr=settings.snr, background_deviation=settings.background_deviation, signal_deviation=wanted,
                    scale=run.scale * wanted / deviation)


def _calibration(run: Microscope, seed: int) -> Iterator[CleanMicrograph]:
    """The run's first whole particles, on their micrographs; a single centred one when there are none."""
    missing = CALIBRATION_PARTICLES
    for index in range(8):
        specimen = run.specimen(seed, index)
        chosen = specimen.whole & (specimen.whole.cumsum(0) <= missing)
        if bool(chosen.any()):
            missing -= int(chosen.sum())
            yield run.expose(specimen.part(chosen))
        if not missing:
            return
    if missing == CALIBRATION_PARTICLES:
        draw = seeded(seed, "calibration")
        centre = torch.tensor([[edge / 2 for edge in run.settings.micrograph_size]], dtype=torch.float64)
        yield run.expose(Specimen(centre, torch.zeros(1, dtype=torch.float64), uniform_rotations(1, draw),
                                  torch.zeros(1, dtype=torch.long), torch.ones(1, dtype=torch.bool),
                                  run.specimen(seed, 0).optics, 1))


def drawing_box(projector: Projector, pixel_size: float) -> int:
    """Edge (px, even) of a box at ``pixel_size`` that holds the whole map however it is shifted by a fraction."""
    return 2 * (int(projector.reach_angstrom / pixel_size) + 2)
