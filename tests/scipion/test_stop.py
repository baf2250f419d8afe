# SPDX-License-Identifier: GPL-3.0-or-later
"""Stop and Continue as the project window does them, in the middle of a training."""
import csv
import time

import psutil
import pytest

pytest.importorskip("pwem", reason="Scipion's packages are not installed")

from cryogem_scipion.engine.runs.progress import read_progress
from cryogem_scipion.workflow import new_protocol, rerun

pytestmark = pytest.mark.slow
STEPS, PATIENCE = 400, 600


def steps_done(folder):
    if not (folder / "losses.csv").is_file():
        return 0
    with (folder / "losses.csv").open() as file:
        return sum(1 for _ in csv.DictReader(file))


def engine_of(folder):
    """The engine's processes, by the settings file in their command."""
    name = f"{folder.parent.name}/run.json"
    return [process for process in psutil.process_iter(["cmdline"])
            if any(folder.parent.parent.name in part and part.endswith(name)
                   for part in process.info["cmdline"] or ())]


def test_a_training_is_stopped_and_goes_on(project, inputs, simulation):
    from pyworkflow.protocol import MODE_RESUME
    protocol = new_protocol(project, "ProtCryogemTrain", "stopped", inputMicrographs=inputs["real"], crop=32,
                            steps=STEPS, inputSimulation=(simulation, "outputMicrographs"), generatorWidth=4,
                            discriminatorWidth=4, checkpointEvery=20, previewEvery=100, numberOfThreads=1)
    assert protocol.validate() == []
    project.saveProtocol(protocol)
    project.launchProtocol(protocol, wait=False)
    folder = protocol.outFolder()
    end = time.monotonic() + PATIENCE
    while steps_done(folder) < 40 and time.monotonic() < end:
        time.sleep(0.05)
    assert steps_done(folder) >= 40
    running = project.getProtocol(protocol.getObjId())
    project._updateProtocol(running)
    assert engine_of(folder)
    assert running.isRunning()
    assert running.summary()[0].startswith("Running")
    project.stopProtocol(running)
    while engine_of(folder) and time.monotonic() < end:  # a busy machine takes its time to end it
        time.sleep(0.05)
    stopped = steps_done(folder)
    assert 40 <= stopped < STEPS
    time.sleep(1.0)
    assert not engine_of(folder)
    assert steps_done(folder) == stopped
    assert running.isAborted()
    # A fast machine may be stopped before the first note of progress after the beginning.
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
