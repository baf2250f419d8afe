# SPDX-License-Identifier: GPL-3.0-or-later
"""From forms to settings, to JSON and back, for all protocols; labels, conditions and commands of the forms."""
import json
import re
import shlex
import types
import typing
from pathlib import Path

import pytest

pytest.importorskip("pwem", reason="the forms need Scipion's packages")

from hypothesis import given
from hypothesis import strategies as st
from pwem.protocols import EMProtocol
from pydantic import TypeAdapter
from pyworkflow.protocol.params import ElementGroup

from cryogem_scipion.engine.settings import STAGES, GenerateSettings, SimulateSettings, parse
from cryogem_scipion.plugin import Plugin
from cryogem_scipion.protocols import (
    ProtCryogemAssignPoses,
    ProtCryogemEvaluate,
    ProtCryogemExport,
    ProtCryogemGenerate,
    ProtCryogemImportModel,
    ProtCryogemSimulate,
    ProtCryogemTrain,
    ProtCryogemTrainPoses,
)
from cryogem_scipion.protocols.binding import fill_form, form_values, parameter_name, validation_errors

# The settings that come from the inputs: the fewest that make the settings valid.
INPUTS = {
    ProtCryogemEvaluate: {"out": "o", "generated": ["/gen/*.mrc"], "real": ["/real/*.mrc"]},
    ProtCryogemSimulate: {"out": "o", "volume": ["/maps/a.mrc"]},
    ProtCryogemTrain: {"out": "o", "real": ["/real/*.mrc"], "simulation": "/sim"},
    ProtCryogemGenerate: {"out": "o", "simulation": "/sim", "model": "/m.safetensors"},
    ProtCryogemExport: {"out": "o", "dataset": "/gen"},
    ProtCryogemImportModel: {"out": "o", "generator": "/g.pth", "pixel_size": 5.36},
    ProtCryogemTrainPoses: {"out": "o", "particles": "/particles.star"},
    ProtCryogemAssignPoses: {"out": "o", "particles": "/particles.star", "model": "/m.safetensors"},
}
PROTOCOLS = list(INPUTS)


def settings_of(protocol):
    return parse(protocol._settings, {**form_values(protocol, protocol._settings), **INPUTS[type(protocol)]})


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_an_untouched_form_means_the_default_settings(kind):
    assert settings_of(kind()) == parse(kind._settings, INPUTS[kind])


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_json_between_form_and_engine_changes_nothing(kind):
    settings = settings_of(kind())
    text = json.dumps(settings.model_dump(mode="json"))
    assert parse(kind._settings, json.loads(text)) == settings


def other_value(info):
    """A valid value of a field that is not its default."""
    kind = info.annotation
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        kind = next(item for item in typing.get_args(kind) if item is not type(None))
    inner = typing.get_args(kind)[0] if typing.get_args(kind) else None
    if typing.get_origin(kind) is typing.Literal:
        return next(choice for choice in typing.get_args(kind) if choice != info.default)
    if typing.get_origin(inner) is typing.Literal:
        return typing.get_args(inner)
    if inner is not None:
        return {int: (300, 511), float: (3.0, 1.25), str: ("0:0", "0:90:2")}[inner]
    if kind is bool:
        return not info.default
    if kind is str:
        return "D7"
    if kind is Path:
        return Path("/other/file")
    if info.is_required():
        return 7.5
    return (info.default or 0) + 3 if kind is int else (info.default or 1.0) * 0.37 + 1e-7


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_every_field_passes_through_the_form_both_ways(kind):
    for field, info in kind._settings.model_fields.items():
        if not info.json_schema_extra["form"]:
            continue
        value = other_value(info)
        protocol = kind()
        fill_form(protocol, parse(kind._settings, INPUTS[kind]).model_copy(update={field: value}))
        found = form_values(protocol, kind._settings)
        assert TypeAdapter(info.annotation).validate_python(found[field]) == value, field
        fill_form(untouched := kind(), parse(kind._settings, INPUTS[kind]))
        before = form_values(untouched, kind._settings)
        assert {name for name in found if found[name] != before.get(name)} == {field}


@given(st.builds(SimulateSettings, out=st.just(Path("o")), volume=st.just((Path("/maps/a.mrc"),)),
                 ctfs=st.none(), orientations=st.none(), volume_proportions=st.sampled_from([(), (2.5,)]),
                 preferred_views=st.sampled_from([(), ("0:90:2", "10:5")]), volume_pixel_size=st.none(),
                 device=st.just("auto"), threads=st.just(0),
                 symmetry=st.sampled_from(["C1", "D7", "O"]), defocus_min=st.floats(-1e5, 1e4),
                 defocus_max=st.floats(1e4, 1e5), micrograph_size=st.tuples(st.integers(16, 9999), st.just(16))))
def test_any_settings_survive_the_form(settings):
    protocol = ProtCryogemSimulate()
    fill_form(protocol, settings)
    assert settings_of(protocol) == settings


def test_an_emptied_field_means_unset():
    protocol = ProtCryogemSimulate(pixelSize=5.0, boxSize=40)
    assert form_values(protocol, SimulateSettings)["pixel_size"] == 5.0
    protocol.pixelSize.set(None)
    protocol.micrographSize.set("  ")
    assert {"pixel_size", "micrograph_size"} & set(form_values(protocol, SimulateSettings)) == set()


