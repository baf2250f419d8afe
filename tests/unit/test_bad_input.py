# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad input: the program prints one line with cause, value and remedy, exits with status 2, and writes nothing.

Each row of the table is a name, a command line, a function that damages its input, and the expected message. ``{good}``
is a folder with valid inputs. ``{bad}`` is an empty folder into which the function writes the damaged input.
"""
import gzip
import re
import shlex
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cryogem_scipion.__main__ import main
from tests.damaged_inputs import InputFolders, make_valid_inputs, sphere, star

SIMULATE = "simulate --out {bad}/out --micrographs 1 --micrograph-size 96 112 --particles-mean 3"
TRAIN = "train --out {bad}/out --steps 1 --crop 32 --generator-width 4 --discriminator-width 4"
GENERATE = "generate --out {bad}/out --micrographs 1 --simulation {good}/sim"
MAP = SIMULATE + " --volume {good}/map/phantom.mrc"
REAL = TRAIN + " --simulation {good}/sim --real {good}/real/0.mrc"
DAMAGED_SIMULATION = REAL.replace("{good}/sim", "{bad}/sim")
GENERATE_FROM_DAMAGED = GENERATE.replace("{good}/sim", "{bad}/sim") + " --noise gaussian"
MODEL = GENERATE + " --model"
IMPORT = "import-model --out {bad}/out --pixel-size 5 --generator {bad}/x.pth"
MALICIOUS_PICKLE = b"cposix\nsystem\n(S'touch pwned'\ntR."  # it runs a command when it is read


@pytest.fixture(scope="session")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    make_valid_inputs(folder)
    return folder


MAPS = [
    ("empty map", lambda p: p.bytes("x.mrc", b""), "is empty \\(0 bytes\\)"),
    ("map of text", lambda p: p.bytes("x.mrc", b"no map at all\n" * 200), "cannot be read as a map"),
    ("map cut in its header", lambda p: p.mrc("x.mrc", (24, 24, 24), length=700), "cannot be read as a map"),
    ("map cut in its data", lambda p: p.mrc("x.mrc", (24, 24, 24), length=9000), "truncated"),
    ("map with a header of 4 GB and no data", lambda p: p.mrc("x.mrc", (1024, 1024, 1024), content=0),
     "truncated.*1024 x 1024"),
    ("map of zero size", lambda p: p.mrc("x.mrc", (0, 24, 24)), "truncated or not a map.*24 x 24 x 0"),
    ("map of negative size", lambda p: p.mrc("x.mrc", (-24, 24, 24)), "truncated or not a map"),
    ("map with NaN",
     lambda p: p.mrc("x.mrc", (24,) * 3, content=np.where(sphere(24, 3), np.nan, 0)), "93 voxels"),
    ("map with infinity", lambda p: p.mrc("x.mrc", (24,) * 3, content=np.where(sphere(24, 1), np.inf, 0)), "1 voxels"),
    ("constant map", lambda p: p.mrc("x.mrc", (24, 24, 24), content=np.full((24, 24, 24), 3)), "constant \\(3 every"),
    ("map of unknown mode", lambda p: p.mrc("x.mrc", (24, 24, 24), mode=77), "mode 77"),
    ("map in Fourier space", lambda p: p.mrc("x.mrc", (24, 24, 24), mode=4), "complex"),
    ("an image instead of a map", lambda p: p.mrc("x.mrc"), "shape \\(144, 160\\).*three dimensions"),
    ("map without pixel size", lambda p: p.mrc("x.mrc", (24, 24, 24), pixel_size=0), "pixel size 0; set pixel_size"),
    ("map of negative pixel size", lambda p: p.mrc("x.mrc", (24, 24, 24), pixel_size=-4), "pixel size -4; set"),
    ("map of noise", lambda p: p.mrc("x.mrc", (24, 24, 24)), "no particle"),
    ("map larger than the micrograph", lambda p: p.mrc("x.mrc", (128,) * 3, content=sphere(128, 50)),
     "box of \\d+ pixels is larger than the micrograph \\(96 x 112"),
    ("broken gzip", lambda p: p.bytes("x.mrc", gzip.compress(bytes(9000))[:30] + b"rubbish" * 9), "cannot be read"),
    ("damaged gzip", lambda p: (p.mrc("y", (24,) * 3, content=sphere(24, 8)), p.bytes(
        "x.mrc", bytes(gzip.compress((p.bad / "y").read_bytes()))[:150] + b"\xff" * 40)), "cannot be read"),
    ("a folder instead of a map", lambda p: (p.bad / "x.mrc").mkdir(), "is not a file"),
]
REALS = [
    ("empty", lambda p: p.bytes("x.mrc", b""), "has 0 bytes, but an MRC file"),
    ("text", lambda p: p.bytes("x.mrc", b"no image at all\n" * 200), "is not an MRC file: its extended header"),
    ("cut", lambda p: p.mrc("x.mrc", length=20000), "cut short \\(it has 20000 bytes, and its header needs 93184\\)"),
    ("header of 4 GB without data", lambda p: p.mrc("x.mrc", (32768, 32768), content=0),
     "cut short \\(it has 1028 bytes"),
    ("zero size", lambda p: p.mrc("x.mrc", (0, 160)), "160, 0, 1\\) \\(x y z\\) in its header, which is not an image"),
    ("NaN", lambda p: p.mrc("x.mrc", content=np.full((144, 160), np.nan)), "23040 values that are not finite"),
    ("constant", lambda p: p.mrc("x.mrc", content=np.full((144, 160), 7)), "constant \\(every value is 7\\)"),
    ("unknown mode", lambda p: p.mrc("x.mrc", mode=9), "has mode 9, which is unknown; give mode"),
    ("transform", lambda p: p.mrc("x.mrc", mode=4), "complex64 values \\(mode 4\\)"),
    ("stack", lambda p: p.mrc("x.mrc", (3, 144, 160)), "160 x 144 x 3 pixels; give one image"),
    ("no pixel size", lambda p: p.mrc("x.mrc", pixel_size=0), "no pixel size in its header; set real_pixel_size"),
    ("coarse", lambda p: p.mrc("x.mrc", pixel_size=9), "9 Å, coarser than the working pixel size 6 Å"),
    ("small", lambda p: p.mrc("x.mrc", (20, 24)), "20|24"),
    ("big-endian and cut", lambda p: p.mrc("x.mrc", order=">", length=20000), "cut short \\(it has 20000 bytes"),
    ("packed", lambda p: (p.mrc("y"), p.bytes("x.mrc", gzip.compress((p.bad / "y").read_bytes()))), "unpack"),
]
ROWS = [
    *((name, f"{SIMULATE} --volume {{bad}}/x.mrc", damage, message) for name, damage, message in MAPS),
    *((f"real micrograph: {name}", REAL + " {bad}/x.mrc", damage, message) for name, damage, message in REALS),

    ("no map", SIMULATE, None, "no specimen is given; give a map"),
    ("missing map", f"{SIMULATE} --volume none.mrc", None, "none.mrc is not a file"),
    ("pixel size 0", MAP + " --pixel-size 0", None, "pixel_size: .*found '0'"),
    ("negative pixel size", MAP + " --pixel-size -3", None, "found '-3'"),
    ("infinite pixel size", MAP + " --pixel-size inf", None, "finite.*'inf'"),
    ("huge pixel size", MAP + " --pixel-size 1e12", None, "1e\\+12 Å"),
    ("tiny pixel size", MAP + " --pixel-size 1e-6", None, "larger than the mic"),
    ("symmetry with a typo", MAP + " --symmetry Q7", None, "symmetry: give C1.*Q7"),
    ("symmetry C0", MAP + " --symmetry C0", None, "symmetry: .*'C0'"),
    ("word instead of a number", SIMULATE + " --volume x --micrographs many", None, "micrographs: .*'many'"),
    ("defocus swapped", SIMULATE + " --volume x --defocus-min 3e4", None, "above defocus_max 25000; swap"),
    ("amplitude contrast of 1", SIMULATE + " --volume x --amplitude-contrast 1", None, "less than 1; found '1'"),
    ("negative SNR", SIMULATE + " --volume x --snr -1", None, "snr: .*greater than 0; found '-1'"),
    ("micrographs of 3 pixels", SIMULATE + " --volume x --micrograph-size 3 3", None, "out of range; give 16 to 65536"),
    ("a million threads", SIMULATE + " --volume x --threads 1000000", None, "threads: .*found '1000000'"),
    ("wrong number of proportions", SIMULATE + " --volume x --volume-proportions 1 2", None, "do not fit 1 maps"),
    ("view with a typo", SIMULATE + " --volume x --preferred-views 0-90", None, "'0-90' cannot be read; give rot:tilt"),
    ("box size too small", MAP + " --box-size 4", None, "box_size: .*8.*'4'"),
    ("atomic model of text", f"{SIMULATE} --volume {{bad}}/x.pdb --pixel-size 4",
     lambda p: p.bytes("x.pdb", b"hello\n"), "x.pdb"),
    ("atomic model without pixel size", f"{SIMULATE} --volume {{bad}}/x.pdb", lambda p: p.bytes("x.pdb", b"hello\n"),
     "has no pixel size; set pixel_size"),
    ("atoms far apart", f"{SIMULATE} --volume {{bad}}/x.cif --pixel-size 4", lambda p: p.atoms("x.cif", 1e8),
     "the atoms are up to 5e\\+07 Å \\(.* voxels\\) from their centre"),
    ("a folder that is not a cryoDRGN folder", f"{SIMULATE} --cryodrgn-folder {{bad}}", None, "has no config.yaml"),

    ("CTF table without defocus", MAP + " --ctfs {bad}/x.star",
     lambda p: p.bytes("x.star", star("micrographs", "a.mrc", columns="rlnMicrographName")),
     "lacks rlnDefocusU, rlnDefocusV, rlnDefocusAngle"),
    ("CTF table with words", MAP + " --ctfs {bad}/x.star",
     lambda p: p.bytes("x.star", star("micrographs", "a.mrc far 2 3", "b.mrc 1 2 3")), "not a number.*'far'"),
    ("CTF table with missing values", MAP + " --ctfs {bad}/x.star",
     lambda p: p.bytes("x.star", star("micrographs", "a.mrc 1e4 1e4 3", "b.mrc 1 2 nan")), "row 2 lacks a value"),
    ("CTF table without rows", MAP + " --ctfs {bad}/x.star",
     lambda p: p.bytes("x.star", star("micrographs")), "has no rows|no table"),
    ("CTF table that is an image", MAP + " --ctfs {good}/real/0.mrc", None,
     "0.mrc cannot be read as STAR|no table"),
    ("orientations from another table", MAP + " --orientations {bad}/x.star",
     lambda p: p.bytes("x.star", star("micrographs", "a.mrc 1 2 3")),
     "no table data_particles \\(found: micrographs\\)"),
    ("orientations without angles", MAP + " --orientations {bad}/x.star",
     lambda p: p.bytes("x.star", star("particles", "a.mrc 1 2 3")), "lacks rlnAngleRot"),
    ("absurd defocus", MAP + " --ctfs {bad}/x.star",
     lambda p: p.bytes("x.star", star("micrographs", "a.mrc 1e12 1e12 3")), "1e\\+12|defocus"),

    ("settings that are not JSON", "simulate --config {bad}/x.json",
     lambda p: p.bytes("x.json", b"{'a': 1"), "is not JSON"),
    ("settings that are a list", "simulate --config {bad}/x.json", lambda p: p.bytes("x.json", b"[1]"), "holds a list"),
    ("settings that are an image", "simulate --config {good}/real/0.mrc", None, "is not JSON"),
    ("unknown key", "simulate --config {bad}/x.json",
     lambda p: p.bytes("x.json", b'{"volume": ["a"], "sed": 1, "out": "x"}'),
     "unknown setting 'sed'; remove it"),
    ("wrong type", "simulate --config {bad}/x.json",
     lambda p: p.bytes("x.json", b'{"volume": ["a"], "seed": [1], "out": "x"}'),
     "seed: .*integer.*\\[1\\]"),
    ("missing settings", "simulate --config {bad}/none.json", None, "cannot be read \\(No such file"),
    ("unknown flag", "simulate --volume a --out x --nonsense 3", None, "unrecognized arguments: --nonsense"),
    ("unknown stage", "paint", None, "invalid choice: 'paint'"),
    ("a phantom larger than its box", "phantom --out {bad}/out --diameter-angstrom 5000", None, "5000"),

    ("a GPU that does not exist", SIMULATE + " --volume x --device cuda:99",
     None, "cuda:99 does not exist.*use device cpu"),
    ("unknown device", SIMULATE + " --volume x --device tpu", None, "device: .*'tpu'"),
    ("out is a file", f"{SIMULATE.replace('/out', '/x')} --volume {{good}}/map/phantom.mrc",
     lambda p: p.bytes("x", b"mine"), "/x cannot be written|not a folder"),
    ("out is not empty", f"{SIMULATE.replace('{bad}/out', '{bad}')} --volume {{good}}/map/phantom.mrc",
     lambda p: p.bytes("thesis.txt", b"mine"), "is not empty and holds no cryogem run; choose another out"),
    ("out holds another run", f"{SIMULATE.replace('{bad}/out', '{bad}/sim')} --volume {{good}}/map/phantom.mrc",
     lambda p: p.copy("sim"), "holds a run with another micrograph_size.*choose another out"),
    ("out under a file", f"{SIMULATE.replace('/out', '/x/out')} --volume {{good}}/map/phantom.mrc",
     lambda p: p.bytes("x", b"mine"), "cannot be written"),
    ("disk too small", MAP + " --micrographs 9000000 --micrograph-size 9000 9000",
     None, "needs 3645\\d+\\.\\d GB, but the disk has only \\d+\\.\\d GB free; free some space"),

    ("no real micrographs", f"{TRAIN} --simulation {{good}}/sim --real '{{bad}}/*.mrc'",
     None, "no file matches .*; give real"),
    ("no simulation", f"{TRAIN} --simulation {{bad}} --real {{good}}/real/0.mrc", None, "has no manifest.json"),
    ("a generated set instead of a simulation", f"{TRAIN} --simulation {{good}}/gen --real {{good}}/real/0.mrc", None,
     "was made by 'cryogem generate'; give a folder of 'cryogem simulate'"),
    ("crop larger than the simulation", REAL + " --crop 512".replace(
        "--crop 32 ", ""), None,
     "crop 512 is larger than the simulated micrographs \\(144 pixels\\); give 128 or less"),
    ("crop that the generator cannot halve", REAL + " --crop 50".replace(
        "--crop 32 ", ""), None, "crop 50 is not a multiple of"),
    ("pixel size that is not that of the simulation", REAL + " --pixel-size 5",
     None, "5 is not the pixel size of the simulation \\(6 Å\\)"),
    ("mask missing", DAMAGED_SIMULATION,
     lambda p: (p.copy("sim") / "masks/mic_000001.mrc").unlink(), "mic_000001.mrc is missing \\(1 files"),
    ("mask of another size", DAMAGED_SIMULATION,
     lambda p: (p.copy("sim"), p.mrc("sim/masks/mic_000001.mrc", (50, 60), mode=0)), "160 x 144 and 60 x 50 pixels"),
    ("simulated micrograph cut", DAMAGED_SIMULATION,
     lambda p: (p.copy("sim"), p.mrc("sim/micrographs/mic_000001.mrc", length=5000)), "cut short"),
    ("simulated micrographs of two sizes", DAMAGED_SIMULATION,
     lambda p: (p.copy("sim"), p.mrc("sim/micrographs/mic_000001.mrc", (40, 40))), "40 x 40|mask"),
    ("table of the simulation empty", DAMAGED_SIMULATION,
     lambda p: (p.copy("sim"), p.bytes("sim/micrographs.star", star("micrographs"))), "lacks|no rows|no table"),
    ("table names a file outside", DAMAGED_SIMULATION,
     lambda p: (p.copy("sim"), p.edit("sim/micrographs.star", lambda t: t.replace("micrographs/mic", "../../mic"))),
     "lies outside"),
    ("table with numbers instead of names", DAMAGED_SIMULATION,
     lambda p: (p.copy("sim"), p.edit("sim/micrographs.star", lambda t: re.sub(r"masks/\S+", "7", t))),
     "/7 is missing"),
    ("table with missing names", DAMAGED_SIMULATION,
     lambda p: (p.copy("sim"), p.edit("sim/micrographs.star", lambda t: re.sub(r"masks/\S+1.mrc", "nan", t))), "nan"),
    ("manifest cut", DAMAGED_SIMULATION,
     lambda p: (p.copy("sim"), p.edit("sim/manifest.json", lambda t: t[:200])), "is not JSON.*make the folder again"),
    ("manifest of a newer program", DAMAGED_SIMULATION,
     lambda p: (p.copy("sim"), p.manifest("sim/manifest.json", format_version=99)),
     "has format 99, but .* reads formats up to 2; "
     "update"),
    ("manifest of another program", DAMAGED_SIMULATION,
     lambda p: (p.copy("sim"), p.edit("sim/manifest.json", lambda t: '{"name": "left-pad"}')),
     "not a cryogem manifest"),
    ("manifest without contrast", DAMAGED_SIMULATION,
     lambda p: (p.copy("sim"), p.manifest("sim/manifest.json", contrast=None)), "contrast|give a folder"),
    ("manifest without settings", GENERATE_FROM_DAMAGED,
     lambda p: (p.copy("sim"), p.manifest("sim/manifest.json", simulation={})), "no specimen|simulate again"),
    ("manifest with settings of a wrong type", GENERATE_FROM_DAMAGED,
     lambda p: (p.copy("sim"), p.manifest("sim/manifest.json", simulation={"volume": 5})),
     "does not contain the settings of the simulation"),
    ("manifest that names a map outside", GENERATE_FROM_DAMAGED,
     lambda p: (p.copy("sim"), p.manifest("sim/manifest.json", simulation={"volume": ["/etc/passwd"]})),
     "lies outside"),
    ("manifest that would write outside", GENERATE_FROM_DAMAGED,
     lambda p: (p.copy("sim"), p.manifest("sim/manifest.json", sources=[
         {"path": "../stolen.mrc", "origin": "x", "sha256": "0"}])), "'../stolen.mrc' lies outside"),
    ("source file of the simulation missing", GENERATE_FROM_DAMAGED,
     lambda p: (p.copy("sim") / "source/00_phantom.mrc").unlink(), "00_phantom.mrc is not a file"),

    ("no noise model", GENERATE, None, "no noise model given; give model"),
    ("missing model", MODEL + " none", None, "none cannot be read"),
    ("model cut short", MODEL + " {bad}/m",
     lambda p: p.bytes("m", (p.good / "run/model.safetensors").read_bytes()[:-100]), "damaged or is not a safetensors"),
    ("a folder instead of a model", MODEL + " {good}/run", None, "run cannot be read|damaged"),
    ("a checkpoint instead of a model", MODEL + " {good}/run/checkpoint.safetensors", None,
     "'cryogem checkpoint' file, but a 'cryogem model' file is needed"),
    ("a published checkpoint instead of a model", MODEL + " {bad}/latest_net_G.pth",
     lambda p: torch.save({"a": torch.zeros(1)}, p.bad / "latest_net_G.pth"), "is not a safetensors file"),
    ("model of another program", MODEL + " {bad}/m",
     lambda p: save_file({"a": torch.zeros(1)}, p.bad / "m"), "of another program; give one that cryogem made"),
    ("model of a newer program", MODEL + " {bad}/model.safetensors",
     lambda p: p.model(format_version=99), "has format 99.*update cryogem"),
    ("model of another network", MODEL + " {bad}/model.safetensors",
     lambda p: p.model(network={"name": "residual", "width": 8}), "does not fit its network: .* has shape"),
    ("model of a network that is too large", MODEL + " {bad}/model.safetensors",
     lambda p: p.model(network={"name": "residual", "width": 10**9}), "out of range"),
    ("model with NaN", MODEL + " {bad}/model.safetensors",
     lambda p: p.model(tensors={"generator.leave.bias": torch.full((2,), torch.nan)}), "not finite in leave.bias"),
    ("model without noise", MODEL + " {bad}/model.safetensors",
     lambda p: p.model(sigma_n=None), "wrong form|sigma_n"),
    ("model at another pixel size", MODEL + " {bad}/model.safetensors",
     lambda p: p.model(pixel_size=3.0), "has 3 Å per pixel, but the simulation has 6 Å"),
    ("reuse of micrographs that were not simulated", f"{GENERATE} --simulation {{bad}}/sim --noise gaussian --reuse "
     "--simulation-micrographs {bad}/x.star", lambda p: (
         p.copy("sim"), (p.bad / "sim/micrographs/mic_000000.mrc").rename(p.bad / "sim/micrographs/mine.mrc"),
         p.bytes("x.star", (p.bad / "sim/micrographs.star").read_bytes().replace(b"mic_000000", b"mine", 1))),
     "mine.mrc does not have a file name of 'cryogem simulate'"),
    ("table of simulated micrographs without optics", f"{GENERATE} --simulation {{good}}/sim --noise gaussian "
     "--simulation-micrographs {bad}/x.star", lambda p: p.bytes("x.star", star(
         "micrographs", "micrographs/mic_000000.mrc masks/mic_000000.mrc", columns="rlnMicrographName cryogemMask")),
     "no table data_optics"),
    ("published checkpoint cut short", IMPORT, lambda p: p.published(length=900), "damaged or holds more than tensors"),
    ("published checkpoint that would run a command", IMPORT, lambda p: p.bytes("x.pth", MALICIOUS_PICKLE),
     "holds more than tensors"),
    ("published checkpoint of text", IMPORT, lambda p: p.bytes("x.pth", b"hello\n" * 99), "damaged or holds more"),
    ("published checkpoint of another network", IMPORT, lambda p: torch.save({"a": torch.zeros(1)}, p.bad / "x.pth"),
     "no model.down.0.weight with four axes"),
    ("published checkpoint of numbers", IMPORT, lambda p: torch.save({"model.down.0.weight": 3}, p.bad / "x.pth"),
     "holds a dict, not tensors with names"),
    ("published checkpoint with NaN", IMPORT,
     lambda p: p.published(**{"model.down.0.bias": torch.full((4,), torch.nan)}), "not finite in model.down.0.bias"),
    ("published checkpoint with other tensors", IMPORT, lambda p: p.published(surplus=torch.zeros(1)),
     "layout: surplus is unknown; give"),
    ("spectrum without real micrographs", GENERATE + " --noise spectrum", None, "give real"),
    ("micrographs smaller than the box", GENERATE + " --noise gaussian --micrograph-size 20 20",
     None, "larger than the micrograph \\(20 x 20"),
    ("a name with a line break", f"{SIMULATE} --volume 'a\nb\x1b[2J.mrc'", None, r"a.*b.*\[2J.mrc is not a file"),
    ("a name with a NUL", "simulate --config {bad}/x.json", lambda p: p.bytes(
        "x.json", b'{"volume": ["a\\u0000b"], "out": "x"}'), "volume|is not a file"),
    ("an output folder with a NUL", "phantom --config {bad}/x.json",
     lambda p: p.bytes("x.json", b'{"out": "a\\u0000b"}'), "out"),
]


def test_the_table_has_many_rows_with_unique_names():
    assert len({row[0] for row in ROWS}) == len(ROWS) >= 50


def modification_times(folder):
    """Every file with its time of change, to check that no file of the user is changed."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture
