# SPDX-License-Identifier: GPL-3.0-or-later
"""Screenshots of Scipion's windows for the tour, taken of a small demo on a virtual display."""
import json
import os
import re
import shutil
import subprocess
import sys

import pytest

pytest.importorskip("pwem", reason="Scipion's packages are not installed")

from tests.registration import CHECKOUT

pytestmark = [pytest.mark.slow, pytest.mark.optional]

# A UTF-8 letter that was read as Latin-1 begins with one of the first two.
MISREAD = ("Ã", "Â", "\ufffd", "\\xc")


@pytest.fixture(scope="module")
def tour(request, tmp_path_factory):
    """Folder of the screenshots, and the texts of each window's widgets."""
    missing = [name for name in ("Xvfb", "import") if not shutil.which(name)]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed (Debian: xvfb, imagemagick)")
    demo, _ = request.getfixturevalue("demo")
    out = tmp_path_factory.mktemp("tour")
    done = subprocess.run([sys.executable, str(CHECKOUT / "docs/tour.py"), "--demo", str(demo), "--out", str(out)],
                          cwd=out, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          env={**os.environ, "LC_ALL": "C.UTF-8"})
    assert done.returncode == 0, done.stdout[-4000:]
    return out, json.loads((out / "labels.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def protocols(project):
    return {name: kind for name, kind in project.getDomain().getProtocols().items() if name.startswith("ProtCryogem")}


def short(name):
    return name.removeprefix("ProtCryogem").lower()


def test_every_window_has_a_picture_that_shows_something(tour):
    from PIL import Image
    folder, labels = tour
    assert {path.stem for path in folder.glob("*.png")} == set(labels)
    for name in labels:
        with Image.open(folder / f"{name}.png") as picture:
            assert min(picture.size) > 150, name
            assert len(picture.getcolors()) > 20, name
        assert (folder / f"{name}.png").stat().st_size < 600_000, name


def test_no_text_is_misread(tour):
    texts = [text for found in tour[1].values() for text in found]
    assert not [text for text in texts if any(sign in text for sign in MISREAD)]
    assert any("Å/px" in text for text in tour[1]["project"])
    assert any("µm" in text for text in tour[1]["generate_micrographs"])


def test_the_tree_has_our_section_and_the_graph_our_protocols(tour, protocols):
    texts = tour[1]["project"]
    assert "CryoGEM" in texts
    for kind in protocols.values():
        assert any(kind._label in text for text in texts), kind
    assert any(text.strip("* ").startswith("generate dataset\nfinished") for text in texts)


def test_every_protocol_shows_its_form(tour, protocols, project):
    for name, kind in protocols.items():
        texts = tour[1][f"form_{short(name)}"]
        assert any(text.strip().endswith(kind._label) for text in texts), name
        sections = [section for section in project.newProtocol(kind)._definition.iterSections()
                    if section.getLabel() not in ("General", "Parallelization")]
        assert all(section.getLabel() in texts for section in sections if not section.isExpert()), name
        shown = [param.getLabel() for _, param in sections[0].iterParams()
                 if not param.isExpert() and not param.hasCondition()]
        assert shown, name
        assert set(shown) <= set(texts), name


def test_wizards_open_their_windows(tour):
    pytest.importorskip("cryogem_scipion.wizards")
    for name, label in (("simulate_1", "Working pixel size (Å)"), ("simulate_2", "Box size (px)"),
                        ("trainposes_1", "Diameter (Å)")):
        texts = tour[1][f"wizard_{name}"]
        assert {label, "Select", "Cancel"} <= {text.strip() for text in texts}


def test_every_button_of_the_viewers_opened_its_figure(tour, protocols, project):
    buttons = 0
    for name in ("ProtCryogemMeasure", "ProtCryogemSimulate", "ProtCryogemTrain", "ProtCryogemGenerate",
                 "ProtCryogemEvaluatePicks", "ProtCryogemEvaluatePoses", "ProtCryogemTrainPoses",
                 "ProtCryogemAssignPoses"):
        viewer = project.getDomain().findViewers(project.newProtocol(protocols[name]), "tkinter")[0]
        window = viewer(project=project)
        window.setProtocol(project.newProtocol(protocols[name]))
        for button in window._getVisualizeDict():
            label = window.getParam(button).getLabel()
            assert label in tour[1][f"viewer_{short(name)}"]
            texts = tour[1][f"{short(name)}_{button.removeprefix('display').lower()}"]
            assert "Save" in texts  # of the toolbar
            buttons += 1
    assert buttons >= 16
    assert {"evaluate", "export"} <= set(tour[1])  # viewers of one figure
    assert any(text.startswith("mic_000000.mrc: ") for text in tour[1]["generate_micrographs"])
    assert "|CTF|² of the label" in tour[1]["simulate_spectra"]
    assert "step 2 of 2" in tour[1]["train_losses"]


def test_a_training_is_followed_stopped_and_continued_in_the_window(tour):
    def step(name, words):
        [step_text] = [match for text in tour[1][name] if (match := re.search(words, text))]
        return int(step_text[1])

    assert any(text.startswith("The number of real micrographs is only 4.") for text in tour[1]["warning"])
    first = step("running", r"Running: training step (\d+) of 50000, .* left\.")
    followed = step("running_losses", r"^step (\d+) of 50000, .* steps a second")
    stopped = step("stopped", r"Stopped at training step (\d+) of 50000; Continue goes on from there\.")
    assert 0 < first <= stopped
    assert 1 < followed < 50000
    assert step("continued", r"Running: training step (\d+) of 50000") >= stopped - 5  # from the last checkpoint