@pytest.mark.parametrize(("parameters", "message"), [
    ({"micrographSize": "1024"}, r"\*Micrograph size \(y x, px\)\*: too few values; give them as in 1024 1024"),
    ({"micrographSize": "10 axe"}, r"\*Micrograph size \(y x, px\)\*.*found 'axe'"),
    ({"defocusMin": 3e4}, "defocus_min 30000 is above defocus_max 25000; swap them"),
    ({"snr": 0.0}, r"\*Signal-to-noise ratio\*.*greater than 0; found 0.0"),
    ({"voltageKv": -1.0}, r"\*Voltage \(kV\)\*.*greater than 0; found -1.0"),
])
def test_wrong_values_are_refused_with_the_label_and_the_value(parameters, message):
    protocol = ProtCryogemSimulate(**parameters)
    values = {**form_values(protocol, SimulateSettings), **INPUTS[ProtCryogemSimulate]}
    errors = validation_errors(SimulateSettings, values)
    assert len(errors) == 1
    assert re.search(message, errors[0])


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_every_parameter_has_a_label_and_help(kind):
    for name, param in kind().getDefinition().iterAllParams():
        if isinstance(param, ElementGroup) or name in ("hostName", "runName", "runMode"):
            continue
        assert param.getHelp(), name
        assert len(param.getHelp()) > 20 or name == "numberOfThreads", name
        if name not in ("useGpu", "gpuList"):  # hidden: Scipion draws its own
            assert param.getLabel(), name


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_parameter_names_are_mechanical_and_hide_nothing_of_scipion(kind):
    scipion = set(dir(EMProtocol())) - {"numberOfThreads", "hostName", "runMode"}
    for field, info in STAGES[kind._stage].model_fields.items():
        if info.json_schema_extra["form"]:
            assert parameter_name(field) not in scipion
    assert parameter_name("b_factor_angstrom2") == "bFactorAngstrom2"
    assert parameter_name("keep", "optical") == "keepOptical"


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_no_tab_is_empty_at_first_sight(kind):
    for section in kind().getDefinition().iterSections():
        shown = [name for name, param in section.iterParams() if not param.isExpert()]
        assert shown, section.getLabel()


def test_choices_of_the_noise_show_their_inputs():
    protocol = ProtCryogemGenerate()
    choices = protocol.getParam("noise").choices
    shown = {}
    for index, choice in enumerate(choices):
        protocol.noise.set(index)
        shown[choice] = {name for name in ("inputModel", "inputMicrographs")
                         if _condition(protocol, name)}
    # An imported model needs real micrographs to measure their ice.
    assert shown == {"model": {"inputModel", "inputMicrographs"}, "gaussian": {"inputMicrographs"},
                     "spectrum": {"inputMicrographs"}}
    assert GenerateSettings.model_fields["noise"].default == choices[0]


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_conditions_name_parameters_that_scipion_knows_at_that_point(kind):
    for name, param in kind().getDefinition().iterParams():
        if param.hasCondition() and param.condition.get() != "False":
            asked = re.match(r"\w+", param.condition.get())[0]
            assert asked in param._conditionParams, name


def _condition(protocol, name):
    condition = protocol.getParam(name).condition.get()
    return condition is None or eval(condition, {}, {"noise": protocol.noise.get()})


@pytest.mark.parametrize(("gpus", "use", "device"), [
    ("0", True, "--device auto"), ("", True, "--device auto"), ("3", True, "--device cuda:%(GPU)s"),
    ("3", False, "--device cpu")])
def test_the_command_has_the_device(gpus, use, device, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    protocol = ProtCryogemSimulate(gpuList=gpus, useGpu=use, numberOfThreads=3, workingDir="a dir;%s'")
    program, arguments = protocol.engineCommand()
    assert program.endswith("launcher.py")
    assert arguments.startswith("simulate --config ")
    assert f"{device} --threads 3" in arguments
    # Scipion formats the arguments only where a GPU is named. After that the shell has to get the file's exact name.
    formatted = arguments % {"GPU": 3} if "%(GPU)s" in arguments else arguments
    assert shlex.split(formatted)[2] == str(tmp_path / "a dir;%s'" / "extra" / "run.json")


def test_several_gpus_are_refused():
    assert "uses one GPU" in ProtCryogemSimulate(gpuList="0 1")._validate()[0]


@pytest.fixture
def unread_variables(monkeypatch):
    """Makes Scipion read the plugin's variables again; it reads them only once."""
    monkeypatch.setattr(Plugin, "_vars", {})


@pytest.mark.usefixtures("unread_variables")
def test_the_environment_variable_wins_and_keeps_scipions_packages_out(monkeypatch):
    monkeypatch.setenv("CRYOGEM_ENV_ACTIVATION", ". /engine/bin/activate")
    monkeypatch.setenv("PYTHONPATH", "/scipion")
    assert Plugin.getProgram().startswith(". /engine/bin/activate && python /")
    assert "PYTHONPATH" not in Plugin.getEnviron()


@pytest.mark.usefixtures("unread_variables")
def test_a_missing_environment_is_named(monkeypatch):
    monkeypatch.setattr("cryogem_scipion.plugin.ENGINE_LIBRARIES", ("torch", "no_such_library"))
    monkeypatch.delenv("CRYOGEM_ENV_ACTIVATION", raising=False)
    first, second = Plugin.validateInstallation()
    assert "lacks no_such_library" in first
    assert "CRYOGEM_ENV_ACTIVATION" in second
    with pytest.raises(FileNotFoundError, match="There is no environment for the CryoGEM engine"):
        Plugin.getProgram()
