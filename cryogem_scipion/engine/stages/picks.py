# SPDX-License-Identifier: GPL-3.0-or-later
"""``cryogem picks``: compares a picker's coordinates with the ground truth."""
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cryogem_scipion.engine.errors import DataError, SettingsError
from cryogem_scipion.engine.figures.picks import FIGURE_SIZE, REPORT_NAME, draw_picks
from cryogem_scipion.engine.figures.report_files import save_figure, thumbnail, write_report
from cryogem_scipion.engine.io.dataset import MANIFEST, MICROGRAPHS, Manifest, read_manifest, read_table, write_manifest
from cryogem_scipion.engine.io.file_patterns import matching_files
from cryogem_scipion.engine.io.mrc import read_mrc
from cryogem_scipion.engine.runs.folder import open_run_folder, provenance
from cryogem_scipion.engine.scoring.coordinates import read_coordinates
from cryogem_scipion.engine.scoring.file_names import match_file_names
from cryogem_scipion.engine.scoring.picks import DROPPED, classify_picks, picks_report, precision_recall_curve
from cryogem_scipion.engine.settings import PicksSettings
from cryogem_scipion.engine.settings.picks import default_matching_radius

__all__ = ["run"]

log = logging.getLogger("cryogem")

COORDINATE_FILES = "files of coordinates (.star, .txt, .tsv, .csv, .box or .cs)"


@dataclass(frozen=True)
class PicksAndTruth:
    """Picks and true particles, with the same names for the same micrographs."""

    picks: pd.DataFrame
    truth: pd.DataFrame
    micrographs: list[str]
    """All labelled micrographs, by their names in the ground truth."""
    folder: Path
    """Folder of the ground truth; names may be relative to it."""
    warnings: tuple[str, ...]


def run(settings: PicksSettings) -> Manifest:
    """Write picks.json, picks.npz, picks.png and the manifest.

    Raises
    ------
    CryogemError
        Input or settings are unusable; nothing has been written then.
    """
    inputs = _read_inputs(settings)
    radius = _radius(settings, inputs.folder)
    classified, truth = classify_picks(inputs.picks, inputs.truth, radius)
    pixel_size = float(truth["pixel_size"].iloc[0])
    report = {"radius_angstrom": radius, "pixel_size": pixel_size,
              **picks_report(classified, truth, inputs.micrographs)}
    over_all = report["overall"]
    counted = classified[classified["outcome"] != DROPPED]
    arrays: dict[str, Any] = {name: np.zeros(0) for name in ("threshold", "precision", "recall", "f1")}
    if over_all["auprc"] is not None and len(counted):
        curve = precision_recall_curve(counted["outcome"].to_numpy(), counted["score"].to_numpy(),
                                       over_all["particles"])
        best = int(np.argmax(curve.f1))
        report["best"] = {name: float(getattr(curve, name)[best]) for name in arrays}
        arrays = {name: getattr(curve, name) for name in arrays}
    arrays |= _arrays(classified, truth, inputs.micrographs) | _example(report, inputs, pixel_size)
    out = open_run_folder(settings)
    write_report(out, REPORT_NAME, report, arrays)
    figure = Figure(figsize=FIGURE_SIZE)
    draw_picks(figure, out)
    save_figure(figure, out / f"{REPORT_NAME}.png")
    manifest = Manifest(
        stage="picks", **provenance(), settings=settings.model_dump(mode="json"),
        seed=settings.seed, pixel_size=pixel_size, micrographs=len(inputs.micrographs), particles=len(truth),
        whole_particles=over_all["particles"], warnings=inputs.warnings,
        figures={key: value for key, value in {**over_all, "radius_angstrom": radius}.items()
                 if isinstance(value, int | float)})
    write_manifest(out, manifest)
    log.info("%d of %d particles found, %d false picks%s; report in %s", over_all["hits"], over_all["particles"],
             over_all["false_picks"], "".join(f", {name} {over_all[key]:.3f}" for key, name in
                                              (("f1", "F1"), ("auprc", "AUPRC")) if over_all[key] is not None), out)
    for warning in manifest.warnings:
        log.warning("warning: %s", warning)
    return manifest


