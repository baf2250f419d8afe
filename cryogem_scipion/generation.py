# SPDX-License-Identifier: GPL-3.0-or-later
"""The virtual microscope: composes map, poses, placement and optics into clean, labelled micrographs."""
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cryogem_scipion.config import SimulateSettings
from cryogem_scipion.dataset import Contrast, read_table
from cryogem_scipion.errors import DataError, SettingsError
from cryogem_scipion.physics.optics import Optics, apply_ctf, choose_optics, delocalisation_margin, draw_optics, fast_shape
from cryogem_scipion.physics.placement import draw_count, place_centres
from cryogem_scipion.physics.poses import uniform_rotations
from cryogem_scipion.physics.projection import Projector, prepare, project
from cryogem_scipion.physics.specimen import compose, field_mask, subpixel_shifts, whole_boxes
from cryogem_scipion.physics.symmetry import to_asymmetric_unit
from cryogem_scipion.physics.volume import diameter_angstrom, read_volume

__all__ = ["CleanMicrograph", "Microscope", "Specimen", "measure_contrast", "microscope", "seeded"]

CALIBRATION_PARTICLES = 30


def seeded(*parts: object) -> torch.Generator:
    """Return a generator that depends on the parts alone, such as (run seed, "specimen", micrograph index)."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@dataclass(frozen=True)
class Specimen:
    """Where the particles of one micrograph are, how they are turned, and the microscope's state."""

    centres: Float[Tensor, "n 2"]
    """(y, x), pixels; the first pixel's centre is 0, 0."""
    rotations: Float[Tensor, "n 3 3"]
    sources: Int[Tensor, " n"]
    """Index of each particle's map."""
    whole: Bool[Tensor, " n"]
    """Whether the box lies inside the micrograph."""
    optics: Optics
    wanted: int
    """How many particles were drawn; more than there are when they did not fit."""


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

    def specimen(self, seed: int, index: int) -> Specimen:
        """Draw the particles and optics of micrograph ``index``; all its labels, at no cost."""
        settings = self.settings
        draw = seeded(seed, "specimen", index)
        shape = settings.micrograph_size
        wanted = draw_count(settings.particles_mean, settings.particles_sigma, draw)
        distance = self.diameter_angstrom if settings.particle_distance is None else settings.particle_distance
        inset = self.box_size / 2 + 1 if settings.border == "inside" else 0.0
        centres = place_centres(wanted, shape, distance / self.pixel_size, draw, inset=inset)
        rotations = to_asymmetric_unit(uniform_rotations(len(centres), draw), settings.symmetry)
        sources = torch.randint(len(self.projectors), (len(centres),), generator=draw)
        return Specimen(centres, rotations, sources, whole_boxes(centres, self.box_size, shape),
                        self._draw_optics(draw), wanted)

    def expose(self, specimen: Specimen) -> CleanMicrograph:
        """Form the image of a specimen: projections, summed, through the optics; and its mask."""
        shape = self.settings.micrograph_size
        projections = self.projections(specimen)
        margin = delocalisation_margin(self.pixel_size, specimen.optics)
        canvas = compose(projections, specimen.centres + margin, fast_shape(shape, margin))
        image = apply_ctf(canvas, self.pixel_size, specimen.optics)
        signal = image[margin:margin + shape[0], margin:margin + shape[1]] * self.scale
        mask = field_mask(projections, specimen.centres, shape, self.settings.mask_threshold, self.settings.soft_mask)
        return CleanMicrograph(signal, mask, specimen)

    def projections(self, specimen: Specimen) -> Float[Tensor, "n box box"]:
        """Line integrals (density x Å) of the particles, with the sub-pixel part of their centres as shift."""
        edge = max(_drawing_box(projector, self.pixel_size) for projector in self.projectors)
        shifts = subpixel_shifts(specimen.centres)
        result = torch.empty(len(shifts), edge, edge)
        for source, projector in enumerate(self.projectors):
            rows = specimen.sources == source
            result[rows] = project(projector, specimen.rotations[rows], shifts[rows], edge, self.pixel_size)
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
    """Read the maps and prepare a run.

    Raises
    ------
    DataError
        A map cannot be used, or is larger than the micrograph.
    """
    volumes = [read_volume(path, settings.volume_pixel_size) for path in settings.volume]
    pixel_size = settings.pixel_size or volumes[0].pixel_size
    diameter = max(diameter_angstrom(volume) for volume in volumes)
    box_size = settings.box_size or 2 * round(0.75 * diameter / pixel_size)
    if box_size > min(settings.micrograph_size):
        y, x = settings.micrograph_size
        raise SettingsError(f"the box of {box_size} pixels is larger than the micrograph ({y} x {x} pixels at "
                            f"{pixel_size:g} Å); enlarge micrograph_size or pixel_size, or give a smaller box_size")
    projectors = tuple(prepare(replace(volume, density=volume.density.to(device))) for volume in volumes)
    states = _measured_states(settings) if settings.ctfs else ()
    return Microscope(settings, projectors, pixel_size, diameter, box_size, scale, states)


