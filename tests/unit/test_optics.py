# SPDX-License-Identifier: GPL-3.0-or-later
"""The CTF: its formula, its zeros, its application to images, and random microscope states."""
import dataclasses
import math
import shutil
import subprocess

import mrcfile
import numpy as np
import pytest
import torch

from cryogem_scipion.engine.errors import SettingsError
from cryogem_scipion.engine.simulation.ctf import (
    Optics,
    apply_ctf,
    at_height,
    choose_measured,
    ctf,
    delocalisation_margin,
    draw_optics,
    electron_wavelength,
    fast_shape,
)
from cryogem_scipion.engine.simulation.envelope import envelope_amplitude, envelope_plane
from cryogem_scipion.engine.simulation.optics import ctf_zeros

ROUND = Optics(300.0, 2.7, 0.1, 15000.0, 15000.0, 0.0)
ASTIGMATIC = Optics(200.0, 2.0, 0.07, 18000.0, 12000.0, 30.0, phase_shift_degrees=40.0, b_factor_angstrom2=60.0)
SHAPES = [(64, 64), (65, 63), (48, 81)]


def reference(shape, pixel_size, optics):
    """The formula of the CTF with explicit angles, in float64."""
    ky, kx = np.meshgrid(np.fft.fftfreq(shape[0], pixel_size), np.fft.rfftfreq(shape[1], pixel_size), indexing="ij")
    u, theta = np.hypot(ky, kx), np.arctan2(ky, kx)
    wavelength = electron_wavelength(optics.voltage_kv)
    mean = (optics.defocus_u_angstrom + optics.defocus_v_angstrom) / 2
    half = (optics.defocus_u_angstrom - optics.defocus_v_angstrom) / 2
    defocus = mean + half * np.cos(2 * (theta - np.deg2rad(optics.defocus_angle_degrees)))
    phase = np.pi * wavelength * defocus * u**2 - 0.5 * np.pi * optics.cs_mm * 1e7 * wavelength**3 * u**4
    phase += np.arcsin(optics.amplitude_contrast) + np.deg2rad(optics.phase_shift_degrees)
    return np.sin(phase) * np.exp(-optics.b_factor_angstrom2 * u**2 / 4)


@pytest.mark.parametrize(("voltage_kv", "angstrom"), [(100, 0.037014), (200, 0.025079), (300, 0.019687)])
def test_wavelength_is_relativistic(voltage_kv, angstrom):
    # tabulated to six decimals
    assert electron_wavelength(voltage_kv) == pytest.approx(angstrom, abs=6e-7)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("optics", [ROUND, ASTIGMATIC])
