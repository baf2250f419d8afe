# SPDX-License-Identifier: GPL-3.0-or-later
"""Form -> settings -> JSON -> settings -> form, for every protocol; and what the forms say."""
import json
import re
from pathlib import Path

import pytest

pytest.importorskip("pwem", reason="the forms need Scipion's packages")

from hypothesis import given
from hypothesis import strategies as st
from pwem.protocols import EMProtocol
from pyworkflow.protocol.params import ElementGroup

from cryogem_scipion.config import STAGES, GenerateSettings, SimulateSettings, parse
from cryogem_scipion.plugin import Plugin
from cryogem_scipion.protocols import ProtCryogemGenerate, ProtCryogemSimulate, ProtCryogemTrain
from cryogem_scipion.protocols.binding import complaints, fill_form, form_values, parameter_name

# What the inputs give: the least that makes the settings complete.
INPUTS = {
    ProtCryogemSimulate: {"out": "o", "volume": ["/maps/a.mrc"]},
    ProtCryogemTrain: {"out": "o", "real": ["/real/*.mrc"], "simulation": "/sim"},
    ProtCryogemGenerate: {"out": "o", "simulation": "/sim", "model": "/m.safetensors"},
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


# A value other than the default for every field of a form.
OTHER = {
    "simulate": {
        "symmetry": "D7", "pixel_size": 4.25, "voltage_kv": 200.0, "cs_mm": 0.01, "amplitude_contrast": 0.07,
        "defocus_min": 5000.5, "defocus_max": 6000.0, "astigmatism_angstrom": 0.0, "phase_shift_degrees": 90.0,
        "b_factor_angstrom2": 10.0, "micrographs": 3, "micrograph_size": (300, 511), "particles_mean": 7.5,
        "particles_sigma": 0.0, "particle_distance": 120.0, "border": "inside", "box_size": 33,
        "mask_threshold": 0.2, "soft_mask": True, "snr": 0.02, "background_deviation": 0.06, "extract": True,
        "seed": 5},
    "train": {
        "pixel_size": 5.36, "snr": 0.3, "steps": 7, "crop": 64, "batch": 2, "learning_rate": 1e-5,
        "generator_width": 8, "discriminator_width": 9, "noise": "gaussian", "contrastive_weight": 0.0,
        "preview_every": 3, "checkpoint_every": 4, "seed": 2**31 - 1},
    "generate": {
        "noise": "gaussian", "snr": 0.05, "micrographs": 2, "micrograph_size": (64, 65), "reuse": True,
        "extract": False, "keep": ("optical", "physical"), "seed": 1},
}


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_every_field_passes_through_the_form_both_ways(kind):
    form_fields = {name for name, info in kind._settings.model_fields.items() if info.json_schema_extra["form"]}
    assert form_fields == set(OTHER[kind._stage]), "a new field needs a value here"
    for field, value in OTHER[kind._stage].items():
        settings = parse(kind._settings, INPUTS[kind]).model_copy(update={field: value})
        protocol = kind()
        fill_form(protocol, settings)
        assert form_values(protocol, kind._settings)[field] in (value, tuple(map(str, value)) if isinstance(
            value, tuple) else value), field
        assert value != kind._settings.model_fields[field].default


@given(st.builds(SimulateSettings, out=st.just(Path("o")), volume=st.just((Path("/maps/a.mrc"),)),
                 ctfs=st.none(), volume_pixel_size=st.none(), device=st.just("auto"), threads=st.just(0),
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
    found = complaints(SimulateSettings, {**form_values(protocol, SimulateSettings), **INPUTS[ProtCryogemSimulate]})
    assert len(found) == 1
    assert re.search(message, found[0])


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
    assert shown == {"model": {"inputModel"}, "gaussian": {"inputMicrographs"}, "spectrum": {"inputMicrographs"}}
    assert GenerateSettings.model_fields["noise"].default == choices[0]


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_conditions_name_parameters_that_scipion_knows_at_that_point(kind):
    for name, param in kind().getDefinition().iterParams():
        if param.hasCondition() and param.condition.get() != "False":
            asked = re.match(r"\w+", param.condition.get())[0]
            assert asked in param._conditionParams, name


def _condition(protocol, name):
    return eval(protocol.getParam(name).condition.get(), {}, {"noise": protocol.noise.get()})


@pytest.mark.parametrize(("gpus", "use", "device"), [
    ("0", True, "--device auto"), ("", True, "--device auto"), ("3", True, "--device cuda:%(GPU)s"),
    ("3", False, "--device cpu")])
def test_the_command_says_which_device(gpus, use, device, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    protocol = ProtCryogemSimulate(gpuList=gpus, useGpu=use, numberOfThreads=3, workingDir="a dir;%s'")
    program, arguments = protocol.engineCommand()
    assert program.endswith("launcher.py")
    assert arguments.startswith("simulate --config ")
    assert f"{device} --threads 3" in arguments
    # A shell gives back the very name; Scipion's formatting, done only where a GPU is named, too.
    import shlex
    filled = arguments % {"GPU": 3} if "%(GPU)s" in arguments else arguments
    assert shlex.split(filled)[2] == str(tmp_path / "a dir;%s'" / "extra" / "run.json")


def test_several_gpus_are_refused():
    assert "takes one" in ProtCryogemSimulate(gpuList="0 1")._validate()[0]


def test_the_environment_variable_wins_and_keeps_scipions_packages_out(monkeypatch):
    monkeypatch.setenv("CRYOGEM_ENV_ACTIVATION", ". /engine/bin/activate")
    monkeypatch.setenv("PYTHONPATH", "/scipion")
    assert Plugin.getProgram().startswith(". /engine/bin/activate && python /")
    assert "PYTHONPATH" not in Plugin.getEnviron()


def test_a_missing_environment_is_said(monkeypatch):
    monkeypatch.setattr("cryogem_scipion.plugin.ENGINE", ("torch", "no_such_library"))
    monkeypatch.delenv("CRYOGEM_ENV_ACTIVATION", raising=False)
    first, second = Plugin.validateInstallation()
    assert "lacks no_such_library" in first
    assert "CRYOGEM_ENV_ACTIVATION" in second
    with pytest.raises(FileNotFoundError, match="No environment for the CryoGEM engine"):
        Plugin.getProgram()
