# SPDX-License-Identifier: GPL-3.0-or-later
"""``cryogem preview``: the wizards of the forms show what the simulation will use."""
import numpy as np
import pytest
import torch
from PIL import Image

from cryogem_scipion.engine.errors import DataError, SettingsError
from cryogem_scipion.engine.io.dataset import read_manifest
from cryogem_scipion.engine.io.mrc import write_mrc
from cryogem_scipion.engine.settings import PhantomSettings, PreviewSettings, SimulateSettings, parse
from cryogem_scipion.engine.simulation.composition import projection_masks
from cryogem_scipion.engine.simulation.microscope import prepare_microscope
from cryogem_scipion.engine.stages import phantom, preview


@pytest.fixture(scope="module")
def map_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("map")
    phantom.run(PhantomSettings(out=folder, box=32, pixel_size=5.0, diameter_angstrom=110))
    return folder / "phantom.mrc"


def shown(out, **values):
    preview.run(parse(PreviewSettings, {"out": out, **values}))
    with np.load(out / "preview.npz") as arrays:
        return dict(arrays)


def test_the_preview_shows_views_box_and_diameter_of_the_simulation(map_file, tmp_path):
    arrays = shown(tmp_path / "p", volume=[map_file], pixel_size=6.0, views=5)
    scope = prepare_microscope(SimulateSettings(out=tmp_path, volume=(map_file,), pixel_size=6.0))
    manifest = read_manifest(tmp_path / "p")
    assert (manifest.box_size, manifest.pixel_size) == (scope.box_size, 6.0)
    assert manifest.particle_diameter_angstrom == scope.diameter_angstrom
    views, peaks = arrays["views"], arrays["peaks"]
    assert views.shape[0] == len(peaks) == 5
    # Random views differ. A threshold relative to the peaks gives the mask of the simulation.
    assert np.abs(views[0] - views[1]).max() > 0.1 * views.max()
    for threshold in (0.05, 0.3):
        assert np.array_equal(views > (threshold * peaks[:, None, None]).astype(np.float32),
                              projection_masks(torch.from_numpy(views), threshold).numpy())
    with Image.open(tmp_path / "p/preview.png") as picture:
        assert picture.size == (5 * 160, 160)


def test_the_preview_shows_a_real_micrograph_at_every_allowed_pixel_size(tmp_path):
    y, x = np.mgrid[:300, :420]
    wave = 100 + np.sin(2 * np.pi * x / 60)  # 60 px of 2 Å: 120 Å
    write_mrc(tmp_path / "real.mrc", wave.astype(np.float32) + 0 * y, 2.0)
    arrays = shown(tmp_path / "p", real=tmp_path / "real.mrc", pixel_sizes=[1.0, 2.0, 4.0, 10.0], field_angstrom=480)
    assert arrays["pixel_sizes"].tolist() == [2.0, 4.0, 10.0]
    assert arrays["shapes"].tolist() == [[300, 420], [150, 210], [60, 84]]
    for index, size in enumerate((2, 4, 10)):
        image = arrays[f"field_{index}"]
        assert image.shape == (480 / size, 480 / size)
        spectrum = np.abs(np.fft.rfft(image[0] - image[0].mean()))
        assert spectrum.argmax() == 4  # 480 Å / 120 Å


@pytest.mark.parametrize(("values", "error", "message"), [
    ({}, SettingsError, "nothing to show; give volume or real"),
    ({"real": "none.mrc"}, DataError, r"none\.mrc is not a file"),
    ({"real": "none.mrc", "pixel_sizes": [0.0]}, SettingsError, "out of range; give numbers above 0"),
    ({"volume": ["none.mrc"]}, DataError, r"none\.mrc is not a file"),
])
def test_unusable_input_is_refused_and_nothing_is_written(values, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        shown(tmp_path / "p", **values)
    assert list(tmp_path.iterdir()) == []
