# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors and warnings of a form before the run, and the summary of a running protocol."""
import re
import shlex
import subprocess
import sys
import time

import pytest

pytest.importorskip("pwem", reason="Scipion's packages are not installed")

from pwem.objects import Micrograph, SetOfMicrographs
from pyworkflow.protocol import STATUS_ABORTED, STATUS_RUNNING

from cryogem_scipion.engine.runs.progress import track_progress
from cryogem_scipion.plugin import Plugin
from cryogem_scipion.protocols.checks import crowding_warnings
from cryogem_scipion.workflow import new_protocol
from tests.scipion.conftest import REAL_COUNT


@pytest.fixture(scope="module")
def make_protocol(project, inputs, simulation):
    """Creates a protocol with its inputs and the given parameters."""
    simulated = (simulation, "outputMicrographs")
    defaults = {"Simulate": {"inputVolume": inputs["volume"]},
             "Train": {"inputMicrographs": inputs["real"], "inputSimulation": simulated, "crop": 64},
             "Generate": {"inputSimulation": simulated, "noise": "gaussian"}}

    def make(kind, **parameters):
        return new_protocol(project, f"ProtCryogem{kind}", **{**defaults[kind], **parameters})
    return make


@pytest.mark.parametrize("kind", ["Simulate", "Train", "Generate"])
def test_valid_forms_have_no_errors_and_are_checked_quickly(make_protocol, kind, monkeypatch):
    protocol = make_protocol(kind)
    assert protocol.validate() == []
    # No program is started again. CPU time is measured, because the wall time depends on the machine's load.
    monkeypatch.setattr(subprocess, "Popen", lambda *command, **options: pytest.fail(f"starts {command}"))
    start = time.thread_time()
    protocol.validate()
    protocol.warnings()
    assert time.thread_time() - start < 1.0  # only headers and database are read, which takes a hundredth of that


@pytest.mark.parametrize(("kind", "parameters", "message"), [
    ("Simulate", {"boxSize": 2000}, r"\*Box size\*: 2000 px is larger than the micrographs \(1024 px\)"),
    ("Simulate", {"pixelSize": 0.1}, r"\*Map\*: its edge is 198 Å, longer than the micrographs \(102 Å\)"),
    ("Train", {"crop": 72}, "crop 72 is not a multiple of 16, as the residual generator needs; give 64"),
    ("Train", {"crop": 256}, r"\*Real micrographs\*: their shorter side is 188 px .* less than the crop \(256 px\)"),
    ("Generate", {"micrographSize": "16 3000"}, r"\*Micrograph size\*: the box of the simulation is \d+ px, larger "
     "than micrographs of 16 x 3000 px"),
])
def test_errors_are_found_before_the_run(make_protocol, kind, parameters, message):
    assert re.search(message, make_protocol(kind, **parameters).validate()[0])


@pytest.mark.parametrize(("kind", "parameters", "message"), [
    ("Simulate", {"particleDistance": 150.0, "particlesMean": 5000.0}, r"About 1\d\d\d particles fit at a distance of "
     "150 Å, but 5000 are asked for"),
    ("Simulate", {"particlesMean": 9000.0}, r"fit at a distance of 99 Å \(if the particle fills half of the map's "
     r"edge\), but 9000"),
    ("Simulate", {"pixelSize": 3.0}, r"3 Å is finer than the map's \(6 Å\)"),
    ("Generate", {"reuse": True, "micrographs": 99}, "99 micrographs are asked for, but there are only 4 "
     "simulated micrographs"),
    ("Generate", {"micrographSize": "50 50"}, r"About \d particles fit at a distance of \d+ Å, but 6 are asked for"),
])
def test_possible_mistakes_give_a_warning(make_protocol, kind, parameters, message):
    protocol = make_protocol(kind, **parameters)
    assert protocol.validate() == []
    assert re.search(message, " ".join(protocol.warnings()))


def test_few_real_micrographs_give_a_warning(make_protocol, inputs):
    assert f"The number of real micrographs is only {REAL_COUNT}." in make_protocol("Train").warnings()[0]
    assert make_protocol("Generate", inputMicrographs=inputs["real"]).warnings() == []


def test_capacity_is_that_of_discs_at_random_positions():
    # 54.7 % of 100 x 100 px of 2 Å are 279 discs of 10 Å.
    assert crowding_warnings(278, (100, 100), 2.0, 10.0) == []
    assert "About 279 particles" in crowding_warnings(280, (100, 100), 2.0, 10.0)[0]
    assert crowding_warnings(1e6, (100, 100), 2.0, 0.0) == []


