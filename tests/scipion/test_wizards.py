# SPDX-License-Identifier: GPL-3.0-or-later
"""The wands: Scipion finds them, they fill the form with what was chosen, and say what they lack."""
import numpy as np
import pytest

pytest.importorskip("pwem", reason="Scipion's packages are not installed")

from matplotlib.figure import Figure
from pwem.objects import Coordinate, Pointer, SetOfCoordinates

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.wizards import previews, windows
from cryogem_scipion.wizards import protocol_wizards as wands
from cryogem_scipion.workflow import filled
from tests.scipion.conftest import REAL_PIXEL_SIZE, REAL_SHAPE

WANDS = {"boxSize": "CryogemParticleWizard", "particleDistance": "CryogemParticleWizard",
         "maskThreshold": "CryogemMaskWizard", "pixelSize": "CryogemPixelSizeWizard",
         "particlesMean": "CryogemCountWizard", "particlesSigma": "CryogemCountWizard"}


class Form:
    """What Scipion's form window is to a wizard."""

    root = None

    def __init__(self, protocol):
        self.protocol, self.set = protocol, {}

    def setVar(self, name, value):
        self.set[name] = value
        self.protocol.setAttributeValue(name, value)


@pytest.fixture
def desk(monkeypatch):
    """The windows' answers: what the user moves the sliders to; every page is drawn. Returns what was shown."""
    shown = {"moves": {}, "pages": [], "complaints": []}

    def ask(parent, page):
        chosen = {slider.parameter: shown["moves"].get(slider.parameter, slider.value) for slider in page.sliders}
        figure = Figure(figsize=page.size, layout="constrained")
        page.draw(figure, *chosen.values())
        figure.canvas.draw()
        shown["pages"].append((page, figure))
        return chosen

    monkeypatch.setattr(windows, "ask", ask)
    monkeypatch.setattr(windows, "busy", lambda parent, text, work: work())
    monkeypatch.setattr(windows, "complain", lambda parent, title, text: shown["complaints"].append(text))
    monkeypatch.setattr(windows, "choose", lambda parent, title, names, message: len(names) - 1)
    return shown


@pytest.fixture
def form(project, inputs):
    return Form(filled(project, "ProtCryogemSimulate", inputVolume=inputs["volume"], pixelSize=8.0,
                       micrographSize="160 200"))


def press(project, form, parameter):
    """As the window does it."""
    project.getDomain().findWizards(form.protocol, "tkinter")[parameter]().show(form)


def test_scipion_finds_the_wands(project, form):
    found = project.getDomain().findWizards(form.protocol, "tkinter")
    assert {name: kind.__name__ for name, kind in found.items() if name in WANDS} == WANDS
    assert set(project.getDomain().getWizards()) >= set(WANDS.values())


def test_the_engine_shows_what_the_simulation_will_take(form, simulation):
    """Diameter and box are those of the simulation of the same map at the same pixel size."""
    found = previews.particle(form.protocol)
    manifest = simulation.manifest()
    assert found.pixel_size == 8.0
    assert found.box_size == manifest.box_size
    assert found.diameter_angstrom == pytest.approx(manifest.particle_diameter_angstrom, abs=0.01)
    assert found.views.shape[0] == len(found.peaks) == 6
    masks = found.views > 0.1 * found.peaks[:, None, None]
    widths = 8.0 * np.sqrt(4 / np.pi * masks.sum((1, 2)))
    assert (0.4 * found.diameter_angstrom < widths).all()
    assert (widths < found.diameter_angstrom).all()


@pytest.fixture
def seen(monkeypatch):
    """A round particle of 100 Å, in place of the engine's run."""
    y, x = np.mgrid[-16:16, -16:16]
    view = np.sqrt(np.maximum(0, 6.25**2 - x**2 - y**2)).astype(np.float32)
    made = previews.Particle(np.stack([view] * 6), np.full(6, 6.25), 8.0, 100.0, 18)
    monkeypatch.setattr(wands, "particle", lambda protocol: made)
    return made


@pytest.mark.usefixtures("seen")
def test_box_and_distance_go_into_the_form_when_they_were_moved(project, form, desk):
    desk["moves"] = {"boxSize": 24}
    press(project, form, "particleDistance")
    assert form.set == {"boxSize": 24}  # the empty distance goes on meaning the diameter
    (page, figure), = desk["pages"]
    assert {slider.parameter: slider.value for slider in page.sliders} == {"boxSize": 18, "particleDistance": 100}
    assert "box 24 px = 192 Å" in figure.get_suptitle()
    desk["moves"] = {"particleDistance": 80}
    press(project, form, "boxSize")
    assert form.protocol.particleDistance.get() == 80
    assert form.protocol.boxSize.get() == 24