@pytest.mark.parametrize("pixel_size", [0.5, 1.3, 5.0])
def test_ctf_is_the_formula_for_every_size(shape, optics, pixel_size):
    values = ctf(shape, pixel_size, optics)
    assert values.dtype == torch.float32
    assert values.shape == (shape[0], shape[1] // 2 + 1)
    # float32 output: two rounding steps of 6e-8, and 6e-8 for the sine; the phase is float64.
    np.testing.assert_allclose(values.numpy(), reference(shape, pixel_size, optics), atol=3e-7)


def test_ctf_starts_positive_at_underfocus():
    values = ctf((256, 256), 2.0, ROUND)
    assert values[0, 0] == pytest.approx(0.1, abs=1e-6)  # sin(asin(w)) in float32
    assert bool((values[0, :8] >= values[0, 0]).all())


def test_ctf_is_zero_where_the_formula_says():
    size, pixel_size = 4096, 1.0
    line = ctf((1, size), pixel_size, ROUND)[0].numpy()
    u = np.fft.rfftfreq(size, pixel_size)
    crossings = np.flatnonzero(np.diff(np.sign(line)))[:10]
    zeros = u[crossings] - line[crossings] * (u[crossings + 1] - u[crossings]) / np.diff(line)[crossings]
    wavelength, spherical = electron_wavelength(300.0), 2.7e7
    # χ = k π with q = u²: ½ Cs λ³ q² − λ Δf q + (k − asin(w) / π) = 0
    k = np.arange(1, 11)
    a, b = 0.5 * spherical * wavelength**3, -wavelength * 15000.0
    q = (-b - np.sqrt(b * b - 4 * a * (k - math.asin(0.1) / math.pi))) / (2 * a)
    # Linear interpolation between samples is right to a hundredth of a sample.
    np.testing.assert_allclose(zeros, np.sqrt(q), atol=1e-2 / size)


@pytest.mark.parametrize("optics", [
    ROUND, Optics(200.0, 2.0, 0.07, 9000.0, 7000.0, 30.0, phase_shift_degrees=60.0),
    Optics(300.0, 2.7, 0.1, 1500.0, 1500.0, 0.0), Optics(300.0, 0.0, 0.1, -8000.0, -9000.0, 70.0)],
    ids=["round", "astigmatic", "turning back", "overfocus"])
def test_ctf_zeros_are_where_the_ctf_changes_its_sign(optics):
    size, pixel_size = 2048, 0.8
    rings = ctf_zeros(optics, np.array([0.0, np.pi / 2]), 0.5 / pixel_size)
    lines = [ctf((1, size), pixel_size, optics)[0], ctf((size, 1), pixel_size, optics)[:size // 2, 0]]
    for line, ring in zip(lines, rings.T, strict=True):
        changes = np.flatnonzero(np.diff(np.sign(line.numpy())))
        assert len(changes) > 5
        # A zero lies between the two samples where the sign changes.
        inside = ring[ring < (len(line) - 1) / (size * pixel_size)]
        np.testing.assert_allclose(inside, (changes + 0.5) / (size * pixel_size), atol=0.51 / (size * pixel_size))


def test_astigmatism_angle_turns_from_x_to_y():
    optics = Optics(300.0, 0.0, 0.0, 20000.0, 10000.0, 90.0)
    values = ctf((64, 64), 4.0, optics)
    along_y = ctf((64, 64), 4.0, Optics(300.0, 0.0, 0.0, 20000.0, 20000.0, 0.0))[:, 0]
    along_x = ctf((64, 64), 4.0, Optics(300.0, 0.0, 0.0, 10000.0, 10000.0, 0.0))[0]
    torch.testing.assert_close(values[:, 0], along_y, atol=1e-6, rtol=0)  # float32
    torch.testing.assert_close(values[0], along_x, atol=1e-6, rtol=0)


def test_apply_ctf_turns_a_point_into_the_point_spread_function(generator):
    for shape in SHAPES:
        point = torch.zeros(shape)
        point[0, 0] = 1
        spread = apply_ctf(point, 3.0, ROUND)
        # Rounding of Fourier transforms in float32.
        torch.testing.assert_close(torch.fft.rfft2(spread).real, ctf(shape, 3.0, ROUND), atol=1e-5, rtol=0)


def test_apply_ctf_crops_the_margin_and_does_not_change_its_argument(generator):
    image = torch.rand(40, 52, generator=generator)
    before = image.clone()
    full = apply_ctf(image, 3.0, ROUND)
    assert torch.equal(image, before)
    assert torch.equal(apply_ctf(image, 3.0, ROUND, margin=5), full[5:-5, 5:-5])
    assert apply_ctf(image.double(), 3.0, ROUND).dtype == torch.float64


@pytest.mark.parametrize("shape", [(270, 288), (256, 320), (255, 175)])
def test_result_does_not_depend_on_threads(shape, generator, torch_threads, processor):
    image = torch.rand(shape, generator=generator)
    results = []
    for count in (1, 2, 3):
        torch_threads(count)
        results.append(apply_ctf(image, 2.0, ASTIGMATIC))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize(("pixel_size", "defocus"), [(1.0, 25000.0), (2.0, 10000.0), (5.0, 30000.0)])
def test_margin_keeps_ripples_from_wrapping(pixel_size, defocus):
    optics = dataclasses.replace(ROUND, defocus_u_angstrom=defocus, defocus_v_angstrom=defocus - 500)
    margin = delocalisation_margin(pixel_size, optics)
    field, sigma = 64, 1.5
    y, x = np.mgrid[: field + 2 * margin, : field + 2 * margin]
    spot = np.exp(-((y - margin) ** 2 + (x - margin) ** 2) / (2 * sigma**2)).astype(np.float32)  # on the field's corner
    small = apply_ctf(torch.from_numpy(spot), pixel_size, optics, margin)
    large = torch.nn.functional.pad(torch.from_numpy(spot), (0, 600, 0, 600))
    truth = apply_ctf(large, pixel_size, optics)[margin : margin + field, margin : margin + field]
    # A spot of 1.5 pixels has all frequencies. Ripples that still wrap around are below 1 % of the strongest ripple.
    assert (small - truth).abs().max() < 0.01 * truth.abs().max()


def test_margin_is_bounded_and_grows_with_defocus():
    margins = [delocalisation_margin(1.0, dataclasses.replace(ROUND, defocus_u_angstrom=d)) for d in (16e3, 3e4, 1e6)]
    assert margins[0] < margins[1] < margins[2] == 1024


def test_fast_shape_holds_the_margin():
    shape = fast_shape((1024, 1009), 50)
    assert shape[0] >= 1124
    assert shape[1] >= 1109
    for size in shape:
        for prime in (2, 3, 5):
            while size % prime == 0:
                size //= prime
        assert size == 1


def test_drawn_optics_fill_their_ranges(generator):
    drawn = [
        draw_optics(generator, defocus_min_angstrom=1e4, defocus_max_angstrom=2e4, astigmatism_max_angstrom=500.0)
        for _ in range(400)
    ]
    mean = np.array([(o.defocus_u_angstrom + o.defocus_v_angstrom) / 2 for o in drawn])
    split = np.array([o.defocus_u_angstrom - o.defocus_v_angstrom for o in drawn])
    angle = np.array([o.defocus_angle_degrees for o in drawn])
    assert 1e4 <= mean.min() <= mean.max() <= 2e4
    assert -1e-9 <= split.min() <= split.max() <= 500 + 1e-9
    # The mean of 400 uniform draws, within 5 standard errors (0.289 / 20 = 0.0144 of the range).
    assert abs(mean.mean() - 1.5e4) < 0.072 * 1e4
    assert abs(angle.mean() - 90) < 0.072 * 180
    assert draw_optics(torch.Generator().manual_seed(3), defocus_min_angstrom=1e4, defocus_max_angstrom=2e4) == \
        draw_optics(torch.Generator().manual_seed(3), defocus_min_angstrom=1e4, defocus_max_angstrom=2e4)


def test_each_measured_ctf_comes_once_in_a_random_order():
    states = [dataclasses.replace(ROUND, defocus_u_angstrom=1e4 + 1e3 * number) for number in range(5)]
    orders = [tuple(choose_measured(torch.Generator().manual_seed(seed), states, place) for place in range(5))
              for seed in range(4)]
    assert all(set(order) == set(states) for order in orders)
    assert len(set(orders)) > 1


def test_height_towards_the_source_lowers_the_underfocus():
    raised = at_height(ASTIGMATIC, 200.0)
    assert raised.defocus_u_angstrom == 17800.0
    assert raised.defocus_v_angstrom == 11800.0
    assert ASTIGMATIC.defocus_u_angstrom == 18000.0


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: electron_wavelength(0), "voltage is 0 kV"),
        (lambda: Optics(-1, 2.7, 0.1, 1e4, 1e4, 0), "voltage is -1 kV"),
        (lambda: Optics(300, 2.7, 1.5, 1e4, 1e4, 0), "amplitude contrast is 1.5"),
        (lambda: Optics(300, 2.7, 0.1, math.nan, 1e4, 0), "not finite"),
        (lambda: ctf((0, 8), 1.0, ROUND), "image size is"),
        (lambda: ctf((8, 8), 0.0, ROUND), "pixel size is 0.0"),
        (lambda: apply_ctf(torch.zeros(8, 8), 1.0, ROUND, margin=4), "margin is 4"),
        (lambda: choose_measured(torch.Generator(), [], 0), "no measured CTF"),
        (lambda: draw_optics(torch.Generator(), defocus_min_angstrom=2.0, defocus_max_angstrom=1.0), "smaller value"),
        (
            lambda: draw_optics(
                torch.Generator(), defocus_min_angstrom=1.0, defocus_max_angstrom=2.0, astigmatism_max_angstrom=-1.0
            ),
            "astigmatism is -1.0",
        ),
    ],
)
def test_unusable_arguments_are_refused(action, message):
    with pytest.raises(SettingsError, match=message):
        action()


