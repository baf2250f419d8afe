# SPDX-License-Identifier: GPL-3.0-or-later
"""From real micrographs and a map to a refined map: the whole chain as one script of Scipion protocols.

    python benchmarks/chain.py --micrographs FOLDER --sampling 1.5 --volume MAP --volume-sampling 3 --symmetry O \\
        --out OUT

It needs Scipion's plugins for Topaz and RELION (TOPAZ_ENV_ACTIVATION, RELION_HOME) and writes a Scipion project into
OUT. The function ``workflow`` is the whole chain; the template *micrographs_to_map* makes the same protocols, but
extracts particles at the pixel size of the micrographs. Here they have the working pixel size, which is faster. A run
that stopped goes on: protocols that have finished are not repeated.

The table has the time of each protocol, then the number of picks and of particles, and the resolution: of the map's
halves against each other (threshold 0.143) and of the map against MAP (0.5), both inside a soft sphere of the
particle's diameter. Slices and FSC curves are drawn into OUT/chain.png.
"""
import argparse
import os
import sys
from pathlib import Path

import numpy as np
import torch
from markdown_table import MarkdownTable
from matplotlib.figure import Figure
from scipy import ndimage
from structure import correlations, read_volume, soft_sphere

from cryogem_scipion import workflow as scipion

OPEN_MPI = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            "OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_MCA_mpi_yield_when_idle": "1"}
"""RELION's refinement needs three processes, on machines with fewer cores and in containers, too."""


def workflow(run, args):
    """All protocols in order; ``run`` runs one and returns it, an input is (protocol, name of the output)."""
    real = run("ProtImportMicrographs", filesPath=args.micrographs, filesPattern=args.pattern,
               samplingRate=args.sampling, voltage=args.voltage, sphericalAberration=args.cs,
               amplitudeContrast=args.amplitude)
    volume = run("ProtImportVolumes", filesPath=args.volume, samplingRate=args.volume_sampling)
    micrographs, reference = (real, "outputMicrographs"), (volume, "outputVolume")
    measured = run("ProtCryogemMeasure", inputMicrographs=micrographs, inputVolume=reference, pixelSize=args.pixel_size)
    simulated = run("ProtCryogemSimulate", inputVolume=reference, inputMeasurement=(measured, "outputMeasurement"),
                    inputMicrographs=micrographs, symmetry=args.symmetry, micrographs=args.count)
    trained = run("ProtCryogemTrain", inputMicrographs=micrographs, inputSimulation=(simulated, "outputMicrographs"),
                  steps=args.steps, crop=args.crop)
    generated = run("ProtCryogemGenerate", inputModel=(trained, "outputModel"), visibleParticles=True,
                    inputSimulation=(simulated, "outputMicrographs"), micrographs=args.count)
    measurement, scale = measured.outputMeasurement, max(1, round(5 / args.pixel_size))
    picker = run("TopazProtTraining", inputMicrographs=(generated, "outputMicrographs"), micsForTraining=args.count,
                 inputCoordinates=(generated, "outputCoordinates"), numPartPerImg=measurement.getParticles(),
                 scale=scale, numEpochs=args.epochs, trainExtra=args.topaz, gpuList="0")
    picked = run("TopazProtPicking", inputMicrographs=(trained, "outputMicrographs"), scale=scale, gpuList="0",
                 prevTopazModel=(picker, "outputModel"), radius=measurement.getRadius() // scale, threshold=0.0,
                 streamingBatchSize=32)
    returned = run("ProtCryogemReturnCoordinates", inputCoordinates=(picked, "outputCoordinates"),
                   inputMicrographs=micrographs, inputCtfs=(measured, "outputCTF"))
    extracted = run("ProtRelionExtractParticles", inputCoordinates=(returned, "outputCoordinates"), doInvert=True,
                    ctfRelations=(measured, "outputCTF"), boxSize=measurement.getBox(), saveFloat16=False,
                    doRescale=True, rescaledSize=2 * round(measurement.getBox() * args.sampling / args.pixel_size / 2))
    estimator = run("ProtCryogemTrainPoses", inputParticles=(generated, "outputParticles"))
    assigned = run("ProtCryogemAssignPoses", inputModel=(estimator, "outputModel"),
                   inputParticles=(extracted, "outputParticles"))
    confident = run("ProtSetFilter", inputSet=(assigned, "outputParticles"),
                    formula=f"item._rlnMaxValueProbDistribution.get() > {args.confidence}")
    refined = run("ProtRelionRefine3D", inputParticles=(confident, "outputParticles"), referenceVolume=reference,
                  copyAlignment=True, angularSamplingDeg="3.7", localSearchAutoSamplingDeg="3.7", oversampling=0,
                  offsetSearchRangePix=3.0, offsetSearchStepPix=2.0, initialLowPassFilterA=30.0, skipPadding=True,
                  symmetryGroup=args.symmetry, doGpu=False, useFinerSamplingFaster=True,
                  extraParams=f"--strict_highres_exp {args.finest:g}",
                  maskDiameterA=round(2.2 * measurement.getRadius() * args.pixel_size))
    return measured, returned, extracted, confident, refined


