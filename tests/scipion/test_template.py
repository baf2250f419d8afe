# SPDX-License-Identifier: GPL-3.0-or-later
"""The workflow template: found, filled in and run as by Scipion's template dialog."""
import json
from pathlib import Path

import pytest

pytest.importorskip("pwem", reason="Scipion's packages are not installed")

from pyworkflow.object import Pointer

from cryogem_scipion.engine.settings import MEASURED
from cryogem_scipion.protocols.binding import parameter_name
from cryogem_scipion.workflow import open_project, rerun
from tests.scipion.measurable import write_measurable

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
    # Nothing about particles, defocus or noise: that is measured.
    assert set(fields) == {"mics", "pattern", "sampling", "voltage", "cs", "amplitude", "map", "mapsampling"}
    assert fields["sampling"].getTitle() == "Their pixel size (Å)"
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
        assert output.partition(".")[0] in names


def test_no_protocol_of_the_template_has_a_guessed_value(template, scipion):
    protocols = json.loads(Path(filled(template, mics=scipion / "real", map=scipion / "map.mrc")).read_text("utf-8"))
    by_class = {protocol["object.className"]: protocol for protocol in protocols}
    simulate = by_class["ProtCryogemSimulate"]
    assert simulate["inputMeasurement"].endswith(".outputMeasurement")
    assert not {parameter_name(name) for name in MEASURED} & set(simulate)
    assert by_class["TopazProtTraining"]["numPartPerImg"].endswith("outputMeasurement._particles")


@pytest.mark.slow
def test_the_template_runs_with_few_images(template, scipion, project, monkeypatch, tmp_path):
    """Measured values reach the dataset; only the amount of work is less than in the template."""
    monkeypatch.chdir(project.path)  # again the current folder after this test
    truth = write_measurable(tmp_path)
    path = filled(template, mics=tmp_path / "real", sampling=4.0, map=tmp_path / "map/phantom.mrc", mapsampling=4.0)
    here = open_project(scipion, "template")
    loaded = here.loadProtocols(path)
    protocols = {protocol.getClassName(): protocol for protocol in loaded.values()}
    protocols["ProtCryogemSimulate"].micrographs.set(2)
    protocols["ProtCryogemGenerate"].micrographs.set(2)
    train = protocols["ProtCryogemTrain"]
    for name, value in {"steps": 3, "crop": 64, "generatorWidth": 4, "discriminatorWidth": 4}.items():
        getattr(train, name).set(value)
    # A number in another protocol that is that of the measurement, as in the training of Topaz.
    number = Pointer(protocols["ProtCryogemMeasure"], extended="outputMeasurement._particles")
    for protocol in loaded.values():
        if not protocol.getClassName().startswith("Topaz"):
            rerun(here, protocol)
    dataset = protocols["ProtCryogemGenerate"]
    assert dataset.outputMicrographs.getSize() == 2
    assert dataset.outputMicrographs.getSamplingRate() == pytest.approx(5.0, rel=1e-3)
    assert dataset.manifest().particles / 2 == pytest.approx(truth.particles, rel=0.35)  # two micrographs by chance
    assert number.get().get() == pytest.approx(truth.particles, rel=0.2)
    assert train.outputModel.getSteps() == 3
