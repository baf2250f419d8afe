# SPDX-License-Identifier: GPL-3.0-or-later
"""``make demo``: measure, simulate, train and generate in a Scipion project, with real micrographs of this package.

The micrographs are four fields of apoferritin. The map is a hollow shell of 24 subunits that the engine computes.
Everything else is measured on the micrographs. At the end the demo draws a figure: real beside generated fields, and
below what was measured.
"""
import argparse
import logging
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryogem_scipion.demo_figure import draw_figure
from cryogem_scipion.engine.errors import CryogemError
from cryogem_scipion.engine.io.dataset import MICROGRAPHS, read_table
from cryogem_scipion.workflow import open_project, run

__all__ = ["PROJECT", "DemoSize", "main", "run_and_report", "run_demo"]

log = logging.getLogger("cryogem")

REAL_MICROGRAPHS = Path(__file__).resolve().parent / "data" / "apoferritin_3A"
REAL_PIXEL_SIZE = 3.0
PROJECT = "CryogemDemo"
ACQUISITION = {"voltage": 300.0, "sphericalAberration": 2.7, "amplitudeContrast": 0.07}
MAP_PIXEL_SIZE, MAP_BOX = 3.0, 64
SHELL_DIAMETER, SYMMETRY = 125.0, "O"
"""Outer diameter (Å) and point group of apoferritin."""


@dataclass(frozen=True)
class DemoSize:
    """Amount of work of the demo; the tests run a smaller demo."""

    pixel_size: float = REAL_PIXEL_SIZE
    micrographs: int = 6
    steps: int = 400
    crop: int = 128
    width: int = 24


def run_demo(folder: Path, size: DemoSize) -> dict[str, Any]:
    """Run the workflow in a Scipion project in the workspace ``folder``, and return its protocols by name."""
    map_file = _shell(folder / "phantom")
    project = open_project(folder, PROJECT)
    protocols: dict[str, Any] = {}
    protocols["volume"] = run(project, "ProtImportVolumes", "import a map (shell)", filesPath=str(map_file),
                              samplingRate=MAP_PIXEL_SIZE)
    protocols["real"] = run(project, "ProtImportMicrographs", "import real micrographs",
                            filesPath=str(REAL_MICROGRAPHS), filesPattern="*.mrc", samplingRate=REAL_PIXEL_SIZE,
                            **ACQUISITION)
    volume, real = (protocols["volume"], "outputVolume"), (protocols["real"], "outputMicrographs")
    protocols["measure"] = run(project, "ProtCryogemMeasure", inputMicrographs=real, inputVolume=volume,
                               pixelSize=size.pixel_size, symmetry=SYMMETRY)
    protocols["simulate"] = run(project, "ProtCryogemSimulate", inputVolume=volume, inputMicrographs=real,
                                inputMeasurement=(protocols["measure"], "outputMeasurement"), symmetry=SYMMETRY,
                                micrographs=size.micrographs)
    simulated = (protocols["simulate"], "outputMicrographs")
    protocols["train"] = run(project, "ProtCryogemTrain", inputMicrographs=real, inputSimulation=simulated,
                             steps=size.steps, crop=size.crop, generatorWidth=size.width,
                             discriminatorWidth=size.width)
    protocols["generate"] = run(project, "ProtCryogemGenerate", inputModel=(protocols["train"], "outputModel"),
                                inputSimulation=simulated, micrographs=size.micrographs, keepOptical=True,
                                keepPhysical=True)
    return protocols


def run_and_report(out: Path, size: DemoSize) -> int:
    """Run the demo in the folder ``out``, print its outputs, and return the exit status."""
    start = time.monotonic()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    protocols = run_demo(out, size)
    project = Path(protocols["generate"].getProject().path)
    training = project / protocols["train"].outFolder()
    _, real = read_table(training / MICROGRAPHS, "micrographs", ("rlnMicrographName",))
    figure = draw_figure([training / name for name in real["rlnMicrographName"]],
                         project / protocols["generate"].outFolder(), project / protocols["measure"].outFolder(),
                         out / "demo.png")
    print(f"\nproject   {project}")
    for protocol in protocols.values():
        for name, output in protocol.iterOutputAttributes():
            print(f"{protocol.getClassLabel(False):24} {name:18} {output}")
    print(f"figure    {figure}")
    print(f"done in {time.monotonic() - start:.0f} s")
    return 0


def main() -> int:
    """Run the demo from the command line."""
    parser = argparse.ArgumentParser(prog="python -m cryogem_scipion.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder of the project and the figure")
    parser.add_argument("--steps", type=int, default=DemoSize.steps, help="training steps")
    arguments = parser.parse_args()
    try:
        return run_and_report(arguments.out, DemoSize(steps=arguments.steps))
    except CryogemError as error:
        print(f"cryogem: {error}", file=sys.stderr)
        return 2


def _shell(folder: Path) -> Path:
    """Compute the map of the shell, by the engine in another process, and return its path."""
    path = folder / "phantom.mrc"
    if not path.is_file():
        command = [sys.executable, "-m", "cryogem_scipion", "phantom", "--shape", "shell", "--box", str(MAP_BOX),
                   "--pixel-size", str(MAP_PIXEL_SIZE), "--diameter-angstrom", str(SHELL_DIAMETER), "--out",
                   str(folder)]
        process = subprocess.run(command, capture_output=True, text=True)
        if process.returncode:
            raise CryogemError(f"{shlex.join(command)} failed: {process.stderr.strip()[-500:]}")
    return path


if __name__ == "__main__":
    sys.exit(main())