class Runner:
    """Runs protocols of a project, each class once; those that have finished are taken as they are."""

    def __init__(self, project):
        self.project, self.seconds = project, {}
        self.finished = {one.getClassName(): one for one in project.getRuns() if one.isFinished()}

    def __call__(self, kind, **parameters):
        """Run a protocol and note its wall time (s)."""
        protocol = self.finished.get(kind) or scipion.run(self.project, kind, show=show, **parameters)
        self.seconds[protocol.getClassLabel(False)] = protocol.getElapsedTime().total_seconds()
        print(f"{kind} finished", file=sys.stderr, flush=True)
        return protocol


def show(line):
    """Print a line of a protocol's log."""
    print(line, file=sys.stderr, flush=True)


def resampled(volume, pixel_size, edge, working_pixel_size):
    """The map at another pixel size (Å) and edge (voxels), with its origin at n // 2 again."""
    ratio = working_pixel_size / pixel_size
    offset = volume.shape[0] // 2 - edge // 2 * ratio
    moved = ndimage.affine_transform(volume.numpy(), np.eye(3) * ratio, offset, (edge,) * 3, order=3)
    return torch.from_numpy(moved)


def draw(path, volume, reference, curves, pixel_size):
    """Three slices through the origin of the map and of the given map, and the FSC curves."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    grid = figure.add_gridspec(2, 5)
    middle = reference.shape[0] // 2
    for row, (name, density) in enumerate((("refined", volume), ("given", reference))):
        for axis in range(3):
            axes = figure.add_subplot(grid[row, axis])
            axes.imshow(density.select(axis, middle).numpy(), cmap="gray")
            axes.set_title(f"{name}, {'zyx'[axis]} = 0", fontsize=9)
            axes.set_axis_off()
    axes = figure.add_subplot(grid[:, 3:])
    for name, curve, threshold, colour in zip(("half against half", "against the given map"), curves, (0.143, 0.5),
                                              ("C0", "C1"), strict=True):
        axes.plot(np.arange(len(curve)) / (reference.shape[0] * pixel_size), curve.numpy(), colour, label=name)
        axes.axhline(threshold, color=colour, linewidth=0.8, linestyle=":")
    axes.set(xlabel="spatial frequency (1/Å)", ylabel="FSC", ylim=(-0.1, 1.05))
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=100)


def main():
    """Run the chain and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--micrographs", required=True, help="folder of the real micrographs")
    parser.add_argument("--pattern", default="*.mrc", help="their file names")
    parser.add_argument("--sampling", type=float, required=True, help="their pixel size, Å")
    parser.add_argument("--voltage", type=float, default=300, help="kV")
    parser.add_argument("--cs", type=float, default=2.7, help="spherical aberration, mm")
    parser.add_argument("--amplitude", type=float, default=0.1, help="amplitude contrast")
    parser.add_argument("--volume", required=True, help="the map")
    parser.add_argument("--volume-sampling", type=float, required=True, help="its pixel size, Å")
    parser.add_argument("--symmetry", default="C1", help="point group of the map")
    parser.add_argument("--pixel-size", type=float, default=5, help="working pixel size, Å")
    parser.add_argument("--count", type=int, default=50, help="number of generated micrographs")
    parser.add_argument("--steps", type=int, default=4000, help="of the noise translator's training")
    parser.add_argument("--crop", type=int, default=256, help="of the noise translator's training, px")
    parser.add_argument("--epochs", type=int, default=10, help="of Topaz's training")
    parser.add_argument("--topaz", default="", help="more options of Topaz's training")
    parser.add_argument("--confidence", type=float, default=0.5, help="particles below it are not refined")
    parser.add_argument("--finest", type=float, default=8, help="RELION compares images up to this resolution, Å")
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()
    args.micrographs, args.volume = (str(Path(path).absolute()) for path in (args.micrographs, args.volume))
    out = args.out.absolute()
    os.environ.update(OPEN_MPI)
    runner = Runner(scipion.open_project(out, "chain"))
    measured, returned, extracted, confident, refined = workflow(runner, args)
    table = MarkdownTable("step", "wall time (s)")
    for name, seconds in runner.seconds.items():
        table.row(name, f"{seconds:.0f}")
    table.row("all", f"{sum(runner.seconds.values()):.0f}")
    if runner.finished:
        print(f"\n{len(runner.finished)} protocols had finished before this call; their times are of their own runs.")
    pixel_size, box = refined.outputVolume.getSamplingRate(), extracted.outputParticles.getXDim()
    given = resampled(read_volume(Path(args.volume)), args.volume_sampling, box, pixel_size)
    radius = measured.manifest().particle_diameter_angstrom / 2
    mask = soft_sphere(box, radius / pixel_size + 2)
    halves = [os.path.abspath(half) for half in refined.outputVolume.getHalfMaps(asList=True)]
    curves, resolutions, total = correlations(out, halves, given, mask, pixel_size)
    half, against = (f"{value:.1f} Å" if value else f"below {2 * pixel_size:g} Å" for value in resolutions)
    print(f"\n{returned.outputCoordinates.getSize()} picks, {extracted.outputParticles.getSize()} particles, "
          f"{confident.outputParticles.getSize()} of them with a confidence above {args.confidence:g}. Resolution: "
          f"{half} (halves, FSC 0.143), {against} (against the given map, FSC 0.5).")
    draw(out / "chain.png", total, given, curves, pixel_size)


if __name__ == "__main__":
    main()
