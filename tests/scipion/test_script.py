# SPDX-License-Identifier: GPL-3.0-or-later
"""README's ten lines, run as they are shown: only paths, pixel sizes and the amount of work are those of the tests."""
import re
from pathlib import Path

import pytest

pytest.importorskip("pwem", reason="Scipion's packages are not installed")

from cryogem_scipion import workflow
from tests.scipion.conftest import MICROGRAPH_COUNT, PIXEL_SIZE, REAL_PIXEL_SIZE, SHAPE

README = Path(__file__).resolve().parents[2] / "README.md"
SIZE = f"{SHAPE[0]} {SHAPE[1]}"
SMALLER = {
    "ProtImportVolumes": {"samplingRate": 6.0},
    "ProtImportMicrographs": {"samplingRate": REAL_PIXEL_SIZE},
    "ProtCryogemSimulate": {"pixelSize": PIXEL_SIZE, "micrographs": MICROGRAPH_COUNT, "micrographSize": SIZE,
                            "particlesMean": 6.0, "measureMicrographs": False},
    "ProtCryogemTrain": {"steps": 2, "crop": 64, "generatorWidth": 4, "discriminatorWidth": 4},
    "ProtCryogemGenerate": {"micrographs": 2}}


@pytest.mark.slow
@pytest.mark.skipif(not README.is_file(), reason="README is not part of the installed package")
def test_the_script_of_the_readme_makes_a_data_set(scipion, project, monkeypatch):
    [script] = re.findall(r"^```python\n(.*?)^```$", README.read_text("utf-8"), re.M | re.S)
    assert len([line for line in script.splitlines() if line.strip()]) <= 12
    script = script.replace("/data/map.mrc", str(scipion / "map.mrc")).replace("/data/mics", str(scipion / "real"))
    script = script.replace("/data/work", str(scipion))
    run = workflow.run

    def small(project, kind, **parameters):
        return run(project, kind, **{**parameters, **SMALLER[kind]})

    monkeypatch.setattr(workflow, "run", small)
    monkeypatch.chdir(project.path)  # again the current folder after this test
    names = {}
    exec(compile(script, str(README), "exec"), names)
    dataset = names["dataset"]
    assert dataset.outputMicrographs.getSize() == 2
    assert dataset.outputMicrographs.getSamplingRate() == pytest.approx(PIXEL_SIZE, rel=1e-3)
    assert dataset.outputParticles.getSize() == dataset.outputCoordinates.getSize() > 0
