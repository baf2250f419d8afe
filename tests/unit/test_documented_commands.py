# SPDX-License-Identifier: GPL-3.0-or-later
"""Every command that README and docs show: its flags are accepted as shown, and it runs on tiny inputs."""
import os
import re
import shlex
import shutil
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from cryogem_scipion.__main__ import main
from cryogem_scipion.engine.cli import command_line_parser, parse_command_line
from cryogem_scipion.engine.io.dataset import MICROGRAPHS, MOTION, PARTICLES, VARIATION, read_table
from cryogem_scipion.engine.settings import STAGES

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md",
         *sorted(page for page in (ROOT / "docs").rglob("*.md") if not {"generated", "_build"} & set(page.parts))]
BLOCK = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```$", re.M | re.S)
SMALLER = {
    "simulate": "--micrographs 2 --micrograph-size 144 160 --particles-mean 4 --particles-sigma 1",
    "train": "--steps 2 --crop 64 --generator-width 4 --discriminator-width 4",
    "generate": "--micrographs 1",
    "measure": "--micrographs 2",
    "train-poses": "--steps 2",
    "phantom": "--box 48"}
"""Flags that make a stage small."""
NOT_MEASURABLE = "--defocus-min 10000 --defocus-max 20000"
"""Flags for what the tiny micrographs do not tell."""
TESTED = {
    "relion_reconstruct": "tests/optional/test_export.py", "relion_preprocess": "tests/optional/test_relion.py",
    "topaz train": "tests/optional/test_export.py", "cryodrgn backproject_voxel": "tests/optional/test_export.py",
    "scipion3 template": "tests/scipion/test_template.py", "scipion3 installp": "tests/test_package.py",
    "pip install": "tests/test_package.py", "pre-commit install": ".pre-commit-config.yaml",
    ".ci/cryodrgn-env.sh": ".ci/run", ".ci/run": ".ci/run"}
"""Commands of other programs, and the file that tries them or what they stand for."""
SHELL = {"cd", "export", "git"}
OTHER_FLAGS = {"--gain-spread", "--help", "--version", "--config", "--logdir", "--strict"}
"""Flags in running text that are of other programs, or of a recipe."""
NO_STAGES = {"COMMAND", "count"}
"""Words after ``cryogem`` in running text: any stage, and the one that a recipe makes."""


def blocks(language):
    """(page, text) of every fenced block of a language."""
    for page in PAGES:
        for match in BLOCK.finditer(page.read_text("utf-8")):
            if match[1] == language:
                yield page, textwrap.dedent(match[2])


def commands():
    """Each command line once, with the first page that shows it; comments are cut off, broken lines joined."""
    found = {}
    for page, text in blocks("sh"):
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                found.setdefault(tuple(words), page.relative_to(ROOT))
    return found


OURS = {words: page for words, page in commands().items() if words[0] == "cryogem"}
OTHERS = {words: page for words, page in commands().items() if words[0] != "cryogem"}


def make_targets():
    """Names after ``make``."""
    text = (ROOT / "Makefile").read_text("utf-8").replace("$(BIN)", ".venv/bin")
    return set(re.findall(r"^([a-z./-]+):", text, re.M))


def arguments(words):
    """What the shell makes of the words."""
    return [word.replace("$SLURM_ARRAY_TASK_ID", "3") for word in words[1:]]


def marked(words):
    """Some need a program of their own, or long."""
    if "--cryodrgn-folder" in words:
        return pytest.param(words, marks=pytest.mark.skip(reason="tests/optional/test_cryodrgn.py runs it"))
    measures = words[1] == "measure" or (words[1] == "simulate" and "--real" in words)
    return pytest.param(words, marks=pytest.mark.slow if measures or "--processes" in words else ())


def test_the_pages_show_the_commands_of_all_stages():
    assert {words[1] for words in OURS} == set(STAGES)


@pytest.mark.parametrize("words", OURS, ids=" ".join)
def test_flags_are_accepted_as_shown(words):
    stage, settings = parse_command_line(arguments(words))
    assert (stage, type(settings)) == (words[1], STAGES[words[1]])


@pytest.fixture(scope="module")
def inputs(world, tmp_path_factory):
    """A folder with a tiny file or folder of every name that the pages use."""
    import torch

    from tests.published_layout import generator_shapes, state_dict
    from tests.unit.test_feature_networks import resnet8
    folder = tmp_path_factory.mktemp("documented")
    generator = torch.Generator().manual_seed(3)
    for name in ("map.mrc", "a.mrc", "b.mrc"):
        shutil.copy(world / "map/phantom.mrc", folder / name)
    for name in ("mics", "held_out"):
        shutil.copytree(world / "real", folder / name)
    shutil.copy(world / "real/mic 0.mrc", folder / "mic.mrc")
    _write_model(folder / "model.cif.gz")
    (folder / "project").mkdir()
    (folder / "sim").symlink_to(world / "sim")
    torch.save(state_dict(generator_shapes(6, 4), generator), folder / "latest_net_G.pth")
    torch.save(resnet8(generator), folder / "resnet8_u32.sav")
    for line in ("train --real mics/*.mrc --simulation sim --out run",
                 "generate --model run/model.safetensors --simulation sim --out gen --keep optical"):
        assert run(folder, line.split(), "--micrographs", "2") == 0
    assert run(folder, "train-poses --particles gen --out estimator".split()) == 0
    particles = (folder / "gen/extracted.star").read_text("utf-8")
    (folder / "real_particles.star").write_text(particles.replace("@particles/", "@gen/particles/"), "utf-8")
    for name in ("picks.star", "refined.star"):
        shutil.copy(folder / "gen" / PARTICLES, folder / name)
    shutil.copy(folder / "gen" / MICROGRAPHS, folder / "ctfs.star")
    return folder


def _write_model(path):
    import gemmi
    structure = gemmi.Structure()
    structure.name = "blob"
    model, chain = gemmi.Model("1"), gemmi.Chain("A")
    random = np.random.default_rng(2)
    for number in range(60):
        residue, atom = gemmi.Residue(), gemmi.Atom()
        residue.name, residue.seqid = "ALA", gemmi.SeqId(str(number + 1))
        atom.name, atom.element = "CA", gemmi.Element("C")
        atom.pos = gemmi.Position(*random.normal(0, 20, 3))
        residue.add_atom(atom)
        chain.add_residue(residue)
    model.add_chain(chain)
    structure.add_model(model)
    structure.setup_entities()
    import gzip
    path.write_bytes(gzip.compress(structure.make_mmcif_document().as_string().encode()))


def run(folder, words, *more):
    """Run a command in this process, with few small images; its status."""
    smaller = shlex.split(SMALLER.get(words[0], ""))
    if words[0] == "simulate" and "--real" in words:
        smaller += shlex.split(NOT_MEASURABLE)
    if words[0] == "generate":
        smaller = [*smaller, *more]
    before, at = sys.argv, os.getcwd()
    os.chdir(folder)
    sys.argv = ["cryogem", *words, *smaller, "--device", "cpu"]
    try:
        return main()
    except SystemExit as end:  # --processes ends with the status of the processes that it started
        return end.code
    finally:
        sys.argv = before
        os.chdir(at)


@pytest.mark.parametrize("words", list(map(marked, OURS)), ids=[" ".join(words) for words in OURS])
def test_it_runs_on_tiny_inputs(words, inputs, tmp_path, capsys):
    """Each in a folder of its own, in which every file that the pages name lies."""
    for path in inputs.iterdir():
        (tmp_path / path.name).symlink_to(path)
    given = arguments(words)
    out = tmp_path / given[given.index("--out") + 1]
    if out.is_symlink():
        out.unlink()
    (tmp_path / "project").unlink()
    (tmp_path / "project").mkdir()
    assert run(tmp_path, given) == 0, capsys.readouterr().err
    assert (out / "manifest.json").is_file()


def test_a_dataset_folder_has_the_files_and_columns_that_the_page_names(inputs):
    page = (ROOT / "docs/formats.md").read_text("utf-8")
    folder = inputs / "gen"
    for name in ("manifest.json", "micrographs.star", "particles.star", "extracted.star", "micrographs", "masks",
                 "particles", "optical", "source"):
        assert f"`{name}" in page, name
        assert (folder / name).exists(), name
    columns = set()
    for name, table in (("micrographs.star", "micrographs"), ("particles.star", "particles"),
                        ("extracted.star", "particles")):
        optics, rows = read_table(folder / name, table)
        columns |= {*optics.columns, *rows.columns}
    # Particles of this folder are alike and did not move; test_variation.py and test_motion.py read the other columns.
    assert columns | set(VARIATION) | set(MOTION) == set(re.findall(r"`((?:rln|cryogem)[A-Z]\w*)`", page))


