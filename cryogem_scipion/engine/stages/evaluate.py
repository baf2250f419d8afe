# SPDX-License-Identifier: GPL-3.0-or-later
"""``cryogem evaluate``: how far generated micrographs are from real ones."""
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import nn

from cryogem_scipion.engine.compute.devices import chosen_device, chosen_precision
from cryogem_scipion.engine.compute.parallel import worker_count
from cryogem_scipion.engine.compute.threads import available_threads
from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.figures.evaluation import FIGURE_SIZE, REPORT_NAME, draw_evaluation
from cryogem_scipion.engine.figures.report_files import save_figure, write_report
from cryogem_scipion.engine.figures.two_sample import TWO_SAMPLE_FIGURE_SIZE, draw_two_sample
from cryogem_scipion.engine.io.dataset import Manifest, read_manifest, write_manifest
from cryogem_scipion.engine.io.mrc import read_header
from cryogem_scipion.engine.noise.real_micrograph import check_real_micrographs, evenly_spaced, real_files
from cryogem_scipion.engine.realism.artefacts import artefact_excess, lattice_excess_db
from cryogem_scipion.engine.realism.features.feature_network import feature_network
from cryogem_scipion.engine.realism.features.random_filters import SQUARE_EDGE
from cryogem_scipion.engine.realism.image_statistics import (
    FREQUENCIES,
    GREY_BINS,
    LOCAL_DEVIATION_BINS,
    MAX_SHIFT,
    MIN_EDGE,
    statistics_distances,
)
from cryogem_scipion.engine.realism.micrograph_sets import (
    MicrographSet,
    SetMeasurements,
    measure_set,
    network_patch_features,
    open_set,
    random_filter_patch_features,
)
from cryogem_scipion.engine.realism.set_distances import (
    DistanceEstimate,
    GroupAverages,
    PatchFeatures,
    estimate_distances,
    estimate_frechet_distance,
)
from cryogem_scipion.engine.realism.signal_preservation import SignalPreservation, measure_signal_preservation
from cryogem_scipion.engine.realism.two_sample.report import (
    manifest_figures,
    report_arrays,
    report_entry,
    result_line,
    verdict,
)
from cryogem_scipion.engine.realism.two_sample.two_sample_test import (
    MIN_MICROGRAPHS,
    ScaleResult,
    Training,
    two_sample_test,
)
from cryogem_scipion.engine.runs.folder import open_run_folder, provenance
from cryogem_scipion.engine.settings import EvaluateSettings
from cryogem_scipion.engine.simulation.microscope import seeded_generator

__all__ = ["run"]

log = logging.getLogger("cryogem")

PATCH_EDGE, MIN_PATCH_EDGE = 96, 32
"""Usual and smallest edge of the patches for a feature network, in binned pixels."""
MIN_PATCHES = 8
"""Smallest number of patches in each set for a Fréchet distance."""
MAX_PIXEL_SIZE_RATIO = 20.0
"""Largest ratio of the pixel sizes of the two sets. A larger ratio is treated as a mistake."""

DIAMETER_ANGSTROM = 150.0
"""Particle diameter for the two-sample test where none is known: that of a protein of about 500 kDa, within a factor 2
of most specimens."""


@dataclass(frozen=True)
class PatchComparison:
    """Fréchet distance between the patches of two sets, and the patches that it was computed from."""

    distance: DistanceEstimate | None
    """None if a set has too few patches."""
    edge: int
    """Edge of the patches in binned pixels."""
    pixel_size: float
    """Å per binned pixel."""


