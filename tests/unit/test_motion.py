# SPDX-License-Identifier: GPL-3.0-or-later
"""Residual motion of single micrographs: its blur, its labels, and what is measured of it."""
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from cryogem_scipion.engine.compute import fourier
from cryogem_scipion.engine.errors import SettingsError
from cryogem_scipion.engine.io.dataset import MOTION, read_table
from cryogem_scipion.engine.io.mrc import write_mrc
from cryogem_scipion.engine.measurement import particles
from cryogem_scipion.engine.measurement.defocus import known_fit
from cryogem_scipion.engine.measurement.measure import measure_micrographs
from cryogem_scipion.engine.measurement.motion import (
    SECTORS,
    MeasuredMotion,
    _Amplitudes,
    _fitted,
    _sector_numbers,
    _shrunk,
)
from cryogem_scipion.engine.measurement.results import write_ctfs
from cryogem_scipion.engine.measurement.synthesis import BANDS
from cryogem_scipion.engine.settings import SimulateSettings, parse
from cryogem_scipion.engine.settings.measured import with_measured
from cryogem_scipion.engine.simulation.composition import compose
from cryogem_scipion.engine.simulation.ctf import ctf
from cryogem_scipion.engine.simulation.envelope import envelope_amplitude
from cryogem_scipion.engine.simulation.microscope import prepare_microscope
from cryogem_scipion.engine.simulation.motion import Motion, motion_plane
from cryogem_scipion.engine.simulation.optics import Optics
from cryogem_scipion.engine.simulation.phantom import phantom
from cryogem_scipion.engine.simulation.placement import place_centres
from cryogem_scipion.engine.simulation.poses import uniform_rotations
from cryogem_scipion.engine.simulation.projection import prepare_projector, project
from cryogem_scipion.engine.stages import simulate

PIXEL_SIZE = 4.0
BASE = Optics(300, 2.7, 0.1, 0.0, 0.0, 0.0)
STATES = [replace(BASE, defocus_u_angstrom=d, defocus_v_angstrom=d) for d in (14000, 18000, 23000)]
MOVED = (Motion(9.0, 2.0, 30.0), Motion(2.0, 2.0, 0.0), Motion(8.0, 1.0, 120.0))


@pytest.mark.parametrize(("motion", "sigmas"), [
    (Motion(9.0, 4.0, 0.0), (1.0, 2.25)),  # U along x: the second axis of the image
    (Motion(9.0, 4.0, 90.0), (2.25, 1.0)),
    (Motion(6.0, 6.0, 37.0), (1.5, 1.5)),
])
def test_motion_along_an_axis_is_the_gaussian_filter_of_another_library(motion, sigmas, generator):
    image = gaussian_filter(torch.randn(96, 130, generator=generator).numpy(), 2.0, mode="wrap")
    plane = torch.from_numpy(motion_plane(motion, image.shape, PIXEL_SIZE).copy())
    blurred = fourier.irfft2(fourier.rfft2(torch.from_numpy(image)) * plane, image.shape).numpy()
    # Their kernel is sampled, and cut at four standard deviations.
    assert blurred == pytest.approx(gaussian_filter(image, sigmas, mode="wrap"), abs=2e-3 * image.std())


def test_motion_in_any_direction_is_the_mean_over_displacements():
    motion, size, count = Motion(8.0, 3.0, 25.0), 32, 40_000
    random = np.random.default_rng(1)
    along, across = random.normal(0, 8.0, count), random.normal(0, 3.0, count)
    angle = math.radians(25)
    x, y = along * math.cos(angle) - across * math.sin(angle), along * math.sin(angle) + across * math.cos(angle)
    plane = motion_plane(motion, (size, size), PIXEL_SIZE)
    for row, column in ((0, 2), (2, 0), (1, 1), (-1, 1), (-2, 1)):
        k_y, k_x = np.fft.fftfreq(size, PIXEL_SIZE)[row], np.fft.rfftfreq(size, PIXEL_SIZE)[column]
        phases = np.cos(2 * math.pi * (k_y * y + k_x * x))
        assert plane[row, column] == pytest.approx(phases.mean(), abs=4 * phases.std() / count**0.5)


@pytest.mark.parametrize("motion", [Motion(8.0, 3.0, 25.0), Motion(5.0, 0.0, 170.0), Motion(2.0, 2.0, 0.0)])
def test_squares_and_motion_say_the_same(motion):
    back = Motion.from_squares(*motion.squares())
    assert (back.u_angstrom, back.v_angstrom) == pytest.approx((motion.u_angstrom, motion.v_angstrom), abs=1e-6)
    if motion.u_angstrom > motion.v_angstrom:
        assert back.angle_degrees == pytest.approx(motion.angle_degrees)


def test_a_ctf_without_motion_is_the_same_as_before():
    assert torch.equal(ctf((60, 62), 3.0, STATES[0]), ctf((60, 62), 3.0, replace(STATES[0], motion=Motion(0, 0, 0))))


