# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs that fail: full or read-only disk, too little memory, two runs in one folder, changed inputs."""
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from cryogem_scipion.engine.errors import DataError, SettingsError
from cryogem_scipion.engine.runs.failures import handle_failures, one_line
from cryogem_scipion.engine.settings import GenerateSettings, PhantomSettings, SimulateSettings, TrainSettings
from cryogem_scipion.engine.stages import generate, phantom, simulate
from tests.damaged_inputs import make_valid_inputs


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    out = tmp_path_factory.mktemp("map")
    phantom.run(PhantomSettings(out=out, box=32, pixel_size=6.0, diameter_angstrom=110))
    return out / "phantom.mrc"


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 750 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=750k", "none", folder], capture_output=True).returncode:
        pytest.skip("this user may not mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def run(volume, out, **changes):
    """Simulate with the error handling of the program."""
    settings = SimulateSettings(**{"volume": (volume,), "out": out, "micrographs": 4, "micrograph_size": (128, 160),
                                   "particles_mean": 5, "threads": 1, **changes})
    with handle_failures(settings):
        simulate.run(settings)


def images(folder):
    return {path.name: path.read_bytes() for path in (folder / "micrographs").iterdir()}


def test_a_run_stopped_by_a_full_disk_continues_when_there_is_room(volume, tmp_path, small_disk, monkeypatch):
    """The check of the free space is switched off, as if another program filled the disk after the check."""
    out = small_disk / "out"
    (small_disk / "other").write_bytes(bytes(300_000))
    monkeypatch.setattr("cryogem_scipion.engine.stages.simulate.check_disk_space", lambda *_: None)
    with pytest.raises(DataError, match="No space left on device; free some space on the disk; the same "
                       "command then continues") as caught:
        run(volume, out)
    monkeypatch.undo()
    assert str(small_disk) in str(caught.value)
    assert 0 < len(images(out)) < 4
    assert not (out / "manifest.json").exists()
    (small_disk / "other").unlink()
    run(volume, out)
    run(volume, tmp_path / "whole")
    assert images(out) == images(tmp_path / "whole")
    assert not list(out.rglob(".*"))


def test_a_read_only_disk_is_reported(volume, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(DataError, match=r"out cannot be written \(Read-only file system\); choose another out"):
        run(volume, small_disk / "out")


@pytest.mark.parametrize(("kind", "error", "words"), [
    (TrainSettings, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has"),
     r"the GPU's memory is too small \(CUDA out of memory\); lower batch, crop, generator_width"),
    (GenerateSettings, torch.OutOfMemoryError("CUDA out of memory. Tried"), "lower micrograph_size"),
    (SimulateSettings, MemoryError("Unable to allocate 3 TiB"), r"Unable to allocate 3 TiB\); lower micrograph_size"),
    (TrainSettings, RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 7 bytes."),
     "^memory is too small .* lower batch"),
])
def test_too_little_memory_gives_a_message_with_what_to_lower(kind, error, words, tmp_path):
    settings = kind.model_construct(out=tmp_path / "out")
    with pytest.raises(DataError, match=words), handle_failures(settings):
        raise error


def test_bugs_keep_their_traceback(tmp_path):
    settings = TrainSettings.model_construct(out=tmp_path / "out")
    for bug in (RuntimeError("shapes differ"), FileNotFoundError(2, "No such file"), ZeroDivisionError()):
        with pytest.raises(type(bug)) as caught, handle_failures(settings):
            raise bug
        assert caught.value is bug


def write_part_of_a_run(out):
    (out / "source").mkdir(parents=True)
    (out / "source/half").write_text("half")


def refused_run(settings, work):
    """Run work, and then refuse the run."""
    with handle_failures(settings):
        work()
        raise SettingsError("late")


def test_a_refused_run_leaves_no_new_files(tmp_path):
    """A folder that had files before keeps them, also those of the refused run."""
    for before in (None, [], ["thesis.txt"]):
        out = tmp_path / "a/b"
        if before is not None:
            out.mkdir(parents=True, exist_ok=True)
            for name in before:
                (out / name).write_text("mine")
        settings = PhantomSettings(out=out)
        with pytest.raises(SettingsError, match="late"):
            refused_run(settings, partial(write_part_of_a_run, out))
        if before is None:
            assert not (tmp_path / "a").exists()
        else:
            assert [path.name for path in out.iterdir() if path.is_file()] == before
            assert (out / "source").exists() is bool(before)


def test_no_file_outside_the_folder_is_removed_through_a_link(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("mine")
    out = tmp_path / "out"
    with pytest.raises(SettingsError):
        refused_run(PhantomSettings(out=out), lambda: (out.mkdir(), (out / "link").symlink_to(tmp_path / "mine")))
    assert (tmp_path / "mine/thesis.txt").read_text() == "mine"
    assert not out.exists()


def test_a_message_is_one_printable_line():
    assert one_line("a\nb  c\x1b[2J\x00 é Å\u202e.mrc\udcff") == "a b c\\x1b[2J\\x00 é Å\\u202e.mrc\\udcff"


def test_two_processes_cannot_write_one_folder(volume, tmp_path):
    run(volume, tmp_path / "out", micrographs=1)
    before = images(tmp_path / "out")
    lock_and_wait = "import sys; from cryogem_scipion.engine.io.files import lock_folder; from pathlib import Path; " \
                    "print(lock_folder(Path(sys.argv[1])), flush=True); sys.stdin.read()"
    other = subprocess.Popen([sys.executable, "-c", lock_and_wait, tmp_path / "out/source"], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "True\n"
        with pytest.raises(SettingsError, match=r"another process is writing into .*out; wait until it ends, or "
                           "stop it"):
            run(volume, tmp_path / "out", micrographs=1)
        assert (tmp_path / "out/manifest.json").is_file()
    finally:
        other.kill()
        other.communicate()
    run(volume, tmp_path / "out", micrographs=1)
    assert images(tmp_path / "out") == before


@pytest.mark.slow
@pytest.mark.slow
def test_a_run_does_not_continue_with_changed_inputs(tmp_path):
    make_valid_inputs(tmp_path)
    settings = GenerateSettings(out=tmp_path / "out", simulation=tmp_path / "sim", noise="spectrum",
                                real=(str(tmp_path / "real/*.mrc"),), micrographs=1)
    generate.run(settings)
    generate.run(settings)
    shutil.copyfile(tmp_path / "real/0.mrc", tmp_path / "real/2.mrc")
    with pytest.raises(SettingsError, match="was made from another set of real micrographs; choose another out"):
        generate.run(settings)
    (tmp_path / "real/2.mrc").unlink()
    generate.run(settings)
    manifest = tmp_path / "sim/manifest.json"
    manifest.write_text(manifest.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(SettingsError, match="was made from another simulation; choose another out"):
        generate.run(settings)
    again = SimulateSettings(out=tmp_path / "sim2", volume=(tmp_path / "map/phantom.mrc",), micrographs=1,
                             micrograph_size=(96, 112), particles_mean=4)
    simulate.run(again)
    other = Path(tmp_path / "map/phantom.mrc")
    content = bytearray(other.read_bytes())
    content[-9] ^= 1
    other.write_bytes(content)
    with pytest.raises(SettingsError, match=r"was made from another phantom\.mrc"):
        simulate.run(again)


def test_unfinished_files_of_killed_runs_are_removed_and_other_hidden_files_stay(volume, tmp_path):
    settings = SimulateSettings(volume=(volume,), out=tmp_path / "out", micrographs=1, micrograph_size=(128, 160))
    (tmp_path / "out/source").mkdir(parents=True)
    (tmp_path / "out/source/.partial-abc.json").write_text("{")  # of a run killed before it wrote its settings
    simulate.run(settings)
    for name in ("micrographs/.partial-x.mrc", ".partial-y.star", ".notes"):
        (tmp_path / "out" / name).write_text("half")
    simulate.run(settings)
    assert [path.name for path in (tmp_path / "out").rglob(".*")] == [".notes"]
    assert os.listdir(tmp_path / "out/micrographs") == ["mic_000000.mrc"]
