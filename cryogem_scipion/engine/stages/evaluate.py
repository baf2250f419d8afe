# SPDX-License-Identifier: GPL-3.0-or-later
"""``cryogem evaluate``: how far generated micrographs are from real ones."""
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from matplotlib.figure import Figure as Picture

from cryogem_scipion.engine.compute.devices import chosen_device
from cryogem_scipion.engine.compute.parallel import worker_count
from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.figures.evaluation import FIGURE_SIZE, REPORT_NAME, draw_evaluation
from cryogem_scipion.engine.figures.report_files import save_figure, write_report
from cryogem_scipion.engine.io.dataset import Manifest, write_manifest
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
from cryogem_scipion.engine.runs.folder import open_run_folder, provenance
from cryogem_scipion.engine.settings import EvaluateSettings
from cryogem_scipion.engine.simulation.microscope import seeded_generator

__all__ = ["run"]

log = logging.getLogger("cryogem")

PIECE = 96
"""Edge in pixels of the pieces whose features are compared; smaller for small images."""
SMALLEST_PIECE = 32
FEWEST = 8
"""Smallest number of pieces of either set for a Fréchet distance."""
COARSEST = 20.0
"""Largest ratio of the sets' pixel sizes; a larger one is taken for a mistake."""


def run(settings: EvaluateSettings) -> Manifest:
    """Compare two sets and write evaluation.json, evaluation.npz, evaluation.png and the manifest.

    Raises
    ------
    CryogemError
        Input or settings are unusable; nothing has been written then.
    """
    device = chosen_device(settings.device)
    sets = _sets(settings)
    network = None if settings.features is None else feature_network(settings.features).to(device)
    pixel_size = sets[0].working_pixel_size
    binning = max(1, round(settings.feature_pixel_size / pixel_size))
    out = open_run_folder(settings)
    most = max(len(one.files) for one in sets)
    threads = worker_count(torch.device("cpu"), most, _memory(sets))
    generated, real = measured = [measure_set(one, binning, threads) for one in sets]
    figures = estimate_distances(generated.statistics, real.statistics, statistics_distances,
                                 seeded_generator(settings.seed, "summaries"))
    warnings: list[str] = []
    clouds: list[PatchFeatures] = []
    if generated.artefacts is not None and real.artefacts is not None:
        figures |= estimate_distances(generated.artefacts, real.artefacts, artefact_excess,
                                      seeded_generator(settings.seed, "artefacts"))
    else:
        warnings.append("micrographs with fewer than 256 pixels on one side are too small to look for lattices and "
                        "lines")
    edge = min(PIECE, min(one.shortest_edge() for one in sets) // binning // 16 * 16)
    if network is None:
        edge, binning = SQUARE_EDGE, 1
        clouds = [random_filter_patch_features(one, threads) for one in sets]
    elif edge >= SMALLEST_PIECE:
        clouds = [network_patch_features(one, network, device, binning, known.binned_deviation, edge, threads)
                  for one, known in zip(sets, measured, strict=True)]
    if clouds and min(len(cloud.features) for cloud in clouds) >= FEWEST:
        log.info("comparing %d with %d pieces of image", *(len(cloud.features) for cloud in clouds))
        figures["frechet"] = estimate_frechet_distance(clouds[0], clouds[1],
                                                       seeded_generator(settings.seed, "features"))
    if "frechet" not in figures:
        warnings.append(f"the Fréchet distance needs at least {FEWEST} image pieces of {edge} pixels, and the "
                        "micrographs have fewer; give more or larger micrographs")
    if len(sets[1].files) < 2:
        warnings.append("one real micrograph cannot be split into two halves, so the distances have no floor; give two "
                        "or more real micrographs")
    signal = measure_signal_preservation(sets[0].files, seeded_generator(settings.seed, "signal"))
    report = {
        "pixel_size": pixel_size,
        "features": "random filters" if settings.features is None else str(settings.features), "piece": edge,
        "feature_pixel_size": binning * pixel_size,
        "sets": {one.name: {"micrographs": len(one.files), "pixel_size": one.pixel_size,
                            "mean": known.grey_mean_and_deviation[0], "deviation": known.grey_mean_and_deviation[1]}
                 for one, known in zip(sets, measured, strict=True)},
        "figures": {name: asdict(figure) for name, figure in figures.items()},
        "lattice_db": _lattices(generated, real), "signal": None if signal is None else asdict(signal),
        "warnings": warnings}
    write_report(out, REPORT_NAME, report, _arrays(generated, real))
    picture = Picture(figsize=FIGURE_SIZE)
    draw_evaluation(picture, out)
    save_figure(picture, out / f"{REPORT_NAME}.png")
    manifest = Manifest(stage="evaluate", **provenance(),
                        settings=settings.model_dump(mode="json"), seed=settings.seed, pixel_size=pixel_size,
                        micrographs=len(sets[0].files), warnings=tuple(warnings),
                        figures=_flat(figures, len(sets[1].files), signal))
    write_manifest(out, manifest)
    for name, figure in figures.items():
        log.info("%s", _line(name, figure))
    for warning in warnings:
        log.warning("warning: %s", warning)
    log.info("compared %d generated with %d real micrographs: %s", len(sets[0].files), len(sets[1].files),
             out / f"{REPORT_NAME}.png")
    return manifest


def _sets(settings: EvaluateSettings) -> list[MicrographSet]:
    """Both sets at the coarser of their pixel sizes; reads only headers, and refuses sets that cannot be compared."""
    files = [real_files(patterns) for patterns in (settings.generated, settings.real)]
    shared = {path.resolve() for path in files[0]} & {path.resolve() for path in files[1]}
    if shared:
        raise DataError(f"{len(shared)} files are given both as generated and as real (first: {min(shared)}); give two "
                        "different sets")
    sizes = (settings.generated_pixel_size, settings.real_pixel_size)
    sets = [open_set(name, evenly_spaced(found, settings.limit), size)
            for name, found, size in zip(("generated", "real"), files, sizes, strict=True)]
    fine, coarse = sorted(one.pixel_size for one in sets)
    if coarse > COARSEST * fine:
        raise DataError(f"pixel sizes of {sets[0].pixel_size:g} (generated) and {sets[1].pixel_size:g} Å (real) cannot "
                        "be compared; correct the wrong pixel size with generated_pixel_size or real_pixel_size")
    sets = [replace(one, working_pixel_size=coarse) for one in sets]
    for one in sets:
        check_real_micrographs(one.files, coarse, one.pixel_size)
        if one.shortest_edge() < MIN_EDGE:
            raise DataError(f"{one.files[0]} has {one.shortest_edge()} pixels on its shorter side at {coarse:g} Å per "
                            f"pixel; a comparison needs at least {MIN_EDGE}")
    return sets


def _memory(sets: Sequence[MicrographSet]) -> int:
    """Memory (bytes) that measuring one micrograph takes, roughly."""
    y, x = max((read_header(one.files[0], 2)[0] for one in sets), key=lambda shape: shape[0] * shape[1])
    return 80 * y * x


def _lattices(generated: SetMeasurements, real: SetMeasurements) -> dict[str, float]:
    if generated.artefacts is None or real.artefacts is None:
        return {}
    one, other = (_mean(sample).lattice for sample in (generated.artefacts, real.artefacts))
    return {str(period): float(value) for period, value in lattice_excess_db(one, other).items()}


def _mean(sample: GroupAverages[Any]) -> Any:
    return sample.mean(torch.ones(len(sample.counts), dtype=torch.float64))


def _arrays(generated: SetMeasurements, real: SetMeasurements) -> dict[str, Any]:
    """The arrays that the figure shows."""
    arrays: dict[str, Any] = {"frequencies": FREQUENCIES, "grey": GREY_BINS, "local": LOCAL_DEVIATION_BINS,
                              "lags": torch.arange(-MAX_SHIFT, MAX_SHIFT + 1)}
    for name, known in (("generated", generated), ("real", real)):
        mean = _mean(known.statistics)
        spectra = known.statistics.averages.spectrum
        arrays |= {f"{name}_{part}": value for part, value in zip(mean._fields, mean, strict=True)}
        arrays[f"{name}_spectra"] = torch.quantile(spectra, torch.tensor([0.05, 0.95], dtype=spectra.dtype), 0)
        arrays[f"{name}_examples"] = known.example_images
    return {name: value.numpy() for name, value in arrays.items()}


def _flat(figures: dict[str, DistanceEstimate], real: int, signal: SignalPreservation | None) -> dict[str, float]:
    """Values, intervals and floors for the manifest."""
    flat = {name + ("" if part == "value" else f"_{part}"): value for name, figure in figures.items()
            for part, value in asdict(figure).items() if value is not None}
    kept = {} if signal is None else {"signal_correlation": signal.correlation, "signal_snr": signal.snr}
    return {**flat, **kept, "real_micrographs": float(real)}


def _line(name: str, figure: DistanceEstimate) -> str:
    text = f"{name} {figure.value:.4g} ({figure.low:.4g} to {figure.high:.4g})"
    if figure.floor is None or figure.halves is None:
        return text
    return f"{text}; halves of the two sets: {figure.halves:.4g}; two halves of the real set (floor): " \
           f"{figure.floor:.4g}"
