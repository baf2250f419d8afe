# SPDX-License-Identifier: GPL-3.0-or-later
"""Scipion's queue: SLURM with one node runs the protocols as jobs, configured by docs/hosts.conf."""
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

pytest.importorskip("pwem", reason="Scipion's packages are not installed")

from pyworkflow.protocol.constants import MODE_RESUME

from cryogem_scipion.engine.io.dataset import read_manifest
from cryogem_scipion.workflow import WorkflowError, new_protocol, rerun, run
from tests.slurm import cluster, missing

pytestmark = [pytest.mark.optional, pytest.mark.slow]
HOSTS = Path(__file__).resolve().parents[2] / "docs/hosts.conf"
FIELDS = {"JOB_TIME": "00:10:00", "JOB_MEMORY": "2G"}
QUEUE = ("cpu", FIELDS)
TIMEOUT = 300
STEPS = ("cpu", {**FIELDS, "QUEUE_FOR_JOBS": "Y"})
TRAINING = {"steps": 200, "crop": 32, "generatorWidth": 4, "discriminatorWidth": 4, "checkpointEvery": 20,
            "previewEvery": 100, "snr": 1.0, "noise": "gaussian", "numberOfThreads": 1}


@pytest.fixture(scope="module")
def queue(project, tmp_path_factory):
    """The project of all tests, with a SLURM that is configured by docs/hosts.conf."""
    reason = missing() or ("" if HOSTS.is_file() else "docs/hosts.conf is not part of the installed package")
    if reason:
        pytest.skip(reason)
    hosts, before = Path(os.environ["SCIPION_HOSTS"]), dict(os.environ)
    former = hosts.read_text("utf-8")
    with ExitStack() as running:
        try:
            environment = running.enter_context(cluster(tmp_path_factory.mktemp("slurm")))
        except RuntimeError as error:
            pytest.skip(str(error))
        try:
            os.environ.update(environment)
            hosts.write_text(HOSTS.read_text("utf-8"), "utf-8")
            project._loadHosts(None)
            yield project
        finally:
            hosts.write_text(former, "utf-8")
            project._loadHosts(None)
            os.environ.clear()
            os.environ.update(before)


@pytest.fixture(scope="module")
def trained(queue, inputs, simulation):
    """A training whose engine step is a job; Scipion itself runs outside of the queue."""
    return run(queue, "ProtCryogemTrain", "trained", queue=STEPS, inputMicrographs=inputs["real"],
               inputSimulation=(simulation, "outputMicrographs"), **TRAINING)


def states(protocol):
    """SLURM's states of a protocol's jobs after they have ended, by the names of their scripts."""
    until = time.monotonic() + TIMEOUT
    while subprocess.check_output(["squeue", "-h"]) and time.monotonic() < until:
        time.sleep(0.1)
    text = subprocess.run(["scontrol", "-o", "show", "jobs"], capture_output=True, text=True, check=True).stdout
    jobs = [dict(part.split("=", 1) for part in line.split() if "=" in part) for line in text.splitlines()]
    folder = os.path.abspath(protocol._getLogsPath())
    return {Path(job["Command"]).name: job["JobState"] for job in jobs if job["Command"].startswith(folder)}


def images(protocol):
    return {path.name: path.read_bytes() for path in sorted(protocol.outFolder().glob("micrographs/*.mrc"))}


def test_the_three_stages_are_jobs(queue, inputs, simulation, trained):
    """Simulation and generation as jobs; the simulation gives the same bytes as outside of the queue."""
    simulated = run(queue, "ProtCryogemSimulate", "simulated", queue=QUEUE, inputVolume=inputs["volume"],
                    inputMicrographs=inputs["real"], pixelSize=8.0, micrographs=4, micrographSize="160 201",
                    particlesMean=6.0, particlesSigma=1.0, extract=True, seed=3, phaseShiftDegrees=20.0,
                    measureMicrographs=False, numberOfThreads=1)
    assert states(simulated) == {f"{simulated.getObjId()}.job": "COMPLETED"}
    assert simulated.outputMicrographs.getSize() == 4
    assert images(simulated) == images(simulation)
    (name, state), = states(trained).items()
    assert state == "COMPLETED"
    assert "launcher.py train " in Path(trained._getLogsPath(name)).read_text("utf-8")
    generated = run(queue, "ProtCryogemGenerate", "generated", queue=QUEUE, inputModel=(trained, "outputModel"),
                    inputSimulation=(simulated, "outputMicrographs"), micrographs=2, numberOfThreads=1)
    assert list(states(generated).values()) == ["COMPLETED"]
    assert generated.outputMicrographs.getSize() == len(images(generated)) == 2
    assert generated.outputCoordinates.getSize() > 0


