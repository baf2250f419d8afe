# SPDX-License-Identifier: GPL-3.0-or-later
"""A map of real particles from assigned poses, against RELION's own global refinement. It needs RELION.

    python benchmarks/structure.py --micrographs 'LABELLED/*.mrc' --ctfs ctfs.star --generated GEN --volume MAP \\
        --symmetry O --box 64 --out OUT

1. RELION extracts the particles at the labelled centres. LABELLED holds mic_*.mrc, each with a mic_*.json whose
   "particles" have x and y (px); --ctfs has a row for each micrograph, such as ctfs.star of ``cryogem measure``.
2. ``cryogem train-poses`` learns from GEN, a folder of ``cryogem generate --extract``. It sees no real particle.
   ``cryogem assign-poses`` gives poses to the real particles.
3. ``relion_reconstruct`` makes a map of each half of the particles from these poses.
4. RELION refines the assigned poses locally. Beside it, RELION refines globally, without any poses. Both start from the
   map at 30 Å.

The table has the resolution of each map: of its halves against each other (threshold 0.143) and against MAP (0.5), both
inside a soft sphere of --diameter; wall and processor time of each step; and how far the poses are from those of the
global refinement, modulo the symmetry. FSC curves and slices are drawn into OUT/structure.png.
"""
import argparse
import json
import math
import os
import shlex
import subprocess
import sys
import time
from glob import glob
from pathlib import Path

import numpy as np
import pandas as pd
import starfile
import torch
from markdown_table import MarkdownTable
from matplotlib.figure import Figure

from cryogem_scipion.engine.io.dataset import read_table
from cryogem_scipion.engine.io.mrc import read_header, read_mrc, write_mrc
from cryogem_scipion.engine.pose_estimation.orientations import angles_modulo
from cryogem_scipion.engine.scoring.fsc import fourier_shell_correlation, fsc_resolution
from cryogem_scipion.engine.scoring.particles import relion_matrices
from cryogem_scipion.engine.simulation.symmetry import symmetry_operators

PROCESSES = 3
"""RELION's automatic refinement needs a leader and one process for each half."""
LOWPASS = 30
"""Å, resolution of the map from which both refinements start."""


def timed(command, folder):
    """Run a command in a folder; return its wall time and processor time (s)."""
    print("+", shlex.join(map(str, command)), file=sys.stderr, flush=True)
    start = time.monotonic()
    with (folder / "log.txt").open("a") as log:
        process = subprocess.Popen(list(map(str, command)), cwd=folder, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[0]} ended with {process.returncode}; see {folder / 'log.txt'}")
    return time.monotonic() - start, usage.ru_utime + usage.ru_stime


def micrographs_with_ctf(args):
    """The labelled micrographs that have a row in the table of CTFs."""
    names = {Path(name).name for name in read_table(Path(args.ctfs), "micrographs")[1]["rlnMicrographName"]}
    return [file for file in map(Path, sorted(glob(args.micrographs))) if file.name in names]


def labelled_centres(file):
    """Centres (x, y) of all labelled particles of a micrograph, px."""
    return [(label["x"], label["y"]) for label in json.loads(file.with_suffix(".json").read_text("utf-8"))["particles"]]