@pytest.fixture
def values(tmp_path):
    write_mrc(tmp_path / "phantom.mrc", phantom(36, 5.0, 120.0).density.numpy(), 5.0)
    return {"out": tmp_path / "sim", "volume": (str(tmp_path / "phantom.mrc"),), "micrograph_size": (128, 144),
            "particles_mean": 6, "particles_sigma": 0, "particle_distance": 100.0, "micrographs": 4, "pixel_size": 6.0,
            "motion": ("6:2:45", "0:0:0")}


def test_all_motions_are_used_equally_often_and_are_labels(values):
    simulate.run(parse(SimulateSettings, values))
    _, rows = read_table(values["out"] / "micrographs.star", "micrographs", MOTION)
    found = sorted(map(tuple, rows[list(MOTION)].to_numpy().tolist()))
    assert found == [(0, 0, 0), (0, 0, 0), (6, 2, 45), (6, 2, 45)]


@pytest.mark.parametrize(("motions", "pairs"), [
    (("6:2:45:2", "1:0:0:1"), {(14000, 1), (18000, 6)}),
    (("6:2:45", "1:0:0:1"), {(14000, 1), (18000, 6), (18000, 1)}),  # the row without a motion takes each in turn
    (("6:2:45:3", "1:0:0"), {(14000, 1), (14000, 6), (18000, 6), (18000, 1)}),
])
def test_motions_and_ctfs_of_the_same_micrographs_stay_together(values, tmp_path, motions, pairs):
    fits = [known_fit(optics) for optics in STATES[:2]]
    assert write_ctfs(tmp_path / "ctfs.star", ["a.mrc", "b.mrc"], fits, PIXEL_SIZE) == [0, 1]
    run = prepare_microscope(parse(SimulateSettings, values | {"ctfs": tmp_path / "ctfs.star", "motion": motions}))
    optics = [run.draw_specimen(0, index).optics for index in range(16)]
    assert {(one.defocus_u_angstrom, one.motion.u_angstrom) for one in optics} == pairs


def test_without_motion_there_are_no_columns(values):
    simulate.run(parse(SimulateSettings, values | {"motion": (), "micrographs": 1}))
    assert not set(MOTION) & set(read_table(values["out"] / "micrographs.star", "micrographs")[1])


@pytest.mark.parametrize(("text", "message"), [
    ("6:2", "motion '6:2' cannot be read; give U:V:angle"),
    ("6:-2:0", "motion '6:-2:0' is out of range"),
    ("nan:0:0", "out of range"),
    ("6:2:inf", "out of range"),
    ("6:2:0:-1", "out of range"),
    ("6:2:0:one", "cannot be read"),
])
def test_wrong_motions_are_refused(values, text, message):
    with pytest.raises(SettingsError, match=message):
        parse(SimulateSettings, values | {"motion": (text,)})


def test_measured_motion_is_used_with_the_measured_envelope_only():
    measured = {"signal_envelope": ["0:1", "0.1:0.5"], "motion": ["6:2:45"]}
    assert with_measured({}, measured) == measured
    assert with_measured({"b_factor_angstrom2": 90}, measured) == {"b_factor_angstrom2": 90}
    assert "motion" not in with_measured({"signal_envelope": ["0:1", "0.1:0.3"]}, measured)


def test_the_envelope_without_motion_has_the_measured_mean_with_it():
    found = MeasuredMotion(np.array([one.squares() for one in MOVED]), np.zeros((3, 3)))
    envelope = ((0.005, 1.0), (0.02, 0.8), (0.03, 0.5), (0.04, 0.3))
    frequency = np.array([point for point, _ in envelope])
    mean = envelope_amplitude(found.without(envelope), frequency) * found.factors(frequency).mean((0, 1))
    assert mean / mean[0] == pytest.approx(np.array([1.0, 0.8, 0.5, 0.3]), rel=5e-3)  # three digits are kept


def test_a_motion_twice_for_a_row_is_refused(values):
    with pytest.raises(SettingsError, match="gives a row of ctfs twice"):
        parse(SimulateSettings, values | {"motion": ("6:2:45:1", "0:0:0:1")})


def test_rows_of_another_table_are_not_used():
    measured = {"ctfs": "/measured.star", "motion": ["6:2:45:3"], "signal_envelope": ["0:1", "0.1:0.5"]}
    assert with_measured({}, measured)["motion"] == ["6:2:45:3"]
    assert with_measured({"ctfs": Path("/measured.star")}, measured)["motion"] == ["6:2:45:3"]
    assert with_measured({"ctfs": "/own.star"}, measured)["motion"] == ["6:2:45"]


@pytest.mark.parametrize("chosen", [{"b_factor_angstrom2": 0.0}, {"signal_envelope": ()}])
def test_a_chosen_nothing_is_a_choice(chosen):
    measured = {"motion": ["6:2:45:3"], "signal_envelope": ["0:1", "0.1:0.5"]}
    values = with_measured(chosen, measured)
    assert "motion" not in values
    assert not values.get("signal_envelope")


