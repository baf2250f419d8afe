# SPDX-License-Identifier: GPL-3.0-or-later
"""The benchmark of the power inside particles finds what was planted, at each frequency."""
import numpy as np
import pytest
from scipy import ndimage

from cryogem_scipion.engine.io.mrc import write_mrc
from tests.benchmark_modules import benchmark

PIXEL_SIZE, DIAMETER = 3.0, 120.0


@pytest.mark.slow
def test_stronger_noise_inside_particles_is_found_in_its_band(tmp_path):
    """Half of the particles' places have additional noise between 20 and 12 Å: its power is half that of the noise."""
    power, random = benchmark("particle_power"), np.random.default_rng(3)
    shape = (512, 480)
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])) / PIXEL_SIZE
    band = (frequency >= 1 / 20) & (frequency < 1 / 12)
    fits = []
    for number in range(6):
        cells = random.permutation(30)[:15]
        centres = [(40 + 80 * x + random.uniform(-15, 15), 45 + 85 * y + random.uniform(-15, 15))
                   for y, x in zip(*np.divmod(cells, 6), strict=True)]
        points = np.zeros(shape)
        for x, y in centres:
            points[round(y), round(x)] = 1
        inside = ndimage.distance_transform_edt(1 - points) <= DIAMETER / 2 / PIXEL_SIZE
        extra = np.fft.irfft2(np.fft.rfft2(random.normal(size=shape)) * np.sqrt(0.5) * band, shape)
        image, path = random.normal(size=shape) + inside * extra, tmp_path / f"{number}.mrc"
        write_mrc(path, image.astype(np.float32), PIXEL_SIZE)
        fits.append(power.fitted_power(path, centres, DIAMETER))
    cells = [cell.split(" ± ") for cell in power.summary(fits)]
    found, errors = np.array(cells, float).T
    planted = np.array([0, 0, 0, 0.5, 0.5, 0, 0])  # but for what the edges of the particles move to other bands
    assert found == pytest.approx(planted, abs=0.12)
    assert np.all(np.abs(found - planted) < 4 * errors + 0.03)
