# SPDX-License-Identifier: GPL-3.0-or-later
"""Quantities that ``cryogem measure`` finds without labels, against what the labels of the same micrographs tell.

    python benchmarks/measurement.py --name movies --real 'MICROGRAPHS/*.mrc' --labels 'LABELLED/*.json' --volume MAP \\
        --pixel-size 3 --amplitude-contrast 0.07 --out OUT

1. ``cryogem measure`` runs on the micrographs of --real. It does not see the labels.
2. ``cryogem simulate --config OUT/measured/settings.json`` and ``cryogem generate --noise spectrum`` make a set with
   nothing else set.
3. The labels give the true values; the generated set gives the profile of its particles.

A label has x, y (pixels of --labels-pixel-size) and inside; it may have matrix (the orientation), and its file
defocus_u, defocus_v and defocus_angle. Labels with inside = false do not count: they are too near to the border, or
hidden by carbon or crystals. *Labelled* numbers of particles include those at the border and leave out hidden ones.

Where labels have no orientations, each labelled place is matched with projections, and what that loses is corrected
by a synthetic field (benchmarks/labelled_truth.py). --align names other, clearer images of the same fields for the
matching, such as averages of all frames for single frames.
"""
import argparse
import json
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from labelled_motion import motion
from labelled_truth import Field, matched, matching_correction, registered, signal_to_noise, strength
from measurement_tables import (
    print_displacement,
    print_envelope,
    print_fields,
    print_motion,
    print_quantities,
)
from particle_profiles import print_profiles

from cryogem_scipion.engine.compute.resampling import fourier_crop, working_shape
from cryogem_scipion.engine.io.dataset import MOTION, read_manifest, read_table
from cryogem_scipion.engine.io.mrc import read_mrc
from cryogem_scipion.engine.measurement.defocus import fit_ctfs
from cryogem_scipion.engine.measurement.measure import map_power
from cryogem_scipion.engine.noise.real_micrograph import real_files
from cryogem_scipion.engine.simulation.motion import Motion
from cryogem_scipion.engine.simulation.optics import Optics
from cryogem_scipion.engine.simulation.projection import prepare_projector, rotation_matrices
from cryogem_scipion.engine.simulation.volume import diameter_angstrom, read_volume

SYNTHETIC_FIELDS = 2
"""Fields from which the correction of the matching comes."""


def cryogem(*arguments):
    """Run one stage of the program; its output goes to standard error."""
    command = [sys.executable, "-m", "cryogem_scipion", *map(str, arguments)]
    print("+", shlex.join(command[2:]), file=sys.stderr, flush=True)
    subprocess.run(command, check=True, stdout=sys.stderr)


def make_sets(args):
    """Measure, simulate and generate, unless that has been done."""
    pixel = ["--real-pixel-size", args.real_pixel_size] if args.real_pixel_size else []
    if not (args.out / "measured/manifest.json").exists():
        optics = ["--voltage-kv", args.voltage_kv, "--cs-mm", args.cs_mm, "--amplitude-contrast",
                  args.amplitude_contrast, *(["--phase-shift-degrees", args.phase_shift] if args.phase_shift else [])]
        cryogem("measure", "--real", *args.real, *pixel, "--volume", args.volume, "--pixel-size", args.pixel_size,
                *optics, "--micrographs", args.micrographs, "--threads", args.threads, "--seed", args.seed,
                "--out", args.out / "measured")
    if not (args.out / "sim/manifest.json").exists():
        cryogem("simulate", "--config", args.out / "measured/settings.json", "--micrographs", args.generated,
                "--threads", args.threads, "--seed", args.seed, "--no-extract", "--out", args.out / "sim")
    if not (args.out / "gen/manifest.json").exists():
        cryogem("generate", "--noise", "spectrum", "--real", *args.real, *pixel, "--simulation", args.out / "sim",
                "--micrographs", args.generated, "--threads", args.threads, "--seed", args.seed, "--no-extract",
                "--out", args.out / "gen")


def working_image(path, args, pixel_size):
    """The micrograph at the working pixel size, with particles dark."""
    image, recorded = read_mrc(path, 2)
    pixel_size = pixel_size or recorded
    target = working_shape(image.shape, pixel_size, args.pixel_size)
    cut = torch.tensor(image[:target.crop[0], :target.crop[1]]).float()
    return (-1 if args.bright else 1) * fourier_crop(cut, target.shape), target.pixel_size


