# SPDX-License-Identifier: GPL-3.0-or-later
"""Variation between particles, and the envelope of their signal: images and labels agree with the settings."""
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from cryogem_scipion.engine.errors import SettingsError
from cryogem_scipion.engine.io.dataset import VARIATION, read_table
from cryogem_scipion.engine.io.mrc import read_mrc, write_mrc
from cryogem_scipion.engine.settings import ExportSettings, GenerateSettings, SimulateSettings, parse
from cryogem_scipion.engine.simulation.broken_particles import cut_volume
from cryogem_scipion.engine.simulation.contrast import measure_contrast
from cryogem_scipion.engine.simulation.envelope import envelope_amplitude
from cryogem_scipion.engine.simulation.labels import particle_rows
from cryogem_scipion.engine.simulation.microscope import prepare_microscope
from cryogem_scipion.engine.simulation.phantom import phantom
from cryogem_scipion.engine.simulation.volume import Volume
from cryogem_scipion.engine.stages import export, generate, simulate

ALL = {"contrast_variation": 0.2, "b_factor_variation": 40.0, "broken_fraction": 0.4}
ENVELOPE = ("0.005:1", "0.03:0.6", "0.06:0.2")


@pytest.fixture(scope="module")
def volume_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("maps") / "phantom.mrc"
    write_mrc(path, phantom(36, 5.0, 120.0).density.numpy(), 5.0)
    return path


@pytest.fixture
def values(volume_file):
    return {"out": "unused", "volume": (str(volume_file),), "micrograph_size": (256, 288), "particles_mean": 12,
            "particles_sigma": 0, "particle_distance": 100.0}


def microscope(values, **changes):
    return prepare_microscope(parse(SimulateSettings, values | changes))


def labels(run, count):
    return pd.concat([particle_rows("a", run.draw_specimen(0, index), 5.0, 0) for index in range(count)])


def test_labels_give_the_spread_that_the_settings_ask_for(values):
    rows = labels(microscope(values, **ALL, particles_mean=60, particle_distance=0.0), 40)
    count = len(rows)
    assert count == 2400
    contrast, b_factor = rows["rlnCtfScalefactor"], rows["rlnCtfBfactor"]
    # Standard errors of a mean and a standard deviation: 1 and 0.71 deviations over the root of 2400; limits of four.
    assert contrast.mean() == pytest.approx(1, abs=4 * 0.2 / count**0.5)
    assert contrast.std() == pytest.approx(0.2, rel=4 * 0.8 / count**0.5)  # a log-normal has longer tails
    assert contrast.min() > 0
    assert b_factor.mean() == pytest.approx(60, abs=4 * 40 / count**0.5)
    assert b_factor.std() == pytest.approx(40, rel=4 * 0.71 / count**0.5)
    broken = rows["cryogemRemaining"] < 1
    assert broken.mean() == pytest.approx(0.4, abs=4 * (0.24 / count) ** 0.5)
    assert rows.loc[broken, "cryogemRemaining"].between(0.3, 1).all()
    normals = rows[["cryogemCutX", "cryogemCutY", "cryogemCutZ"]].to_numpy()
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), broken, atol=1e-12)
    assert np.abs(normals[broken].mean(0)).max() < 4 * (1 / 3 / broken.sum()) ** 0.5  # no preferred side


def test_particles_that_are_alike_have_no_further_columns_and_the_same_places(values):
    plain, varied = (microscope(values, **changes).draw_specimen(3, 1) for changes in ({}, ALL))
    assert plain.variation is None
    assert varied.variation is not None
    assert not {"rlnCtfScalefactor", "cryogemRemaining"} & set(particle_rows("a", plain, 5.0, 0))
    assert torch.equal(plain.centres, varied.centres)
    assert torch.equal(plain.rotations, varied.rotations)
    assert plain.optics == varied.optics


def test_one_variation_does_not_change_another(values):
    both, alone = (microscope(values, **changes).draw_specimen(0, 0).variation
                   for changes in (ALL, {"broken_fraction": 0.4}))
    assert torch.equal(both.remaining, alone.remaining)
    assert torch.equal(both.cut_normals, alone.cut_normals)
    assert (alone.contrasts == 1).all()
    assert (alone.extra_b_factors == 0).all()


