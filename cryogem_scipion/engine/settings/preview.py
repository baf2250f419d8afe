# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of ``cryogem preview``."""
from pathlib import Path

from pydantic import model_validator

from cryogem_scipion.engine.settings.base import RunSettings, option

__all__ = ["PreviewSettings"]


class PreviewSettings(RunSettings):
    """Show views of a map, or a real micrograph at several pixel sizes. The preview takes seconds and needs no GPU."""

    volume: tuple[Path, ...] = option(
        (), "Map", "Maps or atomic models, as for 'cryogem simulate'. The preview shows their views, diameter, box "
        "size and particle distance.", form=False)
    volume_pixel_size: float | None = option(
        None, "Pixel size of the map (Å)", "Set it only if the map's header is wrong or empty.", form=False, gt=0)
    resolution_angstrom: float | None = option(
        None, "Resolution of the model (Å)", "Resolution of the map that is computed from an atomic model. A larger "
        "value blurs more; 3 to 10 is usual.", form=False, gt=0, le=200)
    pixel_size: float | None = option(
        None, "Working pixel size (Å)", "Pixel size of the views. Empty uses the pixel size of the map.", form=False,
        gt=0)
    views: int = option(
        6, "Number of views", "Number of random views. More views show more sides of the particle; 4 to 12 is usual.",
        ge=1, le=100)
    real: Path | None = option(
        None, "Real micrograph", "The preview shows the middle of this micrograph at each of the pixel sizes.",
        form=False)
    real_pixel_size: float | None = option(
        None, "Pixel size of the real micrograph (Å)", "Set it only if the header is wrong or empty.", form=False, gt=0)
    pixel_sizes: tuple[float, ...] = option(
        (2.0, 3.0, 4.0, 5.0, 6.0, 8.0), "Pixel sizes (Å)", "The preview shows the real micrograph at these pixel "
        "sizes. Values finer than its own pixel size are left out.", form=False, min_length=1)
    field_angstrom: float = option(
        2000.0, "Field (Å)", "Edge length of the part of the real micrograph that is shown. A larger value shows more "
        "and smaller particles; 1000 to 4000 is usual.", form=False, gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> "PreviewSettings":
        if not self.volume and self.real is None:
            raise ValueError("nothing to show; give volume or real")
        if min(self.pixel_sizes) <= 0:
            raise ValueError(f"pixel_sizes {self.pixel_sizes} are out of range; give numbers above 0")
        return self
