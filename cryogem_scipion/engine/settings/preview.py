# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of the previews: small pictures to choose other settings by."""
from pathlib import Path

from pydantic import model_validator

from cryogem_scipion.engine.settings.base import RunSettings, option

__all__ = ["PreviewSettings"]


class PreviewSettings(RunSettings):
    """Show a particle in a few views, or a real micrograph at several pixel sizes: quick, and on no GPU."""

    volume: tuple[Path, ...] = option(
        (), "Map", "Maps or atomic models, as 'cryogem simulate' takes them: their views, diameter, box and distance "
        "are shown.", form=False)
    volume_pixel_size: float | None = option(
        None, "Pixel size of the map (Å)", "Only where the map's header is wrong or empty.", form=False, gt=0)
    resolution_angstrom: float | None = option(
        None, "Resolution of the model (Å)", "Where the density of an atomic model ends.", form=False, gt=0, le=200)
    pixel_size: float | None = option(
        None, "Working pixel size (Å)", "Of the views. Empty takes that of the map.", form=False, gt=0)
    views: int = option(6, "Number of views", "At random; more show more of the particle. 4 to 12.", ge=1, le=100)
    real: Path | None = option(
        None, "Real micrograph", "The middle of this one is shown at each of the pixel sizes.", form=False)
    real_pixel_size: float | None = option(
        None, "Pixel size of the real micrograph (Å)", "Only where its header is wrong or empty.", form=False, gt=0)
    pixel_sizes: tuple[float, ...] = option(
        (2.0, 3.0, 4.0, 5.0, 6.0, 8.0), "Pixel sizes (Å)", "To show the real micrograph at; those finer than its own "
        "are left out.", form=False, min_length=1)
    field_angstrom: float = option(
        2000.0, "Field (Å)", "Edge of the part of the real micrograph that is shown; larger shows more particles, and "
        "each one smaller. 1000 to 4000.", form=False, gt=0)

    @model_validator(mode="after")
    def _something(self) -> "PreviewSettings":
        if not self.volume and self.real is None:
            raise ValueError("nothing to show; give volume or real")
        if min(self.pixel_sizes) <= 0:
            raise ValueError(f"pixel_sizes {self.pixel_sizes} are out of range; give numbers above 0")
        return self