def test_each_particle_is_imaged_with_its_own_contrast_and_sharpness(values):
    """The image is the sum of the particles' own images, made with the labels of each."""
    run = microscope(values, contrast_variation=0.3, b_factor_variation=100.0)
    specimen = run.draw_specimen(0, 0)
    together = run.form_image(specimen).signal
    alone = torch.zeros_like(together)
    rows = particle_rows("a", specimen, 5.0, 0)
    for number, row in enumerate(rows.to_dict("records")):
        single = replace(specimen.subset(torch.arange(len(rows)) == number), variation=None)
        optics = replace(specimen.optics, b_factor_angstrom2=row["rlnCtfBfactor"])
        alone += row["rlnCtfScalefactor"] * run.form_image(replace(single, optics=optics)).signal
    # The two ways pad differently and so sample the CTF at other frequencies; the ripples outside are below 0.5 %.
    assert float((together - alone).norm() / alone.norm()) < 5e-3
    alike = run.form_image(replace(specimen, variation=None)).signal
    assert float((together - alike).norm() / alone.norm()) > 10 * 5e-3


def test_a_broken_particle_keeps_the_recorded_part_of_its_mass(values):
    run = microscope(values, broken_fraction=1.0)
    specimen = run.draw_specimen(0, 0)
    masses = run.project_particles(specimen).sum((1, 2))
    whole = run.project_particles(replace(specimen, variation=None)).sum((1, 2))
    assert (masses < whole).all()
    # The soft edge of 10 Å is a twelfth of the diameter, and what it takes and leaves differs a little.
    np.testing.assert_allclose(masses / whole, specimen.variation.remaining, atol=0.01)


def test_a_broken_particle_has_lost_the_side_of_the_recorded_normal():
    steps = (torch.arange(36) - 18).double() * 5
    z, y, x = torch.meshgrid(steps, steps, steps, indexing="ij")
    ball = (x**2 + y**2 + z**2 < 60**2).float()
    before = ball.clone()
    normal = torch.nn.functional.normalize(torch.tensor([1.0, -2.0, 0.5]).double(), dim=0)
    half = cut_volume(Volume(ball, 5.0), normal, 0.5).density.double()
    assert torch.equal(ball, before)
    height = normal[0] * x + normal[1] * y + normal[2] * z
    # The centre of mass of half a ball lies at 3/8 of its radius; 1 Å for the voxels of 5 Å and the soft edge.
    assert float((half * height).sum() / half.sum()) == pytest.approx(-3 / 8 * 60, abs=1)
    assert float(half.sum() / ball.sum()) == pytest.approx(0.5, abs=0.01)
    changed = half != before
    assert float(height[changed].min()) > -10  # half the edge and one voxel


def test_masks_follow_broken_particles(values):
    specimen = microscope(values, broken_fraction=1.0, broken_remainder=0.3).draw_specimen(0, 0)
    run = microscope(values, broken_fraction=1.0, broken_remainder=0.3)
    part = run.form_image(specimen).mask.sum()
    whole = run.form_image(replace(specimen, variation=None)).mask.sum()
    assert 0.4 * whole < part < 0.98 * whole


def test_the_ratio_is_that_of_particles_without_variation(values):
    plain, varied = (measure_contrast(microscope(values, **changes), 0) for changes in ({}, ALL))
    assert plain == varied


