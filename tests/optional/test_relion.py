# SPDX-License-Identifier: GPL-3.0-or-later
"""RELION agrees with all labels (positions, poses, CTFs), and no longer agrees if one sign is wrong.

RELION's programs read the files of this program: they extract the particles, reconstruct the map from them, and project
the map at the labels. The projections test poses, shifts and CTFs most sensitively, image by image.
"""
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import starfile

from cryogem_scipion.engine.io.mrc import read_mrc, write_mrc
from tests.fsc import shell_correlation

pytestmark = [pytest.mark.optional,
              pytest.mark.skipif(not shutil.which("relion_reconstruct"), reason="RELION is not installed")]

BOX = 56
PIXEL_SIZE = 4.0
# No neighbour inside a box. The astigmatism is so strong that a wrong sign or angle changes every image.
SIMULATION = f"""--micrographs 8 --micrograph-size 700 720 --particles-mean 40 --particles-sigma 0 --border inside
    --particle-distance 330 --box-size {BOX} --ctfs ctfs.star""".split()
CTFS = pd.DataFrame({"rlnDefocusU": [21000.0, 18000.0, 24000.0], "rlnDefocusV": [14000.0, 12000.0, 17000.0],
                     "rlnDefocusAngle": [35.0, 50.0, 130.0]})


def cryogem(folder, *arguments):
    subprocess.run([sys.executable, "-m", "cryogem_scipion", *map(str, arguments)], cwd=folder, check=True,
                   capture_output=True)


def relion(folder, program, *arguments):
    process = subprocess.run([f"relion_{program}", *map(str, arguments)], cwd=folder, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


@dataclass
class Extracted:
    """Particles of a dataset, extracted by relion_preprocess."""

    folder: Path
    table: dict[str, pd.DataFrame]
    images: np.ndarray

    def __init__(self, folder, micrographs="micrographs.star"):
        self.folder = folder
        (folder / "relion").mkdir(exist_ok=True)
        relion(folder, "preprocess", "--i", micrographs, "--reextract_data_star", "particles.star", "--part_star",
               "relion/particles.star", "--part_dir", "relion/Particles/", "--extract", "--extract_size", BOX,
               "--invert_contrast")
        self.table = starfile.read(folder / "relion/particles.star")
        self.images = self.stack(self.table["particles"]["rlnImageName"])

    def stack(self, names):
        stacks = {name: read_mrc(self.folder / name, 3)[0] for name in {name.partition("@")[2] for name in names}}
        return np.stack([stacks[name.partition("@")[2]][int(name.partition("@")[0]) - 1] for name in names])

    def relabelled(self, wrong=lambda rows: {}):
        """STAR file of the particles with some columns changed."""
        path = self.folder / "relion" / "labels.star"
        rows = self.table["particles"]
        starfile.write({**self.table, "particles": rows.assign(**wrong(rows))}, path, overwrite=True)
        return path

    def correlations(self, volume, wrong=lambda rows: {}, fine=False):
        """Correlation of each particle with RELION's projection of the map at its labels."""
        relion(self.folder, "project", "--i", volume, "--ang", self.relabelled(wrong), "--ctf", "--o", "relion/drawn")
        drawn, _ = read_mrc(self.folder / "relion/drawn.mrcs", 3)
        return correlations(self.images, drawn, fine)

    def reconstruction(self, wrong=lambda rows: {}):
        relion(self.folder, "reconstruct", "--i", self.relabelled(wrong), "--o", "relion/map.mrc", "--ctf")
        return read_mrc(self.folder / "relion/map.mrc", 3)[0]


def correlations(a, b, fine=False):
    """Pearson correlation of each image inside a disc; with ``fine``, only of frequencies above 0.4 of Nyquist."""
    if fine:
        y, x = np.fft.fftfreq(BOX)[:, None], np.fft.rfftfreq(BOX)
        spectra = (np.fft.rfft2(images) * (np.hypot(y, x) > 0.2) for images in (a, b))
        a, b = (np.fft.irfft2(spectrum, s=(BOX, BOX)) for spectrum in spectra)
    axis = np.arange(BOX) - BOX // 2
    disc = axis[:, None] ** 2 + axis ** 2 < (BOX / 2 - 2) ** 2
    a, b = (images[:, disc] - images[:, disc].mean(1, keepdims=True) for images in (a.astype(float), b.astype(float)))
    return (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))


