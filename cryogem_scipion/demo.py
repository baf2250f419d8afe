# SPDX-License-Identifier: GPL-3.0-or-later
"""``make demo``: simulate, train and generate in a Scipion project, with the real micrograph of this package.

The map is a phantom that the engine computes. At the end the demo draws a figure: the real micrograph beside the
simulated, the physical and the generated one.
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

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import patheffects
from matplotlib.patches import Rectangle
from scipy.ndimage import gaussian_filter

from cryogem_scipion.engine.errors import CryogemError
from cryogem_scipion.engine.io.dataset import MICROGRAPHS, PARTICLES, read_table
from cryogem_scipion.engine.io.mrc import read_mrc
from cryogem_scipion.workflow import open_project, run

__all__ = ["PROJECT", "DemoSize", "draw_figure", "main", "run_and_report", "run_demo"]

log = logging.getLogger("cryogem")

REAL_MICROGRAPH = Path(__file__).resolve().parent / "data" / "krios_micrograph_3.4A.mrc"
REAL_PIXEL_SIZE = 3.42
PROJECT = "CryogemDemo"
FIELD_EDGE = 380
"""Edge (px) of the field that the figure shows."""
ACQUISITION = {"voltage": 300.0, "sphericalAberration": 2.7, "amplitudeContrast": 0.1}


@dataclass(frozen=True)
class DemoSize:
    """Amount of work of the demo; the tests run a smaller demo."""

    pixel_size: float = 5.13
    micrograph_size: tuple[int, int] = (616, 616)
    micrographs: int = 8
    particles: float = 110.0
    steps: int = 600
    crop: int = 128
    width: int = 24


def run_demo(folder: Path, size: DemoSize) -> dict[str, Any]:
    """Run the workflow in a Scipion project in the workspace ``folder``, and return its protocols by name."""
    map_file = _phantom(folder / "phantom")
    project = open_project(folder, PROJECT)
    micrograph_size = "{} {}".format(*size.micrograph_size)
    protocols: dict[str, Any] = {}
    protocols["volume"] = run(project, "ProtImportVolumes", "import a map (phantom)", filesPath=str(map_file),
                              samplingRate=4.0)
    protocols["real"] = run(project, "ProtImportMicrographs", "import a real micrograph",
                            filesPath=str(REAL_MICROGRAPH), samplingRate=REAL_PIXEL_SIZE, **ACQUISITION)
    protocols["simulate"] = run(
        project, "ProtCryogemSimulate", inputVolume=(protocols["volume"], "outputVolume"),
        inputMicrographs=(protocols["real"], "outputMicrographs"), pixelSize=size.pixel_size,
        micrographs=size.micrographs, micrographSize=micrograph_size, particlesMean=size.particles, particlesSigma=10.0,
        defocusMin=7000.0, defocusMax=12000.0)
    simulated = (protocols["simulate"], "outputMicrographs")
    protocols["train"] = run(
        project, "ProtCryogemTrain", inputMicrographs=(protocols["real"], "outputMicrographs"),
        inputSimulation=simulated, steps=size.steps, crop=size.crop, generatorWidth=size.width,
        discriminatorWidth=size.width)
    protocols["generate"] = run(
        project, "ProtCryogemGenerate", inputModel=(protocols["train"], "outputModel"), inputSimulation=simulated,
        micrographs=size.micrographs, keepOptical=True, keepPhysical=True)
    return protocols


def draw_figure(real: Path, dataset: Path, out: Path, name: str = "mic_000000.mrc") -> Path:
    """Draw a field of the real, the simulated, the physical and the generated micrograph side by side.

    Parameters
    ----------
    real
        Real micrograph at the working pixel size.
    dataset
        A generated dataset folder with its clean (``optical``) and physical images.
    out
        PNG file.
    name
        File name of the generated micrograph. The particles' true centres are marked on it.
    """
    panels = [("real", real), ("simulated: what the optics form", dataset / "optical" / name),
              ("physical: with ice and noise", dataset / "physical" / name),
              ("generated, true centres marked", dataset / "micrographs" / name)]
    images = [(title, *read_mrc(path, 2)) for title, path in panels]
    edge = min(FIELD_EDGE, *(min(image.shape) for _, image, _ in images))
    # One pixel of a micrograph is one pixel of the figure.
    figure, axes = plt.subplots(1, 4, figsize=(4 * (edge + 8) / 100, (edge + 30) / 100), dpi=100)
    figure.subplots_adjust(left=0.002, right=0.998, bottom=0.005, top=edge / (edge + 30), wspace=0.02)
    for axis, (title, image, pixel_size) in zip(axes, images, strict=True):
        # Slightly smoothed for display, because particles are easier to see without the finest noise.
        field = gaussian_filter(image[:edge, :edge], 0.7)
        low, high = np.percentile(field, [0.2, 99.8])
        axis.imshow(field, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
        axis.set_title(title, fontsize=12, pad=4)
        axis.set_axis_off()
        if pixel_size:
            _scale_bar(axis, edge, pixel_size)
    _mark_centres(axes[3], dataset, name, edge)
    figure.savefig(out)
    plt.close(figure)
    return out


def _scale_bar(axis: Any, edge: int, pixel_size: float, angstrom: float = 500) -> None:
    """Draw a white scale bar with its length into the lower left corner."""
    length = angstrom / pixel_size
    around = [patheffects.withStroke(linewidth=2, foreground="black")]
    axis.add_patch(Rectangle((12, edge - 16), length, 4, facecolor="white", edgecolor="black", linewidth=0.8))
    axis.text(12 + length / 2, edge - 20, f"{angstrom:g} Å", color="white", ha="center", va="bottom", fontsize=10,
              path_effects=around)


def _mark_centres(axis: Any, dataset: Path, name: str, edge: int) -> None:
    """Draw circles around the true centres; particles cut by the border have another colour."""
    optics, rows = read_table(dataset / PARTICLES, "particles", ("rlnCoordinateX", "rlnOriginXAngst", "cryogemWhole"))
    rows = rows[rows["rlnMicrographName"] == f"micrographs/{name}"]
    pixel_size = float(optics["rlnMicrographPixelSize"].iloc[0])
    x = rows["rlnCoordinateX"] - rows["rlnOriginXAngst"] / pixel_size
    y = rows["rlnCoordinateY"] - rows["rlnOriginYAngst"] / pixel_size
    shown = (x < edge - 1) & (y < edge - 1)
    whole = rows["cryogemWhole"] == 1
    for selected, colour in ((whole, "#ffb000"), (~whole, "#6fa8ff")):
        axis.scatter(x[shown & selected], y[shown & selected], s=420, facecolors="none", edgecolors=colour,
                     linewidths=1.2)


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
    figure = draw_figure(training / real["rlnMicrographName"].iloc[0], project / protocols["generate"].outFolder(),
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


def _phantom(folder: Path) -> Path:
    """Compute the map of the phantom, by the engine in another process, and return its path."""
    path = folder / "phantom.mrc"
    if not path.is_file():
        command = [sys.executable, "-m", "cryogem_scipion", "phantom", "--box", "48", "--pixel-size", "4",
                   "--diameter-angstrom", "150", "--out", str(folder)]
        process = subprocess.run(command, capture_output=True, text=True)
        if process.returncode:
            raise CryogemError(f"{shlex.join(command)} failed: {process.stderr.strip()[-500:]}")
    return path


if __name__ == "__main__":
    sys.exit(main())
