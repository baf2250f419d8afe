"""What a simulation needs is measured from micrographs of known truth."""
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from cryogem_scipion.engine.compute import fourier
from cryogem_scipion.engine.compute.threads import torch_threads
from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.figures.measurement import draw_measurement
from cryogem_scipion.engine.io.dataset import read_table
from cryogem_scipion.engine.measurement.defocus import fit_ctfs
from cryogem_scipion.engine.measurement.matched_filter import MatchedFilter, halves, templates
from cryogem_scipion.engine.measurement.measure import map_power, measure_micrographs
from cryogem_scipion.engine.measurement.polar_spectrum import polar_spectrum
from cryogem_scipion.engine.measurement.results import write_ctfs, write_measurement
from cryogem_scipion.engine.measurement.search_field import frequencies, search_field
from cryogem_scipion.engine.simulation.composition import compose
from cryogem_scipion.engine.simulation.ctf import ctf
from cryogem_scipion.engine.simulation.optics import Optics
from cryogem_scipion.engine.simulation.placement import place_centres
from cryogem_scipion.engine.simulation.poses import uniform_rotations
from cryogem_scipion.engine.simulation.projection import prepare_projector, project
from cryogem_scipion.engine.simulation.volume import Volume, diameter_angstrom

BASE = Optics(300, 2.7, 0.1, 0, 0, 0)
PIXEL_SIZE = 4.0
DEFOCI = (15000, 20000, 24000)


def state(u, v, angle):
    return replace(BASE, defocus_u_angstrom=u, defocus_v_angstrom=v, defocus_angle_degrees=angle)


def ice(shape, pixel_size, optics, generator, strength=1.0):
    """White noise of which a part has the rings of the optics, falling with frequency."""
    falling = torch.from_numpy(np.exp(-40 * (frequencies(shape) / pixel_size) ** 2)).float()
    modulated = strength * ctf(shape, pixel_size, optics) * falling
    return torch.randn(shape, generator=generator) + fourier.irfft2(
        fourier.rfft2(torch.randn(shape, generator=generator)) * modulated, shape)


@pytest.fixture(scope="module")
def shell():
    """A hollow particle with bumps, 150 Å wide."""
    z, y, x = np.mgrid[-24:24, -24:24, -24:24] * PIXEL_SIZE
    radius = np.sqrt(x**2 + y**2 + z**2)
    density = np.exp(-((radius - 52) / 14) ** 2) * (1 + 0.5 * np.sin(x / 12) * np.sin(y / 15) * np.cos(z / 10))
    return Volume(torch.from_numpy(density.astype(np.float32)), PIXEL_SIZE)


def micrograph(volume, optics, generator, count, snr, shape=(448, 448)):
    """(image, number of particles): particles dark in white noise of deviation 1."""
    projector = prepare_projector(volume)
    centres = place_centres(count, shape, 150 / PIXEL_SIZE, generator)
    images = project(projector, uniform_rotations(len(centres), generator), centres - centres.floor(), 52, PIXEL_SIZE)
    signal = fourier.irfft2(fourier.rfft2(compose(images, centres, shape)) * ctf(shape, PIXEL_SIZE, optics), shape)
    inside = compose((images > 0.1 * images.max()).float(), centres, shape) > 0
    signal = signal * (math.sqrt(snr) / float(signal[inside].std()))
    return torch.randn(shape, generator=generator) - signal, len(centres)


def test_a_defocus_and_its_astigmatism_are_found(generator):
    truth = [state(16400, 15600, 30), state(24300, 24000, 120), state(9200, 9000, 80)]
    fits = fit_ctfs([ice((768, 768), 2.0, optics, generator) for optics in truth], 2.0, BASE)
    for fit, optics in zip(fits, truth, strict=True):
        mean = (optics.defocus_u_angstrom + optics.defocus_v_angstrom) / 2
        assert fit.reliable
        # The issue asks for 1 % or 100 Å.
        assert fit.defocus_angstrom == pytest.approx(mean, abs=max(100, 0.01 * mean))
        assert fit.error_angstrom < 200
        found = fit.optics.defocus_u_angstrom - fit.optics.defocus_v_angstrom
        wanted = optics.defocus_u_angstrom - optics.defocus_v_angstrom
        assert found == pytest.approx(wanted, abs=300)  # measured: up to 240


def test_noise_without_rings_gives_no_reliable_defocus(generator):
    fits = fit_ctfs([torch.randn(512, 512, generator=generator) for _ in range(4)], 2.0, BASE)
    assert not any(fit.reliable for fit in fits)


def test_a_scale_an_offset_and_the_contrast_sign_do_not_change_the_defocus(generator):
    image = ice((512, 512), 2.0, state(15000, 15000, 0), generator)
    first, second = fit_ctfs([image], 2.0, BASE), fit_ctfs([50 - 7 * image], 2.0, BASE)
    # Tiles are float32: an offset of 50 moves their values by its rounding.
    assert first[0].defocus_angstrom == pytest.approx(second[0].defocus_angstrom, abs=5)


def test_a_micrograph_too_small_for_rings_is_refused(generator):
    with pytest.raises(DataError, match="200 pixels"):
        fit_ctfs([torch.randn(200, 200, generator=generator)], 2.0, BASE)


def test_a_constant_micrograph_is_refused():
    with pytest.raises(DataError, match="no power"):
        polar_spectrum(torch.zeros(256, 256), 2.0, 128)
    with pytest.raises(DataError, match="same value"):
        search_field(torch.zeros(600, 600), 4.0, 150.0, BASE)


