# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of the phantom: a map to try everything with."""
from typing import ClassVar

from pydantic import model_validator

from cryogem_scipion.engine.settings.base import RunSettings, option

__all__ = ["PhantomSettings"]


class PhantomSettings(RunSettings):
    """Make the map of an asymmetric complex, for a first try and for tests."""

    weighs_most: ClassVar[str] = "box"

    box: int = option(64, "Box (px)", "Edge of the map.", ge=8, le=1024)
    pixel_size: float = option(4.0, "Pixel size (Å)", "Of the map.", gt=0)
    diameter_angstrom: float = option(180.0, "Diameter (Å)", "Of the complex; less than box and pixel size hold.",
                                      gt=0)

    @model_validator(mode="after")
    def _fits(self) -> "PhantomSettings":
        if self.diameter_angstrom > self.box * self.pixel_size:
            raise ValueError(f"diameter_angstrom {self.diameter_angstrom:g} is larger than the box of "
                             f"{self.box * self.pixel_size:g} Å; enlarge box or pixel_size")
        return self