def run(settings: EvaluateSettings) -> Manifest:
    """Compare two sets and write evaluation.json, evaluation.npz, evaluation.png and the manifest.

    Raises
    ------
    CryogemError
        Input or settings are unusable; nothing has been written then.
    """
    device = chosen_device(settings.device)
    sets = _open_sets(settings)
    network = None if settings.features is None else feature_network(settings.features).to(device)
    pixel_size = sets[0].working_pixel_size
    binning = max(1, round(settings.feature_pixel_size / pixel_size))
    out = open_run_folder(settings)
    threads = worker_count(torch.device("cpu"), max(len(micrographs.files) for micrographs in sets), _memory(sets))
    measurements = [measure_set(micrographs, binning, threads) for micrographs in sets]
    generated, real = measurements
    distances = estimate_distances(generated.statistics, real.statistics, statistics_distances,
                                   seeded_generator(settings.seed, "summaries"))
    if generated.artefacts is not None and real.artefacts is not None:
        distances |= estimate_distances(generated.artefacts, real.artefacts, artefact_excess,
                                        seeded_generator(settings.seed, "artefacts"))
    patches = _compare_patches(sets, measurements, network, device, binning, threads, settings.seed)
    if patches.distance is not None:
        distances["frechet"] = patches.distance
    signal = measure_signal_preservation(sets[0].files, seeded_generator(settings.seed, "signal"))
    two_sample = _two_sample_test(settings, sets, device, threads) if settings.two_sample else []
    warnings = _warnings(settings, sets, measurements, patches)
    report = _report(settings, sets, measurements, distances, patches, signal, warnings)
    conclusion = verdict(two_sample)
    write_report(out, REPORT_NAME,
                 {**report, "two_sample": report_entry(two_sample), "two_sample_verdict": conclusion},
                 {**_figure_arrays(generated, real), **report_arrays(two_sample)})
    _draw_figures(out, bool(two_sample))
    manifest = Manifest(stage="evaluate", **provenance(), settings=settings.model_dump(mode="json"),
                        seed=settings.seed, pixel_size=pixel_size, micrographs=len(sets[0].files),
                        warnings=tuple(warnings), figures={**_manifest_figures(distances, len(sets[1].files), signal),
                                 **manifest_figures(two_sample)})
    write_manifest(out, manifest)
    for name, distance in distances.items():
        log.info("%s", _distance_line(name, distance))
    for result in two_sample:
        log.info("%s", result_line(result))
    if conclusion is not None:
        log.info("two-sample test: %s", conclusion["text"])
    for warning in warnings:
        log.warning("warning: %s", warning)
    log.info("compared %d generated with %d real micrographs: %s", len(sets[0].files), len(sets[1].files),
             out / f"{REPORT_NAME}.png")
    return manifest


def _open_sets(settings: EvaluateSettings) -> list[MicrographSet]:
    """The generated and the real set, both at the coarser of their pixel sizes; reads only headers.

    Raises
    ------
    DataError
        The sets cannot be compared.
    """
    files = [real_files(patterns) for patterns in (settings.generated, settings.real)]
    shared = {path.resolve() for path in files[0]} & {path.resolve() for path in files[1]}
    if shared:
        raise DataError(f"{len(shared)} files are given both as generated and as real (first: {min(shared)}); give two "
                        "different sets")
    pixel_sizes = (settings.generated_pixel_size, settings.real_pixel_size)
    sets = [open_set(name, evenly_spaced(paths, settings.limit), pixel_size)
            for name, paths, pixel_size in zip(("generated", "real"), files, pixel_sizes, strict=True)]
    fine, coarse = sorted(micrographs.pixel_size for micrographs in sets)
    if coarse > MAX_PIXEL_SIZE_RATIO * fine:
        raise DataError(f"pixel sizes of {sets[0].pixel_size:g} (generated) and {sets[1].pixel_size:g} Å (real) cannot "
                        "be compared; correct the wrong pixel size with generated_pixel_size or real_pixel_size")
    sets = [replace(micrographs, working_pixel_size=coarse) for micrographs in sets]
    for micrographs in sets:
        check_real_micrographs(micrographs.files, coarse, micrographs.pixel_size)
        if micrographs.shortest_edge() < MIN_EDGE:
            raise DataError(f"{micrographs.files[0]} has {micrographs.shortest_edge()} pixels on its shorter side at "
                            f"{coarse:g} Å per pixel; a comparison needs at least {MIN_EDGE}")
    return sets


