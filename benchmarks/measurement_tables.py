# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables of benchmarks/measurement.py: what was measured, what the labels tell, and how the generated set differs."""
import math
from pathlib import Path

import numpy as np
from labelled_motion import displacement, motion, without_displacement
from labelled_truth import mean_envelope, nearest_distances, signal_to_noise
from markdown_table import MarkdownTable

from cryogem_scipion.engine.measurement.motion import MeasuredMotion
from cryogem_scipion.engine.settings import SimulateSettings
from cryogem_scipion.engine.simulation.envelope import envelope_amplitude
from cryogem_scipion.engine.simulation.motion import Motion

RESOLUTIONS = (60, 40, 30, 25, 20, 17, 15, 12)
"""Å, at which the envelope is printed."""


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
        points = [tuple(float(part) for part in point.split(":")) for point in settings["signal_envelope"]]
        motions = [Motion(*(float(part) for part in text.split(":")[:3])) for text in settings.get("motion", [])]
        blur = MeasuredMotion(np.array([one.squares() for one in motions]), np.empty(0)).factors(
            np.asarray(frequency)).mean((0, 1)) if motions else 1.0
        return envelope_amplitude(tuple(points), np.asarray(frequency)) * blur
    simulated = SimulateSettings.model_fields["b_factor_angstrom2"].default
    return np.exp(-settings.get("b_factor_angstrom2", simulated) / 4 * frequency**2)


def print_motion(report, fields, strengths, gains):
    """Residual motion of the labelled micrographs: measured, and from the labels, over the gains of the latter."""
    rows = {Path(row["name"]).stem: row for row in report["micrographs"]}
    if not any("motion_u_angstrom" in row for row in rows.values()):
        print("\nNo residual motion was measured: it does not exceed what chance gives.\n")
        return
    kept = [(field, one) for field, one in zip(fields, strengths, strict=True)
            if "motion_u_angstrom" in rows[field.name]]
    measured = np.array([Motion(*(rows[field.name][f"motion_{name}"] for name in
                                  ("u_angstrom", "v_angstrom", "angle_degrees"))).squares() for field, _ in kept])
    errors = np.array([rows[field.name]["motion_error_angstrom2"] for field, _ in kept])
    gain = np.array([gains[0], gains[1], gains[1]])
    labels, label_errors = (np.array(values) / gain for values in zip(*(motion(*one) for one in kept), strict=True))
    table = MarkdownTable("micrograph", "mean square displacement (Å²), over the mean of these", "labels",
                          "along its direction − across, half (Å²)", "labels", "direction", "labels")
    for number, (field, _) in enumerate(kept):
        one, other = measured[number], labels[number]
        table.row(field.name, f"{one[0] - measured[:, 0].mean():+.1f} ± {errors[number]:.1f}",
                  f"{other[0] - labels[:, 0].mean():+.1f} ± {label_errors[number, 0]:.1f}",
                  f"{math.hypot(*one[1:]):.1f}", f"{math.hypot(*other[1:]):.1f} ± {label_errors[number, 1]:.1f}",
                  f"{direction(one):.0f}°", f"{direction(other):.0f}°")
    print(f"\nOn generated fields, whose motion is known, the labels' way finds {gains[0]:.2f} of the isotropic and "
          f"{gains[1]:.2f} of the directed part; this is corrected.\n")


def direction(squares):
    """Angle of the motion, degrees from x towards y."""
    return math.degrees(math.atan2(squares[2], squares[1])) / 2 % 180


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
