# SPDX-License-Identifier: GPL-3.0-or-later
"""Speed of particle placement against a search over all free pixels.

    python benchmarks/placement.py [--count 100] [--size 1024] [--distance 60] [--repeats 9]

For each particle, the search lists all free pixels, draws one of them and excludes the disc around it. Both programs
run in turn on one thread. The table gives the medians of their times. The second row asks for more particles than the
micrograph can hold.
"""
import argparse
import statistics
import time

import numpy as np
import torch
from markdown_table import MarkdownTable

from cryogem_scipion.engine.simulation.placement import place_centres


def search_free_pixels(count: int, size: int, distance: float, rng: np.random.Generator) -> np.ndarray:
    """Centres (y, x) in whole pixels, each drawn from the list of all free pixels."""
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
    """Wall time of one call (s)."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    """Print the table, one row for each number of particles."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="particles")
    parser.add_argument("--size", type=int, default=1024, help="edge of the micrograph (px)")
    parser.add_argument("--distance", type=float, default=60.0, help="smallest distance of two particles (px)")
    parser.add_argument("--repeats", type=int, default=9, help="runs of each program")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    cases = [(arguments.count, arguments.distance), (100_000, arguments.distance)]
    place_centres(10_000, (100, 100), 5.0, generator)  # compiles the loops before the timing
    table = MarkdownTable("micrograph", "particles asked for", "particles placed", "search (ms)", "CryoGEM (ms)",
                          "times faster")
    for count, distance in cases:
        ours, theirs, placed = [], [], []
        for _ in range(arguments.repeats):
            field = (arguments.size, arguments.size)
            ours.append(seconds(lambda: placed.append(len(place_centres(count, field, distance, generator)))))  # noqa: B023
            theirs.append(seconds(lambda: search_free_pixels(count, arguments.size, distance, rng)))  # noqa: B023
        hash_ms, search_ms = 1e3 * statistics.median(ours), 1e3 * statistics.median(theirs)
        table.row(f"{arguments.size} x {arguments.size} px, distance {distance:g} px", str(count),
                  str(round(statistics.mean(placed))), f"{search_ms:.1f}", f"{hash_ms:.3f}",
                  f"{search_ms / hash_ms:.0f}")


if __name__ == "__main__":
    main()