def up_to(fraction):
    """Shells up to a fraction of Nyquist."""
    return slice(0, int(fraction * BOX / 2) + 1)


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    folder = tmp_path_factory.mktemp("maps")
    cryogem(folder, "phantom", "--out", "p", "--box", BOX, "--pixel-size", PIXEL_SIZE, "--diameter-angstrom", 140)
    density, _ = read_mrc(folder / "p/phantom.mrc", 3)
    # x to -x about the origin at N // 2
    write_mrc(folder / "p/mirrored.mrc", np.roll(density[:, :, ::-1], 1, axis=2), PIXEL_SIZE)
    return folder / "p/phantom.mrc"


def simulation_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulation")
    starfile.write({"optics": pd.DataFrame([{"rlnOpticsGroup": 1}]), "micrographs": CTFS}, folder / "ctfs.star")
    return folder


@pytest.fixture(scope="module")
def simulation(volume, tmp_path_factory):
    folder = simulation_folder(tmp_path_factory)
    cryogem(folder, "simulate", "--volume", volume, *SIMULATION, "--out", "sim")
    return folder / "sim"


@pytest.fixture(scope="module")
def simulated(simulation):
    return Extracted(simulation)


@pytest.fixture(scope="module")
def tilted(volume, tmp_path_factory):
    """Thick, strongly tilted ice and a phase plate: each particle has its own defocus."""
    folder = simulation_folder(tmp_path_factory)
    cryogem(folder, "simulate", "--volume", volume, *SIMULATION, "--micrographs", 3, "--ice-tilt-degrees", 60,
            "--ice-tilt-axis-degrees", 30, "--ice-thickness-angstrom", 1000, "--phase-shift-degrees", 50,
            "--preferred-views", "0:90:2", "70:20", "--out", "sim")
    return Extracted(folder / "sim")


@pytest.fixture(scope="module")
def generated(simulation):
    """The same specimens with white noise; their clean images are written as well."""
    cryogem(simulation.parent, "generate", "--reuse", "--noise", "gaussian", "--snr", 0.2, "--simulation", simulation,
            "--keep", "optical", "--out", "gen")
    return Extracted(simulation.parent / "gen")


INVERSE = ("inverse rotation", lambda rows: {"rlnAngleRot": -rows["rlnAnglePsi"], "rlnAngleTilt": -rows["rlnAngleTilt"],
                                             "rlnAnglePsi": -rows["rlnAngleRot"]})
PSI = ("negated psi", lambda rows: {"rlnAnglePsi": -rows["rlnAnglePsi"]})
SHIFT = ("negated shift", lambda rows: {name: -rows[name] for name in ("rlnOriginXAngst", "rlnOriginYAngst")})
ANGLE = ("negated astigmatism angle", lambda rows: {"rlnDefocusAngle": -rows["rlnDefocusAngle"]})
SWAPPED = ("swapped U and V", lambda rows: {"rlnDefocusU": rows["rlnDefocusV"], "rlnDefocusV": rows["rlnDefocusU"]})
UNDERFOCUS = ("negated defocus", lambda rows: {name: -rows[name] for name in ("rlnDefocusU", "rlnDefocusV")})
POSES = [pytest.param(wrong, id=name) for name, wrong in (INVERSE, PSI, SHIFT)]
OPTICS = [pytest.param(wrong, id=name) for name, wrong in (ANGLE, SWAPPED, UNDERFOCUS)]


def test_relion_extracts_every_particle(simulated, simulation):
    rows = starfile.read(simulation / "particles.star")["particles"]
    assert len(simulated.images) == len(rows) == 8 * 40
    assert (rows["cryogemWhole"] == 1).all()


def test_relions_projections_at_the_labels_are_the_particles(simulated, volume):
    values = simulated.correlations(volume)
    # Measured 0.99997; the rest is due to RELION's linear interpolation.
    assert np.median(values) >= 0.9995
    assert values.min() >= 0.999


@pytest.mark.parametrize("wrong", POSES + OPTICS)
def test_a_wrong_label_lowers_the_correlation_with_projections(simulated, volume, wrong):
    # The weakest controls, those of the astigmatism, gave 0.965; with right labels it is never below 0.999.
    assert np.median(simulated.correlations(volume, wrong)) < 0.98


def test_a_mirrored_map_lowers_the_correlation_with_projections(simulated, volume):
    assert np.median(simulated.correlations(volume.with_name("mirrored.mrc"))) < 0.9


