# SPDX-License-Identifier: GPL-3.0-or-later
"""The wizards: Scipion finds them, they set the form's fields to the chosen values, and name missing inputs."""
import numpy as np
import pytest

pytest.importorskip("pwem", reason="Scipion's packages are not installed")

from matplotlib.figure import Figure
from pwem.objects import Coordinate, Pointer, SetOfCoordinates

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.wizards import dialogs, previews, protocol_wizards
from cryogem_scipion.workflow import new_protocol
from tests.scipion.conftest import REAL_PIXEL_SIZE, REAL_SHAPE

WIZARDS = {"boxSize": "CryogemParticleWizard", "particleDistance": "CryogemParticleWizard",
         "maskThreshold": "CryogemMaskWizard", "pixelSize": "CryogemPixelSizeWizard",
         "particlesMean": "CryogemCountWizard", "particlesSigma": "CryogemCountWizard"}


class Form:
    """Stands for Scipion's form window, as far as a wizard uses it."""

    root = None

    def __init__(self, protocol):
        self.protocol, self.set = protocol, {}

    def setVar(self, name, value):
        self.set[name] = value
        self.protocol.setAttributeValue(name, value)


@pytest.fixture
def user(monkeypatch):
    """Stands for the user: answers the windows with ``moves`` of the sliders, draws every page, records all."""
    shown = {"moves": {}, "pages": [], "errors": []}

    def ask_values(parent, page):
        chosen = {slider.parameter: shown["moves"].get(slider.parameter, slider.value) for slider in page.sliders}
        figure = Figure(figsize=page.size, layout="constrained")
        page.draw(figure, *chosen.values())
        figure.canvas.draw()
        shown["pages"].append((page, figure))
        return chosen

    monkeypatch.setattr(dialogs, "ask_values", ask_values)
    monkeypatch.setattr(dialogs, "run_with_message", lambda parent, text, work: work())
    monkeypatch.setattr(dialogs, "show_error", lambda parent, title, text: shown["errors"].append(text))
    monkeypatch.setattr(dialogs, "choose_from_list", lambda parent, title, names, message: len(names) - 1)
    return shown


@pytest.fixture
def form(project, inputs):
    return Form(new_protocol(project, "ProtCryogemSimulate", inputVolume=inputs["volume"], pixelSize=8.0,
                             micrographSize="160 200"))


def press(project, form, parameter):
    """Open the wizard of a parameter, as the form window does."""
    project.getDomain().findWizards(form.protocol, "tkinter")[parameter]().show(form)


def test_scipion_finds_the_wizards(project, form):
    wizards = project.getDomain().findWizards(form.protocol, "tkinter")
    assert {name: kind.__name__ for name, kind in wizards.items() if name in WIZARDS} == WIZARDS
    assert set(project.getDomain().getWizards()) >= set(WIZARDS.values())


def test_the_engine_shows_what_the_simulation_will_take(form, simulation):
    """Diameter and box are those of the simulation of the same map at the same pixel size."""
    views = previews.particle_views(form.protocol)
    manifest = simulation.manifest()
    assert views.pixel_size == 8.0
    assert views.box_size == manifest.box_size
    assert views.diameter_angstrom == pytest.approx(manifest.particle_diameter_angstrom, abs=0.01)
    assert views.views.shape[0] == len(views.peaks) == 6
    masks = views.views > 0.1 * views.peaks[:, None, None]
    widths = 8.0 * np.sqrt(4 / np.pi * masks.sum((1, 2)))
    assert (0.4 * views.diameter_angstrom < widths).all()
    assert (widths < views.diameter_angstrom).all()


@pytest.fixture
def views(monkeypatch):
    """Views of a round particle of 100 Å, instead of a run of the engine."""
    y, x = np.mgrid[-16:16, -16:16]
    view = np.sqrt(np.maximum(0, 6.25**2 - x**2 - y**2)).astype(np.float32)
    views = previews.ParticleViews(np.stack([view] * 6), np.full(6, 6.25), 8.0, 100.0, 18)
    monkeypatch.setattr(protocol_wizards, "particle_views", lambda protocol: views)
    return views


@pytest.mark.usefixtures("views")
def test_box_and_distance_go_into_the_form_when_they_were_moved(project, form, user):
    user["moves"] = {"boxSize": 24}
    press(project, form, "particleDistance")
    assert form.set == {"boxSize": 24}  # the empty distance still means the diameter
    (page, figure), = user["pages"]
    assert {slider.parameter: slider.value for slider in page.sliders} == {"boxSize": 18, "particleDistance": 100}
    assert "box 24 px = 192 Å" in figure.get_suptitle()
    user["moves"] = {"particleDistance": 80}
    press(project, form, "boxSize")
    assert form.protocol.particleDistance.get() == 80
    assert form.protocol.boxSize.get() == 24


def test_the_mask_threshold_is_outlined_and_set(project, form, user, views):
    user["moves"] = {"maskThreshold": 0.6}
    press(project, form, "maskThreshold")
    assert form.protocol.maskThreshold.get() == 0.6
    (_, figure), = user["pages"]
    # A sphere's projection is above 0.6 of its peak inside 0.8 of its radius.
    outline = np.concatenate([path.vertices for path in figure.axes[0].collections[0].get_paths()])
    assert np.hypot(*(outline - 0.5).T) == pytest.approx(0.8 * 6.25, abs=0.2)


