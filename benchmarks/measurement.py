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
import math
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from labelled_truth import (
    Field,
    displacement,
    matched,
    matching_correction,
    mean_envelope,
    mean_profile,
    nearest_distances,
    registered,
    signal_to_noise,
    strength,
    without_displacement,
)
from markdown_table import MarkdownTable

from cryogem_scipion.engine.compute.resampling import fourier_crop, working_shape
from cryogem_scipion.engine.io.dataset import read_manifest, read_table
from cryogem_scipion.engine.io.mrc import read_mrc
from cryogem_scipion.engine.measurement.defocus import fit_ctfs
from cryogem_scipion.engine.measurement.measure import map_power
from cryogem_scipion.engine.noise.real_micrograph import real_files
from cryogem_scipion.engine.settings import SimulateSettings
from cryogem_scipion.engine.simulation.optics import Optics
from cryogem_scipion.engine.simulation.projection import prepare_projector, rotation_matrices
from cryogem_scipion.engine.simulation.volume import diameter_angstrom, read_volume

SYNTHETIC_FIELDS = 2
"""Fields from which the correction of the matching comes."""
RESOLUTIONS = (60, 40, 30, 25, 20, 17, 15, 12)
"""Å, at which the envelope is printed."""
AGREEMENT = 0.1
"""Part of the real ring and fringe by which those of the generated particles may differ."""


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


def interval(report, name):
    """Text of the 95 % interval of a quantity; its standard error, or nothing, where the report has no interval."""
    bounds = report.get("estimates", {}).get(name, {}).get("interval")
    if bounds:
        return f" ({bounds[0]:.3g} to {bounds[1]:.3g})"
    error = report["measured"].get(f"{name}_error")
    return "" if error is None else f" ± {error:.2g}"


def difference(value, truth):
    """Relative difference in percent."""
    return "–" if value is None or not truth else f"{100 * (value / truth - 1):+.0f} %"


def print_fields(report, fields):
    """One row for each labelled micrograph: number of particles, defocus and astigmatism."""
    rows = {Path(row["name"]).stem: row for row in report["micrographs"]}
    known = fields[0].rotations is not None and any(field.optics.defocus_u_angstrom for field in fields)
    table = MarkdownTable("micrograph", "particles", "labelled", "difference", "defocus (Å)", "reliable", "true (Å)",
                          "difference (Å)", "astigmatism (Å), angle", "true")
    found, labelled, errors = [], [], []
    for field in fields:
        row = rows.get(field.name)
        if row is None or row["particles"] is None:  # not measured, or not searched
            continue
        count = int(field.visible.sum())
        found.append(row["particles"])
        labelled.append(count)
        u, v = row["defocus_u_angstrom"], row["defocus_v_angstrom"]
        truth = field.optics
        true = (truth.defocus_u_angstrom + truth.defocus_v_angstrom) / 2
        errors.append((u + v) / 2 - true)
        table.row(field.name, f"{row['particles']:.0f} ± {row['particles_error']:.0f}", str(count),
                  difference(row["particles"], count), f"{(u + v) / 2:.0f} ± {row['defocus_error_angstrom']:.0f}",
                  "yes" if row["defocus_reliable"] else "no",
                  f"{true:.0f}" if known else "–", f"{errors[-1]:+.0f}" if known else "–",
                  f"{u - v:.0f}, {row['defocus_angle_degrees']:.0f}°",
                  f"{truth.defocus_u_angstrom - truth.defocus_v_angstrom:.0f}, {truth.defocus_angle_degrees:.0f}°"
                  if known else "–")
    print()
    if known:
        print(f"Error of the defocus: {np.median(np.abs(errors)):.0f} Å in the median, {np.abs(errors).max():.0f} Å at "
              "most.\n")
    return np.array(found), np.array(labelled)


def mean_defoci(fields):
    """Mean of the two defocus values of each field, Å."""
    return [(field.optics.defocus_u_angstrom + field.optics.defocus_v_angstrom) / 2 for field in fields]