def test_the_polar_spectrum_of_white_noise_is_flat(generator):
    spectrum = polar_spectrum(torch.randn(1024, 1024, generator=generator), 2.0, 256)
    assert spectrum.radial[5:120] == pytest.approx(np.ones(115), abs=0.15)
    assert spectrum.frequency[64] == pytest.approx(64 / 512, rel=1e-2)


def test_scores_of_noise_have_a_deviation_of_one(generator, shell):
    shape = (200, 240)
    images = templates(prepare_projector(shell), 6.0, 1)
    power = torch.ones(200, 121)
    scores, _ = MatchedFilter(images, shape).scores(
        fourier.rfft2(torch.randn(shape, generator=generator)), -ctf(shape, 6.0, state(2e4, 2e4, 0)), power)
    assert float(scores.std()) == pytest.approx(1, abs=0.1)  # some 500 independent places: 3 %


def test_a_lone_particle_is_found_where_it_is(shell, generator):
    shape, optics = (256, 256), state(2e4, 2e4, 0)
    images = templates(prepare_projector(shell), 6.0, 3)
    field = compose(images[1:2], torch.tensor([[100.0, 60.0]]), shape)
    transfer = -ctf(shape, 6.0, optics)
    bank = MatchedFilter(images, shape)
    found = bank.peaks(bank.scores(fourier.rfft2(field) * transfer, transfer, torch.ones(256, 129)), 20,
                       np.zeros(shape, bool))
    assert found.centres[0].tolist() == [100, 60]
    assert found.templates[0] == 1


def test_the_halves_of_the_coefficients_make_the_whole():
    first, second = halves((30, 31), (1,))
    assert bool((first + second == 1).all())
    assert 0.4 < float(first.mean()) < 0.6


def test_the_power_of_a_map_is_that_of_its_mean_projection():
    frequency, power = map_power(Volume(torch.randn(16, 16, 16, generator=torch.Generator().manual_seed(1)), 2.0))
    assert frequency[-1] == pytest.approx(0.25)
    assert power[1:].mean() == pytest.approx(16**3, rel=0.1)


@pytest.fixture(scope="module")
def measured(shell):
    generator = torch.Generator().manual_seed(4)
    made = [micrograph(shell, state(d, d, 0), generator, 50, 0.1) for d in DEFOCI]
    images = [image for image, _ in made]
    result = measure_micrographs([lambda image=image: image for image in images], PIXEL_SIZE, shell, BASE, PIXEL_SIZE,
                                 known=[state(d, d, 0) for d in DEFOCI])
    return images, [count for _, count in made], result


def test_number_ratio_and_sign_are_measured(measured):
    _, counts, result = measured
    measurement = result.measurement
    assert measurement.found
    assert measurement.counted
    assert measurement.contrast_sign == "dark"
    assert sum(result.particles.counts) == pytest.approx(sum(counts), rel=0.2)  # the issue asks for 20 %
    assert measurement.snr == pytest.approx(0.1, rel=0.25)  # and for 25 %
    assert measurement.particle_distance == pytest.approx(150, abs=25)


def test_inverted_micrographs_have_bright_particles(measured, shell):
    images, _, _ = measured
    result = measure_micrographs([lambda image=image: -image for image in images], PIXEL_SIZE, shell, BASE, PIXEL_SIZE,
                                 known=[state(d, d, 0) for d in DEFOCI])
    assert result.measurement.contrast_sign == "bright"
    assert result.measurement.snr == pytest.approx(0.1, rel=0.25)


def test_the_number_of_threads_changes_no_bit(measured, shell):
    images, _, _ = measured
    results = []
    for threads in (1, 2):
        with torch_threads(threads):
            result = measure_micrographs([lambda image=image: image for image in images[:2]], PIXEL_SIZE, shell, BASE,
                                         PIXEL_SIZE, known=[state(d, d, 0) for d in DEFOCI[:2]])
            results.append(result.measurement)
    assert results[0] == results[1]


def test_the_files_hold_the_measurement(measured, tmp_path):
    _, _, result = measured
    write_measurement(tmp_path / "measurement.json", result.measurement)
    content = json.loads((tmp_path / "measurement.json").read_text())
    assert content["settings"]["snr"] == pytest.approx(result.measurement.snr, rel=1e-2)
    fits = [replace(fit, reliable=number != 1) for number, fit in enumerate(result.fits)]
    assert write_ctfs(tmp_path / "ctfs.star", ["a.mrc", "b.mrc", "c.mrc"], fits, PIXEL_SIZE) == 2
    _, rows = read_table(tmp_path / "ctfs.star", "micrographs", ("rlnDefocusU", "rlnDefocusAngle"))
    assert list(rows["rlnMicrographName"]) == ["a.mrc", "c.mrc"]


def test_the_figure_is_drawn(measured, shell, tmp_path):
    _, _, result = measured
    field, measurement = result.fields[0], result.measurement
    draw_measurement(
        tmp_path / "measurement.png", image=field.image.double().numpy(), pixel_size=field.pixel_size,
        diameter=diameter_angstrom(shell), peaks=result.particles.peaks[0].centres,
        rings=tuple(np.linspace(0, 1, 20) for _ in range(3)),
        defoci=[(one.defocus_angstrom, one.error_angstrom, one.reliable) for one in result.fits],
        scores=(result.particles.score_bins, result.particles.real_scores, result.particles.generated_scores),
        envelope=tuple(np.array(values) for values in (measurement.envelope_frequency, measurement.envelope,
                                                       measurement.envelope_error)),
        counts=np.array(result.particles.counts), count_errors=np.array(result.particles.count_errors), text="{}")
    assert (tmp_path / "measurement.png").stat().st_size > 10_000
