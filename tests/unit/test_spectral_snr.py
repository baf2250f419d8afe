# SPDX-License-Identifier: GPL-3.0-or-later
"""The signal-to-noise ratio from the power spectrum, and noise that is measured for the ratio in use."""
import math
import re

import numpy as np
import pytest
import torch

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.measurement.search_field import SearchField
from cryogem_scipion.engine.measurement.spectral_strength import spectral_strength
from cryogem_scipion.engine.measurement.synthesis import SyntheticField
from cryogem_scipion.engine.noise.chosen_ratio import (
    ChosenRatio,
    check_given_ratio,
    choose_ratio,
    kept_ratio,
    over_all_variance,
)
from cryogem_scipion.engine.noise.exposure import Exposure
from cryogem_scipion.engine.noise.models import GreyScale
from cryogem_scipion.engine.noise.noise_fit import CleanImage, RealImage, fit_noise, measure_real_noise, simulated_image
from cryogem_scipion.engine.noise.rotational_power import RotationalPower, rotational_power, seen_modulation, tile_edge
from cryogem_scipion.engine.noise.set_spectrum import DEFOCI, SetSpectrum, measure_set_spectrum
from cryogem_scipion.engine.noise.signal_to_noise import SnrFit
from cryogem_scipion.engine.noise.spectral_ratio import (
    SpectralRatio,
    fit_spectral_ratio,
    largest_possible_ratio,
    particle_frequencies,
)
from cryogem_scipion.engine.noise.spectrum import TILE, ColouredNoise
from cryogem_scipion.engine.settings import GenerateSettings
from cryogem_scipion.engine.simulation.ctf import ctf
from cryogem_scipion.engine.simulation.optics import Optics
from cryogem_scipion.engine.stages import generate
from tests.unit.conftest import SNR