def saved(path, files, pixel_size, voltage):
    """A SetOfMicrographs with another pixel size or microscope than that of the imported ones."""
    from pwem.objects import Acquisition
    micrographs = SetOfMicrographs(filename=str(path))
    micrographs.setSamplingRate(pixel_size)
    micrographs.setAcquisition(Acquisition(magnification=50000, voltage=voltage, sphericalAberration=1.4,
                                           amplitudeContrast=0.08))
    for file in files:
        micrographs.append(Micrograph(location=str(file)))
    micrographs.write()
    return micrographs


def test_different_pixel_sizes_and_microscopes_give_a_warning(make_protocol, scipion, tmp_path):
    files = sorted((scipion / "real").glob("*.mrc"))
    protocol = make_protocol("Train")
    protocol.inputMicrographs.set(saved(tmp_path / "other.sqlite", files * 2, 4.0, 300.0))
    warnings = " ".join(protocol.warnings())
    assert "the header of real_0.mrc has 5 Å/px, but the file was imported with 4 Å/px" in warnings
    assert "a voltage of 300 kV, the simulated ones 200" in warnings
    coarse = saved(tmp_path / "coarse.sqlite", files, 9.0, 200.0)
    protocol.inputMicrographs.set(coarse)
    assert "9 Å is coarser than the simulation's" in protocol.validate()[0]
    # Without a pixel size in the form, the simulation takes the larger of the two.
    simulation = make_protocol("Simulate")
    simulation.inputMicrographs.set(coarse)
    assert simulation.settingsValues()["pixel_size"] == 9.0
    simulation.pixelSize.set(8.0)
    assert "no noise can be learned from them" in simulation.warnings()[0]


def test_missing_files_are_named(make_protocol, tmp_path, scipion):
    protocol = make_protocol("Train")
    protocol.inputMicrographs.set(saved(tmp_path / "gone.sqlite", [tmp_path / "gone.mrc"], 5.0, 200.0))
    assert re.search(r"\*Real micrographs\*: .*gone\.mrc is not a file", protocol.validate()[0])
    (tmp_path / "gone.mrc").write_bytes(b"TIFF" * 1000)
    assert re.search(r"gone\.mrc is not an MRC file", protocol.validate()[0])
    away = scipion / "map.away"
    (scipion / "map.mrc").rename(away)
    try:
        assert re.search(r"\*Map\*: .*map\.mrc does not exist any more", make_protocol("Simulate").validate()[0])
    finally:
        away.rename(scipion / "map.mrc")


def test_an_environment_that_does_not_work_is_refused(make_protocol, monkeypatch, tmp_path):
    monkeypatch.setattr(Plugin, "_vars", {})
    monkeypatch.setenv("CRYOGEM_ENV_ACTIVATION", ". /no/such/activate")
    [message] = make_protocol("Simulate").validate()
    assert re.search(r"engine's environment cannot be used \(.*/no/such/activate.*\); correct CRYOGEM_ENV", message)
    # A Python without the engine's libraries, first on the path.
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -S -E "$@"\n', "utf-8")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setenv("CRYOGEM_ENV_ACTIVATION", f"PATH='{tmp_path}':$PATH")
    assert "this Python lacks torch, numba" in make_protocol("Simulate").validate()[0]
    protocol = make_protocol("Simulate")
    protocol.useQueue = lambda: True  # the queue's machines may have another environment
    assert protocol.validate() == []


@pytest.mark.usefixtures("clock")
def test_the_summary_of_a_running_protocol_tells_its_progress(project, make_protocol):
    protocol = make_protocol("Train")
    project.saveProtocol(protocol)
    assert protocol.summary() == ["Not finished yet."]
    folder = protocol.outFolder()
    folder.mkdir(parents=True)
    steps = track_progress(range(2000), 2000, "training step", seconds=0, note=lambda item: "contrastive 0.4",
                           folder=folder)
    next(steps)
    protocol.setStatus(STATUS_RUNNING)
    assert protocol.summary() == ["Running: training step 0 of 2000."]
    next(steps)
    summary = protocol.summary()
    assert summary[0] == "Running: training step 1 of 2000, 20 s left."
    assert summary[1] == "Now: contrastive 0.4."
    steps.close()
    protocol.setStatus(STATUS_ABORTED)
    assert protocol.summary() == ["Stopped at training step 1 of 2000; Continue goes on from there."]
    assert protocol._methods() == []
