# SPDX-License-Identifier: GPL-3.0-or-later
"""``make demo``: a Scipion project that simulates, trains and generates from a real micrograph.

The real micrograph is the one that the package ships, the map a phantom made by code. The run ends with a figure:
the real micrograph beside the simulated, the noisy physical and the generated one.
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

__all__ = ["PROJECT", "Scale", "draw_figure", "main", "run_demo"]

log = logging.getLogger("cryogem")

REAL = Path(__file__).resolve().parent / "data" / "krios_micrograph_3.4A.mrc"
REAL_PIXEL_SIZE = 3.42
PROJECT = "CryogemDemo"
SHOWN = 380
"""Edge (px) of the field that the figure shows."""
ACQUISITION = {"voltage": 300.0, "sphericalAberration": 2.7, "amplitudeContrast": 0.1}


@dataclass(frozen=True)
class Scale:
    """How much work the demo does; the test suite runs a smaller one."""

    pixel_size: float = 5.13
    size: tuple[int, int] = (616, 616)
    micrographs: int = 8
    particles: float = 110.0
    steps: int = 600
    crop: int = 128
    width: int = 24


def run_demo(folder: Path, scale: Scale) -> dict[str, Any]:
    """Run the workflow in a Scipion project under ``folder`` and return its protocols by name."""
    map_file = _phantom(folder / "phantom")
    project = open_project(folder, PROJECT)
    size = "{} {}".format(*scale.size)
    boxes: dict[str, Any] = {}
    boxes["volume"] = run(project, "ProtImportVolumes", "import a map (phantom)", filesPath=str(map_file),
                          samplingRate=4.0)
    boxes["real"] = run(project, "ProtImportMicrographs", "import a real micrograph", filesPath=str(REAL),
                        samplingRate=REAL_PIXEL_SIZE, **ACQUISITION)
    boxes["simulate"] = run(
        project, "ProtCryogemSimulate", inputVolume=(boxes["volume"], "outputVolume"),
        inputMicrographs=(boxes["real"], "outputMicrographs"), pixelSize=scale.pixel_size,
        micrographs=scale.micrographs, micrographSize=size, particlesMean=scale.particles, particlesSigma=10.0,
        defocusMin=7000.0, defocusMax=12000.0)
    simulated = (boxes["simulate"], "outputMicrographs")
    boxes["train"] = run(
        project, "ProtCryogemTrain", inputMicrographs=(boxes["real"], "outputMicrographs"),
        inputSimulation=simulated, steps=scale.steps, crop=scale.crop, generatorWidth=scale.width,
        discriminatorWidth=scale.width)
    boxes["generate"] = run(
        project, "ProtCryogemGenerate", inputModel=(boxes["train"], "outputModel"), inputSimulation=simulated,
        micrographs=scale.micrographs, keepOptical=True, keepPhysical=True)
    return boxes


def draw_figure(real: Path, dataset: Path, out: Path, name: str = "mic_000000.mrc") -> Path:
    """Draw the same field of real, simulated, noisy physical and generated micrograph side by side.

    Parameters
    ----------
    real
        Real micrograph at the working pixel size.
    dataset
        A generated folder that kept its optical and physical images.
    out
        PNG file.
    name
        The generated micrograph to show; the particles' true centres are marked on it.
    """
    panels = [("real", real), ("simulated: what the optics form", dataset / "optical" / name),
              ("physical: with ice and noise", dataset / "physical" / name),
              ("generated, true centres marked", dataset / "micrographs" / name)]
    images = [(title, *read_mrc(path, 2)) for title, path in panels]
    edge = min(SHOWN, *(min(image.shape) for _, image, _ in images))
    # One pixel of a micrograph is one of the picture; a panel is as wide as its field.
    figure, axes = plt.subplots(1, 4, figsize=(4 * (edge + 8) / 100, (edge + 30) / 100), dpi=100)
    figure.subplots_adjust(left=0.002, right=0.998, bottom=0.005, top=edge / (edge + 30), wspace=0.02)
    for axis, (title, image, pixel_size) in zip(axes, images, strict=True):
        # The eye sees particles better when the finest noise is averaged away; the files are as they are.
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
    """A white bar with its length, in the lower left corner."""
    length = angstrom / pixel_size
    around = [patheffects.withStroke(linewidth=2, foreground="black")]
    axis.add_patch(Rectangle((12, edge - 16), length, 4, facecolor="white", edgecolor="black", linewidth=0.8))
    axis.text(12 + length / 2, edge - 20, f"{angstrom:g} Å", color="white", ha="center", va="bottom", fontsize=10,
              path_effects=around)


def _mark_centres(axis: Any, dataset: Path, name: str, edge: int) -> None:
    """Circles around true centres; those whose box is cut by the border in another colour."""
    optics, rows = read_table(dataset / PARTICLES, "particles", ("rlnCoordinateX", "rlnOriginXAngst", "cryogemWhole"))
    rows = rows[rows["rlnMicrographName"] == f"micrographs/{name}"]
    pixel_size = float(optics["rlnMicrographPixelSize"].iloc[0])
    x = rows["rlnCoordinateX"] - rows["rlnOriginXAngst"] / pixel_size
    y = rows["rlnCoordinateY"] - rows["rlnOriginYAngst"] / pixel_size
    shown = (x < edge - 1) & (y < edge - 1)
    whole = rows["cryogemWhole"] == 1
    for chosen, colour in ((whole, "#ffb000"), (~whole, "#6fa8ff")):
        axis.scatter(x[shown & chosen], y[shown & chosen], s=420, facecolors="none", edgecolors=colour, linewidths=1.2)


def tell(out: Path, scale: Scale) -> int:
    """Run the demo in the folder ``out`` and say what came out of it."""
    start = time.monotonic()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    boxes = run_demo(out, scale)
    project = Path(boxes["generate"].getProject().path)
    training = project / boxes["train"].outFolder()
    _, real = read_table(training / MICROGRAPHS, "micrographs", ("rlnMicrographName",))
    figure = draw_figure(training / real["rlnMicrographName"].iloc[0], project / boxes["generate"].outFolder(),
                         out / "demo.png")
    print(f"\nproject   {project}")
    for box in boxes.values():
        for name, output in box.iterOutputAttributes():
            print(f"{box.getClassLabel(False):24} {name:18} {output}")
    print(f"figure    {figure}")
    print(f"done in {time.monotonic() - start:.0f} s")
    return 0


def main() -> int:
    """Run the demo from the command line."""
    parser = argparse.ArgumentParser(prog="python -m cryogem_scipion.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder of the project and the figure")
    parser.add_argument("--steps", type=int, default=Scale.steps, help="training steps")
    arguments = parser.parse_args()
    try:
        return tell(arguments.out, Scale(steps=arguments.steps))
    except CryogemError as error:
        print(f"cryogem: {error}", file=sys.stderr)
        return 2


def _phantom(folder: Path) -> Path:
    """The phantom's map, made by the engine in a process of its own."""
    path = folder / "phantom.mrc"
    if not path.is_file():
        command = [sys.executable, "-m", "cryogem_scipion", "phantom", "--box", "48", "--pixel-size", "4",
                   "--diameter-angstrom", "150", "--out", str(folder)]
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode:
            raise CryogemError(f"{shlex.join(command)} failed: {made.stderr.strip()[-500:]}")
    return path


if __name__ == "__main__":
    sys.exit(main())
