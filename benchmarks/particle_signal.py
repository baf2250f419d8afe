# SPDX-License-Identifier: GPL-3.0-or-later
"""Signal of the particles in generated micrographs, against white noise of the same variance; needs RELION.

    python benchmarks/particle_signal.py --model RUN/model.safetensors --simulation SIM --out OUT

RUN is a folder of 'cryogem train', SIM one of 'cryogem simulate'. Micrographs are generated, and their clean images are
kept. A line is fitted to the grey values of each generated micrograph against those of its clean image. The comparison
set has the same line with white Gaussian noise, whose variance is that of the residual. RELION extracts the particles
of the three sets and reconstructs a map of each with the labels (relion_preprocess, relion_reconstruct --ctf).

Two resolutions are given, inside a soft sphere of the particle's diameter: where the Fourier shell correlation (FSC)
with the map from the clean images falls below 0.5, and where the FSC of two half maps falls below 0.143.
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
import torch
from markdown_table import MarkdownTable

from cryogem_scipion.engine.io.dataset import path_inside, read_manifest, read_table, write_table
from cryogem_scipion.engine.io.mrc import read_mrc, write_mrc
from cryogem_scipion.engine.realism.particle_correlation import fit_to_clean_image, particle_correlations
from cryogem_scipion.engine.scoring.fsc import fourier_shell_correlation, fsc_resolution
from cryogem_scipion.engine.simulation.microscope import seeded_generator

SETS = ("optical", "generated", "gaussian")


def run_program(*command, folder):
    """Run a program; show its output only if it fails."""
    result = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{result.stdout}\n{result.stderr}")


def generate(args):
    """Folder of the generated micrographs; an existing one is used again."""
    if not (args.out / "gen/manifest.json").is_file():
        subprocess.run([sys.executable, "-m", "cryogem_scipion", "generate", "--model", str(args.model), "--simulation",
                        str(args.simulation), "--micrographs", str(args.micrographs), "--keep", "optical",
                        "--no-extract", "--seed", str(args.seed), "--out", str(args.out / "gen")], check=True,
                       stdout=sys.stderr)
    return args.out / "gen"


def write_sets(gen, out):
    """Write the three sets; return the manifest and the correlations with the clean image around each particle."""
    manifest = read_manifest(gen)
    _, micrographs = read_table(gen / "micrographs.star", "micrographs")
    _, particles = read_table(gen / "particles.star", "particles")
    radius = manifest.particle_diameter_angstrom / manifest.pixel_size / 2
    correlations = {name: [] for name in SETS[1:]}
    for name in SETS:
        (out / name / "micrographs").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(gen / "micrographs.star", out / name / "micrographs.star")
    for index, path in enumerate(micrographs["rlnMicrographName"]):
        image, pixel_size = read_mrc(path_inside(gen, path), 2)
        optical, _ = read_mrc(gen / "optical" / Path(path).name, 2)
        image, clean = torch.tensor(image), torch.tensor(optical)
        fit = fit_to_clean_image(image, clean)
        noise = torch.randn(image.shape, generator=seeded_generator(index, "rival"))
        gaussian = fit.offset + fit.gain * clean + fit.background_deviation * noise
        rows = particles[particles["rlnMicrographName"] == path]
        centres = torch.tensor(np.stack([rows[f"rlnCoordinate{axis}"] - rows[f"rlnOrigin{axis}Angst"] / pixel_size
                                         for axis in "YX"], 1))
        for name, values in (("optical", clean), ("generated", image), ("gaussian", gaussian)):
            write_mrc(out / name / path, values.numpy(), pixel_size)
            if name in correlations:
                correlations[name].append(particle_correlations(values, clean, centres, radius))
    return manifest, {name: torch.cat(values) for name, values in correlations.items()}


def extract(folder, particles, box):
    """Tables (optics, particles) of the particles of a set, extracted by RELION."""
    optics, rows = particles
    write_table(folder / "whole.star", "particles", optics, rows)
    run_program("relion_preprocess", "--i", "micrographs.star", "--reextract_data_star", "whole.star", "--part_star",
            "extracted.star", "--part_dir", "particles/", "--extract", "--extract_size", box, "--invert_contrast",
            "--norm", "--bg_radius", box // 2 - 1, folder=folder)
    return read_table(folder / "extracted.star", "particles")


def reconstruct(folder, tables, selected, name):
    """Map that RELION reconstructs from the selected particles with their labels."""
    optics, rows = tables
    write_table(folder / f"{name}.star", "particles", optics, rows.loc[selected])
    run_program("relion_reconstruct", "--i", f"{name}.star", "--o", f"{name}.mrc", "--ctf", folder=folder)
    return torch.tensor(read_mrc(folder / f"{name}.mrc", 3)[0])


def soft_sphere(edge, radius, rim=4.0):
    """Mask (edge, edge, edge): 1 inside the radius, falling to 0 over the rim (voxels)."""
    axis = torch.arange(edge) - edge // 2
    distance = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).float().sqrt()
    return (0.5 * (1 + torch.cos(torch.pi * ((distance - radius) / rim).clamp(0, 1))))


def resolution_text(resolution):
    """Resolution in Å, or Nyquist if the correlation never falls below the threshold."""
    return "Nyquist" if resolution is None else f"{resolution:.1f} Å"


def main():
    """Print the tables and draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="model.safetensors of a training")
    parser.add_argument("--simulation", type=Path, required=True, help="folder of the simulation")
    parser.add_argument("--out", type=Path, required=True, help="folder for all files")
    parser.add_argument("--micrographs", type=int, default=24, help="generated micrographs")
    parser.add_argument("--particles", type=int, nargs="+", default=[100, 300, 1000],
                        help="numbers of particles to reconstruct from")
    parser.add_argument("--seed", type=int, default=11)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    manifest, correlations = write_sets(generate(args), args.out)
    table = MarkdownTable("set", "particles", "correlation with the clean image", "standard deviation")
    for name, values in correlations.items():
        table.row(name, str(len(values)), f"{float(values.mean()):.3f}", f"{float(values.std()):.3f}")
    print()
    optics, rows = read_table(args.out / "gen/particles.star", "particles")
    whole = rows[rows["cryogemWhole"] == 1]
    tables = {name: extract(args.out / name, (optics, whole), manifest.box_size) for name in SETS}
    edge, pixel_size = manifest.box_size, manifest.pixel_size
    sphere = soft_sphere(edge, manifest.particle_diameter_angstrom / pixel_size / 2)
    truth = reconstruct(args.out / "optical", tables["optical"], slice(None), "all") * sphere
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained", sharey=True)
    frequency = np.arange(edge // 2 + 1) / (edge * pixel_size)
    table = MarkdownTable("set", "particles", "FSC 0.5 with the map of the clean images", "FSC 0.143 of half maps")
    for count in sorted({min(count, len(whole)) for count in args.particles}):
        for name in SETS[1:]:
            order = np.random.default_rng(args.seed).permutation(len(whole))[:count]
            folder, indices = args.out / name, tables[name][1].index
            map_ = reconstruct(folder, tables[name], indices[order], f"map_{count}") * sphere
            halves = [reconstruct(folder, tables[name], indices[order[part::2]], f"half_{part}_{count}") * sphere
                      for part in (0, 1)]
            curves = fourier_shell_correlation(map_, truth), fourier_shell_correlation(*halves)
            table.row(name, str(count), *(resolution_text(fsc_resolution(curve, edge, pixel_size, threshold))
                                          for curve, threshold in zip(curves, (0.5, 0.143), strict=True)))
            for axis, curve in zip(axes, curves, strict=True):
                axis.plot(frequency, curve, label=f"{count} particles, {name}", color=f"C{args.particles.index(count)}"
                          if count in args.particles else "black", linestyle="-" if name == "generated" else "--")
    for axis, threshold, title in zip(axes, (0.5, 0.143), ("with the map of the clean images", "of half maps"),
                                      strict=True):
        axis.axhline(threshold, color="grey", linewidth=0.8, linestyle=":")
        axis.set(xlabel="spatial frequency (1/Å)", title=f"Fourier shell correlation {title}", ylim=(-0.1, 1.03))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("correlation")
    axes[0].legend(fontsize=8)
    figure.savefig(args.out / "signal.png", dpi=90)
    print(f"figure: {args.out / 'signal.png'}", file=sys.stderr)


if __name__ == "__main__":
    main()