def test_the_mask_threshold_is_outlined_and_set(project, form, desk, seen):
    desk["moves"] = {"maskThreshold": 0.6}
    press(project, form, "maskThreshold")
    assert form.protocol.maskThreshold.get() == 0.6
    (_, figure), = desk["pages"]
    # A sphere's projection is above 0.6 of its peak inside 0.8 of its radius.
    outline = np.concatenate([path.vertices for path in figure.axes[0].collections[0].get_paths()])
    assert np.hypot(*(outline - 0.5).T) == pytest.approx(0.8 * 6.25, abs=0.2)


def test_the_working_pixel_size_is_seen_on_a_real_micrograph(project, form, desk, inputs):
    press(project, form, "pixelSize")
    assert "no real micrograph to look at" in desk["complaints"][0]
    form.protocol.inputMicrographs.set(inputs["real"][0])
    form.protocol.inputMicrographs.setExtended("outputMicrographs")
    desk["moves"] = {"pixelSize": 10.0}
    press(project, form, "pixelSize")
    assert form.set == {"pixelSize": 10.0}
    (page, figure), = desk["pages"]
    (slider,) = page.sliders
    assert slider.value == 8.0
    assert slider.choices[0] == REAL_PIXEL_SIZE
    assert "10 Å/px: the micrograph becomes 150 x 18" in figure.axes[0].get_title()
    image = figure.axes[0].images[0].get_array()
    assert image.shape == pytest.approx((REAL_SHAPE[0] / 2, REAL_SHAPE[1] / 2), abs=2)


def picked(path, micrographs, numbers):
    """Coordinates on micrographs, so many on each."""
    coordinates = SetOfCoordinates(filename=str(path))
    coordinates.setMicrographs(Pointer(micrographs[0], extended=micrographs[1]))
    coordinates.setBoxSize(20)
    for micrograph, number in zip(micrographs[0].outputMicrographs.iterItems(), numbers, strict=True):
        for place in range(number):
            coordinate = Coordinate()
            coordinate.setMicId(micrograph.getObjId())
            coordinate.setPosition(place, place)
            coordinates.append(coordinate)
    coordinates.write()
    return coordinates


def test_counts_are_brought_to_the_simulated_field(inputs, tmp_path):
    coordinates = picked(tmp_path / "picked.sqlite", inputs["real"], (40, 0, 60))
    ratio = 160 * 200 * 8.0**2 / (REAL_SHAPE[0] * REAL_SHAPE[1] * REAL_PIXEL_SIZE**2)
    found = previews.counts(coordinates, (160, 200), 8.0)
    assert sorted(found.found) == [40, 60]  # a micrograph without picks was not picked
    assert found.area_ratio == pytest.approx(ratio)
    assert found.mean == pytest.approx(50 * ratio)
    # Variance 200: 50 as of independent places, and 150 because micrographs differ.
    variance = 50 * ratio + 150 * ratio**2
    cut = np.random.default_rng(1).normal(size=400_000)
    assert found.deviation * cut[abs(cut) < 2].std() == pytest.approx(variance**0.5, rel=0.01)
    with pytest.raises(DataError, match="is empty"):
        previews.counts(picked(tmp_path / "none.sqlite", inputs["real"], (0, 0, 0)), (160, 200), 8.0)


def test_particles_per_micrograph_are_counted_in_picked_coordinates(project, form, desk, inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(wands, "picked_sets", lambda protocol: [])  # other tests' picks may be in the project
    press(project, form, "particlesMean")
    assert "no picked coordinates" in desk["complaints"][0]
    coordinates = picked(tmp_path / "picked.sqlite", inputs["real"], (40, 45, 60))
    monkeypatch.setattr(wands, "picked_sets", lambda protocol: [("manual picking", coordinates)])
    press(project, form, "particlesSigma")
    expected = previews.counts(coordinates, (160, 200), 8.0)
    assert form.set == {"particlesMean": round(expected.mean, 1), "particlesSigma": round(expected.deviation, 1)}
    assert len(desk["pages"]) == 1


def test_a_wand_says_what_it_lacks(project, form, desk):
    form.protocol.inputVolume.set(None)
    for name in ("boxSize", "maskThreshold"):
        press(project, form, name)
    assert all("choose a map or an atomic model first" in text for text in desk["complaints"])
    assert form.set == {}
    assert desk["pages"] == []
