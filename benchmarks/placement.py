# SPDX-License-Identifier: GPL-3.0-or-later
"""Placement of particles, paired with a search over all free pixels, one particle at a time.

    python benchmarks/placement.py [--count 100] [--size 1024] [--distance 60] [--repeats 9]

The reference marks the pixels that are still free, lists them all, draws one and excludes the disc
around it, for each particle anew. Both run in turn on one thread; the medians are compared.
"""
import argparse
import statistics
import time

import numpy as np
import torch

from cryogem_scipion.engine.simulation.placement import place_centres


def search_free_pixels(count: int, size: int, distance: float, rng: np.random.Generator) -> np.ndarray:
    """Place whole-pixel centres by listing every free pixel before each particle."""
    free = np.ones((size, size), bool)
    reach = int(np.ceil(distance))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = y * y + x * x < distance * distance
    centres = []
    for _ in range(count):
        candidates = np.flatnonzero(free)
        if len(candidates) == 0:
            break
        cy, cx = divmod(int(candidates[rng.integers(len(candidates))]), size)
        y0, x0, y1, x1 = max(cy - reach, 0), max(cx - reach, 0), min(cy + reach + 1, size), min(cx + reach + 1, size)
        free[y0:y1, x0:x1] &= ~disc[y0 - cy + reach : y1 - cy + reach, x0 - cx + reach : x1 - cx + reach]
        centres.append((cy, cx))
    return np.array(centres)


def seconds(function) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    """Print one line a case: particles placed, milliseconds and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--distance", type=float, default=60.0)
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    cases = [(arguments.count, arguments.distance), (100_000, arguments.distance)]
    place_centres(10_000, (100, 100), 5.0, generator)  # compiles, outside the timing
    for count, distance in cases:
        ours, theirs, placed = [], [], []
        for _ in range(arguments.repeats):
            field = (arguments.size, arguments.size)
            ours.append(seconds(lambda: placed.append(len(place_centres(count, field, distance, generator)))))  # noqa: B023
            theirs.append(seconds(lambda: search_free_pixels(count, arguments.size, distance, rng)))  # noqa: B023
        hash_ms, search_ms = 1e3 * statistics.median(ours), 1e3 * statistics.median(theirs)
        print(
            f"{count} wanted, {round(statistics.mean(placed))} placed, {distance:g} px apart on {arguments.size}²: "
            f"{hash_ms:.3f} ms, search {search_ms:.1f} ms, {search_ms / hash_ms:.0f} times faster"
        )


if __name__ == "__main__":
    main()