def _read_inputs(settings: PicksSettings) -> PicksAndTruth:
    """Read picks and ground truth; picks on micrographs without labels are left out."""
    truth_files = matching_files(settings.truth, COORDINATE_FILES)
    truth = read_coordinates(truth_files, settings.truth_pixel_size, "truth_pixel_size")
    folder = truth_files[0].parent
    micrographs = _micrographs(settings, truth, truth_files)
    true_names = match_file_names(micrographs, truth["micrograph"])
    truth = truth.assign(micrograph=truth["micrograph"].map(true_names))
    if not bool(truth["whole"].any()):
        raise DataError(f"{truth_files[0]} has no whole particle; give true coordinates of whole particles")
    hint = f"pixel_size (the true coordinates have {truth['pixel_size'].iloc[0]:g})"
    picks = read_coordinates(matching_files(settings.picks, COORDINATE_FILES), settings.pixel_size, hint)
    names = match_file_names(micrographs, picks["micrograph"])
    if len(picks) and not names:
        raise DataError(f"none of the picked micrographs (such as {picks['micrograph'].iloc[0]!r}) is a micrograph of "
                        f"the truth (such as {micrographs[0]!r}); give the true coordinates of the picked micrographs")
    on_labelled = picks["micrograph"].isin(list(names))
    warnings = []
    if not on_labelled.all():
        unknown = picks.loc[~on_labelled, "micrograph"].nunique()
        warnings.append(f"{int((~on_labelled).sum())} picks are on {unknown} micrographs that are not in the truth; "
                        "these picks are left out")
    labelled_names = picks.loc[on_labelled, "micrograph"].map(names)
    picks = picks[on_labelled].assign(micrograph=labelled_names).reset_index(drop=True)
    without_picks = len(set(truth["micrograph"]) - set(picks["micrograph"]))
    if without_picks:
        warnings.append(f"{without_picks} micrographs with particles have no picks; all their particles count as "
                        "missed")
    return PicksAndTruth(picks, truth.reset_index(drop=True), micrographs, folder, tuple(warnings))


def _micrographs(settings: PicksSettings, truth: pd.DataFrame, truth_files: list[Path]) -> list[str]:
    """Names of all labelled micrographs, including those without a particle."""
    table = settings.truth_micrographs
    dataset_table = truth_files[0].parent / MICROGRAPHS
    if table is None and len(truth_files) == 1 and dataset_table.is_file() and truth_files[0].suffix == ".star":
        table = dataset_table
    with_particles = list(dict.fromkeys(truth["micrograph"]))
    if table is None:
        return with_particles
    _, rows = read_table(table, "micrographs", ("rlnMicrographName",))
    listed = list(dict.fromkeys(rows["rlnMicrographName"]))
    also_listed = match_file_names(listed, with_particles)
    return [*listed, *(name for name in with_particles if name not in also_listed)]


def _radius(settings: PicksSettings, folder: Path) -> float:
    if settings.radius:
        return settings.radius
    diameter = read_manifest(folder).particle_diameter_angstrom if (folder / MANIFEST).is_file() else None
    if not diameter:
        raise SettingsError("the particle's diameter is not known; give radius (Å)")
    return default_matching_radius(diameter)


def _arrays(classified: pd.DataFrame, truth: pd.DataFrame, micrographs: list[str]) -> dict[str, Any]:
    """All picks and true particles; positions in Å, micrographs by their index in the report."""
    indices = {name: index for index, name in enumerate(micrographs)}
    return {"pick_micrograph": classified["micrograph"].map(indices).to_numpy(int),
            **{name: classified[name].to_numpy() for name in ("x", "y", "score", "dx", "dy")},
            "outcome": classified["outcome"].to_numpy(int),
            "true_micrograph": truth["micrograph"].map(indices).to_numpy(int),
            "true_x": truth["x"].to_numpy(), "true_y": truth["y"].to_numpy(),
            "whole": truth["whole"].to_numpy(bool), "found": truth["found"].to_numpy(bool)}


def _example(report: dict[str, Any], inputs: PicksAndTruth, pixel_size: float) -> dict[str, Any]:
    """The micrograph whose F1 is nearest to the overall F1, with its image if the file exists."""
    overall, micrographs = report["overall"]["f1"], report["micrographs"]
    example = min((number for number, micrograph in enumerate(micrographs) if micrograph["particles"]),
                  key=lambda number: abs(micrographs[number]["f1"] - overall))
    name = micrographs[example]["micrograph"]
    image, shape = np.zeros((0, 0), np.uint8), None
    for path in (inputs.folder / name, Path(name)):
        if path.suffix == ".mrc" and path.is_file():
            data, _ = read_mrc(path, 2)
            image, shape = thumbnail(data), data.shape
            break
    if shape is None:
        positions = [table.loc[table["micrograph"] == name, ["y", "x"]] for table in (inputs.picks, inputs.truth)]
        shape = np.ceil(pd.concat(positions).max().to_numpy() / pixel_size + 20).astype(int)
    return {"example": np.array(example), "image": image, "image_shape": np.array(shape)}
