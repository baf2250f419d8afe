# SPDX-License-Identifier: GPL-3.0-or-later
"""Figure of the demo: real and generated fields of the same specimen, and below what was measured."""
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from cryogem_scipion.engine.figures.measurement import REPORT_NAME
from cryogem_scipion.engine.figures.report_files import read_report
from cryogem_scipion.engine.io.dataset import MICROGRAPHS, PARTICLES, read_table
from cryogem_scipion.engine.io.mrc import read_mrc

__all__ = ["draw_figure", "mean_power"]

FIELD_EDGE = 380
"""Largest edge (px) of a field that the figure shows."""
WIDTH, TITLES, CURVES = 1560, 34, 370
"""Width of the figure, height of the fields' titles and of the curves, px."""
TILE = 128
"""Edge (px) of the tiles on which power spectra are measured."""
REAL, GENERATED, PARTICLE, NOISE = "#1f1f1f", "#d1495b", "#e69f00", "#8c8c8c"

Image = NDArray[np.float32]
Curve = NDArray[np.float64]


def draw_figure(real: Sequence[Path], dataset: Path, measurement: Path, out: Path) -> Path:
    """Draw two real and two generated fields, and below their power spectra, the Thon rings and the search's peaks.

    Parameters
    ----------
    real
        Real micrographs at the working pixel size.
    dataset
        A generated dataset folder with its clean (``optical``) images.
    measurement
        Folder that ``cryogem measure`` wrote.
    out
        PNG file.

    Raises
    ------
    DataError
        A file is missing or damaged.
    """
    _, rows = read_table(dataset / MICROGRAPHS, "micrographs", ("rlnMicrographName",))
    names = [Path(name).name for name in rows["rlnMicrographName"]]
    real_images = [read_mrc(path, 2)[0] for path in real]
    generated, pixel_sizes = zip(*(read_mrc(dataset / "micrographs" / name, 2) for name in names), strict=True)
    clean = [read_mrc(dataset / "optical" / name, 2)[0] for name in names]
    report, arrays = read_report(measurement, REPORT_NAME)
    pixel_size = float(pixel_sizes[0] or 1.0)

    edge = min(FIELD_EDGE, *(min(image.shape) for image in (*real_images, *generated)))
    height = round(WIDTH / 4) - 6 + TITLES + CURVES
    figure = Figure(figsize=(WIDTH / 100, height / 100), dpi=100)
    _draw_fields(figure, height, real_images, generated, edge, pixel_size)
    _mark_centres(figure.axes[3], dataset, names[min(1, len(names) - 1)], generated[0].shape, edge)
    spectra, rings, peaks = (figure.add_axes((left, 88 / height, 0.272, (CURVES - 138) / height))
                             for left in (0.048, 0.380, 0.718))
    _draw_spectra(spectra, real_images, generated, clean, pixel_size)
    _draw_rings(rings, arrays)
    _draw_peaks(peaks, arrays)
    figure.text(0.5, 12 / height, _measured_text(report), ha="center", va="bottom", fontsize=12.5)
    figure.savefig(out)
    return out


