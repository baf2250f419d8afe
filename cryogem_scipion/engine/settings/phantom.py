# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of ``cryogem phantom``."""
from typing import ClassVar, Literal

from pydantic import model_validator

from cryogem_scipion.engine.settings.base import RunSettings, option

__all__ = ["PhantomSettings"]


class PhantomSettings(RunSettings):
    """Make the map of an artificial protein, for a first try and for tests."""

    memory_remedy: ClassVar[str] = "lower box"

    shape: Literal["asymmetric", "shell"] = option(
        "asymmetric", "Shape", "asymmetric: a complex of eight lobes without any symmetry. shell: a hollow ball of 24 "
        "subunits like apoferritin, with the symmetry O; its natural diameter is 125 Å.")
    box: int = option(
        64, "Box (px)", "Edge length of the map. A larger value holds a larger complex; 64 is enough for a first try.",
        ge=8, le=1024)
    pixel_size: float = option(
        4.0, "Pixel size (Å)", "Pixel size of the map. A larger value holds a larger complex in the same box, with "
        "less detail; 2 to 6 is usual.", gt=0)
    diameter_angstrom: float = option(
        180.0, "Diameter (Å)", "Outer diameter of the protein; it has to fit into the box. 100 to 300 is usual.", gt=0)

    @model_validator(mode="after")
    def _fits(self) -> "PhantomSettings":
        if self.diameter_angstrom > self.box * self.pixel_size:
            raise ValueError(f"diameter_angstrom {self.diameter_angstrom:g} is larger than the box of "
                             f"{self.box * self.pixel_size:g} Å; enlarge box or pixel_size")
        return self