PIXEL_SIZE, DIAMETER = 4.0, 32
EDGE = 128
REAL_DEFOCI, SIMULATED_DEFOCI = (15_000.0, 18_000.0, 21_000.0), (12_000.0, 17_000.0, 22_000.0)
FREQUENCY = np.arange(EDGE // 2) / EDGE
RING = 7
"""The first ring of the shells, in steps of frequency."""


def exposure(defocus):
    return Exposure(Optics(300.0, 2.7, 0.1, defocus, defocus, 0.0), PIXEL_SIZE)


def noise_curves():
    """Power of noise at frequencies in cycles a pixel, and the part of it that ice scatters: three kinds."""
    even = 1 + 0.15 * np.exp(-((FREQUENCY / 0.05) ** 2))
    steep = 0.8 + 3 * np.exp(-((FREQUENCY / 0.04) ** 2)) + 0.4 * np.exp(-((FREQUENCY / 0.2) ** 2))
    return {"even": (even, 0 * even), "steep": (steep, 0 * steep), "ice": (0.4 * even, 0.6 * even)}


def shell_power():
    """Power of shells with a soft edge, as of apoferritin; 1 at its first ring."""
    outer, inner = (np.pi * FREQUENCY * edge + 1e-9 for edge in (DIAMETER, 0.6 * DIAMETER))

    def ball(x, radius):
        return radius**3 * (np.sin(x) - x * np.cos(x)) / x**3
    form = (ball(outer, 1.0) - ball(inner, 0.6)) * np.exp(-((FREQUENCY / 0.12) ** 2))
    return form**2 / form[RING] ** 2


def mean_modulation(defoci):
    return seen_modulation(exposure(defoci[0]), defoci, EDGE)


def fitted(ratio, kind, seed, known=True, pixels=2e7):
    """What the spectrum of a set tells whose particles have this part of the noise's power at their first ring."""
    still, ice = noise_curves()[kind]
    modulation, structure = mean_modulation(REAL_DEFOCI), shell_power()
    error = 1 / np.sqrt(np.pi * np.maximum(np.arange(EDGE // 2), 1) / EDGE**2 * pixels)
    power = still + ice * modulation + ratio * structure * modulation / mean_modulation(SIMULATED_DEFOCI)[RING]
    power = power * (1 + error * np.random.default_rng(seed).normal(size=len(power)))
    structure = structure / mean_modulation(SIMULATED_DEFOCI)[RING]
    reference = structure * mean_modulation(SIMULATED_DEFOCI)
    used = particle_frequencies(FREQUENCY, DIAMETER, PIXEL_SIZE)
    expected = ratio * (structure * modulation * FREQUENCY)[used].sum() / (reference * FREQUENCY)[used].sum()
    modulations = [modulation] if known else [mean_modulation([defocus]) for defocus in DEFOCI]
    real, simulated = RotationalPower(FREQUENCY, power, error), RotationalPower(FREQUENCY, structure, error / 2)
    return fit_spectral_ratio(real, simulated, reference, modulations, used, PIXEL_SIZE), expected


@pytest.mark.parametrize("kind", ["even", "steep", "ice"])
@pytest.mark.parametrize("ratio", [0.05, 0.5, 5.0])
def test_the_ratio_is_found_in_spectra_of_known_truth(ratio, kind):
    results = [fitted(ratio, kind, seed) for seed in range(2)]
    for found, expected in results:
        assert found.high > 0.9 * expected  # the interval leaves out 1 in 20 by chance, and the map's error is 20 %
        assert found.low < 1.1 * expected
        if found.high < 1.5 * found.low:
            assert found.ratio == pytest.approx(expected, rel=0.25)  # asked for
    if ratio > 0.1 and kind != "steep":
        assert all(found.certain for found, _ in results)


@pytest.mark.parametrize("kind", ["even", "steep", "ice"])
def test_noise_without_particles_has_none_with_certainty(kind):
    still, ice = noise_curves()[kind]
    found, _ = fitted(0.0, kind, 5)
    assert not found.certain
    # Particles could hide in what the noise falls within one of their rings, which is steep noise's power itself.
    assert found.high < (0.5 if kind == "steep" else 0.05) * (still + ice)[RING]


def test_the_ratio_hardly_depends_on_the_defocus():
    found, expected = fitted(0.3, "even", 1, known=False)
    assert found.certain
    assert found.ratio == pytest.approx(expected, rel=0.25)


def test_the_largest_possible_ratio_is_that_of_the_frequency_with_the_least_room():
    power, particles = np.ones(64), np.zeros(64)
    particles[10], particles[20] = 2.0, 4.0
    curve = RotationalPower(FREQUENCY, power, np.full(64, 1e-6))
    largest, frequency = largest_possible_ratio(curve, particles, FREQUENCY > 0.05)
    assert (largest, frequency) == (pytest.approx(0.25, rel=1e-4), FREQUENCY[20])


def test_rotational_power_of_white_noise_and_its_error(generator):
    images = [torch.randn(400, 450, generator=generator) for _ in range(4)]
    curve = rotational_power(images, EDGE, usual_only=False)
    deviations = (curve.power[2:] - 1) / curve.relative_error[2:]
    # 62 values, neighbours correlated: the mean square is that of about 40 independent ones, less what LOSS adds.
    assert 0.3 < (deviations**2).mean() < 1.6
    images[0][:128, :128] += 20 * torch.randn(128, 128, generator=generator)
    with_contaminant = rotational_power(images, EDGE, usual_only=True)
    assert np.abs(with_contaminant.power[2:] - 1).max() < 0.3
    assert tile_edge(50, [(600, 620)]) == 256
    assert tile_edge(10, [(600, 620)]) == TILE


def shells(count, seed, particles=30, size=320):
    """Fields of signals of shells through the optics, with deviation 1 inside all particles, and their exposures."""
    draw = np.random.default_rng(seed)
    axis = np.arange(DIAMETER) - DIAMETER / 2 + 0.5
    square = axis[:, None] ** 2 + axis**2
    shell = sum(sign * np.sqrt(np.maximum(edge**2 - square, 0)) for edge, sign in ((DIAMETER / 2, 1),
                                                                                 (0.3 * DIAMETER, -1)))
    signals, exposures, variances = [], [], []
    for _ in range(count):
        field, inside = np.zeros((size, size)), np.zeros((size, size), bool)
        for y, x in draw.integers(0, size - DIAMETER, (particles, 2)):
            field[y:y + DIAMETER, x:x + DIAMETER] += shell
            inside[y:y + DIAMETER, x:x + DIAMETER] |= square < (DIAMETER / 2) ** 2
        optics = exposure(draw.uniform(*(SIMULATED_DEFOCI if seed else REAL_DEFOCI)[::2]))
        spectrum = torch.fft.rfft2(torch.tensor(field).float()) * -ctf((size, size), PIXEL_SIZE, optics.optics)
        signals.append(torch.fft.irfft2(spectrum, s=(size, size)))
        exposures.append(optics)
        variances.append(float(signals[-1][torch.tensor(inside)].var()))
    return [(signal / np.mean(variances) ** 0.5, optics) for signal, optics in zip(signals, exposures, strict=True)]


def coloured():
    """Noise that falls a little with frequency, with deviation 1."""
    radius = torch.hypot(torch.fft.fftfreq(TILE)[:, None], torch.fft.rfftfreq(TILE))
    noise = ColouredNoise(1 + 0.5 * torch.exp(-6 * radius))
    return ColouredNoise(noise.power / noise.variance)


@pytest.mark.parametrize("snr", [0.0, 0.03, pytest.param(0.003, marks=pytest.mark.slow),
                                 pytest.param(0.01, marks=pytest.mark.slow), pytest.param(0.1, marks=pytest.mark.slow),
                                 pytest.param(0.3, marks=pytest.mark.slow)])
def test_the_ratio_is_found_in_images(snr, generator):
    # Weak particles need many of them: as crowded as apoferritin, and more fields.
    count, particles = (40, 90) if 0 < snr < 0.02 else (6, 30)
    noise = coloured()
    real, simulated = shells(count, 0, particles), shells(6, 1, particles)
    flats = [noise.draw((320, 320), generator) - math.sqrt(snr) * signal for signal, _ in real]
    signals, exposures = zip(*simulated, strict=True)
    found = measure_set_spectrum(flats, [0.013 * signal for signal in signals], exposures, 0.013, DIAMETER, None)
    if not snr:
        assert not found.ratio.certain
        assert found.ratio.high < 0.02  # what six small fields tell; local power tells no less than 0.05
        return
    # Particles lie over each other by chance, so that the two sets have not the same power at the same variance.
    powers = [rotational_power([signal for signal, _ in fields], EDGE, usual_only=False).power
              for fields in (real, simulated)]
    used = particle_frequencies(FREQUENCY, DIAMETER, PIXEL_SIZE)
    expected = snr * (powers[0] * FREQUENCY)[used].sum() / (powers[1] * FREQUENCY)[used].sum()
    assert found.ratio.low < expected < found.ratio.high
    assert found.ratio.ratio == pytest.approx(expected, rel=0.25)  # as asked for
    # These fields have 4 million pixels in all and few rings: 0.003 is told to a factor of 2, not with certainty.
    assert found.ratio.certain or (snr == 0.003 and found.ratio.high < 2.5 * expected)
    assert found.largest_possible > expected


@pytest.mark.parametrize("factor", [0.1, 1.0, 1.4])  # 1.5 is the largest possible
def test_the_noise_is_measured_for_the_ratio_in_use(factor, generator):
    """Signal and noise have the real spectrum and deviation, also with a ratio that is not the true one."""
    deviation, snr = 0.05, 0.1
    pairs = shells(6, 0)
    reals = [RealImage(400 * (1 + deviation * (coloured().draw((320, 320), generator) - math.sqrt(snr) * signal)),
                       GreyScale(400.0, 400 * deviation)) for signal, _ in pairs]
    clean = [CleanImage(1 - deviation * math.sqrt(factor * snr) * signal, optics) for signal, optics in shells(4, 1)]
    noise = fit_noise(measure_real_noise(reals, deviation), clean, generator)
    generated = [simulated_image(image, noise, generator) for image in clean]
    real = [image.without_ice() for image in reals]
    used = FREQUENCY > 1 / 1.3 / DIAMETER
    curves = [rotational_power(images, EDGE, usual_only=False).power[used]
              for images in (real, generated, real[:3], real[3:])]
    distance = np.median(np.abs(np.log10(curves[1] / curves[0])))
    floor = np.median(np.abs(np.log10(curves[2] / curves[3])))
    # Halves of 3 fields differ by twice the variance of 6 against 4; chance of the median adds a half.
    assert distance < 1.5 * max(floor, 0.01)
    assert np.std([float(image.std()) for image in generated]) < 0.05
    assert float(torch.stack(generated).std()) == pytest.approx(float(torch.stack(real).std()), rel=0.02)


def spectrum(ratio, low, high, certain, largest=1.0, known=True):
    return SetSpectrum(SpectralRatio(ratio, low, high, certain), largest, 45.0, known)


def test_a_given_ratio_that_the_data_exclude_is_refused():
    """The limit is 1.25 times the ratio from which particles alone exceed the real power: so much may the map err."""
    with pytest.raises(DataError, match=r"snr is 0.3, .*at a resolution of 45 Å; set snr to at most 0.15,"):
        check_given_ratio(0.3, spectrum(0.05, 0.04, 0.06, True, largest=0.123))
    check_given_ratio(0.15, spectrum(0.05, 0.04, 0.06, True, largest=0.123))
    check_given_ratio(5.0, None)


@pytest.mark.parametrize(("local", "from_spectrum", "expected", "measured", "message"), [
    (SnrFit(0.2, 0.01, True), spectrum(0.17, 0.1, 0.3, True), 0.2, True, None),
    (SnrFit(0.2, 0.01, True), None, 0.2, True, None),
    (SnrFit(0.5, 0.01, True), spectrum(0.17, 0.1, 0.3, True), 0.3, True, "local power gives .* 0.5"),
    (SnrFit(0.2, 0.01, True), spectrum(0.01, 0.0, 0.02, True, known=False), 0.2, True, None),
    (SnrFit(0.01, 0.01, False), spectrum(0.004, 0.003, 0.005, True), 0.004, True, None),
    (SnrFit(0.01, 0.01, False), spectrum(0.0, 0.0, 0.002, False), 0.002, False, "at most 0.002"),
    (SnrFit(0.01, 0.9, False), spectrum(0.1, 0.0, 0.4, False), 0.1, False, "at most 0.4; the simulation's ratio 0.1"),
    (SnrFit(0.01, 0.9, False), spectrum(0.1, 0.0, 0.4, False, largest=0.05), 0.0475, False, "at most"),
    (SnrFit(0.01, 0.9, False), None, 0.1, False, "0.1 of the simulation")])
def test_the_ratio_in_use_is_one_that_the_data_allow(local, from_spectrum, expected, measured, message):
    chosen = choose_ratio(local, from_spectrum, 0.1)
    assert chosen.snr == pytest.approx(expected)
    assert chosen.measured == measured
    assert len(chosen.warnings) == (message is not None)
    if message:
        assert re.search(message, chosen.warnings[0])


@pytest.mark.parametrize("defoci", [REAL_DEFOCI, (17_000.0,) * 3], ids=["known defocus", "unknown defocus"])
def test_measure_finds_the_strength_of_weak_particles(defoci):
    """Fields as the search sees them: the high-pass filter has taken power, and generated particles are too strong."""
    frequency = np.arange(TILE // 2) / TILE
    passed = (1 - np.exp(-(frequency * DIAMETER / 0.8) ** 4)) ** 2
    structure = shell_power() / mean_modulation(SIMULATED_DEFOCI)[RING]
    image = torch.zeros(1, 1).expand(3000, 3000)  # only its size counts
    plane = torch.zeros(1, 1).expand(3000, 1501)
    fields, generated = [], []
    for assumed, defocus in zip(defoci, REAL_DEFOCI, strict=True):
        radial = passed * (1 + 0.1 * structure * mean_modulation([defocus]))
        fields.append(SearchField(image, PIXEL_SIZE, 1.0, exposure(assumed).optics, plane, radial, plane,
                                  np.zeros((3000, 3000), bool), image))
        power = passed * 0.4 * structure * mean_modulation([assumed])
        generated.append(SyntheticField(image, np.zeros((0, 2)), power, radial, 1.0, 1.0))
    found = spectral_strength(fields, generated, DIAMETER * PIXEL_SIZE)
    assert found.certain
    assert found.ratio == pytest.approx(0.1 / 0.4, rel=0.1)  # no chance in these curves; the map's error remains
    assert found.low < 0.25 < found.high


def settings_of_run(world, out, snr):
    return GenerateSettings(simulation=world / "sim", real=(str(world / "real/*.mrc"),), noise="spectrum",
                            micrographs=1, real_contrast="dark", device="cpu", out=out, snr=snr)


def test_a_run_with_a_ratio_that_the_data_exclude_ends_with_one_line(world, tmp_path):
    """The message names a resolution and a ratio that is possible."""
    message = r"^snr is 90, .* resolution of [0-9]+ Å; set snr to at most [0-9.]+, or leave it empty$"
    with pytest.raises(DataError, match=message):
        generate.run(settings_of_run(world, tmp_path, 90.0))


@pytest.mark.slow
def test_a_run_with_a_given_ratio_uses_it_and_reports_what_the_spectrum_allows(world, tmp_path):
    manifest = generate.run(settings_of_run(world, tmp_path, 0.02))
    assert manifest.contrast.snr == 0.02
    assert 0 <= manifest.figures["spectral_snr_low"] <= manifest.figures["spectral_snr_high"]
    assert manifest.figures["spectral_snr_high"] > 0.5 * SNR  # three small fields


def test_a_ratio_that_was_measured_before_is_kept_unless_the_spectrum_excludes_it():
    spectrum = SetSpectrum(SpectralRatio(0.1, 0.08, 0.12, True), 0.2, 40.0, True)
    assert kept_ratio(0.15, None) == ChosenRatio(0.15, True)
    assert kept_ratio(0.15, spectrum) == ChosenRatio(0.15, True)
    limited = kept_ratio(0.3, spectrum)
    assert 0.2 < limited.snr < 0.3
    assert "0.3, particles alone would have more power" in limited.warnings[0]


@pytest.mark.parametrize("over_noise", [0.003, 0.17, 1.1, 2.0])
@pytest.mark.parametrize("crowding", [0.2, 1.2])
def test_a_ratio_over_the_noise_becomes_one_over_the_micrographs(over_noise, crowding):
    """The noise loses what the particles have, but not where they have nothing."""
    def noise_variance(ratio):
        return max(1 - crowding * ratio, 0.2)

    ratio = over_all_variance(over_noise, 1.0, noise_variance)
    assert ratio == pytest.approx(over_noise / (1 + crowding * over_noise), rel=0.04)