def measure_contrast(run: Microscope, seed: int) -> Contrast:
    """Return the contrast at which the run's first whole particles have the settings' SNR.

    The deviation of s inside their masks becomes sqrt(SNR) times that of the background.
    """
    settings = run.settings
    values: list[Tensor] = []
    count = 0
    for micrograph in _calibration(run, seed):
        inside = micrograph.mask > 0.5
        values.append(micrograph.signal[inside])
        count += int(micrograph.specimen.whole.sum())
        if count >= CALIBRATION_PARTICLES:
            break
    deviation = float(torch.cat(values).double().std())
    if not deviation > 0:
        raise DataError(f"the particles of {settings.volume[0]} give no contrast; check the map and the optics")
    wanted = settings.snr ** 0.5 * settings.background_deviation
    return Contrast(snr=settings.snr, background_deviation=settings.background_deviation, signal_deviation=wanted,
                    scale=run.scale * wanted / deviation)


def _calibration(run: Microscope, seed: int) -> Iterator[CleanMicrograph]:
    """The run's first micrographs with their whole particles only; a single centred one when there are none."""
    found = False
    for index in range(8):
        specimen = run.specimen(seed, index)
        keep = specimen.whole
        if not bool(keep.any()):
            continue
        found = True
        yield run.expose(replace(specimen, centres=specimen.centres[keep], rotations=specimen.rotations[keep],
                                 sources=specimen.sources[keep], whole=keep[keep]))
    if not found:
        draw = seeded(seed, "calibration")
        centre = torch.tensor([[edge / 2 for edge in run.settings.micrograph_size]])
        yield run.expose(Specimen(centre, uniform_rotations(1, draw), torch.zeros(1, dtype=torch.long),
                                  torch.ones(1, dtype=torch.bool), run.specimen(seed, 0).optics, 1))


def _drawing_box(projector: Projector, pixel_size: float) -> int:
    """Edge (px, even) of a box at ``pixel_size`` that holds the whole map however it is shifted by a fraction."""
    return 2 * (int(projector.reach_angstrom / pixel_size) + 2)


def _measured_states(settings: SimulateSettings) -> tuple[Optics, ...]:
    """The microscope states of a STAR file of CTFs."""
    assert settings.ctfs is not None
    path = Path(settings.ctfs)
    _, rows = read_table(path, "micrographs", ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"))
    try:
        values = rows.reindex(columns=["rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnPhaseShift"])
        values = values.astype(float).fillna({"rlnPhaseShift": settings.phase_shift_degrees})
    except ValueError as error:
        raise DataError(f"{path} holds a defocus that is no number ({error}); correct it") from None
    if not len(values) or values.isna().any(axis=None):
        raise DataError(f"{path} has {len(values)} rows, or empty values in them; give at least one whole row")
    return tuple(Optics(settings.voltage_kv, settings.cs_mm, settings.amplitude_contrast, u, v, angle, phase,
                        settings.b_factor_angstrom2) for u, v, angle, phase in values.itertuples(index=False))