def test_empty_fields_do_not_hide_the_motion_of_the_others():
    """Two fields with hardly any particles: their errors are large, so their values do not count."""
    draw = np.random.default_rng(0)
    true = np.array([Motion(*moved).squares() for moved in zip(range(12), [1] * 12, range(0, 180, 15), strict=True)])
    errors = np.where(np.arange(12)[:, None] < 2, 300.0, 1.5) * np.ones((12, 3))
    found = _shrunk(true + errors * draw.standard_normal((12, 3)), errors)
    difference = found.squares[2:] - true[2:]
    assert np.abs(difference - [difference[:, 0].mean(), 0, 0]).max() < 5


def test_the_fit_finds_the_motion_that_amplitudes_show():
    true = [Motion(8.0, 3.0, 25.0), Motion(5.0, 0.0, 170.0), Motion(0.0, 0.0, 0.0)]
    frequency = (np.arange(BANDS) + 0.5) / BANDS / 2 / PIXEL_SIZE
    squares = np.ones((3, BANDS, SECTORS))
    still = _Amplitudes(np.ones_like(squares), squares)
    noisy = _Amplitudes(1 + 0.01 * np.random.default_rng(1).standard_normal(squares.shape), squares)
    factors = MeasuredMotion(np.array([motion.squares() for motion in true]), np.zeros((3, 3))).factors(frequency)
    moved = _Amplitudes(0.7 * factors.transpose(0, 2, 1), squares)
    found, _ = _fitted(moved, [still, noisy], frequency, frequency > 0.01)
    assert found == pytest.approx(np.array([motion.squares() for motion in true]), abs=1)


def test_sectors_are_directions_from_x_towards_y():
    numbers = _sector_numbers((8, 8)).reshape(8, 5)
    assert (numbers[0, 1] % SECTORS, numbers[1, 0] % SECTORS) == (0, SECTORS // 2)
    assert 0 < numbers[1, 1] % SECTORS < SECTORS // 2 < numbers[-1, 1] % SECTORS


def test_chance_is_no_motion():
    """Of 200 sets without motion, few have one; a set with motion keeps most of it."""
    random = np.random.default_rng(2)
    errors = np.full((12, 3), 3.0)
    found = [_shrunk(random.normal(0, errors), errors) for _ in range(200)]
    # Two tests at two standard errors, whose distributions have long upper tails: 4 to 5 % each.
    assert sum(one is not None for one in found) < 0.15 * 200
    true = np.array([one.squares() for one in MOVED * 4])
    kept = _shrunk(true + random.normal(0, errors), errors).squares
    assert kept[:, 1:] == pytest.approx(true[:, 1:], abs=4 * 3)
    assert np.ptp(kept[:, 0]) == pytest.approx(np.ptp(true[:, 0]), abs=4 * 3)


def moved_micrograph(volume, optics, generator):
    """Particles at a ratio of 0.3 in white noise, 480 × 480 px."""
    shape, margin = (480, 480), 60
    wide = (shape[0] + 2 * margin, shape[1] + 2 * margin)
    centres = place_centres(150, wide, 150 / PIXEL_SIZE, generator)
    images = project(prepare_projector(volume), uniform_rotations(len(centres), generator), centres - centres.floor(),
                     52, PIXEL_SIZE)
    spectrum = fourier.rfft2(compose(images, centres, wide))
    still = fourier.irfft2(spectrum * ctf(wide, PIXEL_SIZE, replace(optics, motion=None)), wide)
    signal = fourier.irfft2(spectrum * ctf(wide, PIXEL_SIZE, optics), wide)[margin:-margin, margin:-margin]
    inside = compose((images > 0.1 * images.max()).float(), centres, wide) > 0
    return torch.randn(shape, generator=generator) - signal * (math.sqrt(0.3) / float(still[inside].std()))


@pytest.fixture
def measured(monkeypatch):
    """The measurement of micrographs with the given optics; the map is not compared, which takes longest here."""
    monkeypatch.setattr(particles, "map_correction", lambda *_: None)
    return measured_micrographs


def measured_micrographs(states):
    volume = phantom(44, PIXEL_SIZE, 140.0)
    generator = torch.Generator().manual_seed(6)
    images = [moved_micrograph(volume, optics, generator) for optics in states]
    return measure_micrographs([lambda image=image: image for image in images], PIXEL_SIZE, volume, BASE, PIXEL_SIZE,
                               known=STATES)


@pytest.mark.slow
def test_the_motion_of_micrographs_is_measured(measured):
    result = measured([replace(one, motion=motion) for one, motion in zip(STATES, MOVED, strict=True)])
    found, errors = result.particles.motion.squares, result.particles.motion.errors
    true = np.array([motion.squares() for motion in MOVED])
    difference = found - true
    difference[:, 0] -= difference[:, 0].mean()  # the least of all is set to 0
    assert np.abs(difference / errors).max() < 4
    for number in (0, 2):  # the moved ones
        assert math.hypot(*found[number, 1:]) > 2 * errors[number, 1:].max()
        turned = (result.measurement.motion[number].angle_degrees - MOVED[number].angle_degrees + 90) % 180 - 90
        assert abs(turned) < 20
    assert len(result.measurement.settings()["motion"]) == 3


@pytest.mark.slow
def test_micrographs_without_motion_have_none(measured):
    result = measured(STATES)
    assert result.particles.motion is None
    assert "motion" not in result.measurement.settings()
