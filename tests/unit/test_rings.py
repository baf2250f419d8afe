# SPDX-License-Identifier: GPL-3.0-or-later
"""Thon rings: they have the right CTF, their defocus is measured, and noise without rings is recognised."""
import math

import numpy as np
import pandas as pd
import pytest
import torch

from cryogem_scipion.engine.io.dataset import write_table
from cryogem_scipion.engine.io.mrc import write_mrc
from cryogem_scipion.engine.noise import noise_measurement
from cryogem_scipion.engine.noise.exposure import Exposure
from cryogem_scipion.engine.noise.models import GreyScale, PhysicalNoise
from cryogem_scipion.engine.noise.noise_fit import CleanImage, RealImage, fit_noise, measure_real_noise
from cryogem_scipion.engine.noise.noise_measurement import measure_noise
from cryogem_scipion.engine.noise.real_set import measure_real_set
from cryogem_scipion.engine.noise.simulated_set import open_simulated_set
from cryogem_scipion.engine.noise.spectrum import TILE, ColouredNoise, tile_periodograms
from cryogem_scipion.engine.noise.thon_rings import fit_thon_rings, measure_modulated_share, without_thon_rings
from cryogem_scipion.engine.settings import PhantomSettings, SimulateSettings
from cryogem_scipion.engine.simulation.optics import Optics
from cryogem_scipion.engine.stages import phantom, simulate

