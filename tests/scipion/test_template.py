# SPDX-License-Identifier: GPL-3.0-or-later
"""The workflow template: found, filled in and run as by Scipion's template dialog."""
import json
import os
from pathlib import Path

import pytest

pytest.importorskip("pwem", reason="Scipion's packages are not installed")

from cryogem_scipion.demo import REAL_MICROGRAPH, REAL_PIXEL_SIZE
from cryogem_scipion.workflow import open_project, rerun

NAME = "cryogem_scipion-labelled_micrographs"


@pytest.fixture
def template(scipion, project):
    """The template, selected by its name among the templates of all plugins."""
    from pyworkflow.template import TemplateList
    templates = TemplateList()
    templates.addPluginTemplates(NAME)
    [template] = templates.templates
    # The dialog and `scipion3 template` prepare it in the same way.
    template.replaceEnvVariables()
    template.parseContent()
    return template


def filled(template, **values):
    """The workflow's JSON file with the values of the dialog, as in `scipion3 template NAME mics=… map=…`."""
    for alias, value in values.items():
        assert template.setParamValue(alias, str(value)) == 1
    assert all(field.validate() is None for field in template.getParams().values())
    return template.createTemplateFile()


def test_the_dialog_shows_labels_defaults_and_a_description(template):
    fields = {field.getAlias(): field for field in template.getParams().values()}
    assert len(fields) == sum(1 for part in template.content if part.count("|") == 3)  # no title twice
    assert {"mics", "map", "sampling", "pixel", "steps", "generated"} <= set(fields)
    assert fields["pixel"].getTitle() == "Working pixel size (Å)"
    # Only the files have to be chosen; all other fields have valid defaults.
    assert {name for name, field in fields.items() if field.validate()} == {"mics", "map"}
    assert "real micrographs" in template.description
    assert "[" not in template.description


def test_every_parameter_of_the_template_exists(template, scipion, project):
    """Scipion ignores unknown names, so it would not report a typing error."""
    protocols = json.loads(Path(filled(template, mics=scipion / "real", map=scipion / "map.mrc")).read_text("utf-8"))
    known = project.getDomain().getProtocols()
    for protocol in protocols:
        if protocol["object.className"] not in known:
            assert protocol["object.className"].startswith("Topaz")  # another plugin's
            continue
        kind = known[protocol["object.className"]]
        names = {name for name, _ in project.newProtocol(kind).iterDefinitionAttributes()}
        assert {name for name in protocol if not name.startswith("object.")} <= names
    ids = {protocol["object.id"]: protocol["object.className"] for protocol in protocols}
    pointers = [value.partition(".") for protocol in protocols for value in protocol.values()
                if isinstance(value, str) and value[:2] in {f"{number}." for number in ids}]
    assert len(pointers) >= 8
    for number, _, output in pointers:
        outputs = known[ids[number]]._possibleOutputs
        names = outputs if isinstance(outputs, dict) else outputs.__members__
        assert output in names


@pytest.mark.slow
def test_the_template_runs_at_demo_size(template, scipion, project, monkeypatch):
    monkeypatch.chdir(project.path)  # again the current folder after this test
    folder = scipion / "mics"
    folder.mkdir()
    os.symlink(REAL_MICROGRAPH, folder / "real.mrc")
    path = filled(template, mics=folder, sampling=REAL_PIXEL_SIZE, map=scipion / "map.mrc", mapsampling=6.0,
                  pixel=2 * REAL_PIXEL_SIZE, simulated=2, particles=30, defocusmin=7000, steps=3, generated=2)
    here = open_project(scipion, "template")
    loaded = here.loadProtocols(path)
    protocols = {protocol.getClassName(): protocol for protocol in loaded.values()}
    for protocol in loaded.values():
        if not protocol.getClassName().startswith("Topaz"):
            rerun(here, protocol)
    dataset = protocols["ProtCryogemGenerate"]
    assert dataset.outputMicrographs.getSize() == 2
    assert dataset.outputMicrographs.getSamplingRate() == pytest.approx(2 * REAL_PIXEL_SIZE, rel=1e-3)
    assert dataset.outputParticles.getSize() == dataset.outputCoordinates.getSize() > 20
    assert protocols["ProtCryogemTrain"].outputModel.getSteps() == 3
