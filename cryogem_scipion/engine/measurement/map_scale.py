# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the particles agree better with a larger or smaller map: a check of the map's pixel size."""
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cryogem_scipion.engine.compute.threads import parallel_map
from cryogem_scipion.engine.measurement.particle_search import ParticleSearcher
from cryogem_scipion.engine.measurement.search_field import SearchField
from cryogem_scipion.engine.simulation.projection import prepare_projector
from cryogem_scipion.engine.simulation.volume import Volume

__all__ = ["MapScale", "map_scale"]

FIELDS = 4
"""Fields that are searched, spread evenly over all."""
STEP = 0.1
"""Step of the scale: at this one, projections of a particle of 26 pixels differ by a pixel and more at its edge."""
STEPS = 2
"""Steps to either side that are tried at most."""
CLEAR = 3.0
"""Standard errors by which another scale has to agree better."""
DENSITY = 0.3
"""Part of the area that particles cover, about: it sets how many peaks are compared, the same at each scale."""


@dataclass(frozen=True)
class MapScale:
    """The scale of the map with which the particles agree best."""

    scale: float
    """Over the map's own scale: at the maximum of a parabola through the scores."""
    score: float
    """Mean score at the nearest of the scales that were tried."""
    own_score: float
    """Mean score at the map's own scale."""
    clear: bool
    """Whether another scale is better with certainty."""

    def problem(self, pixel_size: float) -> str:
        """Return why the map cannot be used with its ``pixel_size`` (Å); empty if it can."""
        if not self.clear:
            return ""
        return (f"the particles agree better with the map at a pixel size of {pixel_size * self.scale:.3g} Å than at "
                f"{pixel_size:.3g} Å (mean score {self.score:.2f} against {self.own_score:.2f}); check the pixel sizes "
                "of map (volume_pixel_size) and micrographs (real_pixel_size)")


def map_scale(fields: Sequence[SearchField], volume: Volume, diameter: float) -> MapScale:
    """Search some fields with the map at several scales.

    Parameters
    ----------
    fields
        Micrographs made ready by ``search_field``, with particles dark.
    diameter
        Of the particle, Å.
    """
    chosen = [fields[i] for i in sorted({round(i) for i in np.linspace(0, len(fields) - 1, FIELDS)})]
    scores = {step: _score(chosen, volume, 1 + STEP * step, diameter) for step in (-1, 0, 1)}
    best = max(scores, key=lambda step: scores[step][0])
    while best in (min(scores), max(scores)) and abs(best) < STEPS:
        further = best + (1 if best > 0 else -1)
        scores[further] = _score(chosen, volume, 1 + STEP * further, diameter)
        best = max(scores, key=lambda step: scores[step][0])
    error = math.hypot(scores[best][1], scores[0][1])
    clear = best != 0 and scores[best][0] - scores[0][0] > CLEAR * error
    offset = 0.0
    if best - 1 in scores and best + 1 in scores:
        below, middle, above = (scores[best + step][0] for step in (-1, 0, 1))
        offset = 0.5 * (below - above) / min(below - 2 * middle + above, -1e-12)
    return MapScale(1 + STEP * (best + float(np.clip(offset, -0.5, 0.5))), scores[best][0], scores[0][0], bool(clear))


def _score(fields: Sequence[SearchField], volume: Volume, scale: float, diameter: float) -> tuple[float, float]:
    """Mean score of one half of the coefficients at the peaks of the other, and its standard error."""
    searcher = ParticleSearcher(fields, prepare_projector(replace(volume, pixel_size=volume.pixel_size * scale)),
                                diameter)
    area = math.pi / 4 * diameter**2

    def level(field: SearchField) -> tuple[float, float]:
        count = DENSITY * math.prod(field.shape) * field.pixel_size**2 / area
        return searcher.search(field, field.image).level(count * field.searched, math.inf)

    levels = np.array(parallel_map(level, list(fields)))
    return float(levels[:, 0].mean()), float(np.sqrt((levels[:, 1] ** 2).sum())) / len(fields)
