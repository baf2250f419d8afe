# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of ``cryogem simulate``."""
import math
import re
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import ValidationInfo, field_validator, model_validator

from cryogem_scipion.engine.settings.base import RunSettings, option

__all__ = ["SimulateSettings", "symmetry_name"]


class SimulateSettings(RunSettings):
    """Simulate labelled micrographs without noise from a map; underfocus is positive."""

    memory_remedy: ClassVar[str] = "lower micrograph_size, particles_mean or threads, or raise pixel_size"

    cryodrgn_folder: Path | None = option(
        None, "cryoDRGN folder", "Folder of 'cryodrgn train_vae', used instead of a map. Conformations are taken at "
        "random from its latent distribution, and cryoDRGN decodes them. Reading the folder's files can run code: use "
        "only folders that you trust.", section="Specimen", form=False)
    volume: tuple[Path, ...] = option(
        (), "Map", "Density map of the particle (MRC, protein bright) with any box and pixel size, or an atomic model "
        "(PDB, mmCIF). With several maps, such as conformations or different species, each particle uses one of them.",
        section="Specimen", form=False, validate_default=True)
    volume_proportions: tuple[float, ...] = option(
        (), "Proportions of the maps", "One number for each map. A map with a higher number is more frequent: with 3 1 "
        "the first map is three times as frequent as the second. Empty: all maps are equally frequent.",
        section="Specimen", advanced=True)
    cryodrgn_conformations: int = option(
        10, "Number of conformations", "Number of maps that are decoded; each particle uses one of them. More "
        "conformations represent the latent distribution better and take longer; 5 to 100 is usual.",
        section="Specimen", ge=1, le=1000)
    cryodrgn_epoch: int | None = option(
        None, "cryoDRGN epoch", "Number N of the files weights.N.pkl and z.N.pkl. A higher epoch was trained longer. "
        "Empty uses the last epoch.", section="Specimen", advanced=True, ge=0)
    cryodrgn_activation: str = option(
        "", "Activation of cryoDRGN", "Command that activates cryoDRGN's environment, such as '. "
        "/path/to/venv/bin/activate'. Empty uses the variable CRYODRGN_ENV_ACTIVATION.", section="Specimen", form=False)
    volume_pixel_size: float | None = option(
        None, "Pixel size of the map (Å)", "Set it only if the map's header is wrong or empty, or if the CTF file of a "
        "cryoDRGN folder is missing.", section="Specimen", form=False, gt=0)
    map_correction: Path | None = option(
        None, "Correction of the map", "Density (MRC) with the box and the pixel size of the map, which is added to "
        "it: what the particles of real micrographs show beyond the map. 'cryogem measure' writes it. It needs a "
        "single map.", section="Specimen", form=False)
    resolution_angstrom: float | None = option(
        None, "Resolution of the model (Å)", "Resolution of the map that is computed from an atomic model. A larger "
        "value blurs more; 3 to 10 is usual. Empty uses the finest resolution at the working pixel size.",
        section="Specimen", advanced=True, gt=0, le=200)
    symmetry: str = option(
        "C1", "Symmetry of the map", "Point group of the map, as in RELION: C1, C7, D2, T, O, I (I1 to I4). Poses are "
        "written in its asymmetric unit; the images do not change.", section="Specimen", advanced=True)

    orientations: Path | None = option(
        None, "Measured orientations", "STAR file of particles with rlnAngleRot, rlnAngleTilt and rlnAnglePsi. The "
        "orientations follow the distribution in this file.", section="Specimen", form=False)
    orientation_spread_degrees: float = option(
        3.0, "Spread around measured orientations (°)", "Each measured orientation is tilted by a random angle of up "
        "to this value, so that no orientation appears twice. A larger value blurs the distribution; 0 to 10 is usual.",
        section="Orientations", advanced=True, ge=0, le=180)
    preferred_views: tuple[str, ...] = option(
        (), "Preferred views", "Views that particles prefer in the ice, as rot:tilt or rot:tilt:weight in degrees. "
        "Example: 0:0 0:90:2 gives top views, and side views twice as often. Angles go from 0 to 360. A view with a "
        "higher weight is more frequent. Empty: all views are equally frequent.", section="Orientations", advanced=True)
    preferred_cone_degrees: float = option(
        15.0, "Half angle of the preferred cones (°)", "Largest angle between a view and its preferred view. A larger "
        "value spreads the views more evenly; 5 to 40 is usual.", section="Orientations", advanced=True, ge=0, le=180)
    preferred_uniform: float = option(
        0.2, "Fraction of particles with random views", "Fraction of the particles that have random views; the others "
        "have preferred views. A higher value makes the distribution more even; 0 to 1.", section="Orientations",
        advanced=True, ge=0, le=1)

    real: tuple[str, ...] = option(
        (), "Real micrographs", "Files, or patterns in quotation marks such as 'real/*.mrc', at their own pixel size. "
        "Number, distance and strength of the particles, defocus and micrograph size are measured on them, as far as "
        "they are not set. This needs one density map and takes a few minutes. Empty: nothing is measured.",
        section="Microscope", form=False)
    real_pixel_size: float | None = option(
        None, "Pixel size of the real micrographs (Å)", "Set it only if their headers are wrong or empty.",
        section="Microscope", form=False, gt=0)
    pixel_size: float | None = option(
        None, "Working pixel size (Å)", "Pixel size of the micrographs. It must not be finer than that of the real "
        "micrographs. A larger value is faster and enough for picking (4 to 6 Å). A smaller value keeps detail for "
        "reconstruction (1 to 3 Å). Empty uses the pixel size of the map.", section="Microscope", gt=0)
    voltage_kv: float = option(
        300.0, "Voltage (kV)", "Acceleration voltage of the microscope: 300, 200, 120 or 100. A higher value moves the "
        "rings of the CTF outwards.", section="Microscope", gt=0, le=3000)
    cs_mm: float = option(
        2.7, "Spherical aberration (mm)", "Spherical aberration (Cs) of the objective lens: 2.7 for a Titan Krios, 1.4 "
        "to 2 for other microscopes, 0.01 with a Cs corrector. A larger value moves the outer rings of the CTF "
        "outwards.", section="Microscope", ge=0, le=20)
    amplitude_contrast: float = option(
        0.1, "Amplitude contrast", "Fraction of amplitude contrast, which is the CTF at zero frequency. A higher value "
        "keeps more of the coarsest features; 0.07 to 0.1 is usual for proteins in ice.", section="Microscope", ge=0,
        lt=1)
    defocus_min: float = option(
        8000.0, "Minimum defocus (Å)", "The defocus of each micrograph is a random value between minimum and maximum. "
        "A higher value makes particles easier to see and less detailed; 5000 to 30000 is usual.", section="Microscope",
        gt=-1e6, lt=1e6)
    defocus_max: float = option(
        25000.0, "Maximum defocus (Å)", "Upper end of the defocus range. A higher value makes particles in some "
        "micrographs easier to see and less detailed; 15000 to 30000 is usual.", section="Microscope", gt=-1e6, lt=1e6)
    astigmatism_angstrom: float = option(
        300.0, "Largest astigmatism (Å)", "Largest difference between the two defocus values of a micrograph. The "
        "difference is random between 0 and this value, at a random angle. A larger value makes the rings of the CTF "
        "more elliptic; 100 to 500 is usual.", section="Microscope", advanced=True, ge=0, lt=1e5)
    phase_shift_degrees: float = option(
        0.0, "Phase shift (°)", "Phase shift of a phase plate: 0 without a plate, 30 to 120 with one. Up to 90, a "
        "higher value makes coarse features stronger.", section="Microscope", advanced=True, ge=-360, le=360)
    b_factor_angstrom2: float = option(
        60.0, "B-factor (Å²)", "The signal decreases with the spatial frequency u as exp(-B/4 u²). A higher value "
        "blurs more; 0 to 200 is usual. It is not used if an envelope of the signal is given.", section="Microscope",
        advanced=True, ge=0, le=5000)
    signal_envelope: tuple[str, ...] = option(
        (), "Envelope of the signal", "Amplitude of the particles relative to the map at some spatial frequencies, as "
        "frequency:amplitude, with the frequency in 1/Å. Example: 0:1 0.05:0.7 0.1:0.2. It replaces the B-factor. "
        "'cryogem measure' writes it. Only the shape matters, because the signal-to-noise ratio sets the strength. "
        "Empty: the B-factor is used.", section="Microscope", advanced=True)
    motion: tuple[str, ...] = option(
        (), "Residual motion", "Blur of single micrographs by motion, as U:V:angle: the root mean square displacement "
        "along the angle (from x towards y, degrees) and perpendicular to it, in Å. Example: 6:2:45 0:0:0. Each "
        "micrograph has one of them, and all are used equally often. 6:2:45:3 belongs to row 3 of the measured CTFs. "
        "'cryogem measure' writes it, together with the envelope. Larger values blur more; 0 to 10 is usual. Empty: no "
        "motion.", section="Microscope", advanced=True)
    ctfs: Path | None = option(
        None, "Measured CTFs", "STAR file with rlnDefocusU, rlnDefocusV and rlnDefocusAngle. Each micrograph uses "
        "values from this file instead of the defocus range; all are used equally often.", section="Microscope",
        form=False)

    ice_thickness_angstrom: float = option(
        0.0, "Ice thickness (Å)", "Particles are at random heights within this thickness, and each height has its own "
        "defocus. In thicker ice the defocus varies more; 200 to 1000 is usual. 0 puts all particles at the same "
        "height, which is faster.", section="Ice", advanced=True, ge=0, le=1e5)
    ice_tilt_degrees: float = option(
        0.0, "Tilt of the ice (°)", "Tilt of the stage or of a bent film. The defocus changes across the micrograph, "
        "and the particles are tilted with the ice. A higher value changes the defocus more; 0 to 5 is usual without a "
        "tilted stage, up to 60 with one.", section="Ice", advanced=True, ge=-80, le=80)
    ice_tilt_axis_degrees: float = option(
        0.0, "Tilt axis (°)", "Direction of the tilt axis in the micrograph, from 0 to 180. A larger value turns it "
        "from x towards y. The side to the left of the axis is nearer to the electron source.", section="Ice",
        advanced=True, ge=-360, le=360)

    micrographs: int = option(
        12, "Number of micrographs", "Number of micrographs to simulate. More micrographs give more variety and take "
        "longer; 10 to 30 are enough to train the noise translator or Topaz.", section="Output", ge=1, le=10_000_000)
    micrograph_size: tuple[int, int] = option(
        (1024, 1024), "Micrograph size (y x, px)", "Height and width at the working pixel size. A larger value holds "
        "more particles and takes longer; 512 to 2048 is usual. The real micrographs may have another size.",
        section="Output")
    particles_mean: float = option(
        60.0, "Particles per micrograph, mean", "Mean number of particles. More particles make a crowded micrograph; "
        "particles that do not fit are left out, with a message. 20 to 300 is usual; use the number on the real "
        "micrographs.", section="Particles", ge=0, le=100_000)
    particles_sigma: float = option(
        10.0, "Particles per micrograph, deviation", "Standard deviation of the number of particles per micrograph; "
        "the number stays within two deviations of the mean. A larger value mixes crowded and empty micrographs; a "
        "tenth to a third of the mean is usual. 0 gives all micrographs the same number.", section="Particles", ge=0,
        le=100_000)
    particle_distance: float | None = option(
        None, "Smallest particle distance (Å)", "Smallest distance between the centres of two particles. A larger "
        "value spreads particles out. A value below the diameter lets them overlap. 0.7 to 1.5 diameters is usual. "
        "Empty uses the diameter, reduced by the overlap.", section="Particles", ge=0)
    overlap: float = option(
        0.0, "Overlap", "Used only if the particle distance is empty. Two particles may be nearer to each other than "
        "one diameter, by this fraction of the diameter. A higher value packs them closer together; 0 to 0.5 is usual.",
        section="Particles", advanced=True, ge=0, le=1)
    clusters: float = option(
        0.0, "Clustering", "Probability that a particle is placed directly beside an earlier one. A higher value makes "
        "larger groups: 0 places all particles at random, 0.5 makes pairs and small groups, 1 makes one large group.",
        section="Particles", advanced=True, ge=0, le=1)
    border: Literal["cut", "inside"] = option(
        "cut", "Particles at the border", "cut: particles may be anywhere, as on real micrographs, and those cut by "
        "the border are marked. inside: all boxes are inside the micrograph.", section="Particles", advanced=True)
    box_size: int | None = option(
        None, "Box size (px)", "Edge length of the extracted particle images at the working pixel size. A larger value "
        "keeps more of the signal that defocus spreads out, and more boxes are cut by the border; 1.3 to 2 diameters "
        "is usual. Empty uses 1.5 diameters.", section="Particles", ge=8, le=8192)
    mask_threshold: float = option(
        0.1, "Mask threshold", "A pixel belongs to a particle's mask if its projection is above this fraction of the "
        "projection's maximum. A lower value makes wider masks; 0.05 to 0.3 is usual.", section="Particles",
        advanced=True, gt=0, lt=1)
    soft_mask: bool = option(
        False, "Soft masks", "Yes: masks fall smoothly from 1 to 0 at their edge (float32). No: masks contain 0 and 1 "
        "only and take a quarter of the space.", section="Particles", advanced=True)

    contrast_variation: float = option(
        0.0, "Variation of the contrast", "Standard deviation of the particles' contrast, divided by its mean. Thinner "
        "ice gives more contrast than thick ice. A higher value makes particles less alike; 0.05 to 0.2 is "
        "reasonable. 0: all particles have the same contrast.", section="Variation", advanced=True, ge=0, le=1)
    b_factor_variation: float = option(
        0.0, "Variation of the B-factor (Å²)", "Standard deviation of the particles' B-factors around that of the "
        "micrograph. Particles move and are damaged to different degrees. A higher value makes sharp and blurred "
        "particles; up to 100 is reasonable. 0: all particles are equally sharp, which is faster.",
        section="Variation", advanced=True, ge=0, le=500)
    broken_fraction: float = option(
        0.0, "Fraction of broken particles", "Fraction of the particles that are broken: a random plane cuts them, and "
        "one side is missing. Broken particles are marked in the labels. A higher value gives more of them and takes "
        "longer; it depends on the sample: 0 to 0.3 is common, 0.9 has been seen at the surface of the ice.",
        section="Variation", advanced=True, ge=0, le=1)
    broken_remainder: float = option(
        0.3, "Smallest remaining part", "A random fraction of a broken particle's mass is left, between this value and "
        "1. A lower value makes smaller fragments.", section="Variation", advanced=True, ge=0.05, le=0.95)

    snr: float = option(
        0.1, "Signal-to-noise ratio", "Variance of the particles divided by the variance of the noise, at the working "
        "pixel size. A higher value makes particles easier to see: 0.02 is hardly visible, 0.3 is easy.",
        section="Output", gt=0, le=100)
    keep_snr: bool = option(
        False, "Keep the signal-to-noise ratio", "Yes: train and generate use this ratio with the noise of real "
        "micrographs, too. No: they measure it again. The settings of 'cryogem measure' have Yes, because it measures "
        "more exactly.", section="Output", form=False)
    background_deviation: float = option(
        0.05, "Noise of the background", "Standard deviation of the background of real micrographs, divided by its "
        "mean. A higher value makes the micrographs noisier; 0.03 to 0.1 is usual. The value is used until real "
        "micrographs are measured.", section="Output", advanced=True, gt=0, lt=10)
    extract: bool = option(
        False, "Extract particles", "Yes: also write the particles as stacks without noise; protein is bright. No: "
        "write micrographs and coordinates only.", section="Output")

    @field_validator("volume")
    @classmethod
    def _one_specimen(cls, volume: tuple[Path, ...], info: ValidationInfo) -> tuple[Path, ...]:
        folder = info.data.get("cryodrgn_folder")
        if bool(volume) == bool(folder):
            raise ValueError("both a map and a cryoDRGN folder are given; give only one of them" if folder else
                             "no specimen is given; give a map, an atomic model or a cryodrgn_folder")
        return volume

    @field_validator("symmetry")
    @classmethod
    def _known_symmetry(cls, name: str) -> str:
        return symmetry_name(name)

    @model_validator(mode="after")
    def _consistent(self) -> "SimulateSettings":
        if self.defocus_min > self.defocus_max:
            raise ValueError(f"defocus_min {self.defocus_min:g} is above defocus_max {self.defocus_max:g}; swap them")
        if not all(16 <= edge <= 65536 for edge in self.micrograph_size):
            raise ValueError(f"micrograph_size {self.micrograph_size} is out of range; give 16 to 65536 pixels (y x)")
        proportions = self.volume_proportions
        if proportions and (len(proportions) != len(self.volume) or min(proportions) < 0 or not sum(proportions) > 0):
            raise ValueError(f"volume_proportions {proportions} do not fit {len(self.volume)} maps; give one number "
                             "for each map, 0 or more, and not all 0")
        if self.orientations and self.preferred_views:
            raise ValueError("both orientations and preferred_views are given; leave one of them empty")
        self.parsed_preferred_views()
        self.parsed_signal_envelope()
        self.parsed_motion()
        return self

    def parsed_preferred_views(self) -> list[tuple[float, float, float]]:
        """Return the preferred views as (rot in degrees, tilt in degrees, weight)."""
        return [_view(text) for text in self.preferred_views]

    def parsed_signal_envelope(self) -> tuple[tuple[float, float], ...]:
        """Return the envelope of the signal as (frequency in 1/Å, amplitude), in the order of the frequencies."""
        points = tuple(sorted(_envelope_point(text) for text in self.signal_envelope))
        frequencies = [frequency for frequency, _ in points]
        if len(set(frequencies)) < len(points):
            raise ValueError(f"signal_envelope {self.signal_envelope} gives a frequency twice; remove one")
        return points

    def parsed_motion(self) -> tuple[tuple[float, float, float, int], ...]:
        """Return the residual motions as (Å along the angle, Å perpendicular to it, angle in degrees, row).

        The row is that of the measured CTFs, from 1; 0 belongs to no row.
        """
        motions = tuple(_motion(text) for text in self.motion)
        rows = [row for *_, row in motions if row]
        if len(set(rows)) < len(rows):
            raise ValueError(f"motion {self.motion} gives a row of ctfs twice; remove one")
        return motions


