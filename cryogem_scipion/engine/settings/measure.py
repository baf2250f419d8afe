# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of ``cryogem measure``."""
from pathlib import Path

from pydantic import field_validator

from cryogem_scipion.engine.settings.base import RunSettings, option
from cryogem_scipion.engine.settings.simulate import symmetry_name

__all__ = ["MeasureSettings"]


class MeasureSettings(RunSettings):
    """Measure from real micrographs and a map, without labels, what a simulation needs."""

    real: tuple[str, ...] = option(
        ..., "Real micrographs", "Files, or patterns in quotation marks such as 'real/*.mrc', at their own pixel size.",
        form=False, min_length=1)
    volume: Path = option(
        ..., "Map", "Density map of the particle in the micrographs (MRC, protein bright), with any box and pixel "
        "size.", form=False)
    volume_pixel_size: float | None = option(
        None, "Pixel size of the map (Å)", "Set it only if the map's header is wrong or empty.", form=False, gt=0)
    real_pixel_size: float | None = option(
        None, "Pixel size of the real micrographs (Å)", "Set it only if their headers are wrong or empty.", form=False,
        gt=0)
    pixel_size: float | None = option(
        None, "Working pixel size (Å)", "Pixel size of the simulation. The signal-to-noise ratio is measured for it: a "
        "larger value leaves out fine noise, and the ratio becomes higher. 1 to 6 is usual. It must not be finer than "
        "that of the real micrographs. Empty uses the pixel size of the map.", section="Microscope", gt=0)
    voltage_kv: float = option(
        300.0, "Voltage (kV)", "Acceleration voltage of the microscope: 300, 200, 120 or 100. A wrong value gives a "
        "wrong defocus.", section="Microscope", form=False, gt=0, le=3000)
    cs_mm: float = option(
        2.7, "Spherical aberration (mm)", "Spherical aberration (Cs) of the objective lens: 2.7 for a Titan Krios, 1.4 "
        "to 2 for other microscopes, 0.01 with a Cs corrector. A wrong value gives a wrong defocus.",
        section="Microscope", form=False, ge=0, le=20)
    amplitude_contrast: float = option(
        0.1, "Amplitude contrast", "Fraction of amplitude contrast, which is the CTF at zero frequency. A higher value "
        "gives a slightly lower defocus; 0.07 to 0.1 is usual for proteins in ice.", section="Microscope", form=False,
        ge=0, lt=1)
    phase_shift_degrees: float = option(
        0.0, "Phase shift (°)", "Phase shift of a phase plate: 0 without a plate, 30 to 120 with one. It is not "
        "measured. A higher value gives a lower defocus.", section="Microscope", advanced=True, ge=-360, le=360)
    symmetry: str = option(
        "C1", "Symmetry of the map", "Point group of the map, as in RELION: C1, C7, D2, T, O, I (I1 to I4). With it, "
        "the correction of the map has less noise. It is copied to the settings of the simulation.", section="Data",
        advanced=True)
    ctfs: Path | None = option(
        None, "Known CTFs", "STAR file of micrographs with rlnMicrographName, rlnDefocusU, rlnDefocusV and "
        "rlnDefocusAngle, from another program. The measurement uses these CTFs and fits none.", section="Microscope",
        form=False)
    micrographs: int = option(
        20, "Number of micrographs to measure", "Largest number of micrographs to measure; they are spread evenly over "
        "the files. More micrographs make the result more certain and take longer; 6 to 30 are usual.", section="Data",
        ge=1, le=1000)

    @field_validator("symmetry")
    @classmethod
    def _known_symmetry(cls, name: str) -> str:
        return symmetry_name(name)
