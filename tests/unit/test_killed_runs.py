# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs that are killed (SIGKILL) anywhere: the same command goes on to the same files with the same bytes."""
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
"""Of each stage in the long test: half before a chosen change of a file, half at any time."""
WHOLE = {".mrc", ".mrcs", ".safetensors", ".png"}
TIMED = {"steps_per_second"}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Made by the zygote, which has to load everything anyway."""
    return tmp_path_factory.mktemp("good")


@pytest.fixture(scope="module")
def zygote(good):
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
    """Every file of a run; of settings and tables only what does not depend on the place and the clock."""
    return {str(path.relative_to(out)): _timeless(path) for path in sorted(out.rglob("*"))
            if path.is_file() and not path.name.startswith("events.")}  # TensorBoard's have the time in their names


def _timeless(path):
    if path.suffix == ".json":
        def dropped(value):
            return {key: dropped(one) for key, one in value.items() if key not in {"out", *TIMED}} if isinstance(
                value, dict) else value
        return dropped(json.loads(path.read_text()))
    if path.name == "losses.csv":
        return [line.rpartition(",")[0] for line in path.read_text().splitlines()]
    return path.read_bytes()


def finished(out):
    """What of a killed run must not be made again: whole micrographs, with what tells when they were written."""
    kept = [path for path in out.glob("micrographs/mic_*.mrc")]
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in kept}


def redone(out):
    """Steps after the last checkpoint that a killed training has to do again."""
    previews = [int(path.stem.removeprefix("step_")) for path in out.glob("previews/step_*.png")]
    if not (out / "checkpoint.safetensors").is_file():
        return max(previews, default=0)
    with safe_open(out / "checkpoint.safetensors", "pt") as file:
        return max(0, max(previews, default=0) - json.loads(file.metadata()["cryogem"])["step"])


def killed_and_continued(zygote, stage, good, out, whole, **when):
    """Kill a run, look at what it left, and go on; returns whether it was killed at all."""
    values = settings(stage, good, out)
    died = zygote(stage, values, **when)["status"]
    assert died in (0, -9)
    before, again = finished(out), redone(out)
    for path in out.rglob("*"):  # under their final names files are whole
        if path.is_file() and not path.name.startswith(".") and path.suffix in WHOLE:
            assert path.stat().st_size == (whole["sizes"][str(path.relative_to(out))]), path
    assert zygote(stage, values)["status"] == 0
    assert {path: seen for path, seen in finished(out).items() if path in before} == before
    assert again <= INTERVAL
    assert contents(out) == whole["contents"]
    return died == -9


@pytest.fixture(scope="module")
def uninterrupted(zygote, good, tmp_path_factory):
    folder, found = tmp_path_factory.mktemp("whole"), {}

    def run(stage):
        if stage not in found:
            out = folder / stage
            begun = time.monotonic()
            answer = zygote(stage, settings(stage, good, out))
            assert answer["status"] == 0
            sizes = {str(path.relative_to(out)): path.stat().st_size for path in out.rglob("*") if path.is_file()}
            found[stage] = {"seconds": time.monotonic() - begun, "events": answer["events"], "contents": contents(out),
                            "sizes": sizes}
        return found[stage]
    return run


@pytest.mark.parametrize(("stage", "part"), [("simulate", 0.5), ("train", 0.7), ("generate", 0.9)])
def test_a_killed_run_goes_on(stage, part, zygote, good, uninterrupted, tmp_path):
    whole = uninterrupted(stage)
    assert killed_and_continued(zygote, stage, good, tmp_path / "out", whole, event=int(part * whole["events"]))


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["simulate", "train", "generate"])
def test_runs_killed_anywhere_go_on(stage, zygote, good, uninterrupted, tmp_path):
    whole = uninterrupted(stage)
    draw = random.Random(stage)
    events = sorted(draw.sample(range(1, whole["events"]), KILLS // 2))
    killed = 0
    for number, event in enumerate(events):
        killed += killed_and_continued(zygote, stage, good, tmp_path / f"event {number}", whole, event=event)
    assert killed == len(events)
    # Some are over before their time has come: how fast a run is depends on what else the machine does.
    longest = whole["seconds"]
    for number in range(2 * KILLS):
        if killed < KILLS - 5:
            seconds = draw.uniform(0.02, 0.7) * longest
            if killed_and_continued(zygote, stage, good, tmp_path / f"time {number}", whole, seconds=seconds):
                killed += 1
            else:
                longest = seconds
    assert killed == KILLS - 5
    # Whoever is killed again and again still gets there: always a little further.
    out, last = tmp_path / "often", 0
    while zygote(stage, settings(stage, good, out), event=3 + whole["events"] // 3 + last)["status"]:
        last += 1
        assert last < 20
    assert contents(out) == whole["contents"]