def symmetry_name(text: str) -> str:
    """Return the name of a point group in upper case.

    Raises
    ------
    ValueError
        It is not the name of a point group.
    """
    name = text.strip().upper()
    if not re.fullmatch(r"[CD][1-9]\d{0,2}|[TO]|I[1-4]?", name):
        raise ValueError("give C1, C2, …, D1, D2, …, T, O, I, I1, I2, I3 or I4")
    return name


def _view(text: str) -> tuple[float, float, float]:
    try:
        rot, tilt, *rest = (float(part) for part in text.split(":"))
        (weight,) = rest or [1.0]
    except ValueError:
        raise ValueError(f"preferred view {text!r} cannot be read; give rot:tilt or rot:tilt:weight, such as 0:90:2"
                         ) from None
    if not (abs(rot) <= 360 and abs(tilt) <= 360 and 0 < weight < math.inf):
        raise ValueError(f"preferred view {text!r} is out of range; give angles within 360° and a weight above 0")
    return rot, tilt, weight


def _motion(text: str) -> tuple[float, float, float, int]:
    try:
        first, second, third, *rest = text.split(":")
        u, v, angle = float(first), float(second), float(third)
        (row,) = map(int, rest or ["0"])
    except ValueError:
        raise ValueError(f"motion {text!r} cannot be read; give U:V:angle, such as 6:2:45, or U:V:angle:row") from None
    if not (0 <= u <= 1000 and 0 <= v <= 1000 and abs(angle) <= 360 and row >= 0):
        raise ValueError(f"motion {text!r} is out of range; give displacements from 0 to 1000 Å and an angle within "
                         "360°")
    return u, v, angle, row


def _envelope_point(text: str) -> tuple[float, float]:
    try:
        frequency, amplitude = (float(part) for part in text.split(":"))
    except ValueError:
        raise ValueError(f"point {text!r} of signal_envelope cannot be read; give frequency:amplitude, such as 0.05:0.7"
                         ) from None
    if not (0 <= frequency <= 10 and 0 < amplitude < math.inf):
        raise ValueError(f"point {text!r} of signal_envelope is out of range; give a frequency from 0 to 10 (1/Å) and "
                         "an amplitude above 0")
    return frequency, amplitude
