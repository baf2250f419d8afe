# SPDX-License-Identifier: GPL-3.0-or-later
"""Mean radial profiles of real and generated particles: of the micrographs, and of the particles' signal alone."""
import math

import numpy as np
import torch
from labelled_truth import HIGHEST, filtered
from markdown_table import MarkdownTable

from cryogem_scipion.engine.compute.robust import robust_deviation

AGREEMENT = 0.1
"""Part of the real ring and fringe by which those of the generated particles may differ."""


def mean_profile(fields, images, diameter):
    """Mean radial profile around the particles that count, one value for each pixel of radius up to the diameter."""
    reach = math.ceil(diameter / fields[0].pixel_size)
    axis = torch.arange(-reach, reach + 1)
    ring = torch.hypot(axis[:, None].double(), axis[None].double()).round().long()
    total, count = torch.zeros(2 * reach + 1, 2 * reach + 1, dtype=torch.float64), 0
    for field, image in zip(fields, images, strict=True):
        for y, x in field.centres[field.counted].tolist():
            row, column = math.floor(y + 0.5), math.floor(x + 0.5)
            if reach <= row < image.shape[0] - reach and reach <= column < image.shape[1] - reach:
                total += image[row - reach:row + reach + 1, column - reach:column + reach + 1]
                count += 1
    mean = (total / max(count, 1)).flatten()
    profile = torch.zeros(int(ring.max()) + 1, dtype=torch.float64).index_add_(0, ring.flatten(), mean)
    profile = profile / torch.bincount(ring.flatten())
    return profile[:reach + 1].numpy()


def above_surroundings(profile):
    """Profiles (..., radius) minus their mean from 0.8 to 1 diameter."""
    first = round(0.8 * profile.shape[-1])
    return profile - profile[..., first:].mean(-1, keepdims=True)


def micrograph_profiles(fields, diameter):
    """Mean profile in the micrographs, in their deviations, and (field, radius) without each of the fields."""
    images = [(image - image.median()) / robust_deviation(image) for image in (one.image.double() for one in fields)]

    def of_all_but(left_out):
        used = [place for place in range(len(fields)) if place != left_out]
        return above_surroundings(mean_profile([fields[place] for place in used], [images[place] for place in used],
                                               diameter))
    return of_all_but(None), np.stack([of_all_but(place) for place in range(len(fields))])


def signal_basis(fields, strengths, diameter):
    """Profiles (band, radius) of the signal in each band of frequency, at amplitude 1."""
    profiles = []
    for band in np.eye(len(strengths[0].frequency)):
        if strengths[0].frequency[band.argmax()] > HIGHEST / diameter:
            break
        images = [filtered(one.signal, field.pixel_size, one.frequency, band).double()
                  for field, one in zip(fields, strengths, strict=True)]
        profiles.append(mean_profile(fields, images, diameter))
    return above_surroundings(np.stack(profiles))


def signal_profiles(basis, fields, strengths):
    """Profile of the signal with the mean amplitudes of some fields, and (field, radius) without each of them."""
    scales = np.array([robust_deviation(field.image.double()) for field in fields])[:, None]
    amplitudes = np.array([one.amplitude for one in strengths])[:, :len(basis)] / scales
    weights = (scales / np.array([one.error for one in strengths])[:, :len(basis)]) ** 2

    def of_all_but(left_out):
        used = [place for place in range(len(fields)) if place != left_out]
        return np.average(amplitudes[used], axis=0, weights=weights[used]) @ basis
    return of_all_but(None), np.stack([of_all_but(place) for place in range(len(fields))])


def jackknife_error(values):
    """Standard error of a mean over fields, from its values without each one of them."""
    return math.sqrt((len(values) - 1) * float(np.var(values)))


def add_rows(table, name, real, generated, diameter, pixel_size):
    """Rows of the ring, the fringe and the whole profile; ``real`` and ``generated``: profile, and without each field.

    The ring is the lowest value from an eighth of the diameter on: nearer to the centre, a mean has few pixels.
    """
    profiles, parts = (real[0], generated[0]), (real[1], generated[1])
    first = round(diameter / 8 / pixel_size)
    lows = [first + int(profile[first:].argmin()) for profile in profiles]
    highs = [low + int(profile[low:].argmax()) for low, profile in zip(lows, profiles, strict=True)]
    for label, places in (("dark ring", lows), ("bright fringe", highs)):
        values = [float(profile[place]) for profile, place in zip(profiles, places, strict=True)]
        errors = [jackknife_error(part[:, place]) for part, place in zip(parts, places, strict=True)]
        ratio = values[1] / values[0]
        error = abs(ratio) * math.hypot(errors[0] / values[0], errors[1] / values[1])
        off = abs(ratio - 1)
        verdict = "yes" if off <= AGREEMENT else "not told: less than two errors" if off < 2 * error else "**no**"
        table.row(f"{name}: {label}", *(f"{value:+.3f} ± {own:.3f} at {place * pixel_size:.0f} Å"
                                        for value, own, place in zip(values, errors, places, strict=True)),
                  f"{ratio:.2f} ± {error:.2f}", verdict)
    error = float(np.sqrt(np.mean((profiles[1] - profiles[0]) ** 2)))
    table.row(f"{name}: all radii, root mean square", f"{float(np.sqrt(np.mean(profiles[0] ** 2))):.3f}",
              f"difference {error:.3f}", "–", "–")


def print_profiles(real, real_strengths, generated, generated_strengths, diameter):
    """Ring and fringe of the mean profile of the particles, real and generated, with standard errors.

    *Micrographs*: the mean of the grey values, which also holds the neighbours and the noise. *Signal*: the profile
    that the labelled particles have with the amplitudes of either set, so neighbours and noise are the same.
    """
    table = MarkdownTable("mean particle", "real", "generated", "generated / real", f"within {AGREEMENT:.0%}")
    pixel_size = real[0].pixel_size
    add_rows(table, "micrographs", micrograph_profiles(real, diameter), micrograph_profiles(generated, diameter),
             diameter, pixel_size)
    basis = signal_basis(real, real_strengths, diameter)
    add_rows(table, "signal", signal_profiles(basis, real, real_strengths),
             signal_profiles(basis, generated, generated_strengths), diameter, pixel_size)
    print()
