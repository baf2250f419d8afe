# SPDX-License-Identifier: GPL-3.0-or-later
"""Killed runs (SIGKILL): the same command continues and makes the same files with the same bytes."""
import json
import os
import random
import subprocess
import sys
import time

import pytest
from safetensors import safe_open

MICROGRAPHS, STEPS, INTERVAL = 4, 6, 2
KILLS = 30
"""Kills of each stage in the long test: half at a change of a file, half at a random time."""
WHOLE = {".mrc", ".mrcs", ".safetensors", ".png"}
TIMED = {"steps_per_second"}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Folder for the valid inputs, which the process of ``start_stage`` makes."""
    return tmp_path_factory.mktemp("good")


@pytest.fixture(scope="module")
def start_stage(good):
    process = subprocess.Popen([sys.executable, "-m", "tests.killable_runs", str(good)], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                               env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert process.stdout.readline() == "ready\n"

    def run(stage, settings, **when):
        process.stdin.write(json.dumps({"stage": stage, "settings": settings, **when}) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    yield run
    process.stdin.close()
    process.wait()


def settings(stage, good, out):
    common = {"out": str(out), "device": "cpu", "threads": 1}
    return common | {
        "simulate": {"volume": [str(good / "map/phantom.mrc")], "micrographs": MICROGRAPHS, "extract": True,
                     "micrograph_size": [128, 160], "particles_mean": 5},
        "generate": {"model": str(good / "run/model.safetensors"), "simulation": str(good / "sim"),
                     "micrographs": MICROGRAPHS, "keep": ["optical", "physical"]},
        "train": {"real": [str(good / "real/*.mrc")], "simulation": str(good / "sim"), "steps": STEPS, "crop": 32,
                  "generator_width": 4, "discriminator_width": 4, "preview_every": 1, "checkpoint_every": INTERVAL},
    }[stage]


def contents(out):
    """Return the contents of all files of a run, without names of folders and without times."""
    return {str(path.relative_to(out)): _timeless(path) for path in sorted(out.rglob("*"))
            if path.is_file() and not path.name.startswith("events.")}  # TensorBoard's file names contain the time


def _timeless(path):
    if path.suffix == ".json":
        def without_times(value):
            if not isinstance(value, dict):
                return value
            return {key: without_times(item) for key, item in value.items() if key not in {"out", *TIMED}}
        return without_times(json.loads(path.read_text()))
    if path.name == "losses.csv":
        return [line.rpartition(",")[0] for line in path.read_text().splitlines()]
    return path.read_bytes()


def finished(out):
    """Return inode and time of each finished micrograph, to check that it is not made again."""
    paths = [path for path in out.glob("micrographs/mic_*.mrc")]
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def repeated_steps(out):
    """Return the number of steps after the last checkpoint, which a killed training repeats."""
    previews = [int(path.stem.removeprefix("step_")) for path in out.glob("previews/step_*.png")]
    if not (out / "checkpoint.safetensors").is_file():
        return max(previews, default=0)
    with safe_open(out / "checkpoint.safetensors", "pt") as file:
        return max(0, max(previews, default=0) - json.loads(file.metadata()["cryogem"])["step"])


def killed_and_continued(start_stage, stage, good, out, whole, **when):
    """Kill a run, check its files, continue it, and return whether it was killed before its end."""
    values = settings(stage, good, out)
    status = start_stage(stage, values, **when)["status"]
    assert status in (0, -9)
    before, repeated = finished(out), repeated_steps(out)
    for path in out.rglob("*"):  # files with their final names are complete
        if path.is_file() and not path.name.startswith(".") and path.suffix in WHOLE:
            assert path.stat().st_size == (whole["sizes"][str(path.relative_to(out))]), path
    assert start_stage(stage, values)["status"] == 0
    assert {path: state for path, state in finished(out).items() if path in before} == before
    assert repeated <= INTERVAL
    assert contents(out) == whole["contents"]
    return status == -9


@pytest.fixture(scope="module")
def uninterrupted(start_stage, good, tmp_path_factory):
    folder, runs = tmp_path_factory.mktemp("whole"), {}

    def run(stage):
        if stage not in runs:
            out = folder / stage
            started = time.monotonic()
            answer = start_stage(stage, settings(stage, good, out))
            assert answer["status"] == 0
            sizes = {str(path.relative_to(out)): path.stat().st_size for path in out.rglob("*") if path.is_file()}
            runs[stage] = {"seconds": time.monotonic() - started, "events": answer["events"], "contents": contents(out),
                           "sizes": sizes}
        return runs[stage]
    return run


@pytest.mark.parametrize(("stage", "fraction"), [
    ("simulate", 0.5), pytest.param("train", 0.7, marks=pytest.mark.slow), ("generate", 0.9)])
def test_a_killed_run_continues_to_the_same_files(stage, fraction, start_stage, good, uninterrupted, tmp_path):
    whole = uninterrupted(stage)
    event = int(fraction * whole["events"])
    assert killed_and_continued(start_stage, stage, good, tmp_path / "out", whole, event=event)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["simulate", "train", "generate"])
def test_runs_killed_at_any_moment_continue_to_the_same_files(stage, start_stage, good, uninterrupted, tmp_path):
    whole = uninterrupted(stage)
    draw = random.Random(stage)
    events = sorted(draw.sample(range(1, whole["events"]), KILLS // 2))
    killed = 0
    for number, event in enumerate(events):
        killed += killed_and_continued(start_stage, stage, good, tmp_path / f"event {number}", whole, event=event)
    assert killed == len(events)
    # Some runs end before their kill, because the speed depends on the load of the machine.
    longest = whole["seconds"]
    for number in range(2 * KILLS):
        if killed < KILLS - 5:
            seconds = draw.uniform(0.02, 0.7) * longest
            if killed_and_continued(start_stage, stage, good, tmp_path / f"time {number}", whole, seconds=seconds):
                killed += 1
            else:
                longest = seconds
    assert killed == KILLS - 5
    # A run that is killed again and again, each time a little later, comes to its end.
    out, last = tmp_path / "often", 0
    while start_stage(stage, settings(stage, good, out), event=3 + whole["events"] // 3 + last)["status"]:
        last += 1
        assert last < 20
    assert contents(out) == whole["contents"]