def test_every_particle_has_its_own_defocus(tilted, volume):
    rows = tilted.table["particles"]
    assert rows["rlnDefocusU"].nunique() == len(rows)
    assert tilted.correlations(volume).min() >= 0.999
    assert np.median(tilted.correlations(volume, fine=True)) >= 0.999
    means = rows.groupby("rlnMicrographName")[["rlnDefocusU", "rlnDefocusV"]].transform("mean")
    for wrong in ({name: means[name] for name in means}, {name: 2 * means[name] - rows[name] for name in means},
                  {"rlnPhaseShift": 0.0}):
        # The same defocus for all (measured 0.976, not 0.9999); ice tilted the other way; no phase plate.
        assert np.median(tilted.correlations(volume, lambda rows, wrong=wrong: wrong, fine=True)) < 0.985


def test_every_particle_has_its_own_contrast_and_b_factor(simulation, volume):
    folder = simulation.parent
    cryogem(folder, "simulate", "--volume", volume, *SIMULATION, "--contrast-variation", 0.3, "--b-factor-variation",
            150, "--out", "varied")
    varied = Extracted(folder / "varied")
    rows = varied.table["particles"]
    right = varied.correlations(volume, fine=True)
    assert np.median(right) >= 0.999
    # The B-factors deviate to the other side.
    opposite = {"rlnCtfBfactor": 2 * rows["rlnCtfBfactor"].mean() - rows["rlnCtfBfactor"]}
    wrong = varied.correlations(volume, lambda rows: opposite, fine=True)
    assert (1 - wrong).mean() > 10 * (1 - right).mean()
    for wrong, limits in ({}, (0, 0.01)), ({"rlnCtfScalefactor": 1.0}, (0.2, 0.4)):
        relion(varied.folder, "project", "--i", volume, "--ang", varied.relabelled(lambda rows, wrong=wrong: wrong),
               "--ctf", "--o", "relion/drawn")
        drawn, _ = read_mrc(varied.folder / "relion/drawn.mrcs", 3)
        # RELION's projections have the contrast of the label; with another label they miss its spread of 0.3.
        images = varied.images - varied.images.mean((1, 2), keepdims=True)
        drawn = drawn - drawn.mean((1, 2), keepdims=True)
        ratios = (images * drawn).sum((1, 2)) / (drawn**2).sum((1, 2))
        assert limits[0] <= ratios.std() / ratios.mean() < limits[1]


def test_relion_reconstructs_the_map(simulated, volume):
    reconstruction = simulated.reconstruction()
    density, _ = read_mrc(volume, 3)
    mirrored, _ = read_mrc(volume.with_name("mirrored.mrc"), 3)
    # Measured 0.999.
    assert shell_correlation(reconstruction, density)[up_to(0.6)].min() >= 0.95
    assert shell_correlation(reconstruction, mirrored)[up_to(0.6)].min() < 0.5


@pytest.mark.parametrize("wrong", POSES)
def test_a_wrong_pose_spoils_the_reconstruction(simulated, volume, wrong):
    density, _ = read_mrc(volume, 3)
    assert shell_correlation(simulated.reconstruction(wrong), density)[up_to(0.6)].min() < 0.8


def test_clean_stacks_of_a_generated_dataset_agree_with_its_labels(generated, volume):
    names = generated.table["particles"]["rlnImageName"].str.replace("relion/Particles/micrographs", "optical")
    relion(generated.folder, "project", "--i", volume, "--ang", generated.relabelled(), "--ctf", "--o", "relion/drawn")
    drawn, _ = read_mrc(generated.folder / "relion/drawn.mrcs", 3)
    values = correlations(generated.stack(names), drawn)
    assert np.median(values) >= 0.9995
    assert values.min() >= 0.999


def test_extracted_stacks_agree_with_those_of_relion(generated):
    own = starfile.read(generated.folder / "extracted.star")["particles"]
    assert correlations(generated.stack(own["rlnImageName"]), generated.images).min() > 0.99999


def test_relion_reconstructs_the_map_from_noisy_particles(generated, volume):
    density, _ = read_mrc(volume, 3)
    # 320 particles at a signal-to-noise ratio of 0.2: measured 0.985.
    assert shell_correlation(generated.reconstruction(), density)[up_to(0.2)].min() >= 0.95


@pytest.mark.parametrize("wrong", POSES + OPTICS)
def test_a_wrong_label_lowers_the_correlation_of_noisy_particles(generated, volume, wrong):
    loss = generated.correlations(volume) - generated.correlations(volume, wrong)
    # The limit is 10 standard errors of the mean over the particles; the weakest control has 26.
    assert loss.mean() > 10 * loss.std() / np.sqrt(len(loss))