def labelled_fields(args, base, power):
    """The labelled micrographs of --real; their CTFs are those of the labels, else fitted."""
    files = {path.stem: path for path in real_files(args.real)}
    labels = {path.stem: json.loads(path.read_text()) for path in real_files(args.labels) if path.stem in files}
    if not labels:
        raise SystemExit("no label file has the name of a micrograph; check --real and --labels")
    clear = {path.stem: path for path in real_files(args.align)} if args.align else files
    fitted = {} if "defocus_u" in next(iter(labels.values())) else dict(zip(labels, fit_ctfs(
        (torch.tensor(read_mrc(clear[name], 2)[0]).float() for name in labels), own_pixel_size(args, clear, labels),
        base, power), strict=True))
    inner = min(border_distance(label, args, files[name]) for name, one in labels.items()
                for label in one["particles"] if label["inside"])
    fields = []
    for name, one in labels.items():
        image, pixel_size = working_image(files[name], args, args.real_pixel_size)
        particles = one["particles"]
        counted = torch.tensor([particle["inside"] for particle in particles])
        border = torch.tensor([border_distance(particle, args, files[name]) < inner for particle in particles])
        centres = torch.tensor([[particle["y"], particle["x"]] for particle in particles]).double()
        optics = fitted[name].optics if fitted else replace(
            base, defocus_u_angstrom=one["defocus_u"], defocus_v_angstrom=one["defocus_v"],
            defocus_angle_degrees=one["defocus_angle"])
        rotations = torch.tensor([particle["matrix"] for particle in particles]) if "matrix" in particles[0] else None
        fields.append(Field(name, image, pixel_size, centres * args.labels_pixel_size / pixel_size, counted,
                            counted | border, optics, rotations))
    return fields


def own_pixel_size(args, files, names):
    """Å per pixel of the images whose CTFs are fitted."""
    first = files[next(iter(names))]
    return read_mrc(first, 2)[1] if args.align or not args.real_pixel_size else args.real_pixel_size


def border_distance(particle, args, file):
    """Distance of a label from the nearest border, Å."""
    image, recorded = read_mrc(file, 2)
    pixel_size = args.real_pixel_size or recorded
    x, y = (particle[axis] * args.labels_pixel_size for axis in "xy")
    return min(x, y, image.shape[1] * pixel_size - x, image.shape[0] * pixel_size - y)


def with_orientations(fields, args, projector, diameter):
    """The fields with orientations, the factor by which matching has lost amplitude in each band, and the clear images.

    The last are those of --align with their orientations, or none.
    """
    if fields[0].rotations is not None:
        return fields, 1.0, []
    clear = fields
    if args.align:
        paths = {path.stem: path for path in real_files(args.align)}
        clear = [replace(field, image=working_image(paths[field.name], args, None)[0]) for field in fields]
    clear = [matched(field, projector, diameter) for field in clear]
    correction = matching_correction(clear[:SYNTHETIC_FIELDS], projector, diameter, other_images=bool(args.align))
    if not args.align:
        return clear, correction, []
    return [registered(replace(found, image=field.image), projector, diameter)
            for found, field in zip(clear, fields, strict=True)], correction, clear


