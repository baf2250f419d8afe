# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of the simulation: specimen, microscope, particles, output."""
import math
import re
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import ValidationInfo, field_validator, model_validator

from cryogem_scipion.engine.settings.base import RunSettings, option

__all__ = ["SimulateSettings", "symmetry_name"]


class SimulateSettings(RunSettings):
    """Make clean micrographs of a map, with all labels; underfocus is positive."""

    weighs_most: ClassVar[str] = "micrograph_size, particles_mean or threads, or raise pixel_size"

    cryodrgn_folder: Path | None = option(
        None, "cryoDRGN folder", "In place of a map: the folder that cryodrgn train_vae wrote. Conformations are drawn "
        "from its latent distribution and decoded by cryoDRGN. Its files are run as code: use only folders that you "
        "trust.", section="Specimen", form=False)
    volume: tuple[Path, ...] = option(
        (), "Map", "The particle's density map (MRC, protein bright), any box and pixel size, or its atomic model "
        "(PDB, mmCIF). Of several, conformations or different species, each particle takes one.",
        section="Specimen", form=False, validate_default=True)
    volume_proportions: tuple[float, ...] = option(
        (), "Proportions of the maps", "One number for each map, higher is more frequent: 3 1 makes the first three "
        "times as frequent as the second. Empty: all are equally frequent.", section="Specimen", advanced=True)
    cryodrgn_conformations: int = option(
        10, "Number of conformations", "How many are decoded; each particle takes one. More follow the latent "
        "distribution more closely and take longer; 5 to 100.", section="Specimen", ge=1, le=1000)
    cryodrgn_epoch: int | None = option(
        None, "cryoDRGN epoch", "N of weights.N.pkl and z.N.pkl; later ones are trained for longer. Empty takes the "
        "last.", section="Specimen", advanced=True, ge=0)
    cryodrgn_activation: str = option(
        "", "Activation of cryoDRGN", "Command that activates cryoDRGN's environment, such as '. "
        "/path/to/venv/bin/activate'. Empty takes the variable CRYODRGN_ENV_ACTIVATION.", section="Specimen",
        form=False)
    volume_pixel_size: float | None = option(
        None, "Pixel size of the map (Å)", "Only where the map's header is wrong or empty, or the CTF "
        "file of a cryoDRGN folder is gone.",
        section="Specimen", form=False, gt=0)
    resolution_angstrom: float | None = option(
        None, "Resolution of the model (Å)", "Where the density of an atomic model ends. Larger is more blurred; 3 to "
        "10 is like a map of that resolution. Empty takes all that the pixel size holds.", section="Specimen",
        advanced=True, gt=0, le=200)
    symmetry: str = option(
        "C1", "Symmetry of the map", "C1, C7, D2, T, O, I (I1 to I4), as RELION names them. Labels are brought "
        "into its asymmetric unit; the images do not change.", section="Specimen", advanced=True)

    orientations: Path | None = option(
        None, "Measured orientations", "A STAR file of particles with rlnAngleRot, rlnAngleTilt, rlnAnglePsi: the "
        "views are distributed as in it.", section="Specimen", form=False)
    orientation_spread_degrees: float = option(
        3.0, "Spread around measured orientations (°)", "Each is tilted by up to this, so that none comes twice. "
        "Larger blurs the distribution; 0 to 10.", section="Orientations", advanced=True, ge=0, le=180)
    preferred_views: tuple[str, ...] = option(
        (), "Preferred views", "Views that particles favour in the ice, as rot:tilt or rot:tilt:weight in degrees, "
        "such as 0:0 0:90:2 (the top, and the side twice as often; angles from 0 to 360). A higher weight is more "
        "frequent. Empty: all views are equally frequent.", section="Orientations", advanced=True)
    preferred_cone_degrees: float = option(
        15.0, "Half angle of the preferred cones (°)", "How far views stray from a preferred one. Larger is more even; "
        "5 to 40.", section="Orientations", advanced=True, ge=0, le=180)
    preferred_uniform: float = option(
        0.2, "Fraction of particles in any view", "The rest lies in the preferred views. Higher is more even; 0 to 1.",
        section="Orientations", advanced=True, ge=0, le=1)

    pixel_size: float | None = option(
        None, "Working pixel size (Å)", "Pixel size of the micrographs made, not finer than that of the real ones. "
        "Larger is faster and enough for picking (4 to 6 Å); smaller keeps detail for reconstruction (1 to 3 Å). Empty "
        "takes that of the map.", section="Microscope", gt=0)
    voltage_kv: float = option(
        300.0, "Voltage (kV)", "Of the microscope: 300, 200, 120 or 100. Higher moves the rings of the CTF outwards.",
        section="Microscope", gt=0, le=3000)
    cs_mm: float = option(
        2.7, "Spherical aberration (mm)", "Cs of the objective lens: 2.7 for a Titan Krios, 1.4 to 2 for others, 0.01 "
        "when corrected. Larger moves the outer rings of the CTF outwards.", section="Microscope", ge=0, le=20)
    amplitude_contrast: float = option(
        0.1, "Amplitude contrast", "Fraction of amplitude contrast, the CTF at zero frequency; 0.07 to 0.1 for "
        "proteins in ice. Higher keeps more of the coarsest features.", section="Microscope", ge=0, lt=1)
    defocus_min: float = option(
        8000.0, "Minimum defocus (Å)", "Each micrograph's defocus is drawn between minimum and maximum. Higher "
        "defocus gives more visible and blurrier particles; 5000 to 30000 is usual.",
        section="Microscope", gt=-1e6, lt=1e6)
    defocus_max: float = option(
        25000.0, "Maximum defocus (Å)", "Upper end of the range: 15000 to 30000 is usual. Higher makes some "
        "micrographs easier to pick and less detailed.", section="Microscope", gt=-1e6, lt=1e6)
    astigmatism_angstrom: float = option(
        300.0, "Largest astigmatism (Å)", "Difference of the two defocus values, drawn from 0 to this for each "
        "micrograph, at a random angle. Larger makes the rings more elliptic; 100 to 500 is usual.",
        section="Microscope", advanced=True, ge=0, lt=1e5)
    phase_shift_degrees: float = option(
        0.0, "Phase shift (°)", "Of a phase plate: 0 without one, 30 to 120 with. Up to 90, higher gives stronger "
        "contrast of coarse features.", section="Microscope", advanced=True, ge=-360, le=360)
    b_factor_angstrom2: float = option(
        60.0, "B-factor (Å²)", "Fall-off of the signal with resolution, exp(-B/4 u²); 0 to 200. Higher is blurrier.",
        section="Microscope", advanced=True, ge=0, le=5000)
    ctfs: Path | None = option(
        None, "Measured CTFs", "A STAR file with rlnDefocusU, rlnDefocusV, rlnDefocusAngle to draw from instead of "
        "the range.", section="Microscope", form=False)

    ice_thickness_angstrom: float = option(
        0.0, "Ice thickness (Å)", "Particles lie at any height in it, and each has its own defocus. Thicker spreads "
        "these more; 200 to 1000 is usual. 0: all at the same height, which is faster.", section="Ice", advanced=True,
        ge=0, le=1e5)
    ice_tilt_degrees: float = option(
        0.0, "Tilt of the ice (°)", "Of the stage or of a bent film: the defocus changes across the micrograph, and "
        "particles turn with the ice. Higher changes it more: 0 to 5 without tilting the stage, up to 60 with.",
        section="Ice", advanced=True, ge=-80, le=80)
    ice_tilt_axis_degrees: float = option(
        0.0, "Tilt axis (°)", "Direction in the micrograph, 0 to 180; larger turns it from x towards y. The side to "
        "its left is nearer to the electron source.", section="Ice", advanced=True, ge=-360, le=360)

    micrographs: int = option(
        12, "Number of micrographs", "How many to make. More gives more variety and takes longer; 10 to 30 are enough "
        "to train the translator or Topaz.", section="Output", ge=1, le=10_000_000)
    micrograph_size: tuple[int, int] = option(
        (1024, 1024), "Micrograph size (y x, px)", "Height and width at the working pixel size, 512 to 2048 usually. "
        "Larger holds more particles and takes longer. It need not be that of the real ones.", section="Output")
    particles_mean: float = option(
        60.0, "Particles per micrograph, mean", "More makes crowded fields; what does not fit is left out and said. 20 "
        "to 300 usually; take what the real micrographs have.", section="Particles", ge=0, le=100_000)
    particles_sigma: float = option(
        10.0, "Particles per micrograph, deviation", "Spread of the number from micrograph to micrograph, cut at two "
        "deviations. Larger mixes crowded and empty fields; a tenth to a third of the mean usually, 0 for the same "
        "number everywhere.", section="Particles", ge=0, le=100_000)
    particle_distance: float | None = option(
        None, "Smallest distance of particles (Å)", "Between centres. Larger spreads them out; smaller than the "
        "diameter lets them overlap. 0.7 to 1.5 diameters usually; empty takes the diameter, less the overlap.",
        section="Particles", ge=0)
    overlap: float = option(
        0.0, "Overlap", "Where the distance is empty: neighbours may be this fraction of a diameter nearer than a "
        "diameter. Higher packs them denser; 0 to 0.5.", section="Particles", advanced=True, ge=0, le=1)
    clusters: float = option(
        0.0, "Clustering", "Chance that a particle lies right beside an earlier one. Higher gathers more of them: 0 "
        "leaves them anywhere, 0.5 makes groups, 1 a single heap.", section="Particles", advanced=True, ge=0, le=1)
    border: Literal["cut", "inside"] = option(
        "cut", "Particles at the border", "cut: as in reality, anywhere, and those cut by the border are marked; "
        "inside: only whole boxes.", section="Particles", advanced=True)
    box_size: int | None = option(
        None, "Box size (px)", "Edge of the extracted particles at the working pixel size. Larger keeps more of what "
        "defocus spreads out, and cuts more particles off at the border; 1.3 to 2 diameters. Empty takes 1.5 "
        "diameters.", section="Particles", ge=8, le=8192)
    mask_threshold: float = option(
        0.1, "Mask threshold", "A pixel belongs to a particle where its projection exceeds this fraction of its "
        "maximum. Lower makes wider masks; 0.05 to 0.3.", section="Particles", advanced=True, gt=0, lt=1)
    soft_mask: bool = option(
        False, "Soft masks", "Yes: masks fall from 1 to 0 over a smooth edge (float32). No: 0 and 1 only, in a quarter "
        "of the space.", section="Particles", advanced=True)

    snr: float = option(
        0.1, "Signal-to-noise ratio", "Variance of the particles over that of the noise, at the working pixel size. "
        "Higher makes particles easier to see; 0.02 (hardly visible) to 0.3 (easy).", section="Output", gt=0, le=100)
    background_deviation: float = option(
        0.05, "Noise of the background", "Standard deviation of real background over its mean; 0.03 to 0.1. Higher is "
        "noisier. Used until real micrographs are measured.", section="Output", advanced=True, gt=0, lt=10)
    extract: bool = option(
        False, "Extract particles", "Yes: also write the particles' boxes as stacks, protein bright, for a set of "
        "particles without noise.", section="Output")

    @field_validator("volume")
    @classmethod
    def _one_specimen(cls, volume: tuple[Path, ...], info: ValidationInfo) -> tuple[Path, ...]:
        folder = info.data.get("cryodrgn_folder")
        if bool(volume) == bool(folder):
            raise ValueError("both a map and a cryoDRGN folder are given; leave one of them out" if folder else
                             "nothing to make particles of; give a map, an atomic model or a cryodrgn_folder")
        return volume

    @field_validator("symmetry")
    @classmethod
    def _known(cls, name: str) -> str:
        return symmetry_name(name)

    @model_validator(mode="after")
    def _consistent(self) -> "SimulateSettings":
        if self.defocus_min > self.defocus_max:
            raise ValueError(f"defocus_min {self.defocus_min:g} is above defocus_max {self.defocus_max:g}; swap them")
        if not all(16 <= edge <= 65536 for edge in self.micrograph_size):
            raise ValueError(f"micrograph_size {self.micrograph_size} is out of range; give 16 to 65536 pixels (y x)")
        given = self.volume_proportions
        if given and (len(given) != len(self.volume) or min(given) < 0 or not sum(given) > 0):
            raise ValueError(f"volume_proportions {given} do not fit {len(self.volume)} maps; give a number of 0 or "
                             "more for each, not all 0")
        if self.orientations and self.preferred_views:
            raise ValueError("both orientations and preferred_views are given; leave one of them empty")
        self.views()
        return self

    def views(self) -> list[tuple[float, float, float]]:
        """Return the preferred views: rot and tilt in degrees, weight."""
        return [_view(text) for text in self.preferred_views]


def symmetry_name(text: str) -> str:
    """Return the name of a point group in upper case; ``ValueError`` when it is none."""
    name = text.strip().upper()
    if not re.fullmatch(r"[CD][1-9]\d{0,2}|[TO]|I[1-4]?", name):
        raise ValueError("give C1, C2, …, D1, D2, …, T, O, I, I1, I2, I3 or I4")
    return name


def _view(text: str) -> tuple[float, float, float]:
    try:
        rot, tilt, *weight = (float(part) for part in text.split(":"))
        (chance,) = weight or [1.0]
    except ValueError:
        raise ValueError(f"preferred view {text!r} cannot be read; give rot:tilt or rot:tilt:weight, such as 0:90:2"
                         ) from None
    if not (abs(rot) <= 360 and abs(tilt) <= 360 and 0 < chance < math.inf):
        raise ValueError(f"preferred view {text!r} is out of range; give angles within 360° and a weight above 0")
    return rot, tilt, chance