def mean_power(images: Sequence[Image]) -> Curve:
    """Return the rotational mean of the images' power spectrum, at multiples of 1/TILE cycles a pixel up to 1/2.

    It is the mean over Hann-windowed tiles of all images; white noise has its variance at each frequency.
    """
    window = np.hanning(TILE + 1)[:-1]
    plane = window[:, None] * window
    total, weight = np.zeros((TILE, TILE // 2 + 1)), 0.0
    for image in images:
        # Images smaller than a tile are filled up with their mean.
        missing = [(0, max(0, TILE - edge)) for edge in image.shape]
        filled = np.pad(image - image.mean(dtype=np.float64), missing)
        for y in range(0, filled.shape[0] - TILE + 1, TILE // 2):
            for x in range(0, filled.shape[1] - TILE + 1, TILE // 2):
                tile = filled[y:y + TILE, x:x + TILE]
                total += np.abs(np.fft.rfft2((tile - tile.mean()) * plane)) ** 2
                weight += float(np.square(plane[:image.shape[0], :image.shape[1]]).sum())
    radius = np.rint(np.hypot(np.fft.fftfreq(TILE)[:, None], np.fft.rfftfreq(TILE)) * TILE).astype(int).ravel()
    rings = np.bincount(radius, total.ravel()) / np.bincount(radius)
    curve: Curve = rings[:TILE // 2 + 1] / weight
    return curve


def _draw_fields(figure: Figure, height: int, real: Sequence[Image], generated: Sequence[Image], edge: int,
                 pixel_size: float) -> None:
    """Two fields of each set side by side, all with the same grey scale."""
    panels = [("real", REAL, real[0]), ("real", REAL, real[min(1, len(real) - 1)]),
              ("generated", GENERATED, generated[0]),
              ("generated, true centres marked", GENERATED, generated[min(1, len(generated) - 1)])]
    # Slightly smoothed for display, because particles are easier to see without the finest noise.
    fields = [gaussian_filter(_middle(image, edge), 0.7) for _, _, image in panels]
    low, high = np.percentile(np.concatenate([field.ravel() for field in fields[:2]]), [0.2, 99.8])
    side = WIDTH / 4 - 6
    for number, ((title, colour, _), field) in enumerate(zip(panels, fields, strict=True)):
        axis = figure.add_axes((number / 4 + 3 / WIDTH, CURVES / height, side / WIDTH, side / height))
        axis.imshow(field, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
        axis.set_title(title, fontsize=13, pad=5, color=colour)
        axis.set_axis_off()
        _draw_scale_bar(axis, edge, pixel_size)


def _middle(image: Image, edge: int) -> Image:
    y, x = ((length - edge) // 2 for length in image.shape)
    return image[y:y + edge, x:x + edge]


def _draw_scale_bar(axis: Any, edge: int, pixel_size: float, angstrom: float = 200) -> None:
    """Draw a white scale bar with its length into the lower left corner."""
    length, unit = angstrom / pixel_size, edge / 100
    axis.add_patch(Rectangle((3 * unit, 95.5 * unit), length, unit, facecolor="white", edgecolor="black",
                             linewidth=0.8))
    axis.text(3 * unit + length / 2, 94.5 * unit, f"{angstrom:g} Å", color="white", ha="center", va="bottom",
              fontsize=10, path_effects=[patheffects.withStroke(linewidth=2, foreground="black")])


def _mark_centres(axis: Any, dataset: Path, name: str, shape: tuple[int, ...], edge: int) -> None:
    """Mark the true centres; those of particles that the border cuts have another colour."""
    optics, rows = read_table(dataset / PARTICLES, "particles", ("rlnCoordinateX", "rlnOriginXAngst", "cryogemWhole"))
    rows = rows[rows["rlnMicrographName"] == f"micrographs/{name}"]
    pixel_size = float(optics["rlnMicrographPixelSize"].iloc[0])
    x = rows["rlnCoordinateX"] - rows["rlnOriginXAngst"] / pixel_size - (shape[1] - edge) // 2
    y = rows["rlnCoordinateY"] - rows["rlnOriginYAngst"] / pixel_size - (shape[0] - edge) // 2
    shown = (x > 0) & (y > 0) & (x < edge - 1) & (y < edge - 1)
    whole = rows["cryogemWhole"] == 1
    for selected, colour in ((whole, "#ffb000"), (~whole, "#6fa8ff")):
        axis.scatter(x[shown & selected], y[shown & selected], s=70, marker="+", color=colour, linewidths=1.8)


def _draw_spectra(axis: Any, real: Sequence[Image], generated: Sequence[Image], clean: Sequence[Image],
                  pixel_size: float) -> None:
    """Power spectra of both sets, and the shares of particles and noise in the generated ones."""
    # By what the clean images have to be multiplied to explain most of the generated ones.
    deviations = [(image - image.mean(), particle - particle.mean())
                  for image, particle in zip(generated, clean, strict=True)]
    scale = (sum(float((image * particle).sum()) for image, particle in deviations)
             / max(sum(float(np.square(particle).sum()) for _, particle in deviations), 1e-30))
    curves = [("real", REAL, 2.2, "-", real), ("generated", GENERATED, 1.6, "-", generated),
              ("its particles", PARTICLE, 1.4, "-", [scale * particle for _, particle in deviations]),
              ("its noise and ice", NOISE, 1.4, "--", [image - scale * particle for image, particle in deviations])]
    frequency = np.arange(1, TILE // 2 + 1) / (TILE * pixel_size)
    unit = float(mean_power(real)[TILE // 4:].mean())
    for label, colour, width, style, images in curves:
        axis.plot(frequency, mean_power(images)[1:] / unit, color=colour, linewidth=width, linestyle=style, label=label)
    axis.set(yscale="log", title="Power spectrum", xlabel="spatial frequency (1/Å)", ylabel="relative to the noise",
             xlim=(0, frequency[-1]), ylim=(1e-2, None))
    axis.legend(frameon=False, fontsize=10)


def _draw_rings(axis: Any, arrays: dict[str, Any]) -> None:
    """Thon rings of a real micrograph and their fit."""
    frequency, measured, fitted = (arrays[f"ring_{name}"] for name in ("frequency", "measured", "fitted"))
    axis.plot(frequency, measured, color=REAL, linewidth=1.0, label="real")
    axis.plot(frequency, fitted, color=GENERATED, linewidth=1.6, label="fit: defocus and astigmatism")
    most = max([*np.quantile(np.abs(measured), [0.98])], default=1.0) if len(measured) else 1.0
    axis.set(title="Thon rings, without the background", xlabel="spatial frequency (1/Å)",
             ylabel="fraction of the background",
             ylim=(-0.3 * most, 1.9 * most))
    axis.legend(frameon=False, fontsize=10)


def _draw_peaks(axis: Any, arrays: dict[str, Any]) -> None:
    """Heights of the peaks of the particle search in real micrographs, and in generated ones of known truth."""
    axis.stairs(arrays["real_scores"], arrays["score_bins"], color=REAL, linewidth=1.6, label="real")
    axis.stairs(arrays["generated_scores"], arrays["score_bins"], color=GENERATED, linewidth=1.6,
                label="generated, as measured")
    highest = max([1.0, *arrays["real_scores"], *arrays["generated_scores"]])
    axis.set(title="Peaks of the search for particles", xlabel="height (standard deviations of the noise)",
             ylabel="number", yscale="log", ylim=(0.7, 12 * highest))
    axis.legend(frameon=False, fontsize=10)


def _measured_text(report: dict[str, Any]) -> str:
    """The measured values in one line."""
    settings, words = report["settings"], []
    if "particles_mean" in settings:
        words.append(f"{settings['particles_mean']:.0f} particles in a field")
    if "particle_distance" in settings:
        words.append(f"at least {settings['particle_distance']:.0f} Å apart")
    if "defocus_min" in settings:
        words.append(f"defocus {settings['defocus_min'] / 1e4:.2f} to {settings['defocus_max'] / 1e4:.2f} µm")
    if "snr" in settings:
        words.append(f"signal-to-noise ratio {settings['snr']:.2f}")
    return "Measured on the real micrographs, without labels: " + (", ".join(words) or "nothing reliable")
