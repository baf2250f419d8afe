# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures of labelled micrographs, one at a time: the images with their labels, the power spectra with their rings."""
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.io.dataset import read_manifest
from cryogem_scipion.engine.simulation.optics import Optics, ctf_zeros, phase_terms
from cryogem_scipion.viewers.images import circles, grey_range, mean_spectrum, outline, scale_bar, show
from cryogem_scipion.viewers.labels import micrograph_rows, optics_of, particles_of
from cryogem_scipion.viewers.pages import Pages

__all__ = ["KINDS", "gallery", "kinds_of", "power_spectra"]

# Pictures of the same micrograph, as far as they were kept: folder and what it holds.
KINDS = {"optical": "without noise", "physical": "with ice and noise", "micrographs": ""}
RING = "#ff5a5a"


def kinds_of(folder: Path) -> dict[str, str]:
    """Return the pictures that were kept of each micrograph: their folders, and what they hold."""
    manifest, rows = read_manifest(folder), micrograph_rows(folder)
    own = {"simulate": "simulated", "generate": "generated"}.get(manifest.stage, manifest.stage)
    name = Path(rows["rlnMicrographName"].iloc[0]).name
    found = {kind: text or own for kind, text in KINDS.items() if (folder / kind / name).is_file()}
    if not found:
        raise DataError(f"{folder} has no image {name}; make the set again")
    return found


def gallery(figure: Figure, folder: Path, first: int = 0, marked: bool = True, outlined: bool = True) -> None:
    """Show one micrograph after another, in all pictures that were kept of it, with its particles and mask.

    Parameters
    ----------
    figure
        To be filled.
    folder
        Of a simulation or a generated set.
    first
        Index of the micrograph to begin with.
    marked, outlined
        Whether to mark the particles (cut ones in another colour) and the mask's outline.
    """
    manifest, micrographs, kinds = read_manifest(folder), micrograph_rows(folder), kinds_of(folder)
    figure.set_size_inches(*((7.2, 7.8) if len(kinds) == 1 else (4.2 * len(kinds), 5.4)))
    axes = figure.subplots(1, len(kinds), squeeze=False, sharex=True, sharey=True)[0]
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.09, top=0.90, wspace=0.02)

    def draw(index: int) -> None:
        row = micrographs.iloc[index]
        name = row["rlnMicrographName"]
        here = particles_of(folder, name)
        for axis, (kind, text) in zip(axes, kinds.items(), strict=True):
            axis.clear()
            axis.set_axis_off()
            axis.set_title(text, fontsize=10)
            scale_bar(axis, show(axis, folder / kind / Path(name).name), manifest.pixel_size)
            if outlined:
                outline(axis, folder / row["cryogemMask"])
            if marked:
                circles(axis, here, manifest.particle_diameter_angstrom or 0, manifest.pixel_size)
        cut = int((here["cryogemWhole"] != 1).sum())
        figure.suptitle(f"{Path(name).name}: {len(here)} particles ({cut} cut), {_defocus(optics_of(row))}",
                        fontsize=11)

    Pages(figure, len(micrographs), first, draw)


def power_spectra(figure: Figure, folder: Path, first: int = 0, kind: str = "micrographs") -> None:
    """Show the power spectra of one micrograph after another, with the rings where its label's CTF vanishes.

    Parameters
    ----------
    figure
        To be filled.
    folder
        Of a simulation or a generated set.
    first
        Index of the micrograph to begin with.
    kind
        Which of the pictures that were kept: a key of ``KINDS``.
    """
    manifest, micrographs, kinds = read_manifest(folder), micrograph_rows(folder), kinds_of(folder)
    if kind not in kinds:
        raise DataError(f"{folder} kept no {kind} images; generate with 'Also keep: {kind}' to see their spectra")
    plane, profile = figure.subplots(1, 2, gridspec_kw={"width_ratios": (1, 1.3)})
    transfer = profile.twinx()
    figure.subplots_adjust(left=0.02, right=0.94, bottom=0.20, top=0.88, wspace=0.16)
    nyquist = 0.5 / manifest.pixel_size

    def draw(index: int) -> None:
        row = micrographs.iloc[index]
        optics = optics_of(row)
        power = mean_spectrum(folder / kind / Path(row["rlnMicrographName"]).name)
        _plane(plane, power, optics, nyquist)
        _profile(profile, transfer, power, optics, nyquist)
        figure.suptitle(f"{Path(row['rlnMicrographName']).name} ({kinds[kind]}), {_defocus(optics)}", fontsize=11)

    Pages(figure, len(micrographs), first, draw)


def _plane(axis: Any, power: NDArray[np.float64], optics: Optics, nyquist: float) -> None:
    """The spectrum, and on its right half the rings of the label."""
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
        axis.plot(ring * np.cos(directions), ring * np.sin(directions), color=RING, linewidth=0.7)
    axis.set(xlim=(-edge, nyquist), ylim=(nyquist, -edge))
    axis.set_title("power spectrum | zeros of the label's CTF", fontsize=10)


def _profile(axis: Any, transfer: Any, power: NDArray[np.float64], optics: Optics, nyquist: float) -> None:
    """The spectrum's rotational mean beside |CTF|², along the same mean defocus."""
    n = len(power)
    y, x = np.indices(power.shape) - n // 2
    radius = np.hypot(y, x).round().astype(int)
    mean = np.bincount(radius.ravel(), power.ravel())[1:n // 2] / np.bincount(radius.ravel())[1:n // 2]
    a, *_, d, e = phase_terms(optics)
    u = np.linspace(0, nyquist, 1000)
    squared = np.sin(2 * np.pi * (a * u**2 + d * u**4 + e)) ** 2
    for each in (axis, transfer):
        each.clear()
    line, = axis.semilogy(np.arange(1, n // 2) / (n // 2) * nyquist, mean, linewidth=1.5, label="power")
    curve, = transfer.plot(u, squared, color=RING, linewidth=0.8, alpha=0.8, label="|CTF|² of the label")
    transfer.set(ylim=(0, 1.05), yticks=())
    axis.set(xlim=(0, nyquist), xlabel="spatial frequency (1/Å)")
    axis.set_title("rotational mean", fontsize=10)
    axis.tick_params(labelsize=8)
    axis.legend(handles=[line, curve], fontsize=8, loc="upper right")


def _defocus(optics: Optics) -> str:
    """The defocus in words."""
    text = f"defocus {(optics.defocus_u_angstrom + optics.defocus_v_angstrom) / 2e4:.2f} µm"
    astigmatism = abs(optics.defocus_u_angstrom - optics.defocus_v_angstrom)
    return f"{text}, astigmatism {astigmatism:.0f} Å" if astigmatism >= 1 else text