def test_poses_are_trained_and_assigned_as_jobs(queue, simulation):
    generated = run(queue, "ProtCryogemGenerate", "to train on", inputSimulation=(simulation, "outputMicrographs"),
                    noise="gaussian", snr=4.0, micrographs=10, numberOfThreads=1)
    training = run(queue, "ProtCryogemTrainPoses", "poses", queue=QUEUE, steps=20, validateEvery=10, numberOfThreads=1,
                   inputParticles=(generated, "outputParticles"))
    assigned = run(queue, "ProtCryogemAssignPoses", "assign", queue=STEPS, inputModel=(training, "outputModel"),
                   inputParticles=(generated, "outputParticles"), numberOfThreads=1)
    assert [list(states(protocol).values()) for protocol in (training, assigned)] == [["COMPLETED"], ["COMPLETED"]]
    assert assigned.outputParticles.getSize() == generated.outputParticles.getSize() > 15


def test_a_cancelled_job_goes_on(queue, inputs, simulation, trained):
    """Stop runs ``scancel``. Continue submits a job that ends with the same bytes as an uninterrupted run."""
    protocol = new_protocol(queue, "ProtCryogemTrain", "cancelled", QUEUE, inputMicrographs=inputs["real"],
                      inputSimulation=(simulation, "outputMicrographs"), **TRAINING)
    assert protocol.validate() == []
    queue.saveProtocol(protocol)
    queue.launchProtocol(protocol, wait=False)
    folder = protocol.outFolder()
    until = time.monotonic() + TIMEOUT
    while not (folder / "checkpoint.safetensors").is_file() and time.monotonic() < until:
        time.sleep(0.02)
    queue.stopProtocol(protocol)
    assert protocol.isAborted()
    assert list(states(protocol).values()) == ["CANCELLED"]
    assert not engines(protocol)
    assert not (folder / "model.safetensors").exists()
    protocol.runMode.set(MODE_RESUME)
    lines = []
    rerun(queue, protocol, lines.append)
    assert "COMPLETED" in states(protocol).values()
    assert not any("reading real micrograph 1/" in line for line in lines)
    assert (folder / "model.safetensors").read_bytes() == (trained.outFolder() / "model.safetensors").read_bytes()


def engines(protocol):
    """Processes whose command line has the protocol's settings file."""
    name = os.path.abspath(protocol.configFile())
    return [process for process in psutil.process_iter(["cmdline"])
            if any(part.endswith(name) for part in process.info["cmdline"] or ())]


def test_a_bad_queue_is_refused(queue, inputs):
    with pytest.raises(WorkflowError, match="has no queue 'fast'; give one of: cpu, gpu"):
        new_protocol(queue, "ProtCryogemSimulate", "refused", ("fast", {}))
    with pytest.raises(WorkflowError, match="queue 'cpu' has no field 'HOURS'; give one of: JOB_TIME, "):
        new_protocol(queue, "ProtCryogemSimulate", "refused", ("cpu", {"HOURS": "1"}))


def test_what_a_job_says_is_the_error_of_the_box(queue, inputs, scipion):
    """Scipion does not know a job's exit status. The error is the last line of the job's own log."""
    whole = (scipion / "map.mrc").read_bytes()
    (scipion / "map.mrc").write_bytes(whole[:5000])  # after it was imported as a link
    try:
        with pytest.raises(WorkflowError, match=r"failed: .*map\.mrc.*truncated"):
            run(queue, "ProtCryogemSimulate", "refused", queue=STEPS, inputVolume=inputs["volume"], numberOfThreads=1,
                micrographs=1)
    finally:
        (scipion / "map.mrc").write_bytes(whole)


def test_a_large_set_as_an_array_of_jobs(queue, simulation, tmp_path):
    """Outside of Scipion: each job generates a part with its own seed, as in the README."""
    script = tmp_path / "array.sh"
    script.write_text(f"""#!/bin/bash
#SBATCH --array=1-2 --cpus-per-task=1 --mem=1G --time=00:10:00 --output={tmp_path}/%a.log
{sys.executable} -m cryogem_scipion generate --simulation '{simulation.outFolder().resolve()}' --noise gaussian \\
    --micrographs 2 --device cpu --threads 1 --seed $SLURM_ARRAY_TASK_ID --out {tmp_path}/part$SLURM_ARRAY_TASK_ID
""")
    done = subprocess.run(["sbatch", "--wait", script], capture_output=True, text=True)
    assert done.returncode == 0, [path.read_text("utf-8") for path in tmp_path.glob("*.log")]
    first, second = (tmp_path / f"part{number}" for number in (1, 2))
    assert read_manifest(first).micrographs == read_manifest(second).micrographs == 2
    assert (first / "micrographs/mic_000000.mrc").read_bytes() != (second / "micrographs/mic_000000.mrc").read_bytes()