def test_the_envelope_changes_the_rotational_spectrum_by_its_square(values):
    """One particle in the middle, without ripples at the border: power with the envelope over power without."""
    size = 256
    changes = {"micrograph_size": (size, size), "b_factor_angstrom2": 0.0, "defocus_min": 5000, "defocus_max": 5000,
               "astigmatism_angstrom": 0.0}
    images = []
    for more in ({}, {"signal_envelope": ENVELOPE}):
        run = microscope(values, **changes, **more)
        specimen = run.draw_specimen(0, 0)
        specimen = replace(specimen.subset(torch.arange(len(specimen.centres)) == 0),
                           centres=torch.tensor([[size / 2, size / 2]]).double())
        images.append(run.form_image(specimen).signal.double())
    power = [torch.fft.rfft2(image).abs().square().numpy() for image in images]
    frequency = np.hypot(np.fft.fftfreq(size, 5.0)[:, None], np.fft.rfftfreq(size, 5.0))
    ring = np.rint(frequency * size * 5).astype(int)
    for first in range(4, 80, 4):
        chosen = (ring >= first) & (ring < first + 4)
        expected = (envelope_amplitude(run.settings.parsed_signal_envelope(), frequency) ** 2 * power[0])[chosen].sum()
        # 1 %: the image ends 520 Å from the particle's edge, and beyond it lies less than 1 % of the ripples' power.
        assert power[1][chosen].sum() == pytest.approx(expected, rel=0.01)


def test_an_envelope_replaces_the_b_factor(values):
    with_b, without = (microscope(values, signal_envelope=ENVELOPE, b_factor_angstrom2=b) for b in (200.0, 0.0))
    specimens = [run.draw_specimen(0, 0) for run in (with_b, without)]
    assert specimens[0].optics == specimens[1].optics
    assert (particle_rows("a", specimens[0], 5.0, 0)["rlnCtfBfactor"] == 0).all()
    heights = replace(specimens[0], heights=specimens[0].heights + 1e-3)  # through the path of single particles
    first, second = (with_b.form_image(specimen).signal for specimen in (specimens[0], heights))
    # The two ways pad differently; see above.
    assert float((first - second).norm() / first.norm()) < 5e-3


@pytest.mark.parametrize(("changes", "message"), [
    ({"signal_envelope": ("0.1",)}, "point '0.1' of signal_envelope cannot be read; give frequency:amplitude"),
    ({"signal_envelope": ("0.1:0",)}, "point '0.1:0' of signal_envelope is out of range"),
    ({"signal_envelope": ("nan:1",)}, "out of range"),
    ({"signal_envelope": ("0.1:1", "0.10:0.5")}, "gives a frequency twice"),
    ({"contrast_variation": -0.1}, "contrast_variation: .*found -0.1"),
    ({"broken_fraction": 1.5}, "broken_fraction: .*found 1.5"),
    ({"broken_remainder": 0.0}, "broken_remainder: .*found 0.0"),
])
def test_wrong_settings_are_refused(values, changes, message):
    with pytest.raises(SettingsError, match=message):
        parse(SimulateSettings, values | changes)


def test_labels_travel_from_the_simulation_to_generated_sets_and_exports(values, tmp_path):
    changes = {**ALL, "signal_envelope": ENVELOPE, "micrographs": 1, "pixel_size": 8.0, "micrograph_size": (128, 144),
               "particles_mean": 6, "particle_distance": 130.0}
    for name in ("first", "second"):
        simulate.run(parse(SimulateSettings, values | changes | {"out": tmp_path / name}))
    assert ((tmp_path / "first/particles.star").read_bytes() == (tmp_path / "second/particles.star").read_bytes())
    assert np.array_equal(*(read_mrc(tmp_path / name / "micrographs/mic_000000.mrc", 2)[0]
                            for name in ("first", "second")))
    generate.run(parse(GenerateSettings, {"simulation": tmp_path / "first", "noise": "gaussian", "extract": True,
                                          "out": tmp_path / "generated"}))
    _, rows = read_table(tmp_path / "generated/extracted.star", "particles", VARIATION)
    assert rows["rlnCtfScalefactor"].nunique() == len(rows)
    export.run(parse(ExportSettings, {"dataset": tmp_path / "generated", "to": "relion", "out": tmp_path / "relion"}))
    _, exported = read_table(tmp_path / "relion/particles.star", "particles", VARIATION[:2])
    assert exported["rlnCtfScalefactor"].tolist() == rows["rlnCtfScalefactor"].tolist()
    assert not [name for name in exported if name.startswith("cryogem")]