def print_quantities(report, fields, labels_snr, found, labelled, generated, generated_snr):
    """One row for each quantity of the whole set: measured, and from the labels of the real and the generated set."""
    measured, kept = report["measured"], report["not_reliable"]
    area = np.prod(report["settings"]["micrograph_size"]) / np.mean([field.image.numel() for field in fields])
    table = MarkdownTable("quantity", "measured", "labels", "difference", "generated set", "in settings.json")
    counts = np.array([len(field.centres) for field in generated])

    def spread(values):
        return float(np.std(values, ddof=1)) if len(values) > 1 else None

    def text(value, digits, error=math.nan):
        return "–" if value is None else f"{value:.{digits}g}" + (f" ± {error:.1g}" if math.isfinite(error) else "")

    def row(label, key, true, made, digits=3):
        value = measured.get(key)
        used = "no" if key in kept or key not in report["settings"] else "yes"
        (true, *error), (made, *made_error) = true, made
        table.row(label, text(value, digits) + (interval(report, key) if value is not None else ""),
                  text(true, digits, *error), difference(value, true), text(made, digits, *made_error), used)

    row("particles in a micrograph, mean", "particles_mean", (float(labelled.mean() * area),), (float(counts.mean()),))
    row("the same, standard deviation", "particles_sigma", (spread(labelled),), (spread(counts),))
    closest = [float(np.quantile(nearest_distances(some), 0.05)) for some in (fields, generated)]
    row("distance (Å): 5 % quantile of nearest neighbours", "particle_distance", closest[:1], closest[1:])
    row("signal-to-noise ratio", "snr", labels_snr, generated_snr)
    known = fields[0].rotations is not None
    true, made = mean_defoci(fields), mean_defoci(generated)
    row("lowest defocus (Å)", "defocus_min", (min(true) if known else None,), (min(made),), 5)
    row("highest defocus (Å)", "defocus_max", (max(true) if known else None,), (max(made),), 5)
    table.row("contrast sign", f"{measured['contrast_sign']} ({measured['contrast_sign_errors']:.1f} standard errors)",
              "dark", "–", "dark", "–")
    print(f"\nParticles of the labelled micrographs: {found.sum():.0f} found, {labelled.sum()} labelled "
          f"({difference(found.sum(), labelled.sum())}).\n")


def print_displacement(clear, strengths, pixel_size):
    """How far the particles lie from where the clear images show them, and the labels' ratio without that."""
    square, error = displacement(clear, strengths)
    ratio, scatter = signal_to_noise(without_displacement(strengths, square), pixel_size)
    print("\nAgainst the images of --align, the particles' amplitude falls as that of particles which lie beside their "
          f"places by {square:.0f} ± {error:.0f} Å² (mean square along one direction). If it is so, and not a blur of "
          f"these micrographs, the labels' signal-to-noise ratio is {ratio:.3g} ± {scatter:.1g}.\n")


def used_envelope(settings, frequency):
    """Amplitude that the simulation applies at some frequencies (1/Å): the measured curve, or that of its B-factor."""
    if settings.get("signal_envelope"):
        points = np.array([[float(part) for part in point.split(":")] for point in settings["signal_envelope"]])
        return np.interp(frequency, *points.T)
    simulated = SimulateSettings.model_fields["b_factor_angstrom2"].default
    return np.exp(-settings.get("b_factor_angstrom2", simulated) / 4 * frequency**2)


def relative(frequency, amplitude, error):
    """A curve and its error divided by its mean between 60 and 30 Å."""
    reference = (frequency >= 1 / 60) & (frequency <= 1 / 30)
    if not reference.any():
        return amplitude, error
    level = np.average(amplitude[reference], weights=1 / np.maximum(error[reference], 1e-3) ** 2)
    return amplitude / level, error / level


