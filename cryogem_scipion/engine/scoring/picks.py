# SPDX-License-Identifier: GPL-3.0-or-later
"""Precision and recall of picks, for each micrograph and for all together."""
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from cryogem_scipion.engine.scoring.matching import match_positions

__all__ = ["DROPPED", "FALSE_PICK", "HIT", "PrecisionRecallCurve", "classify_picks", "pick_metrics", "picks_report",
           "precision_recall_curve"]

FALSE_PICK, HIT, DROPPED = 0, 1, -1
"""Outcomes of a pick; a dropped pick counts neither as a hit nor as false."""


@dataclass(frozen=True)
class PrecisionRecallCurve:
    """Precision, recall and F1 score as functions of the score threshold; k different scores, the highest first."""

    threshold: NDArray[np.float64]
    """Picks with this score or a higher one count (k,)."""
    precision: NDArray[np.float64]
    """Hits per pick (k,)."""
    recall: NDArray[np.float64]
    """Hits per particle (k,)."""
    f1: NDArray[np.float64]
    """Harmonic mean of precision and recall (k,)."""
    auprc: float
    """Average precision: the sum of precision times the increase in recall, as in Topaz."""


def classify_picks(picks: pd.DataFrame, truth: pd.DataFrame, radius: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Classify each pick as hit, false or dropped, and mark the particles that were found.

    Particles cut by the border take part in the matching. A pick that matches a cut particle is dropped. An unmatched
    pick is also dropped if its nearest particle is a cut one within the radius. The other picks are matched as if the
    cut particles did not exist.

    Parameters
    ----------
    picks, truth
        Tables of ``coordinates``, with the same names for the same micrographs.
    radius
        A pick counts as a hit below this distance from its particle, Å.

    Returns
    -------
    The picks with the columns ``outcome`` (1 hit, 0 false, -1 dropped), ``dx`` and ``dy`` (offset of a hit from its
    particle, Å; NaN for other picks); the true particles with the column ``found``.
    """
    classified = picks.assign(outcome=FALSE_PICK, dx=np.nan, dy=np.nan)
    truth = truth.assign(found=False)
    rows_of_micrograph = dict(list(truth.groupby("micrograph").groups.items()))
    for name, rows in classified.groupby("micrograph").groups.items():
        if name not in rows_of_micrograph:
            continue
        particle_rows = truth.index.get_indexer(rows_of_micrograph[name])
        pick_rows = classified.index.get_indexer(rows)
        outcome, partner = _outcomes(classified[["x", "y"]].to_numpy()[pick_rows],
                                     truth[["x", "y"]].to_numpy()[particle_rows],
                                     truth["whole"].to_numpy()[particle_rows], radius)
        hits = outcome == HIT
        partners = particle_rows[partner[hits]]
        classified.iloc[pick_rows, classified.columns.get_loc("outcome")] = outcome
        truth.iloc[partners, truth.columns.get_loc("found")] = True
        for axis in ("x", "y"):
            offset = classified[axis].to_numpy()[pick_rows[hits]] - truth[axis].to_numpy()[partners]
            classified.iloc[pick_rows[hits], classified.columns.get_loc(f"d{axis}")] = offset
    return classified, truth


def _outcomes(picks: NDArray[np.float64], particles: NDArray[np.float64], whole: NDArray[np.bool_],
              radius: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Outcome of each pick of one micrograph (n,), and the index of its particle (n,), -1 for none."""
    partner = match_positions(picks, particles, radius)
    outcome = np.where(partner >= 0, np.where(whole[partner], HIT, DROPPED), FALSE_PICK)
    free = np.flatnonzero(partner < 0)
    distance, nearest = cKDTree(particles).query(picks[free])
    outcome[free[(distance < radius) & ~whole[nearest]]] = DROPPED
    return outcome, partner


def precision_recall_curve(hits: NDArray[np.int64], scores: NDArray[np.float64], particles: int
                           ) -> PrecisionRecallCurve:
    """Return precision and recall as functions of the score threshold; picks of equal score are added together.

    Parameters
    ----------
    hits
        1 for a hit, 0 for a false pick (n,).
    scores
        Scores of the same picks (n,).
    particles
        Number of true particles, above 0.

    References
    ----------
    Topaz, which computes the average precision in the same way: doi:10.1038/s41592-019-0575-8
    """
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.diff(scores[order], append=-np.inf))
    true_positives = np.cumsum(hits[order])[last]
    precision, recall = true_positives / (last + 1), true_positives / particles
    f1 = 2 * true_positives / (last + 1 + particles)
    auprc = float(np.sum(precision * np.diff(recall, prepend=0.0)))
    return PrecisionRecallCurve(scores[order][last], precision, recall, f1, auprc)


def pick_metrics(classified: pd.DataFrame, truth: pd.DataFrame, has_scores: bool) -> dict[str, Any]:
    """Return the metrics of the picks of one micrograph, or of all.

    Parameters
    ----------
    classified, truth
        Rows of the two tables that ``classify_picks`` returns.
    has_scores
        Whether the picks have scores.

    Returns
    -------
    Counts, precision, recall, F1 score, average precision (``auprc``) and position errors (Å). None stands for a metric
    that is not defined: precision without picks, recall without particles, ``auprc`` without particles or without
    scores. With particles and no pick at all, ``auprc`` is 0.
    """
    counted = classified[classified["outcome"] != DROPPED]
    hits, picks, particles = int((counted["outcome"] == HIT).sum()), len(counted), int(truth["whole"].sum())
    auprc = None
    if particles and has_scores:
        auprc = precision_recall_curve(counted["outcome"].to_numpy(), counted["score"].to_numpy(), particles).auprc
    return {"particles": particles, "picks": picks, "hits": hits, "false_picks": picks - hits,
            "missed": particles - hits, "dropped_picks": len(classified) - picks,
            "precision": hits / picks if picks else None, "recall": hits / particles if particles else None,
            "f1": 2 * hits / (picks + particles) if picks + particles else None, "auprc": auprc,
            "position_error_angstrom": _position_error(counted[counted["outcome"] == HIT])}


def picks_report(classified: pd.DataFrame, truth: pd.DataFrame, micrographs: list[str]) -> dict[str, Any]:
    """Return the metrics of all picks together, their means over the micrographs, and those of each micrograph.

    Parameters
    ----------
    classified, truth
        The two tables that ``classify_picks`` returns.
    micrographs
        Names of all labelled micrographs, also of those without particles.
    """
    picks_of, truth_of = classified.groupby("micrograph").groups, truth.groupby("micrograph").groups
    has_scores = bool(classified["score"].notna().all())
    by_micrograph = [{"micrograph": name, **pick_metrics(
        classified.loc[picks_of.get(name, [])], truth.loc[truth_of.get(name, [])], has_scores)} for name in micrographs]
    means = {}
    for key in ("precision", "recall", "f1", "auprc"):
        values = [metrics[key] for metrics in by_micrograph if metrics[key] is not None]
        means[key] = float(np.mean(values)) if values else None
    return {"overall": pick_metrics(classified, truth, has_scores), "mean_of_micrographs": means,
            "micrographs": by_micrograph}


def _position_error(hits: pd.DataFrame) -> dict[str, float] | None:
    """Distances of hits from their particles and their mean offset, Å; None without hits."""
    if hits.empty:
        return None
    distance = np.hypot(hits["dx"], hits["dy"]).to_numpy()
    return {"mean": float(distance.mean()), "median": float(np.median(distance)),
            "rms": float(np.sqrt((distance**2).mean())), "offset_x": float(hits["dx"].mean()),
            "offset_y": float(hits["dy"].mean())}