def refusal_of(good, tmp_path, monkeypatch, capsys):
    """Function that runs a command line, checks that it is refused and changes no file, and returns the message."""
    monkeypatch.chdir(tmp_path)

    def run(line):
        before = modification_times(good), modification_times(tmp_path)
        words = [word.format(good=good, bad=tmp_path) for word in shlex.split(line)]  # folder names may contain blanks
        monkeypatch.setattr(sys, "argv", ["cryogem", *words])
        assert main() == 2
        error = capsys.readouterr().err
        message = error.splitlines()[-1]
        assert message.startswith("cryogem: ")
        assert ";" in message, "no remedy"
        assert error == message + "\n"
        assert message.isprintable()
        assert (modification_times(good), modification_times(tmp_path)) == before
        return message
    return run


@pytest.mark.parametrize(("line", "damage", "message"), [pytest.param(*row[1:], id=row[0]) for row in ROWS])
def test_bad_input_is_refused(good, tmp_path, refusal_of, line, damage, message):
    if damage:
        damage(InputFolders(good, tmp_path))
    assert re.search(message, refusal_of(line))


def test_more_memory_than_is_free_is_refused(refusal_of, monkeypatch):
    """The free memory is faked: a micrograph too large for the real memory would be too large for the disk."""
    monkeypatch.setattr("cryogem_scipion.engine.compute.parallel._free_memory", lambda: 10**9)
    message = refusal_of(MAP + " --micrograph-size 6000 6000 --particles-mean 100")
    assert re.search(r"needs about \d+ GB of memory, but only 1 GB are free; lower micrograph_size, particles_mean",
                     message)