def _compare_patches(sets: Sequence[MicrographSet], measurements: Sequence[SetMeasurements], network: nn.Module | None,
                     device: torch.device, binning: int, threads: int, seed: int) -> PatchComparison:
    """Compare the features of patches of both sets, by random filters or, if there is a network, by the network."""
    pixel_size = sets[0].working_pixel_size
    shortest_edge = min(micrographs.shortest_edge() for micrographs in sets)
    features: list[PatchFeatures] = []
    if network is None:
        edge, binning = SQUARE_EDGE, 1
        features = [random_filter_patch_features(micrographs, threads) for micrographs in sets]
    else:
        edge = min(PATCH_EDGE, shortest_edge // binning // 16 * 16)
        if edge >= MIN_PATCH_EDGE:
            features = [network_patch_features(micrographs, network, device, binning, measured.binned_deviation, edge,
                                               threads)
                        for micrographs, measured in zip(sets, measurements, strict=True)]
    distance = None
    if features and min(len(patches.features) for patches in features) >= MIN_PATCHES:
        log.info("comparing %d with %d patches", *(len(patches.features) for patches in features))
        distance = estimate_frechet_distance(features[0], features[1], seeded_generator(seed, "features"))
    return PatchComparison(distance, edge, binning * pixel_size)


def _two_sample_test(settings: EvaluateSettings, sets: Sequence[MicrographSet], device: torch.device, threads: int
                     ) -> list[ScaleResult]:
    """Two-sample test at each scale; empty if there are too few micrographs."""
    diameter = settings.particle_diameter or _recorded_diameter(sets[0].files[0]) or DIAMETER_ANGSTROM
    training = Training(settings.two_sample_steps, device, chosen_precision("auto", device), available_threads())
    return two_sample_test(sets, diameter, training, threads, seeded_generator(settings.seed, "two-sample"))


def _recorded_diameter(path: Path) -> float | None:
    """Particle diameter (Å) that the dataset folder of a micrograph records; None if there is no such folder."""
    try:
        return read_manifest(path.parent.parent).particle_diameter_angstrom
    except DataError:
        return None


def _draw_figures(out: Path, two_sample: bool) -> None:
    """Draw the figure of the distances, and the figure of the two-sample test if there was one."""
    figure = Figure(figsize=FIGURE_SIZE)
    draw_evaluation(figure, out)
    save_figure(figure, out / f"{REPORT_NAME}.png")
    if two_sample:
        figure = Figure(figsize=TWO_SAMPLE_FIGURE_SIZE)
        draw_two_sample(figure, out)
        save_figure(figure, out / "two_sample.png")


def _warnings(settings: EvaluateSettings, sets: Sequence[MicrographSet], measurements: Sequence[SetMeasurements],
              patches: PatchComparison) -> list[str]:
    """Warnings about the measurements that these sets do not allow."""
    warnings = []
    if any(measured.artefacts is None for measured in measurements):
        warnings.append("micrographs with fewer than 256 pixels on one side are too small to look for lattices and "
                        "lines")
    if patches.distance is None:
        warnings.append(f"the Fréchet distance needs at least {MIN_PATCHES} patches of {patches.edge} pixels, and the "
                        "micrographs have fewer; give more or larger micrographs")
    fewest = min(len(micrographs.files) for micrographs in sets)
    if settings.two_sample and fewest < MIN_MICROGRAPHS:
        warnings.append(f"the two-sample test needs at least {MIN_MICROGRAPHS} micrographs of each set, and one "
                        f"set has {fewest}; give more micrographs")
    if len(sets[1].files) < 2:
        warnings.append("one real micrograph cannot be split into two halves, so the distances have no floor; give two "
                        "or more real micrographs")
    return warnings


def _report(settings: EvaluateSettings, sets: Sequence[MicrographSet], measurements: Sequence[SetMeasurements],
            distances: dict[str, DistanceEstimate], patches: PatchComparison, signal: SignalPreservation | None,
            warnings: list[str]) -> dict[str, Any]:
    """Contents of evaluation.json."""
    return {
        "pixel_size": sets[0].working_pixel_size,
        "features": "random filters" if settings.features is None else str(settings.features), "piece": patches.edge,
        "feature_pixel_size": patches.pixel_size,
        "sets": {micrographs.name: {"micrographs": len(micrographs.files), "pixel_size": micrographs.pixel_size,
                                    "mean": measured.grey_mean_and_deviation[0],
                                    "deviation": measured.grey_mean_and_deviation[1]}
                 for micrographs, measured in zip(sets, measurements, strict=True)},
        "figures": {name: asdict(distance) for name, distance in distances.items()},
        "lattice_db": _lattice_excess(*measurements), "signal": None if signal is None else asdict(signal),
        "warnings": warnings}


def _memory(sets: Sequence[MicrographSet]) -> int:
    """Memory (bytes) that measuring one micrograph takes, roughly."""
    shapes = (read_header(micrographs.files[0], 2)[0] for micrographs in sets)
    y, x = max(shapes, key=lambda shape: shape[0] * shape[1])
    return 80 * y * x


def _lattice_excess(generated: SetMeasurements, real: SetMeasurements) -> dict[str, float]:
    """Excess of lattice power in dB by period; empty if the images are too small."""
    if generated.artefacts is None or real.artefacts is None:
        return {}
    lattices = (_set_mean(artefacts).lattice for artefacts in (generated.artefacts, real.artefacts))
    return {str(period): float(excess) for period, excess in lattice_excess_db(*lattices).items()}


def _set_mean(groups: GroupAverages[Any]) -> Any:
    """Averages over a whole set."""
    return groups.mean(torch.ones(len(groups.counts), dtype=torch.float64))


def _figure_arrays(generated: SetMeasurements, real: SetMeasurements) -> dict[str, Any]:
    """The arrays that the figure shows."""
    arrays: dict[str, Any] = {"frequencies": FREQUENCIES, "grey": GREY_BINS, "local": LOCAL_DEVIATION_BINS,
                              "lags": torch.arange(-MAX_SHIFT, MAX_SHIFT + 1)}
    for name, measured in (("generated", generated), ("real", real)):
        mean = _set_mean(measured.statistics)
        spectra = measured.statistics.averages.spectrum
        arrays |= {f"{name}_{field}": value for field, value in zip(mean._fields, mean, strict=True)}
        arrays[f"{name}_spectra"] = torch.quantile(spectra, torch.tensor([0.05, 0.95], dtype=spectra.dtype), 0)
        arrays[f"{name}_examples"] = measured.example_images
    return {name: value.numpy() for name, value in arrays.items()}


def _manifest_figures(distances: dict[str, DistanceEstimate], real_count: int,
                      signal: SignalPreservation | None) -> dict[str, float]:
    """Distances with intervals and floors, and the preserved signal, for the manifest."""
    values = {name + ("" if field == "value" else f"_{field}"): value for name, distance in distances.items()
              for field, value in asdict(distance).items() if value is not None}
    if signal is not None:
        values |= {"signal_correlation": signal.correlation, "signal_snr": signal.snr}
    return {**values, "real_micrographs": float(real_count)}


def _distance_line(name: str, distance: DistanceEstimate) -> str:
    """A distance with its interval, the distance of halves and the floor, for the log."""
    text = f"{name} {distance.value:.4g} ({distance.low:.4g} to {distance.high:.4g})"
    if distance.floor is None or distance.halves is None:
        return text
    return f"{text}; halves of the two sets: {distance.halves:.4g}; two halves of the real set (floor): " \
           f"{distance.floor:.4g}"