def generated_fields(folder, base):
    """The generated micrographs with their labels."""
    manifest = read_manifest(folder)
    _, micrographs = read_table(folder / "micrographs.star", "micrographs")
    _, particles = read_table(folder / "particles.star", "particles")
    fields = []
    for name in micrographs["rlnMicrographName"]:
        rows = particles[particles["rlnMicrographName"] == name]
        if rows.empty:
            continue
        centres = torch.tensor(np.stack([rows[f"rlnCoordinate{axis}"] - rows[f"rlnOrigin{axis}Angst"]
                                         / manifest.pixel_size for axis in "YX"], 1))
        whole = torch.tensor(rows["cryogemWhole"].to_numpy() == 1)
        angles = torch.tensor(rows[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy(float))
        u, v, angle = (float(rows[f"rlnDefocus{end}"].median()) for end in ("U", "V", "Angle"))
        optics = replace(base, defocus_u_angstrom=u, defocus_v_angstrom=v, defocus_angle_degrees=angle)
        fields.append(Field(name, torch.tensor(read_mrc(folder / name, 2)[0]), manifest.pixel_size, centres, whole,
                            torch.ones_like(whole), optics, rotation_matrices(angles)))
    return fields


def motion_gains(folder, generated, projector, diameter):
    """By what matching lowers the labels' motion, isotropic and directed: from generated fields of known motion."""
    _, rows = read_table(folder / "micrographs.star", "micrographs")
    if MOTION[0] not in rows:
        return 1.0, 1.0
    true = np.array([Motion(*values).squares() for values in rows[list(MOTION)].to_numpy(float)])
    generator = torch.Generator().manual_seed(0)
    found = []
    for field in generated:
        marks = field.centres + torch.randn(field.centres.shape, generator=generator)
        placed = matched(replace(field, centres=marks, rotations=None), projector, diameter)
        found.append(motion(placed, strength(placed, projector, diameter))[0])
    found = np.array(found)
    isotropic, own = (values[:, 0] - values[:, 0].mean() for values in (found, true))
    return (float((isotropic * own).sum() / (own**2).sum()),
            float((found[:, 1:] * true[:, 1:]).sum() / (true[:, 1:] ** 2).sum()))


def main():
    """Run the stages and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="of the data set, for the heading")
    parser.add_argument("--real", nargs="+", required=True, help="patterns of the micrographs")
    parser.add_argument("--real-pixel-size", type=float, help="Å; default: that of the headers")
    parser.add_argument("--labels", nargs="+", required=True, help="patterns of the labels' JSON files")
    parser.add_argument("--labels-pixel-size", type=float, help="Å; default: --pixel-size")
    parser.add_argument("--align", nargs="+", help="patterns of clearer images of the same fields, particles dark")
    parser.add_argument("--volume", type=Path, required=True, help="map of the particle")
    parser.add_argument("--pixel-size", type=float, required=True, help="working pixel size (Å)")
    parser.add_argument("--voltage-kv", type=float, default=300.0)
    parser.add_argument("--cs-mm", type=float, default=2.7)
    parser.add_argument("--amplitude-contrast", type=float, default=0.1)
    parser.add_argument("--phase-shift", type=float, default=0.0, help="degrees")
    parser.add_argument("--bright", action="store_true", help="particles are bright in the micrographs of --real")
    parser.add_argument("--micrographs", type=int, default=12, help="micrographs measured at most")
    parser.add_argument("--generated", type=int, default=12, help="micrographs to generate")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="folder; finished stages are not repeated")
    args = parser.parse_args()
    args.labels_pixel_size = args.labels_pixel_size or args.pixel_size
    args.out.mkdir(parents=True, exist_ok=True)
    make_sets(args)
    torch.set_num_threads(args.threads or torch.get_num_threads())
    report = json.loads((args.out / "measured/measurement.json").read_text())
    volume = read_volume(args.volume, None)
    projector, diameter = prepare_projector(volume), diameter_angstrom(volume)
    base = Optics(args.voltage_kv, args.cs_mm, args.amplitude_contrast, 0.0, 0.0, 0.0, args.phase_shift)
    fields = labelled_fields(args, base, map_power(volume))
    generated = generated_fields(args.out / "gen", base)
    print(f"#### {args.name}\n")
    found, labelled = print_fields(report, fields)
    placed, correction, clear = with_orientations(fields, args, projector, diameter)
    strengths = [strength(field, projector, diameter) for field in placed]
    strengths = [replace(one, amplitude=one.amplitude * correction, error=one.error * correction) for one in strengths]
    made = [strength(field, projector, diameter) for field in generated]
    print_quantities(report, fields, signal_to_noise(strengths, placed[0].pixel_size), found, labelled, generated,
                     signal_to_noise(made, generated[0].pixel_size))
    if clear:
        print_displacement([strength(field, projector, diameter) for field in clear], strengths,
                           placed[0].pixel_size)
    print_envelope(report, strengths, correction)
    gains = (1.0, 1.0) if fields[0].rotations is not None else motion_gains(
        args.out / "gen", generated, projector, diameter)
    print_motion(report, placed, strengths, gains)
    print_profiles(placed, strengths, generated, made, diameter)
    for warning in report["warnings"]:
        print(f"- warning of `cryogem measure`: {warning}")


if __name__ == "__main__":
    main()
