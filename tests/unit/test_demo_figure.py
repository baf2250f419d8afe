# SPDX-License-Identifier: GPL-3.0-or-later
"""Figure of the demo, and the power spectra in it."""
import numpy as np
import pytest
from matplotlib.image import imread

from cryogem_scipion.demo_figure import CURVES, TILE, TITLES, draw_figure, mean_power
from cryogem_scipion.engine.figures.report_files import read_report, write_report
from cryogem_scipion.engine.settings import GenerateSettings
from cryogem_scipion.engine.stages import generate
from tests.measured_folder import write_measurement


def assert_panels(path):
    """Check that each field shows an image, that only the last has coloured marks, and that each plot has curves."""
    picture = imread(path)[..., :3]
    fields = np.array_split(picture[TITLES + 5:-CURVES - 5], 4, axis=1)
    assert all(field.std() > 0.02 for field in fields)
    coloured = [np.ptp(field, axis=2).max() > 0.3 for field in fields]
    assert coloured == [False, False, False, True]
    for plot in np.array_split(picture[-CURVES + 60:-100], 3, axis=1):
        # A coloured curve through most of a plot of 400 px; the line in the legend has about 60 px.
        assert (np.ptp(plot, axis=2) > 0.3).any(0).sum() > 200


def test_the_figure_shows_real_and_generated_micrographs_and_the_measurement(world, tmp_path):
    generate.run(GenerateSettings(simulation=world / "sim", out=tmp_path / "gen", noise="spectrum", micrographs=2,
                                  real=(f"{world}/real/*.mrc",), keep=("optical",)))
    real = [world / f"real/mic {number}.mrc" for number in range(2)]
    write_measurement(tmp_path / "measured", real, world / "map/phantom.mrc")
    report, arrays = read_report(tmp_path / "measured", "measurement")
    frequency = np.linspace(0, 0.2, 100)
    arrays |= {"ring_frequency": frequency, "ring_measured": np.sin(300 * frequency**2),
               "ring_fitted": np.sin(290 * frequency**2)}
    write_report(tmp_path / "measured", "measurement", report, arrays)
    assert_panels(draw_figure(real, tmp_path / "gen", tmp_path / "measured", tmp_path / "figure.png"))


@pytest.mark.parametrize("shape", [(256, 300), (128, 129), (90, 200)])
def test_the_power_of_white_noise_is_its_variance(shape):
    random = np.random.default_rng(2)
    images = [random.normal(5, 3, shape).astype(np.float32) for _ in range(6)]
    power = mean_power(images)
    # About 6000 coefficients of each of six tiles, of which the window leaves a third independent: 1 %.
    assert power[16:].mean() == pytest.approx(9, rel=0.04)
    assert len(power) == TILE // 2 + 1


def test_a_wave_gives_a_peak_at_its_frequency_with_its_power():
    wave = np.sin(2 * np.pi * 20 / TILE * np.arange(512))[None] * np.ones((512, 1))
    power = mean_power([(100 + wave).astype(np.float32)])
    assert power.argmax() == 20
    assert power[:15].max() < 1e-6 * power.max()
