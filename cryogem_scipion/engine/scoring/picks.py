# SPDX-License-Identifier: GPL-3.0-or-later
"""Precision and recall of picks, for each micrograph and over all."""
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from cryogem_scipion.engine.scoring.matching import match

__all__ = ["DROPPED", "FALSE", "HIT", "Curve", "figures", "judge", "precision_recall_curve", "summary"]

FALSE, HIT, DROPPED = 0, 1, -1


@dataclass(frozen=True)
class Curve:
    """Scores of the picks at and above a threshold, for each of the k that change them, the highest first."""

    threshold: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]
    auprc: float
    """Average precision: the sum of precision times the gain in recall, as Topaz computes it."""


def judge(picks: pd.DataFrame, truth: pd.DataFrame, radius: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Decide of every pick whether it is a hit, and of every particle whether it was found.

    Particles marked as cut take part in the matching, so that each pick goes to the particle it fits best; a pick
    that goes to a cut one is dropped, and so is one that goes to none and whose nearest particle within the radius
    is a cut one. Without the dropped picks the rest is matched as if the cut particles did not exist.

    Parameters
    ----------
    picks, truth
        Tables of ``coordinates``, with the same names for the same micrographs.
    radius
        Å.

    Returns
    -------
    The picks with ``outcome`` (1 hit, 0 false, -1 dropped) and, of hits, the offset from the particle, ``dx`` and
    ``dy`` in Å; the truth with ``found``.
    """
    judged = picks.assign(outcome=FALSE, dx=np.nan, dy=np.nan)
    truth = truth.assign(found=False)
    particles = dict(list(truth.groupby("micrograph").groups.items()))
    for name, rows in judged.groupby("micrograph").groups.items():
        if name not in particles:
            continue
        there = truth.index.get_indexer(particles[name])
        here = judged.index.get_indexer(rows)
        outcome, partner = _judged(judged[["x", "y"]].to_numpy()[here], truth[["x", "y"]].to_numpy()[there],
                                   truth["whole"].to_numpy()[there], radius)
        hits = outcome == HIT
        partners = there[partner[hits]]
        judged.iloc[here, judged.columns.get_loc("outcome")] = outcome
        truth.iloc[partners, truth.columns.get_loc("found")] = True
        for axis in ("x", "y"):
            offset = judged[axis].to_numpy()[here[hits]] - truth[axis].to_numpy()[partners]
            judged.iloc[here[hits], judged.columns.get_loc(f"d{axis}")] = offset
    return judged, truth


def _judged(picks: NDArray[np.float64], particles: NDArray[np.float64], whole: NDArray[np.bool_],
            radius: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Outcome of the picks of one micrograph, and their particles."""
    partner = match(picks, particles, radius)
    outcome = np.where(partner >= 0, np.where(whole[partner], HIT, DROPPED), FALSE)
    free = np.flatnonzero(partner < 0)
    distance, nearest = cKDTree(particles).query(picks[free])
    outcome[free[(distance < radius) & ~whole[nearest]]] = DROPPED
    return outcome, partner


def precision_recall_curve(hits: NDArray[np.int64], scores: NDArray[np.float64], particles: int) -> Curve:
    """Return precision and recall over the threshold of the score; picks of equal score come in together.

    Parameters
    ----------
    hits, scores
        Of n picks; 1 for a hit, 0 for a false pick.
    particles
        How many there are to be found, above 0.
    """
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.diff(scores[order], append=-np.inf))
    found = np.cumsum(hits[order])[last]
    precision, recall = found / (last + 1), found / particles
    f1 = 2 * found / (last + 1 + particles)
    auprc = float(np.sum(precision * np.diff(recall, prepend=0.0)))
    return Curve(scores[order][last], precision, recall, f1, auprc)


def figures(judged: pd.DataFrame, truth: pd.DataFrame, scored: bool) -> dict[str, Any]:
    """Return what there is to say of some picks (of a micrograph, or of all) as plain numbers, None where undefined.

    Precision needs a pick, recall a particle, AUPRC particles and picks with scores; it is 0 without any pick.
    """
    kept = judged[judged["outcome"] != DROPPED]
    hits, picks, particles = int((kept["outcome"] == HIT).sum()), len(kept), int(truth["whole"].sum())
    auprc = None
    if particles and scored:
        auprc = precision_recall_curve(kept["outcome"].to_numpy(), kept["score"].to_numpy(), particles).auprc
    return {"particles": particles, "picks": picks, "hits": hits, "false_picks": picks - hits,
            "missed": particles - hits, "dropped_picks": len(judged) - picks,
            "precision": hits / picks if picks else None, "recall": hits / particles if particles else None,
            "f1": 2 * hits / (picks + particles) if picks + particles else None, "auprc": auprc,
            "position_error_angstrom": _position_error(kept[kept["outcome"] == HIT])}


def summary(judged: pd.DataFrame, truth: pd.DataFrame, micrographs: list[str]) -> dict[str, Any]:
    """Return the report on all micrographs: over all, the mean over micrographs, and each by itself."""
    picks_of, truth_of = judged.groupby("micrograph").groups, truth.groupby("micrograph").groups
    scored = bool(judged["score"].notna().all())
    each = [{"micrograph": name, **figures(judged.loc[picks_of.get(name, [])], truth.loc[truth_of.get(name, [])],
                                           scored)} for name in micrographs]
    means = {}
    for key in ("precision", "recall", "f1", "auprc"):
        values = [one[key] for one in each if one[key] is not None]
        means[key] = float(np.mean(values)) if values else None
    return {"overall": figures(judged, truth, scored), "mean_of_micrographs": means, "micrographs": each}


def _position_error(hits: pd.DataFrame) -> dict[str, float] | None:
    """Distances from the particles in Å, and the mean offset, which shows a shift of all picks; None without hits."""
    if hits.empty:
        return None
    distance = np.hypot(hits["dx"], hits["dy"]).to_numpy()
    return {"mean": float(distance.mean()), "median": float(np.median(distance)),
            "rms": float(np.sqrt((distance**2).mean())), "offset_x": float(hits["dx"].mean()),
            "offset_y": float(hits["dy"].mean())}