PIXEL_SIZE = 4.0
DEFOCI = (9_000.0, 14_500.0, 21_000.0, 27_300.0)
SHARE = torch.linspace(0.2, 0.6, TILE // 2 + 1)


def exposure(defocus, astigmatism=0.0, angle=0.0):
    return Exposure(Optics(300.0, 2.7, 0.1, defocus + astigmatism / 2, defocus - astigmatism / 2, angle), PIXEL_SIZE)


def falling(share=SHARE):
    radius = torch.hypot(torch.fft.fftfreq(TILE)[:, None], torch.fft.rfftfreq(TILE))
    noise = ColouredNoise(0.4 + 3 * torch.exp(-8 * radius))
    return ColouredNoise(noise.power / noise.variance, modulated_share=share)


def analytic_ctf(frequency, defocus, voltage_kv=300.0, cs_mm=2.7, amplitude_contrast=0.1):
    """sin of the phase shift at frequencies (1/Å), written out."""
    volts = voltage_kv * 1e3
    wavelength = 12.2643 / math.sqrt(volts + 0.978466e-6 * volts**2)
    phase = math.pi * wavelength * frequency**2 * (defocus - 0.5 * cs_mm * 1e7 * wavelength**2 * frequency**2)
    return np.sin(phase + math.asin(amplitude_contrast))


def test_noise_has_the_rings_of_its_defocus(generator):
    defocus, strength = 12_000.0, 0.5
    noise = ColouredNoise(torch.ones(TILE, TILE // 2 + 1), modulated_share=torch.full((TILE // 2 + 1,), strength))
    size = 512
    draws = torch.stack([noise.draw((size, size), generator, exposure(defocus)) for _ in range(12)])
    power = (torch.fft.rfft2(draws).abs().square() / size**2).mean(0).numpy()
    radius = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)) * size
    for ring in (60, 110, 150, 177, 201, 230):
        inside = np.abs(radius - ring) < 1
        squared_ctf = (analytic_ctf(radius[inside] / (size * PIXEL_SIZE), defocus) ** 2).mean()
        expected = 1 - strength + 2 * strength * squared_ctf
        # Each value is exponentially distributed; 12 images of some 700 values.
        assert power[inside].mean() == pytest.approx(expected, rel=5 / math.sqrt(12 * inside.sum()))


def test_without_an_exposure_there_are_no_rings(generator):
    draws = [noise.draw((130, 90), torch.Generator().manual_seed(1)) for noise in (falling(), falling(None))]
    assert torch.equal(*draws)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_an_exposure_turns_with_its_image(turns, mirrored):
    """The image of a point, turned, is the image that the turned optics give."""
    size, optics = 48, exposure(15_000.0, 4000.0, 25.0)
    share = torch.full((TILE // 2 + 1,), 0.5)

    def point(state):
        spread = torch.fft.irfft2(state.modulation(share, (size + 1, size + 1)).to(torch.complex64), s=(size + 1,) * 2)
        return torch.fft.fftshift(spread)  # odd: its centre is a pixel

    turned = torch.rot90(point(optics), turns)
    turned = turned.flip(1) if mirrored else turned
    assert torch.allclose(point(optics.turned(turns, mirrored)), turned, atol=1e-5)
    if turns % 2 or mirrored:
        assert not torch.allclose(point(optics), turned, atol=1e-3)


def test_defocus_and_strength_are_measured(generator):
    images = [falling().draw((512, 600), generator, exposure(defocus, 300.0, 40.0)) for defocus in DEFOCI]
    rings = fit_thon_rings(images, exposure(1.0))
    assert [fitted.optics.defocus_u_angstrom for fitted in rings.exposures] == pytest.approx(DEFOCI, abs=200)
    # Astigmatism smears the outermost rings a little.
    assert float((rings.modulated_share - SHARE)[12:56].abs().max()) < 0.12
    # Without their rings, all micrographs have the same spectrum.
    flat = [without_thon_rings(tile_periodograms(image), rings.modulated_share, fitted).mean(0)
            for image, fitted in zip(images, rings.exposures, strict=True)]
    bands = torch.stack([torch.stack([power[5:-5, low:low + 6].mean() for low in range(8, 60, 6)]) for power in flat])
    assert float((bands / bands.mean(0) - 1).abs().max()) < 0.15


@pytest.mark.parametrize("pixel_size", [8.0, 10.0])
def test_coarse_pixels_show_no_rings_that_are_not_there(pixel_size, generator):
    """Up to the highest frequency there are two rings or less, which a smooth background can imitate."""
    optics = Exposure(Optics(300.0, 2.7, 0.1, 15_000.0, 15_000.0, 0.0), pixel_size)
    white = ColouredNoise(torch.ones(TILE, TILE // 2 + 1))
    for edge in (256, 512):
        images = [white.draw((edge, edge), generator) for _ in range(6)]
        assert float(measure_modulated_share(images, [optics] * 6).mean()) < 0.2


def test_rings_of_coarse_pixels_are_measured_where_micrographs_differ_in_defocus(generator):
    defoci = np.arange(10e3, 28e3, 1500)
    exposures = [Exposure(Optics(300.0, 2.7, 0.1, defocus, defocus, 0.0), 8.0) for defocus in defoci]
    noise = ColouredNoise(torch.ones(TILE, TILE // 2 + 1), modulated_share=torch.full((TILE // 2 + 1,), 0.5))
    images = [noise.draw((512, 512), generator, exposure) for exposure in exposures]
    share = measure_modulated_share(images, exposures)[16:56]
    assert float(share.mean()) == pytest.approx(0.5, abs=0.15)
    assert float((share - 0.5).abs().max()) < 0.4


def test_one_micrograph_is_enough(generator):
    rings = fit_thon_rings([falling().draw((512, 512), generator, exposure(17_000.0))], exposure(1.0))
    assert rings.exposures[0].optics.defocus_u_angstrom == pytest.approx(17_000, abs=200)


def test_noise_without_rings_has_none(generator):
    images = [falling(None).draw((512, 512), generator) for _ in range(5)]
    assert fit_thon_rings(images, exposure(1.0)) is None


def test_fitted_noise_has_the_rings_and_particles_do_not_add_to_them(generator):
    """The first measurement adds the particles' rings to those of the noise; the fit removes them."""
    truth = PhysicalNoise(0.05, noise=falling())
    radius = torch.hypot(torch.fft.fftfreq(512)[:, None], torch.fft.rfftfreq(512))
    clean = []
    for defocus in DEFOCI:
        white = torch.fft.rfft2(torch.randn(512, 512, generator=generator))
        transfer = (exposure(defocus).modulation(torch.ones(TILE // 2 + 1), (512, 512)) / 2).sqrt()
        particles = torch.fft.irfft2(white * transfer * torch.exp(-20 * radius), s=(512, 512))
        clean.append(CleanImage(1 - 0.05 * particles / particles.std(), exposure(defocus)))
    scenes = [truth.scene((512, 512), generator, image.exposure) for image in clean]
    reals = [RealImage(400 * truth(image.image, generator, scene), GreyScale(400.0, 20.0))
             for image, scene in zip(clean, scenes, strict=True)]
    rings = fit_thon_rings([real.deviations() for real in reals], exposure(1.0))
    measured = fit_noise(measure_real_noise(reals, 0.05, rings), clean, generator).noise
    middle = slice(10, 40)
    before, after = ((share - SHARE)[middle].mean() for share in (rings.modulated_share, measured.modulated_share))
    assert before > 0.1  # the particles' part
    assert abs(after) < before / 2
    ratio = (measured.power / truth.noise.power)[4:-4, 4:-4].log()
    assert abs(float(ratio.mean())) < 0.1


def test_noise_is_measured_against_all_defocus_values(generator):
    """Particles have most of the power at some frequencies, which depend on the defocus of their micrograph."""
    truth = PhysicalNoise(0.05, noise=ColouredNoise(torch.ones(TILE, TILE // 2 + 1)))
    radius = torch.hypot(torch.fft.fftfreq(512)[:, None], torch.fft.rfftfreq(512))

    def image(defocus):
        white = torch.fft.rfft2(torch.randn(512, 512, generator=generator))
        transfer = (exposure(defocus).modulation(torch.ones(TILE // 2 + 1), (512, 512)) / 2).sqrt()
        particles = torch.fft.irfft2(white * transfer * torch.exp(-((radius / 0.1) ** 2)), s=(512, 512))
        return CleanImage(1 - 0.1 * particles, exposure(defocus))

    defoci = [10_000.0] * 4 + [26_000.0] * 4
    clean, others = ([image(defocus) for defocus in defoci] for _ in range(2))
    reals = [RealImage(400 * truth(other.image, generator), GreyScale(400.0, 20.0)) for other in others]
    measured = fit_noise(measure_real_noise(reals, 0.05), clean, generator).noise
    tile = torch.hypot(torch.fft.fftfreq(TILE)[:, None], torch.fft.rfftfreq(TILE))
    bands = [float(measured.power[(tile >= low) & (tile < low + 0.015)].mean()) for low in np.arange(0.02, 0.14, 0.015)]
    # Each band has some 60 coefficients of 392 half-overlapping tiles: 1 % by chance, and 5 times the power in the
    # particles, which are as well known.
    assert bands == pytest.approx([1.0] * len(bands), abs=0.12)


def test_micrographs_without_known_optics_do_not_count(tmp_path, generator):
    """The stage drifted in one micrograph: no rings tell its defocus, and its power is another."""
    phantom.run(PhantomSettings(out=tmp_path / "map", box=32, pixel_size=4.0, diameter_angstrom=90))
    (tmp_path / "real").mkdir()
    files = [tmp_path / f"real/{number}.mrc" for number in range(4)]
    for file in files:
        noise = torch.randn(256, 256, generator=generator)
        drifted = torch.nn.functional.avg_pool2d(noise[None], 9, 1, 4)[0] * 6 if file == files[3] else noise
        write_mrc(file, (400 + 20 * drifted).numpy(), PIXEL_SIZE)
    optics = pd.DataFrame([{"rlnOpticsGroup": 1, "rlnOpticsGroupName": "opticsGroup1"}])
    write_table(tmp_path / "ctfs.star", "micrographs", optics, pd.DataFrame([
        {"rlnMicrographName": str(file), "rlnOpticsGroup": 1, "rlnDefocusU": 15000.0, "rlnDefocusV": 15000.0,
         "rlnDefocusAngle": 0.0} for file in files[:3]]))
    simulate.run(SimulateSettings(out=tmp_path / "sim", volume=(tmp_path / "map/phantom.mrc",), pixel_size=PIXEL_SIZE,
                                  micrographs=3, micrograph_size=(256, 256), particles_mean=8, snr=0.05,
                                  ctfs=tmp_path / "ctfs.star", extract=False))
    simulated = open_simulated_set(tmp_path / "sim")
    reals = measure_real_set(tmp_path, "scaled", files, PIXEL_SIZE, None)
    noise = measure_noise(reals, simulated, snr=0.002, seed=0).model.physical
    assert [power is None for power in noise.relative_powers] == [False, False, False, True]
    coarse, fine = (float(noise.noise.power[rows, 4:30].mean()) for rows in (slice(4, 10), slice(40, 60)))
    assert coarse == pytest.approx(fine, rel=0.15)  # the noise of the first three is white


def simulation(*defoci):
    return tuple(exposure(defocus, 500.0) for defocus in defoci)


@pytest.mark.parametrize(("real", "simulated"), [((9e3, 14e3, 30e3), (8e3, 20e3)), ((10e3, 11e3), (12e3, 20e3))])
def test_a_defocus_in_or_near_the_range_gives_no_warning(real, simulated):
    assert noise_measurement._defocus_warnings(real, simulation(*simulated)) == []


def test_another_defocus_than_the_simulations_gives_a_warning():
    [warning] = noise_measurement._defocus_warnings((9e3, 14e3, 21e3), simulation(20e3, 30e3))
    assert "0.90 to 2.10 µm" in warning
    assert "2.00 to 3.00 µm" in warning


def test_the_rotational_mean_of_an_astigmatic_ctf_is_that_of_its_plane():
    astigmatic = exposure(20_000.0, 4000.0, 30.0)
    size = 1024
    plane = astigmatic.modulation(torch.ones(TILE // 2 + 1), (size, size)) / 2  # |CTF|²
    radius = torch.hypot(torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)) * 2
    frequency = np.array([0.2, 0.35, 0.5, 0.62])
    expected = [float(plane[(radius - value).abs() < 1.5 / size].mean()) for value in frequency]
    np.testing.assert_allclose(astigmatic.squared_ctf(frequency), expected, atol=0.02)
    # The rings are damped there: without astigmatism the values are others.
    assert np.abs(astigmatic.squared_ctf(frequency) - exposure(20_000.0).squared_ctf(frequency)).max() > 0.1


def test_known_optics_are_taken_as_they_are_and_the_others_are_fitted(generator):
    images = [falling().draw((512, 512), generator, exposure(defocus)) for defocus in DEFOCI]
    images[0] = torch.randn((512, 512), generator=generator)  # its own rings tell nothing
    known = exposure(DEFOCI[0], 300.0, 20.0)
    rings = fit_thon_rings(images, exposure(1.0), [known, None, None, None])
    assert rings.exposures[0] == known
    fitted = [one.optics.defocus_u_angstrom for one in rings.exposures[1:]]
    assert fitted == pytest.approx(DEFOCI[1:], abs=150)


def test_weak_rings_are_used_where_the_optics_are_known(generator):
    """Single frames: the rings of none are seen by themselves."""
    weak = torch.full((TILE // 2 + 1,), 0.06)
    optics = [exposure(10_000.0 + 1000 * number) for number in range(12)]
    images = [falling(weak).draw((512, 512), generator, one) for one in optics]
    assert fit_thon_rings(images, exposure(1.0)) is None
    rings = fit_thon_rings(images, exposure(1.0), optics)
    # 12 images of some 49 tiles.
    assert float(rings.modulated_share[20:50].mean()) == pytest.approx(0.06, abs=0.02)