def extract(args, out, centres=labelled_centres):
    """Particles at the centres of each micrograph, extracted by RELION into OUT/particles.star; the pixel size."""
    optics, rows = read_table(Path(args.ctfs), "micrographs", ("rlnMicrographName", "rlnDefocusU"))
    by_name = {Path(row["rlnMicrographName"]).name: row for row in rows.to_dict("records")}
    pixel_size = read_header(args.files[0], 2)[1]
    optics = optics.assign(rlnMicrographPixelSize=pixel_size, rlnImagePixelSize=pixel_size, rlnImageSize=args.box,
                           rlnImageDimensionality=2)
    (out / "micrographs").mkdir(exist_ok=True)
    micrographs, particles = [], []
    for file in args.files:
        ctf = {name: value for name, value in by_name[file.name].items() if name.startswith(("rlnDefocus", "rlnPhase"))}
        name = f"micrographs/{file.name}"
        (out / name).unlink(missing_ok=True)
        (out / name).symlink_to(file.absolute())
        micrographs.append({"rlnMicrographName": name, "rlnOpticsGroup": 1, **ctf})
        particles += [{"rlnMicrographName": name, "rlnCoordinateX": x, "rlnCoordinateY": y, "rlnOpticsGroup": 1, **ctf}
                      for x, y in centres(file)]
    for name, rows in (("micrographs", micrographs), ("particles", particles)):
        starfile.write({"optics": optics, name: pd.DataFrame(rows)}, out / f"all_{name}.star", overwrite=True)
    radius = round(args.diameter / 2 / pixel_size) + 2
    timed(["relion_preprocess", "--i", "all_micrographs.star", "--reextract_data_star", "all_particles.star",
           "--part_star", "particles.star", "--part_dir", "Particles/", "--extract", "--extract_size", args.box,
           "--norm", "--bg_radius", min(radius, args.box // 2 - 1), "--invert_contrast"], out)
    return pixel_size


def with_halves(path, out):
    """The particles with their halves, alternately."""
    optics, rows = read_table(path, "particles")
    starfile.write({"optics": optics, "particles": rows.assign(rlnRandomSubset=np.arange(len(rows)) % 2 + 1)}, out,
                   overwrite=True)


def reconstruct(args, out, star, name):
    """Half maps and the whole map of some poses; wall and processor time."""
    with_halves(out / star, out / "halves.star")
    total = np.zeros(2)
    for half in (1, 2):
        total += timed(["relion_reconstruct", "--i", "halves.star", "--ctf", "--sym", args.symmetry, "--subset", half,
                        "--o", f"{name}_half{half}.mrc"], out)
    return total


def refine(args, out, star, name, options):
    """RELION's automatic refinement; wall and processor time."""
    (out / name).mkdir(exist_ok=True)
    as_root = ["--allow-run-as-root"] if os.getuid() == 0 else []
    command = ["mpirun", "--oversubscribe", *as_root, "--mca", "mpi_yield_when_idle", 1, "-n", PROCESSES,
               "relion_refine_mpi", "--auto_refine", "--split_random_halves", "--i", star, "--o", f"{name}/run",
               "--ref", "start.mrc", "--ini_high", LOWPASS, "--firstiter_cc", "--sym", args.symmetry, "--ctf", "--norm",
               "--scale", "--particle_diameter", round(1.1 * args.diameter), "--zero_mask", "--flatten_solvent",
               "--low_resol_join_halves", 40, "--pad", 1, "--pool", 10, "--j", 1, "--dont_combine_weights_via_disc",
               "--random_seed", args.seed, *options]
    return np.array(timed(command, out))


def soft_sphere(edge, radius):
    """Mask (edge, edge, edge): 1 inside the radius (voxels), then a cosine edge of 5 voxels."""
    axis = torch.arange(edge) - edge // 2
    distance = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt()
    return 0.5 + 0.5 * torch.cos(math.pi * ((distance - radius) / 5).clamp(0, 1))


def read_volume(path):
    """Density of a map."""
    return torch.tensor(read_mrc(path, 3)[0]).float()


def fitted_box(volume, edge):
    """The map in a box of another edge (voxels), cut or padded around its origin at n // 2."""
    before = edge // 2 - volume.shape[0] // 2
    after = edge - volume.shape[0] - before
    return torch.nn.functional.pad(volume, (before, after) * 3)


def correlations(out, halves, reference, mask, pixel_size):
    """FSC of two halves, and of their sum against the reference, with the resolutions (Å) of both."""
    first, second = (read_volume(out / half) for half in halves)
    curves = (fourier_shell_correlation(first * mask, second * mask),
              fourier_shell_correlation((first + second) * mask, reference * mask))
    edge = reference.shape[0]
    return curves, [fsc_resolution(curve, edge, pixel_size, threshold)
                    for curve, threshold in zip(curves, (0.143, 0.5), strict=True)], first + second


def pose_differences(one, other, symmetry):
    """Angles (degrees) between the poses of the same particles in two tables, modulo the symmetry, in any order."""
    angles = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]
    tables = []
    for path in (one, other):
        rows = read_table(path, "particles", ("rlnImageName", *angles))[1]
        name = rows["rlnImageName"].map(lambda text: (Path(text.partition("@")[2]).name, int(text.partition("@")[0])))
        tables.append(rows.assign(key=name).set_index("key").sort_index())
    first, second = (torch.from_numpy(relion_matrices(table[angles].to_numpy(float))).double() for table in tables)
    return angles_modulo(first, second, symmetry_operators(symmetry).double()).numpy()


def draw(path, results, reference, pixel_size):
    """Slices of the maps through the origin, and the curves of the halves."""
    figure = Figure(figsize=(3 * (len(results) + 1), 6.5), layout="constrained")
    top = figure.add_gridspec(2, len(results) + 1, height_ratios=(1, 1))
    maps = {"the given map": reference, **{name: result[2] for name, result in results.items()}}
    for place, (name, volume) in enumerate(maps.items()):
        axes = figure.add_subplot(top[0, place])
        axes.imshow(volume[volume.shape[0] // 2].numpy(), cmap="gray")
        axes.set_title(name, fontsize=9)
        axes.set_axis_off()
    for number, (title, threshold) in enumerate((("half against half", 0.143), ("against the given map", 0.5))):
        axes = figure.add_subplot(top[1, :2] if number == 0 else top[1, 2:])
        for name, (curves, _, _) in results.items():
            frequency = np.arange(len(curves[number])) / (reference.shape[0] * pixel_size)
            axes.plot(frequency, curves[number].numpy(), label=name)
        axes.axhline(threshold, color="grey", linewidth=0.8)
        axes.set(xlabel="spatial frequency (1/Å)", ylabel="FSC", title=title, ylim=(-0.1, 1.05))
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main():
    """Run all steps and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--micrographs", required=True, help="pattern of the labelled micrographs")
    parser.add_argument("--ctfs", required=True, help="STAR file of their CTFs")
    parser.add_argument("--generated", required=True, type=Path, help="generated data set to train on")
    parser.add_argument("--volume", required=True, type=Path, help="the map, at the pixel size of the micrographs")
    parser.add_argument("--symmetry", default="C1", help="point group of the map")
    parser.add_argument("--diameter", type=float, default=130, help="Å, of the particle")
    parser.add_argument("--box", type=int, default=64, help="box size, px")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()
    args.files = micrographs_with_ctf(args)
    out = args.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    pixel_size = extract(args, out)
    given = read_volume(args.volume)
    reference = fitted_box(given, args.box)
    write_mrc(out / "start.mrc", reference.numpy(), pixel_size)
    program = [sys.executable, "-m", "cryogem_scipion"]
    steps = {"train-poses (once)": timed([*program, "train-poses", "--particles", args.generated.absolute(), "--seed",
                                          args.seed, "--out", "estimator"], out)}
    steps["assign-poses"] = timed([*program, "assign-poses", "--model", "estimator/model.safetensors", "--particles",
                                   "particles.star", "--out", "assigned"], out)
    steps["reconstruction"] = reconstruct(args, out, "assigned/particles.star", "assigned")
    steps["local refinement"] = refine(args, out, "assigned/particles.star", "local",
                                       ["--healpix_order", 4, "--auto_local_healpix_order", 4, "--offset_range", 3,
                                        "--offset_step", 1])
    steps["global refinement"] = refine(args, out, "particles.star", "global",
                                        ["--healpix_order", 2, "--auto_local_healpix_order", 4, "--offset_range", 5,
                                         "--offset_step", 2])
    mask = soft_sphere(args.box, args.diameter / 2 / pixel_size + 2)
    halves = {"assigned poses": ("assigned_half1.mrc", "assigned_half2.mrc"),
              "local refinement": ("local/run_half1_class001_unfil.mrc", "local/run_half2_class001_unfil.mrc"),
              "global refinement": ("global/run_half1_class001_unfil.mrc", "global/run_half2_class001_unfil.mrc")}
    results = {name: correlations(out, files, reference, mask, pixel_size) for name, files in halves.items()}
    poses = {"assigned poses": out / "assigned/particles.star", "local refinement": out / "local/run_data.star"}
    count = len(read_table(out / "particles.star", "particles")[1])
    print(f"{count} particles of {len(args.files)} micrographs.\n")
    table = MarkdownTable("map from", "halves, FSC 0.143 (Å)", "against the given map, FSC 0.5 (Å)",
                          "poses against the global refinement: median", "within 15°")
    for name, (_, resolutions, _) in results.items():
        angles = pose_differences(poses[name], out / "global/run_data.star", args.symmetry) if name in poses else None
        table.row(name, *(f"{value:.1f}" if value else f"below {2 * pixel_size:g}" for value in resolutions),
                  *(("–", "–") if angles is None else (f"{np.median(angles):.1f}°", f"{(angles < 15).mean():.0%}")))
    print()
    table = MarkdownTable("step", "wall time (s)", "processor time (s)")
    for name, (wall, processor) in steps.items():
        table.row(name, f"{wall:.0f}", f"{processor:.0f}")
    draw(out / "structure.png", results, reference, pixel_size)


if __name__ == "__main__":
    main()