def test_the_working_pixel_size_is_seen_on_a_real_micrograph(project, form, user, inputs):
    press(project, form, "pixelSize")
    assert "there is no real micrograph to show" in user["errors"][0]
    form.protocol.inputMicrographs.set(inputs["real"][0])
    form.protocol.inputMicrographs.setExtended("outputMicrographs")
    user["moves"] = {"pixelSize": 10.0}
    press(project, form, "pixelSize")
    assert form.set == {"pixelSize": 10.0}
    (page, figure), = user["pages"]
    (slider,) = page.sliders
    assert slider.value == 8.0
    assert slider.choices[0] == REAL_PIXEL_SIZE
    assert "10 Å/px: the micrograph becomes 150 x 18" in figure.axes[0].get_title()
    image = figure.axes[0].images[0].get_array()
    assert image.shape == pytest.approx((REAL_SHAPE[0] / 2, REAL_SHAPE[1] / 2), abs=2)


def test_the_form_of_the_measurement_has_the_same_wizard(project, inputs, monkeypatch):
    protocol = new_protocol(project, "ProtCryogemMeasure", inputVolume=inputs["volume"])
    assert project.getDomain().findWizards(protocol, "tkinter")["pixelSize"].__name__ == "CryogemPixelSizeWizard"
    with pytest.raises(DataError, match="first choose real micrographs as 'Real micrographs'"):
        previews.micrograph_fields(protocol)
    asked = {}

    def run_preview(values):
        asked.update(values)
        raise DataError("enough")
    monkeypatch.setattr(previews, "_run_preview", run_preview)
    protocol.inputMicrographs.set(inputs["real"][0])
    protocol.inputMicrographs.setExtended("outputMicrographs")
    with pytest.raises(DataError, match="enough"):
        previews.micrograph_fields(protocol)
    assert asked["real"].endswith(".mrc")
    assert [name.endswith("map.mrc") for name in asked["volume"]] == [True]
    assert asked["volume_pixel_size"] == 6.0


def picked(path, micrographs, counts):
    """A SetOfCoordinates with ``counts`` coordinates on the micrographs."""
    coordinates = SetOfCoordinates(filename=str(path))
    coordinates.setMicrographs(Pointer(micrographs[0], extended=micrographs[1]))
    coordinates.setBoxSize(20)
    for micrograph, count in zip(micrographs[0].outputMicrographs.iterItems(), counts, strict=True):
        for position in range(count):
            coordinate = Coordinate()
            coordinate.setMicId(micrograph.getObjId())
            coordinate.setPosition(position, position)
            coordinates.append(coordinate)
    coordinates.write()
    return coordinates


def test_particle_numbers_are_scaled_to_the_simulated_area(inputs, tmp_path):
    coordinates = picked(tmp_path / "picked.sqlite", inputs["real"], (40, 0, 60))
    ratio = 160 * 200 * 8.0**2 / (REAL_SHAPE[0] * REAL_SHAPE[1] * REAL_PIXEL_SIZE**2)
    numbers = previews.particle_numbers(coordinates, (160, 200), 8.0)
    assert sorted(numbers.per_micrograph) == [40, 60]  # a micrograph without picks was not picked
    assert numbers.area_ratio == pytest.approx(ratio)
    assert numbers.mean == pytest.approx(50 * ratio)
    # Variance 200: 50 for independent positions, and 150 for differences between micrographs.
    variance = 50 * ratio + 150 * ratio**2
    cut = np.random.default_rng(1).normal(size=400_000)
    assert numbers.deviation * cut[abs(cut) < 2].std() == pytest.approx(variance**0.5, rel=0.01)
    with pytest.raises(DataError, match="is empty"):
        previews.particle_numbers(picked(tmp_path / "none.sqlite", inputs["real"], (0, 0, 0)), (160, 200), 8.0)


def test_particles_per_micrograph_are_counted_in_picked_coordinates(project, form, user, inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(protocol_wizards, "picked_sets", lambda protocol: [])  # without other tests' picks
    press(project, form, "particlesMean")
    assert "no picked coordinates" in user["errors"][0]
    coordinates = picked(tmp_path / "picked.sqlite", inputs["real"], (40, 45, 60))
    monkeypatch.setattr(protocol_wizards, "picked_sets", lambda protocol: [("manual picking", coordinates)])
    press(project, form, "particlesSigma")
    expected = previews.particle_numbers(coordinates, (160, 200), 8.0)
    assert form.set == {"particlesMean": round(expected.mean, 1), "particlesSigma": round(expected.deviation, 1)}
    assert len(user["pages"]) == 1


def test_a_wizard_names_the_missing_input(project, form, user):
    form.protocol.inputVolume.set(None)
    for name in ("boxSize", "maskThreshold"):
        press(project, form, name)
    assert all("there is no particle to show; first choose a map or an atomic model" in text for text in user["errors"])
    assert form.set == {}
    assert user["pages"] == []
