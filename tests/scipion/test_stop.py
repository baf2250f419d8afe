# SPDX-License-Identifier: GPL-3.0-or-later
"""Stop and continue a training, as the project window does."""
import csv
import time

import psutil
import pytest

pytest.importorskip("pwem", reason="Scipion's packages are not installed")

from cryogem_scipion.engine.runs.progress import read_progress
from cryogem_scipion.workflow import new_protocol, rerun

pytestmark = pytest.mark.slow
STEPS, TIMEOUT = 200, 600


def steps_done(folder):
    if not (folder / "losses.csv").is_file():
        return 0
    with (folder / "losses.csv").open() as file:
        return sum(1 for _ in csv.DictReader(file))


def engine_of(folder):
    """The engine's processes, recognised by the settings file in their command line."""
    name = f"{folder.parent.name}/run.json"
    return [process for process in psutil.process_iter(["cmdline"])
            if any(folder.parent.parent.name in part and part.endswith(name)
                   for part in process.info["cmdline"] or ())]


def test_a_stopped_training_is_continued(project, inputs, simulation):
    from pyworkflow.protocol import MODE_RESUME
    protocol = new_protocol(project, "ProtCryogemTrain", "stopped", inputMicrographs=inputs["real"], crop=32,
                            steps=STEPS, inputSimulation=(simulation, "outputMicrographs"), generatorWidth=4,
                            discriminatorWidth=4, checkpointEvery=40, previewEvery=100, numberOfThreads=1)
    assert protocol.validate() == []
    project.saveProtocol(protocol)
    project.launchProtocol(protocol, wait=False)
    folder = protocol.outFolder()
    end = time.monotonic() + TIMEOUT
    while steps_done(folder) < 40 and time.monotonic() < end:
        time.sleep(0.05)
    assert steps_done(folder) >= 40
    running = project.getProtocol(protocol.getObjId())
    project._updateProtocol(running)
    assert engine_of(folder)
    assert running.isRunning()
    assert running.summary()[0].startswith("Running")
    project.stopProtocol(running)
    while engine_of(folder) and time.monotonic() < end:  # takes longer on a busy machine
        time.sleep(0.05)
    stopped = steps_done(folder)
    assert 40 <= stopped < STEPS
    time.sleep(1.0)
    assert not engine_of(folder)
    assert steps_done(folder) == stopped
    assert running.isAborted()
    # On a fast machine the stop may come before the second report of progress.
    assert read_progress(folder) is not None
    assert running.summary()[0].startswith("Stopped at training step")

    lines = []
    running.runMode.set(MODE_RESUME)
    rerun(project, running, lines.append)
    assert running.isFinished()
    with (folder / "losses.csv").open() as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == list(range(1, STEPS + 1))
    assert read_progress(folder) is None
    assert f"trained for {STEPS} steps" in running.summary()[0]
    assert not any("reading real micrograph 1/" in line for line in lines)
