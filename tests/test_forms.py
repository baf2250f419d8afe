# SPDX-License-Identifier: GPL-3.0-or-later
"""Forms of all protocols: labels with units, useful help texts, few parameters at first sight, protocol help."""
import re
import typing

import pytest

pytest.importorskip("pwem", reason="the forms need Scipion's packages")

from pyworkflow.protocol.params import ElementGroup, PointerParam
from pyworkflow.utils import parseHyperText

from cryogem_scipion import protocols
from cryogem_scipion.engine.settings import STAGES
from cryogem_scipion.protocols.protocol_stage import ProtCryogemStage

PROTOCOLS = [kind for kind in map(protocols.__dict__.get, protocols.__all__) if issubclass(kind, ProtCryogemStage)]
SCIPION = {"hostName", "runName", "runMode", "numberOfThreads", "numberOfMpi"}
HIDDEN = {"useGpu", "gpuList"}
# The unit in the name of a field is in its label, too.
UNITS = {"angstrom": "Å", "angstrom2": "Å²", "degrees": "°", "kv": "kV", "mm": "mm", "pixel_size": "Å",
         "box_size": "px", "micrograph_size": "px", "crop": "px", "distance": "Å"}
DIRECTION = re.compile(r"\b(more|fewer|less|higher|lower|larger|smaller|longer|shorter|thicker|wider|finer|coarser|"
                       r"stronger|stricter)\b", re.IGNORECASE)
# Numbers without an effect that could become stronger or weaker.
FACTS = {"seed", "cryodrgn_epoch", "pixel_size", "real_pixel_size", "volume_pixel_size"}


def fields(kind):
    return [(name, info) for name, info in STAGES[kind._stage].model_fields.items() if info.json_schema_extra["form"]]


def parameters(kind):
    return [(name, param) for name, param in kind().getDefinition().iterAllParams()
            if not isinstance(param, ElementGroup) and name not in SCIPION]


def test_all_protocols_are_found():
    names = {kind.__name__ for kind in PROTOCOLS}
    assert {"ProtCryogemSimulate", "ProtCryogemTrain", "ProtCryogemGenerate", "ProtCryogemImportModel"} <= names


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_every_parameter_has_a_label_and_a_help_of_whole_sentences(kind):
    for name, param in parameters(kind):
        text = param.getHelp()
        assert text, name
        assert text.endswith("."), name
        assert len(text) > 30, name
        if name not in HIDDEN:  # Scipion draws its own
            assert param.getLabel(), name


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_the_help_of_a_number_says_what_up_and_down_do_and_what_is_usual(kind):
    for name, info in fields(kind):
        inner = {*typing.get_args(info.annotation), info.annotation}
        if inner & {int, float} and name not in FACTS:
            assert DIRECTION.search(info.description), name
            assert re.search(r"\d", info.description), name


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_the_help_of_a_choice_names_every_choice(kind):
    for name, info in fields(kind):
        for choice in typing.get_args(info.annotation):
            if isinstance(choice, str):
                assert re.search(rf"\b{choice}\b", info.description), (name, choice)


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_labels_have_units(kind):
    for name, info in fields(kind):
        for ending, unit in UNITS.items():
            if re.search(rf"(^|_){ending}$", name):
                assert re.search(rf"\(.*{unit}\)$", info.title), name


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_few_parameters_at_first_sight_and_none_twice(kind):
    shown, labels = 0, []
    for name, param in parameters(kind):
        if name in HIDDEN:
            continue
        labels.append(str(param.getLabel()))
        # A parameter with a condition is shown instead of another one.
        shown += not param.isExpert() and not param.hasCondition()
    assert shown <= 14
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_no_tab_is_empty_at_first_sight(kind):
    for section in kind().getDefinition().iterSections():
        shown = [name for name, param in section.iterParams() if not param.isExpert()]
        assert shown, section.getLabel()


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_an_empty_form_asks_for_its_inputs_and_says_nothing_else(kind):
    protocol = kind()
    pointers = [name for name, param in parameters(kind) if isinstance(param, PointerParam)]
    if pointers and not protocol.inputsReady():
        assert protocol._validate() == []
        assert protocol._warnings() == []
    assert protocol._summary() == ["Not finished yet."]
    assert protocol._methods() == []


@pytest.mark.parametrize("kind", list(map(protocols.__dict__.get, protocols.__all__)))
def test_the_help_of_a_protocol_uses_scipions_markup(kind):
    text = kind.getHelpText()
    first, *lines = text.splitlines()
    assert first.endswith(".")
    found = []
    for line in lines:
        parseHyperText(line, lambda match, tag: found.append((tag, match.group(tag))))
        assert len(re.sub(r"\[\[.*?\]\[(.*?)\]\]", r"\1", line)) <= 80, line  # the width of Scipion's window
    assert {("bold", "Inputs"), ("bold", "Outputs"), ("link2", "https://arxiv.org/abs/2312.02235")} <= set(found)
    # Each markup sign is part of a match: none is shown as it is.
    assert sum(line.count("*") for line in lines) == 2 * sum(tag == "bold" for tag, _ in found)
    # The names of inputs are labels of the form.
    labels = {str(param.getLabel()) for _, param in kind().getDefinition().iterAllParams()}
    assert {name for tag, name in found if tag == "italic"} <= labels | {"Analyze Results", "Continue"}


@pytest.mark.parametrize("kind", list(map(protocols.__dict__.get, protocols.__all__)))
def test_the_help_of_a_protocol_names_its_outputs(kind):
    outputs = [item.name for item in getattr(kind, "_possibleOutputs", None) or ()]
    assert all(re.search(rf"\b{name}\b", kind.getHelpText()) for name in outputs)
    assert kind.isBeta()
    assert kind.getClassLabel(False) == kind._label


def test_the_sections_of_the_simulation_are_in_the_order_of_thinking():
    labels = [str(section.getLabel()) for section in protocols.ProtCryogemSimulate().getDefinition().iterSections()]
    ours = [label for label in labels if label not in ("General", "Parallelization")]
    assert ours == ["Specimen", "Microscope", "Particles", "Output"]