def print_envelope(report, strengths, correction):
    """Envelope of the signal at some resolutions: measured, used by the simulation, and from the labels."""
    frequency, envelope, error = (np.array(report["measured"][key]) for key in
                                  ("envelope_frequency", "envelope", "envelope_error"))
    envelope, error = relative(frequency, envelope, error)
    middle = strengths[0].frequency
    truth, truth_error = relative(middle, *mean_envelope(strengths))
    used = relative(middle, used_envelope(report["settings"], middle), np.ones_like(middle))[0]
    table = MarkdownTable("resolution (Å)", "measured", "in the simulation", "labels", "simulation − labels")
    for resolution in RESOLUTIONS:
        place = 1 / resolution
        if not middle[0] <= place <= middle[-1] or place > frequency[-1]:
            continue
        value, spread, applied, true, true_error = (float(np.interp(place, *curve)) for curve in (
            (frequency, envelope), (frequency, error), (middle, used), (middle, truth), (middle, truth_error)))
        table.row(str(resolution), f"{value:.2f} ± {spread:.2f}", f"{applied:.2f}", f"{true:.2f} ± {true_error:.2f}",
                  f"{applied - true:+.2f}")
    lost = "" if np.ndim(correction) == 0 else " The labels' curve is corrected for what matching loses: " + ", ".join(
        f"{np.interp(1 / resolution, middle, 1 / correction):.2f} at {resolution} Å" for resolution in (40, 25, 17)
    ) + "."
    print(f"\nThe curves are 1 between 60 and 30 Å in the mean.{lost}\n")


def profile_above_surroundings(fields, diameter):
    """Mean profile of the particles, minus its mean from 0.8 to 1 diameter."""
    profile = mean_profile(fields, diameter)
    return profile - profile[round(0.8 * len(profile)):].mean()


def without_one(fields, diameter):
    """Profiles (field, radius) without each one of the fields."""
    return np.stack([profile_above_surroundings([*fields[:place], *fields[place + 1:]], diameter)
                     for place in range(len(fields))])


def jackknife_error(values):
    """Standard error of a mean over fields, from its values without each one of them."""
    return math.sqrt((len(values) - 1) * float(np.var(values)))


def print_profiles(real, generated, diameter):
    """Ring and fringe of the mean profile of the particles, real and generated, with standard errors.

    The ring is the lowest value from an eighth of the diameter on: nearer to the centre, a mean has few pixels. Values
    are relative to the particles' surroundings, because the median of a micrograph depends on its contaminants.
    """
    table = MarkdownTable("mean particle", "real", "generated", "generated / real", f"within {AGREEMENT:.0%}")
    profiles = [profile_above_surroundings(fields, diameter) for fields in (real, generated)]
    first = round(diameter / 8 / real[0].pixel_size)
    lows = [first + int(profile[first:].argmin()) for profile in profiles]
    highs = [low + int(profile[low:].argmax()) for low, profile in zip(lows, profiles, strict=True)]
    pixel_size = real[0].pixel_size
    parts = [without_one(fields, diameter) for fields in (real, generated)]
    for label, places in (("dark ring (deviations of the micrograph)", lows), ("bright fringe", highs)):
        values = [float(profile[place]) for profile, place in zip(profiles, places, strict=True)]
        errors = [jackknife_error(part[:, place]) for part, place in zip(parts, places, strict=True)]
        ratio = values[1] / values[0]
        error = abs(ratio) * math.hypot(errors[0] / values[0], errors[1] / values[1])
        off = abs(ratio - 1)
        verdict = "yes" if off <= AGREEMENT else "not told: less than two errors" if off < 2 * error else "**no**"
        table.row(label, *(f"{value:+.3f} ± {own:.3f} at {place * pixel_size:.0f} Å"
                           for value, own, place in zip(values, errors, places, strict=True)),
                  f"{ratio:.2f} ± {error:.2f}", verdict)
    error = float(np.sqrt(np.mean((profiles[1] - profiles[0]) ** 2)))
    table.row("whole profile, root mean square", f"{float(np.sqrt(np.mean(profiles[0] ** 2))):.3f}",
              f"difference {error:.3f}", "–", "–")
    print()


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
    print_profiles(placed, generated, diameter)
    for warning in report["warnings"]:
        print(f"- warning of `cryogem measure`: {warning}")


if __name__ == "__main__":
    main()
