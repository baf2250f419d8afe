# SPDX-License-Identifier: GPL-3.0-or-later
"""Killed engines, bad files, and names with shell commands, through Scipion's protocols."""
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import mrcfile
import numpy as np
import pytest

pytest.importorskip("pwem", reason="Scipion's packages are not installed")

from pyworkflow.protocol.constants import MODE_RESUME

from cryogem_scipion.workflow import WorkflowError, rerun, run
from tests.scipion.conftest import PIXEL_SIZE, REAL_PIXEL_SIZE

pytestmark = pytest.mark.slow
NAME = "a 'b' \"c\" $(touch pwned) `touch pwned`; touch pwned & | > pwned %s {0} é"
SMALL = {"micrographs": 2, "micrographSize": "160 201", "particlesMean": 6.0, "numberOfThreads": 1}


def images(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("micrographs/*.mrc"))}


def engines(folder):
    """Ids of the processes whose command line has a protocol's folder and our launcher."""
    processes = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
            except OSError:
                continue
            if any(word.endswith("launcher.py") for word in words) and any(str(folder) in word for word in words):
                processes.append(int(entry.name))
    return processes


def kill_engine(folder, pattern):
    """Wait until the engine has written a file that matches, then kill it, as the system does when memory is short."""
    until = time.time() + 300
    while time.time() < until:
        if list(Path(folder).glob(pattern)):
            for process in engines(os.path.abspath(folder)):
                os.kill(process, signal.SIGKILL)
            return
        time.sleep(0.02)


@pytest.mark.parametrize(("kind", "pattern", "form"), [
    ("ProtCryogemSimulate", "simulation/micrographs/mic_000003.mrc",
     {"micrographs": 60, "micrographSize": "400 400", "particlesMean": 20.0, "extract": True}),
    ("ProtCryogemTrain", "training/checkpoint.safetensors",
     {"steps": 40, "crop": 64, "generatorWidth": 4, "discriminatorWidth": 4, "checkpointEvery": 10, "snr": 0.5}),
])
def test_continue_after_the_engine_was_killed(kind, pattern, form, project, inputs, simulation):
    """The images or the model are those of an uninterrupted run; finished files are not written again."""
    sources = {"inputVolume": inputs["volume"], "pixelSize": PIXEL_SIZE} if kind == "ProtCryogemSimulate" else {
        "inputMicrographs": inputs["real"], "inputSimulation": (simulation, "outputMicrographs")}
    whole = run(project, kind, "whole", **sources, **form, numberOfThreads=1)
    killed = project.newProtocol(project.getDomain().getProtocols()[kind])
    for name, value in {**sources, **form, "numberOfThreads": 1}.items():
        attribute = getattr(killed, name)
        if isinstance(value, tuple):
            attribute.set(value[0])
            attribute.setExtended(value[1])
        else:
            attribute.set(value)
    project.saveProtocol(killed)
    killer = threading.Thread(target=kill_engine, args=(killed._getExtraPath(), pattern), daemon=True)
    killer.start()
    with pytest.raises(WorkflowError, match="failed"):
        rerun(project, killed)
    killer.join()
    folder = killed.outFolder()
    assert not (folder / "manifest.json").exists()
    # The file that was being written has another name, and goes.
    before = {path: path.stat().st_mtime_ns for path in folder.glob("micrographs/mic_*.mrc")}
    killed.runMode.set(MODE_RESUME)
    rerun(project, killed)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert images(folder) == images(whole.outFolder())
    for path in whole.outFolder().glob("*.safetensors"):
        assert (folder / path.name).read_bytes() == path.read_bytes()


def spoiled(path, change):
    """Change the pixels of an image file."""
    with mrcfile.open(path) as file:
        data = change(file.data.copy())
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(data)
        file.voxel_size = REAL_PIXEL_SIZE


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda path: spoiled(path, lambda data: data * np.float32("nan")), "values that are not finite"),
    (lambda path: spoiled(path, lambda data: np.zeros_like(data)), "is constant"),
    (lambda path: path.write_bytes(path.read_bytes()[:5000]), r"is cut short \(it has 5000 bytes"),
    (lambda path: spoiled(path, lambda data: data[:40, :40]), "a noise spectrum needs 128 on each side"),
    (lambda path: path.unlink(), "is not a file; give an MRC file"),
])
def test_a_bad_micrograph_is_the_protocols_error(spoil, message, scipion, project, simulation, tmp_path):
    """The file was valid when it was imported."""
    for number in (0, 1):
        shutil.copyfile(scipion / f"real/real_{number}.mrc", tmp_path / f"real_{number}.mrc")
    real = run(project, "ProtImportMicrographs", "bad", filesPath=tmp_path, filesPattern="*.mrc",
               samplingRate=REAL_PIXEL_SIZE)
    spoil(tmp_path / "real_1.mrc")
    protocol = None
    with pytest.raises(WorkflowError, match=f"(?s)failed: .*real_1.mrc.*{message}") as caught:
        protocol = run(project, "ProtCryogemGenerate", "refused", noise="spectrum", numberOfThreads=1, micrographs=1,
                       inputSimulation=(simulation, "outputMicrographs"), inputMicrographs=(real, "outputMicrographs"))
    assert protocol is None
    assert "Traceback" not in str(caught.value)
    failed = project.getRuns()[-1]
    assert "\n" not in failed.getErrorMessage().strip()
    assert not failed.outFolder().exists()


def test_shell_commands_in_names_are_not_run(scipion, project):
    for folder in ("odd map", "odd real"):  # Scipion itself expands variables in the names of folders
        (scipion / folder).mkdir()
    shutil.copyfile(scipion / "map.mrc", scipion / "odd map" / f"{NAME}.mrc")
    for number in (0, 1):
        shutil.copyfile(scipion / f"real/real_{number}.mrc", scipion / "odd real" / f"{NAME} {number}.mrc")
    volume = run(project, "ProtImportVolumes", "map", filesPath=scipion / "odd map", filesPattern="*.mrc",
                 samplingRate=6.0)
    real = run(project, "ProtImportMicrographs", "real", filesPath=scipion / "odd real", filesPattern="*.mrc",
               samplingRate=REAL_PIXEL_SIZE)
    simulated = run(project, "ProtCryogemSimulate", NAME, inputVolume=(volume, "outputVolume"), pixelSize=PIXEL_SIZE,
                    **SMALL)
    trained = run(project, "ProtCryogemTrain", NAME, inputMicrographs=(real, "outputMicrographs"), steps=1, crop=64,
                  inputSimulation=(simulated, "outputMicrographs"), generatorWidth=4, discriminatorWidth=4, snr=0.5,
                  numberOfThreads=1)
    generated = run(project, "ProtCryogemGenerate", NAME, inputModel=(trained, "outputModel"), micrographs=1,
                    inputSimulation=(simulated, "outputMicrographs"), numberOfThreads=1)
    assert generated.outputMicrographs.getSize() == 1
    assert trained.outputMicrographs.getSize() == real.outputMicrographs.getSize() == 2
    assert not list(scipion.rglob("pwned*"))
    assert not list(Path.cwd().rglob("pwned*"))