@pytest.mark.optional
def test_relion_computes_the_same_ctf(tmp_path):
    program = shutil.which("relion_ctf_toolbox")
    if program is None:
        pytest.skip("relion_ctf_toolbox is not installed")
    size, pixel_size, optics = 128, 2.5, Optics(300.0, 2.7, 0.1, 18000.0, 12000.0, 30.0, phase_shift_degrees=20.0)
    options = (
        f"--angpix {pixel_size} --box {size} --kV 300 --Q0 0.1 --Cs 2.7"
        " --defU 18000 --defV 12000 --defAng 30 --phase_shift 20"
    )
    subprocess.run([program, "--simulate", tmp_path / "ctf.mrc", *options.split()], check=True, capture_output=True)
    relion_ctf = mrcfile.read(tmp_path / "ctf.mrc")[1:, size // 2 :]
    own_ctf = torch.fft.fftshift(ctf((size, size), pixel_size, optics), dim=0)[1:, :-1].numpy()
    # The wavelengths of the two programs differ in the sixth digit; the phase is at most 60 radians.
    np.testing.assert_allclose(own_ctf, relion_ctf, atol=1e-3)
    flipped = dataclasses.replace(optics, defocus_angle_degrees=-30.0)
    wrong = torch.fft.fftshift(ctf((size, size), pixel_size, flipped), dim=0)[1:, :-1].numpy()
    assert np.abs(wrong - relion_ctf).max() > 1


ENVELOPE = ((0.01, 1.0), (0.03, 0.6), (0.06, 0.2))


def test_an_envelope_goes_through_its_points():
    frequency = np.array([u for u, _ in ENVELOPE])
    # float64 logarithms and exponentials
    np.testing.assert_allclose(envelope_amplitude(ENVELOPE, frequency), [a for _, a in ENVELOPE], rtol=1e-12)


def test_an_envelope_between_and_beyond_its_points_is_a_b_factor():
    b_factor = 300.0
    points = tuple((u, math.exp(-b_factor / 4 * u * u)) for u in (0.02, 0.05, 0.07))
    frequency = np.linspace(0.02, 0.2, 50)
    np.testing.assert_allclose(envelope_amplitude(points, frequency), np.exp(-b_factor / 4 * frequency**2), rtol=1e-9)
    assert envelope_amplitude(points, np.array([0.0]))[0] == pytest.approx(points[0][1])  # constant below the first


def test_an_envelope_does_not_rise_beyond_its_last_point():
    values = envelope_amplitude(((0.01, 0.5), (0.05, 1.0)), np.array([0.05, 0.1, 0.4]))
    np.testing.assert_allclose(values, 1.0)
    np.testing.assert_allclose(envelope_amplitude(((0.02, 0.7),), np.array([0.0, 0.02, 0.3])), 0.7)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_envelope_multiplies_the_ctf(shape):
    plain = ctf(shape, 3.0, ASTIGMATIC)
    ky, kx = np.meshgrid(np.fft.fftfreq(shape[0], 3.0), np.fft.rfftfreq(shape[1], 3.0), indexing="ij")
    expected = plain.numpy() * envelope_amplitude(ENVELOPE, np.hypot(ky, kx))
    values = ctf(shape, 3.0, dataclasses.replace(ASTIGMATIC, envelope=ENVELOPE))
    np.testing.assert_allclose(values.numpy(), expected, atol=2e-7)  # two rounding steps of float32
    assert torch.equal(ctf(shape, 3.0, ASTIGMATIC), plain)  # nothing of the envelope stays behind
    assert not envelope_plane(ENVELOPE, shape, 3.0).flags.writeable


def test_random_states_have_the_envelope_of_the_run(generator):
    optics = draw_optics(generator, defocus_min_angstrom=1e4, defocus_max_angstrom=2e4, envelope=ENVELOPE)
    assert optics.envelope == ENVELOPE
    assert at_height(optics, 100.0).envelope == ENVELOPE
