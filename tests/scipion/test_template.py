# SPDX-License-Identifier: GPL-3.0-or-later
"""The workflow templates: found, filled in and run as by Scipion's template dialog."""
import ast
import json
from pathlib import Path

import pytest

pytest.importorskip("pwem", reason="Scipion's packages are not installed")

from pyworkflow.object import Pointer

from cryogem_scipion.engine.settings import MEASURED
from cryogem_scipion.protocols.binding import parameter_name
from cryogem_scipion.workflow import open_project, rerun
from tests.scipion.measurable import write_measurable

LABELLED, TO_MAP = "labelled_micrographs", "micrographs_to_map"


@pytest.fixture
def template(scipion, project):
    """The template of labelled micrographs."""
    return selected(LABELLED)


@pytest.fixture
def map_template(scipion, project):
    """The template from micrographs to a map."""
    return selected(TO_MAP)


def selected(name):
    """A template, selected by its name among the templates of all plugins."""
    from pyworkflow.template import TemplateList
    templates = TemplateList()
    templates.addPluginTemplates(f"cryogem_scipion-{name}")
    [template] = templates.templates
    # The dialog and `scipion3 template` prepare it in the same way.
    template.replaceEnvVariables()
    template.parseContent()
    return template


def filled(template, **values):
    """The workflow's JSON file with the values of the dialog, as in `scipion3 template NAME mics=… map=…`."""
    for alias, value in values.items():
        assert template.setParamValue(alias, str(value)) == (2 if alias == "symmetry" else 1)
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


def test_the_map_template_shows_what_it_asks_for(map_template):
    fields = list(map_template.getParams().values())
    assert len(fields) == sum(1 for part in map_template.content if part.count("|") == 3)  # no title twice
    assert {field.getAlias() for field in fields} == {"mics", "pattern", "sampling", "voltage", "cs", "amplitude",
                                                      "map", "mapsampling", "symmetry", "gpu"}
    assert {field.getAlias() for field in fields if field.validate()} == {"mics", "map"}
    assert "refined map" in map_template.description


def loaded_map_template(template, scipion, project):
    """The protocols of the template from micrographs to a map, by class."""
    path = filled(template, mics=scipion / "real", map=scipion / "map.mrc", sampling=1.5, symmetry="O")
    return {protocol.getClassName(): protocol for protocol in project.loadProtocols(path).values()}


def test_all_connections_of_the_map_template_resolve(map_template, scipion, project):
    """Scipion ignores unknown parameters, protocols and outputs, so it would not report a typing error."""
    path = filled(map_template, mics=scipion / "real", map=scipion / "map.mrc")
    protocols = json.loads(Path(path).read_text("utf-8"))
    loaded = loaded_map_template(selected(TO_MAP), scipion, project)
    by_id = {description["object.id"]: description["object.className"] for description in protocols}
    connected = {}
    for description in protocols:
        kind = description["object.className"]
        if kind not in loaded:
            assert kind.startswith(("Topaz", "ProtRelion"))  # a plugin that is not installed
            continue
        protocol = loaded[kind]
        names = {name for name, _ in protocol.iterDefinitionAttributes()}
        assert {name for name in description if not name.startswith("object.")} <= names, kind
        for name, value in description.items():
            source, _, path = str(value).partition(".")
            if name.startswith("object.") or by_id.get(source) not in loaded:
                continue
            attribute = getattr(protocol, name)
            pointer = attribute if attribute.isPointer() else attribute.getPointer()
            assert pointer.getObjValue() is loaded[by_id[source]], (kind, name)
            assert pointer.getExtended() == path
            outputs = loaded[by_id[source]]._possibleOutputs or {}
            outputs = outputs if isinstance(outputs, dict) else {one.name: one.value for one in outputs}
            output, _, inner = path.partition(".")
            if by_id[source] == "ProtSetFilter":  # names its output as that of its input
                assert output == "outputParticles"
            elif by_id[source] != "TopazProtTraining":  # names the outputs of another protocol
                assert output in outputs, (kind, name)
            if inner:
                assert hasattr(outputs[output](), inner), (kind, name)
            connected.setdefault(kind, set()).add(by_id[source])
    for kind in set(loaded) - {"ProtImportMicrographs", "ProtImportVolumes"}:
        assert connected.get(kind), f"{kind} has no input"
    assert loaded["ProtCryogemSimulate"].symmetry.get() == "O"
    if "ProtRelionRefine3D" in loaded:
        assert loaded["ProtRelionRefine3D"].symmetryGroup.get() == "O"
        assert connected["ProtRelionRefine3D"] == {"ProtSetFilter", "ProtImportVolumes"}


def test_the_script_of_the_chain_runs_the_protocols_of_the_template(map_template, scipion):
    """``workflow`` of benchmarks/chain.py, which the page on the chain shows; the issue asks for at most 40 lines."""
    path = Path(__file__).resolve().parents[2] / "benchmarks/chain.py"
    [function] = [node for node in ast.parse(path.read_text("utf-8")).body
                  if isinstance(node, ast.FunctionDef) and node.name == "workflow"]
    assert function.end_lineno - function.lineno < 40
    calls = [node for node in ast.walk(function)
             if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "run"]
    script = {call.args[0].value: {word.arg for word in call.keywords} for call in calls}
    path = filled(map_template, mics=scipion / "real", map=scipion / "map.mrc")
    protocols = json.loads(Path(path).read_text("utf-8"))
    template = {description["object.className"]: set(description) for description in protocols}
    assert list(script) == list(template)
    inputs = {kind: {name for name in names if name.startswith(("input", "prev", "ctfR", "reference"))}
              for kind, names in template.items()}
    assert all(names <= script[kind] for kind, names in inputs.items())


def test_without_other_plugins_the_map_template_has_our_protocols_only(map_template, scipion, project, monkeypatch):
    """A missing input stays empty; it is not connected to another protocol of the project by chance."""
    domain = project.getDomain()
    ours = {name: kind for name, kind in domain.getProtocols().items() if not name.startswith(("Topaz", "ProtRelion"))}
    monkeypatch.setattr(type(domain) if not isinstance(domain, type) else domain, "getProtocols", lambda: ours)
    loaded = loaded_map_template(map_template, scipion, project)
    assert len(loaded) == 10
    assert loaded["ProtCryogemReturnCoordinates"].inputCoordinates.get() is None
    assert loaded["ProtCryogemAssignPoses"].inputParticles.get() is None
    assert loaded["ProtCryogemAssignPoses"].inputModel.getObjValue() is loaded["ProtCryogemTrainPoses"]


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
