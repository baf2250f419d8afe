# SPDX-License-Identifier: GPL-3.0-or-later
"""Command line: flags, JSON files, and one line with status 2 on bad input."""
import json
import re
import sys

import pytest

from cryogem_scipion.__main__ import main
from cryogem_scipion.engine.cli import command_line_parser, parse_command_line
from cryogem_scipion.engine.errors import SettingsError
from cryogem_scipion.engine.settings import STAGES


def test_the_documented_commands_are_parsed():
    stage, settings = parse_command_line(
        "simulate --volume map.mrc --micrographs 12 --micrograph-size 1024 768 --particles-mean 85 "
        "--particles-sigma 13 --particle-distance 150 --defocus-min 10000 --defocus-max 25000 --out sim".split())
    assert stage == "simulate"
    assert (settings.micrograph_size, settings.particle_distance, settings.defocus_max) == ((1024, 768), 150.0, 25000.0)
    stage, settings = parse_command_line("train --real real/*.mrc --simulation sim --steps 2000 --out run".split())
    assert (settings.real, settings.steps) == (("real/*.mrc",), 2000)
    stage, settings = parse_command_line(
        "generate --noise gaussian --snr 0.1 --simulation sim --no-extract --keep optical physical --out gen "
        "--device cuda:1 --seed 3 --threads 2".split())
    assert (settings.noise, settings.extract, settings.keep) == ("gaussian", False, ("optical", "physical"))
    assert (settings.device, settings.seed, settings.threads) == ("cuda:1", 3, 2)


def test_a_flag_replaces_the_value_in_the_file(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"volume": ["a.mrc"], "out": "x", "seed": 5, "snr": 0.2}))
    _, settings = parse_command_line(["simulate", "--config", str(tmp_path / "run.json"), "--seed", "7"])
    assert (settings.seed, settings.snr) == (7, 0.2)


@pytest.mark.parametrize("stage", STAGES)
def test_every_setting_has_a_flag_with_help(stage):
    stages = next(action for action in command_line_parser()._actions if action.dest == "stage")
    help = stages.choices[stage].format_help()
    for name, field in STAGES[stage].model_fields.items():
        assert "--" + name.replace("_", "-") in help
        assert field.title, name
        assert field.description, name
        assert field.description.endswith("."), name
        # Scipion's forms show the same text, and read this as markup.
        assert not re.search(r"(^|\s)([*_])\S[^*_]*\2|\[\[", f"{field.title} {field.description}"), name


@pytest.mark.parametrize(("line", "message"), [
    ("", "required"), ("paint", "invalid choice"), ("simulate --out x", "volume: no specimen is given"),
    ("simulate --volume a --out x --micrographs many", "micrographs: .*integer.*'many'"),
    ("simulate --volume a --out x --snr -1", "snr: .*greater than 0; found '-1'"),
    ("simulate --volume a --out x --defocus-min 3e4", "above defocus_max"),
    ("simulate --volume a --out x --nonsense 3", "unrecognized arguments"),
    ("simulate --volume a --out x --device tpu", "device"),
    ("generate --simulation s --out x", "no noise model"),
    ("generate --simulation s --out x --noise spectrum", "give real"),
    ("simulate --config none.json", "cannot be read"),
])
def test_a_refusal_is_one_line(line, message):
    with pytest.raises(SettingsError, match=message) as caught:
        parse_command_line(line.split())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "message"), [
    ("[1]", "one JSON object"), ("{", "is not JSON"), ('{"sed": 1}', "unknown setting 'sed'")])
def test_bad_settings_files_are_refused(tmp_path, text, message):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(SettingsError, match=message):
        parse_command_line(["simulate", "--config", str(tmp_path / "run.json")])


def test_the_program_exits_with_2_and_no_traceback(tmp_path, monkeypatch, capsys):
    """In this process. The tests of the launcher check the status of a real process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["cryogem", "simulate", "--volume", "none.mrc", "--out", "x"])
    assert main() == 2
    message = capsys.readouterr().err
    assert message.strip().splitlines() == [message.strip()]
    assert "none.mrc" in message
    assert not list(tmp_path.iterdir())
