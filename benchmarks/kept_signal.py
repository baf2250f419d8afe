# SPDX-License-Identifier: GPL-3.0-or-later
"""The particles' signal in generated micrographs, as RELION sees it: against white noise of the same strength.

    python benchmarks/kept_signal.py --model runs/world/run/model.safetensors --simulation runs/world/sim --out kept

Micrographs are generated with their optical images beside them. Each is fitted by its optical image (a line); a rival
is made of the same fit with white noise of what the line leaves. RELION cuts the particles out of all three sets and
reconstructs them with the labels (relion_preprocess, relion_reconstruct --ctf). A map's resolution is where its
Fourier shell correlation with the reconstruction from the optical images falls below 0.5, and where that of its own
halves falls below 0.143, inside a soft sphere of the particle's diameter.
"""
import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from cryogem_scipion.engine.io.dataset import path_inside, read_manifest, read_table, write_table
from cryogem_scipion.engine.io.mrc import read_mrc, write_mrc
from cryogem_scipion.engine.realism.signal import linear_fit, particle_correlations
from cryogem_scipion.engine.scoring.fsc import fsc_resolution, shell_correlation
from cryogem_scipion.engine.simulation.microscope import seeded

SETS = ("optical", "generated", "gaussian")


def program(*command, folder):
    """Run a program; its output is shown only when it fails."""
    done = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}")


def generate(args):
    """Generate the micrographs once."""
    if not (args.out / "gen/manifest.json").is_file():
        subprocess.run([sys.executable, "-m", "cryogem_scipion", "generate", "--model", str(args.model), "--simulation",
                        str(args.simulation), "--micrographs", str(args.micrographs), "--keep", "optical",
                        "--no-extract", "--seed", str(args.seed), "--out", str(args.out / "gen")], check=True)
    return args.out / "gen"


def sets(gen, out):
    """Write the three sets with the same names, and return what was kept of the particles."""
    manifest = read_manifest(gen)
    _, micrographs = read_table(gen / "micrographs.star", "micrographs")
    _, particles = read_table(gen / "particles.star", "particles")
    radius = manifest.particle_diameter_angstrom / manifest.pixel_size / 2
    found = {name: [] for name in SETS[1:]}
    for name in SETS:
        (out / name / "micrographs").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(gen / "micrographs.star", out / name / "micrographs.star")
    for number, path in enumerate(micrographs["rlnMicrographName"]):
        image, pixel_size = read_mrc(path_inside(gen, path), 2)
        optical, _ = read_mrc(gen / "optical" / Path(path).name, 2)
        image, optical = torch.tensor(image), torch.tensor(optical)
        fit = linear_fit(image, optical)
        noise = torch.randn(image.shape, generator=seeded(number, "rival"))
        rival = fit.offset + fit.gain * optical + fit.background_deviation * noise
        rows = particles[particles["rlnMicrographName"] == path]
        centres = torch.tensor(np.stack([rows[f"rlnCoordinate{axis}"] - rows[f"rlnOrigin{axis}Angst"] / pixel_size
                                         for axis in "YX"], 1))
        for name, values in (("optical", optical), ("generated", image), ("gaussian", rival)):
            write_mrc(out / name / path, values.numpy(), pixel_size)
            if name in found:
                found[name].append(particle_correlations(values, optical, centres, radius))
    return manifest, {name: torch.cat(values) for name, values in found.items()}


def extract(folder, particles, box):
    """Let RELION cut the whole particles of a set."""
    optics, rows = particles
    write_table(folder / "whole.star", "particles", optics, rows)
    program("relion_preprocess", "--i", "micrographs.star", "--reextract_data_star", "whole.star", "--part_star",
            "extracted.star", "--part_dir", "particles/", "--extract", "--extract_size", box, "--invert_contrast",
            "--norm", "--bg_radius", box // 2 - 1, folder=folder)
    return read_table(folder / "extracted.star", "particles")


def reconstruct(folder, table, chosen, name):
    """RELION's map of some particles under their labels."""
    optics, rows = table
    write_table(folder / f"{name}.star", "particles", optics, rows.loc[chosen])
    program("relion_reconstruct", "--i", f"{name}.star", "--o", f"{name}.mrc", "--ctf", folder=folder)
    return torch.tensor(read_mrc(folder / f"{name}.mrc", 3)[0])


def soft_sphere(edge, radius, rim=4.0):
    """1 inside, falling to 0 over a few voxels."""
    axis = torch.arange(edge) - edge // 2
    distance = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).float().sqrt()
    return (0.5 * (1 + torch.cos(torch.pi * ((distance - radius) / rim).clamp(0, 1))))


def words(resolution):
    """A resolution, or that the correlation never fell below the threshold."""
    return "Nyquist" if resolution is None else f"{resolution:.1f} Å"


def main():
    """Run the benchmark, print its table and draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--simulation", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--micrographs", type=int, default=24)
    parser.add_argument("--particles", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--seed", type=int, default=11)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    manifest, kept = sets(generate(args), args.out)
    for name, values in kept.items():
        print(f"{name}: correlation with the optical image around {len(values)} particles {float(values.mean()):.3f} "
              f"± {float(values.std()):.3f}")
    optics, rows = read_table(args.out / "gen/particles.star", "particles")
    whole = rows[rows["cryogemWhole"] == 1]
    tables = {name: extract(args.out / name, (optics, whole), manifest.box_size) for name in SETS}
    edge, pixel_size = manifest.box_size, manifest.pixel_size
    sphere = soft_sphere(edge, manifest.particle_diameter_angstrom / pixel_size / 2)
    truth = reconstruct(args.out / "optical", tables["optical"], slice(None), "all") * sphere
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained", sharey=True)
    frequency = np.arange(edge // 2 + 1) / (edge * pixel_size)
    results = []
    for count in sorted({min(count, len(whole)) for count in args.particles}):
        for name in SETS[1:]:
            order = np.random.default_rng(args.seed).permutation(len(whole))[:count]
            folder, table = args.out / name, tables[name]
            map_ = reconstruct(folder, table, table[1].index[order], f"map_{count}") * sphere
            halves = [reconstruct(folder, table, table[1].index[order[part::2]], f"half_{part}_{count}") * sphere
                      for part in (0, 1)]
            curves = shell_correlation(map_, truth), shell_correlation(*halves)
            found = [fsc_resolution(curve, edge, pixel_size, threshold)
                     for curve, threshold in zip(curves, (0.5, 0.143), strict=True)]
            results.append({"particles": count, "noise": name, "FSC 0.5 with the truth": words(found[0]),
                            "FSC 0.143 of halves": words(found[1])})
            for axis, curve in zip(axes, curves, strict=True):
                axis.plot(frequency, curve, label=f"{count} particles, {name}", color=f"C{args.particles.index(count)}"
                          if count in args.particles else "black", linestyle="-" if name == "generated" else "--")
    print(pd.DataFrame(results).to_string(index=False))
    for axis, threshold, title in zip(axes, (0.5, 0.143), ("with the optical images' map", "between halves"),
                                      strict=True):
        axis.axhline(threshold, color="grey", linewidth=0.8, linestyle=":")
        axis.set(xlabel="spatial frequency (1/Å)", title=f"Fourier shell correlation {title}", ylim=(-0.1, 1.03))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("correlation")
    axes[0].legend(fontsize=8)
    figure.savefig(args.out / "signal.png", dpi=90)
    print(f"drawn in {args.out / 'signal.png'}")


if __name__ == "__main__":
    main()