@pytest.mark.parametrize("words", OTHERS, ids=" ".join)
def test_other_programs_are_tried_elsewhere(words):
    if words[0] == "make":
        assert {word for word in words[1:] if "=" not in word} <= make_targets()
    elif words[0].rpartition("/")[2].startswith("python"):
        if words[1] == "-m":
            assert words[2] in {"pytest", "pip", "venv", "cryogem_scipion", "tests.fuzz"}
        else:
            assert (ROOT / words[1]).is_file()
    elif words[0] not in SHELL:
        program = words[0].removeprefix(".venv/bin/")
        known = next((TESTED[name] for name in (program, f"{program} {words[1]}") if name in TESTED), None)
        assert known, f"{words} of {OTHERS[words]} is tried nowhere"
        assert (ROOT / known).is_file()


def test_no_block_with_our_commands_is_of_another_language():
    for page in PAGES:
        for match in BLOCK.finditer(page.read_text("utf-8")):
            assert match[1] in {"sh", "python", "text", "ini", ""} or page.name == "index.md", page
            if match[1] != "sh":
                assert not re.search(r"^(cryogem|make|scipion3) ", match[2], re.M), (page, match[2])


def test_flags_in_running_text_exist():
    stages = next(action for action in command_line_parser()._actions if action.dest == "stage").choices
    flags = {flag for stage in stages.values() for action in stage._actions for flag in action.option_strings}
    for page in PAGES:
        text = BLOCK.sub("", page.read_text("utf-8"))
        for code in re.findall(r"`([^`]+)`", text):
            if code.split()[0] in {"make", "cryogem"} and len(code.split()) > 1:
                assert code.split()[1] in {*stages, *NO_STAGES} | make_targets(), (page.name, code)
            if not code.startswith(("python", ".venv/bin/pip")):
                assert set(re.findall(r"(?:^|\s)(--[a-z][a-z-]*)", code)) <= flags | OTHER_FLAGS, (page.name, code)


def test_python_blocks_name_protocols_and_parameters_that_exist():
    pytest.importorskip("pwem", reason="the forms need Scipion's packages")
    import ast

    from cryogem_scipion import protocols
    from cryogem_scipion.workflow import run as run_protocol
    own = set(run_protocol.__code__.co_varnames[:run_protocol.__code__.co_argcount])
    seen = set()
    for page, text in blocks("python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "run" and len(node.args) > 1:
                name = ast.literal_eval(node.args[1])
                if name.startswith("ProtCryogem"):
                    seen.add(name)
                    assert name in protocols.__all__, page
                    known = {key for key, _ in getattr(protocols, name)().iterDefinitionAttributes()}
                    assert {keyword.arg for keyword in node.keywords} <= known | own, (page, name)
    assert {"ProtCryogemSimulate", "ProtCryogemTrain", "ProtCryogemGenerate"} <= seen
