# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures of labelled micrographs, one micrograph per page: images with labels, power spectra with Thon rings."""
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.io.dataset import read_manifest
from cryogem_scipion.engine.simulation.optics import Optics, ctf_zeros, phase_terms
from cryogem_scipion.viewers.image_display import (
    draw_outline,
    draw_particles,
    draw_scale_bar,
    grey_range,
    mean_spectrum,
    show_image,
)
from cryogem_scipion.viewers.label_tables import micrograph_particles, micrograph_rows, row_optics
from cryogem_scipion.viewers.paging import Pages

__all__ = ["IMAGE_KINDS", "available_images", "draw_gallery", "draw_power_spectra"]

# Kinds of images that a dataset folder may have of each micrograph: subfolder, and description.
IMAGE_KINDS = {"optical": "without noise", "physical": "with ice and noise", "micrographs": ""}
RING_COLOUR = "#ff5a5a"


def available_images(folder: Path) -> dict[str, str]:
    """Return the kinds of images in a dataset folder: for each subfolder, the description of its images."""
    manifest, rows = read_manifest(folder), micrograph_rows(folder)
    micrograph_text = {"simulate": "simulated", "generate": "generated"}.get(manifest.stage, manifest.stage)
    name = Path(rows["rlnMicrographName"].iloc[0]).name
    kinds = {kind: text or micrograph_text for kind, text in IMAGE_KINDS.items() if (folder / kind / name).is_file()}
    if not kinds:
        raise DataError(f"{folder} has no image {name}; make the set again")
    return kinds


def draw_gallery(figure: Figure, folder: Path, first: int = 0, show_particles: bool = True,
                 show_masks: bool = True) -> None:
    """Show all images of each micrograph side by side, with its particles and its mask.

    Parameters
    ----------
    figure
        The figure.
    folder
        Folder of a simulated or generated dataset.
    first
        Index of the micrograph shown first.
    show_particles, show_masks
        Whether to draw circles around the particles, and the masks' outlines.
    """
    manifest, micrographs, kinds = read_manifest(folder), micrograph_rows(folder), available_images(folder)
    figure.set_size_inches(*((7.2, 7.8) if len(kinds) == 1 else (4.2 * len(kinds), 5.4)))
    axes = figure.subplots(1, len(kinds), squeeze=False, sharex=True, sharey=True)[0]
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.09, top=0.90, wspace=0.02)

    def draw(index: int) -> None:
        row = micrographs.iloc[index]
        name = row["rlnMicrographName"]
        particles = micrograph_particles(folder, name)
        for axis, (kind, text) in zip(axes, kinds.items(), strict=True):
            axis.clear()
            axis.set_axis_off()
            axis.set_title(text, fontsize=10)
            draw_scale_bar(axis, show_image(axis, folder / kind / Path(name).name), manifest.pixel_size)
            if show_masks:
                draw_outline(axis, folder / row["cryogemMask"])
            if show_particles:
                draw_particles(axis, particles, manifest.particle_diameter_angstrom or 0, manifest.pixel_size)
        cut = int((particles["cryogemWhole"] != 1).sum())
        figure.suptitle(f"{Path(name).name}: {len(particles)} particles ({cut} cut), {_defocus(row_optics(row))}",
                        fontsize=11)

    Pages(figure, len(micrographs), first, draw)


def draw_power_spectra(figure: Figure, folder: Path, first: int = 0, kind: str = "micrographs") -> None:
    """Show the power spectrum of each micrograph, with the zeros of the CTF in its label.

    Parameters
    ----------
    figure
        The figure.
    folder
        Folder of a simulated or generated dataset.
    first
        Index of the micrograph shown first.
    kind
        Kind of image: a key of ``IMAGE_KINDS``.
    """
    manifest, micrographs, kinds = read_manifest(folder), micrograph_rows(folder), available_images(folder)
    if kind not in kinds:
        raise DataError(f"{folder} kept no {kind} images; generate with 'Also keep: {kind}' to see their spectra")
    plane, profile = figure.subplots(1, 2, gridspec_kw={"width_ratios": (1, 1.3)})
    ctf_axis = profile.twinx()
    figure.subplots_adjust(left=0.02, right=0.94, bottom=0.20, top=0.88, wspace=0.16)
    nyquist = 0.5 / manifest.pixel_size

    def draw(index: int) -> None:
        row = micrographs.iloc[index]
        optics = row_optics(row)
        power = mean_spectrum(folder / kind / Path(row["rlnMicrographName"]).name)
        _plane(plane, power, optics, nyquist)
        _profile(profile, ctf_axis, power, optics, nyquist)
        figure.suptitle(f"{Path(row['rlnMicrographName']).name} ({kinds[kind]}), {_defocus(optics)}", fontsize=11)

    Pages(figure, len(micrographs), first, draw)


def _plane(axis: Any, power: NDArray[np.float64], optics: Optics, nyquist: float) -> None:
    """Draw the power spectrum, and on its right half the zeros of the label's CTF."""
    n = len(power)
    edge = nyquist * (1 + 1 / n)
    values = np.log(np.maximum(power, 1e-30))
    values[n // 2, n // 2] = values[n // 2, n // 2 + 1]
    low, high = grey_range(values)
    axis.clear()
    axis.set_axis_off()
    axis.imshow(values, cmap="gray", vmin=low, vmax=high, extent=(-edge, nyquist, nyquist, -edge))
    directions = np.linspace(-np.pi / 2, np.pi / 2, 181)
    for ring in ctf_zeros(optics, directions, nyquist):
        axis.plot(ring * np.cos(directions), ring * np.sin(directions), color=RING_COLOUR, linewidth=0.7)
    axis.set(xlim=(-edge, nyquist), ylim=(nyquist, -edge))
    axis.set_title("power spectrum | zeros of the label's CTF", fontsize=10)


def _profile(axis: Any, ctf_axis: Any, power: NDArray[np.float64], optics: Optics, nyquist: float) -> None:
    """Draw the rotational mean of the power spectrum, and |CTF|² at the mean defocus."""
    n = len(power)
    y, x = np.indices(power.shape) - n // 2
    radius = np.hypot(y, x).round().astype(int)
    mean = np.bincount(radius.ravel(), power.ravel())[1:n // 2] / np.bincount(radius.ravel())[1:n // 2]
    a, *_, d, e = phase_terms(optics)
    u = np.linspace(0, nyquist, 1000)
    squared = np.sin(2 * np.pi * (a * u**2 + d * u**4 + e)) ** 2
    axis.clear()
    ctf_axis.clear()
    line, = axis.semilogy(np.arange(1, n // 2) / (n // 2) * nyquist, mean, linewidth=1.5, label="power")
    curve, = ctf_axis.plot(u, squared, color=RING_COLOUR, linewidth=0.8, alpha=0.8, label="|CTF|² of the label")
    ctf_axis.set(ylim=(0, 1.05), yticks=())
    axis.set(xlim=(0, nyquist), xlabel="spatial frequency (1/Å)")
    axis.set_title("rotational mean", fontsize=10)
    axis.tick_params(labelsize=8)
    axis.legend(handles=[line, curve], fontsize=8, loc="upper right")


def _defocus(optics: Optics) -> str:
    """The defocus in words."""
    text = f"defocus {(optics.defocus_u_angstrom + optics.defocus_v_angstrom) / 2e4:.2f} µm"
    astigmatism = abs(optics.defocus_u_angstrom - optics.defocus_v_angstrom)
    return f"{text}, astigmatism {astigmatism:.0f} Å" if astigmatism >= 1 else text
