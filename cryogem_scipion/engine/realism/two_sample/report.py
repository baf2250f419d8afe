# SPDX-License-Identifier: GPL-3.0-or-later
"""The two-sample test as numbers for JSON and manifest, and as arrays for the figure."""
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from cryogem_scipion.engine.realism.two_sample.two_sample_test import FALSE_ALARM_RATE, ScaleResult

__all__ = ["manifest_figures", "report_arrays", "report_entry", "result_line", "verdict"]


def report_entry(results: Sequence[ScaleResult]) -> list[dict[str, Any]]:
    """Entry ``two_sample`` of evaluation.json: one object for each scale."""
    return [{"scale": result.scale.name, "pixel_size": result.scale.pixel_size, "edge": result.scale.edge,
             **asdict(result.between), "floor": None if result.floor is None else asdict(result.floor),
             "adjusted_p": result.adjusted_p, "told_apart": result.told_apart, "map_step": result.evidence.map_step,
             "map_micrographs": [path.name for path in result.map_files],
             "differences": [asdict(difference) for difference in result.band_differences]} for result in results]


def verdict(results: Sequence[ScaleResult]) -> dict[str, Any] | None:
    """Entry ``two_sample_verdict`` of evaluation.json: the result over all scales; None if there was no test."""
    if not results:
        return None
    scales = [result.scale.name for result in results if result.told_apart]
    p = min(result.adjusted_p for result in results)
    chance = f"probability by chance {'below 0.001' if p < 0.001 else f'{p:.3f}'}"
    if scales:
        names = scales[0] if len(scales) == 1 else f"{', '.join(scales[:-1])} and {scales[-1]}"
        text = f"the sets differ, told apart at the scale of {names} ({chance}, over all scales)"
    else:
        text = f"no difference was found at any scale ({chance}, over all scales)"
    return {"told_apart": bool(scales), "p": p, "false_alarm_rate": FALSE_ALARM_RATE, "text": text}


def report_arrays(results: Sequence[ScaleResult]) -> dict[str, Any]:
    """Arrays of evaluation.npz, float16: telling squares with their evidence, and two micrographs with their maps."""
    arrays: dict[str, Any] = {}
    for result in results:
        start = f"two_sample_{result.scale.name}"
        arrays |= {f"{start}_squares": result.evidence.squares, f"{start}_logits": result.evidence.logits}
        for name, image, evidence in zip(("generated", "real"), result.images, result.evidence.maps, strict=True):
            arrays |= {f"{start}_image_{name}": image, f"{start}_map_{name}": evidence}
    return {name: array.half().numpy() for name, array in arrays.items()}


def manifest_figures(results: Sequence[ScaleResult]) -> dict[str, float]:
    """AUCs with their limits and floors, for the manifest."""
    values: dict[str, float] = {}
    for result in results:
        start = f"two_sample_{result.scale.name}"
        values |= {f"{start}_{name}": value for name, value in asdict(result.between).items()}
        if result.floor is not None:
            values[f"{start}_floor"] = result.floor.auc
        values[f"{start}_told_apart"] = float(result.told_apart)
    if results:
        values["two_sample_told_apart"] = float(any(result.told_apart for result in results))
    return values


def result_line(result: ScaleResult) -> str:
    """The result of one scale as a line for the log."""
    between, floor = result.between, result.floor
    text = f"two-sample test, {result.scale.name}: AUC {between.auc:.3f} ({between.low:.3f} to {between.high:.3f}); " \
           f"by chance: up to {between.chance_high:.3f}"
    if floor is not None:
        text += f"; two halves of the real set (floor): {floor.auc:.3f}"
    text += "; told apart" if result.told_apart else "; not told apart"
    if result.told_apart and result.band_differences:
        largest = result.band_differences[0]
        text += f"; largest difference: {largest.statistic} at {largest.period_angstrom:.3g} Å, " \
                f"{largest.deviations:+.1f} deviations"
    return text
