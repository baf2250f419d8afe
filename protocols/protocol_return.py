# SPDX-License-Identifier: GPL-3.0-or-later
"""Picks made at the working pixel size go back to the original micrographs."""
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pwem.objects import Micrograph, SetOfCoordinates
from pwem.protocols import EMProtocol
from pyworkflow.protocol.params import PointerParam

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.protocols.inputs import coordinate_micrographs

__all__ = ["Place", "ProtCryogemReturnCoordinates", "ReturnOutputs", "original_places"]

# Of an original's width and height that a micrograph at the working pixel size covers: it loses pixels at its end
# until a whole size fits, never many.
LEAST, MOST = 0.8, 1.01


class ReturnOutputs(Enum):
    """The picks on the original micrographs."""

    outputCoordinates = SetOfCoordinates


class ProtCryogemReturnCoordinates(EMProtocol):
    """Bring coordinates that were picked on the output micrographs of train noise translator back to the original
    micrographs, at their pixel size, exact to half an original pixel. Extraction at full resolution and everything
    after it then go on as after any picking."""

    _label = "return coordinates"
    _possibleOutputs = ReturnOutputs

    # --------------------------- Form
    def _defineParams(self, form: Any) -> None:
        form.addSection(label="Input")
        form.addParam("inputCoordinates", PointerParam, pointerClass="SetOfCoordinates", important=True,
                      label="Picked coordinates", help="Picked on the output micrographs of train noise translator, or "
                      "on a part of them, by any picker.")
        form.addParam("inputMicrographs", PointerParam, pointerClass="SetOfMicrographs", important=True,
                      label="Original micrographs", help="Those that the noise translator was trained on, or others of "
                      "the same names and fields at any pixel size.")

    # --------------------------- Steps
    def _insertAllSteps(self) -> None:
        self._insertFunctionStep(self.createOutputStep, needsGPU=False)

    def createOutputStep(self) -> None:
        picked = self.inputCoordinates.get()
        places = original_places(picked, self.inputMicrographs.get())
        output = self._createSetOfCoordinates(self.inputMicrographs)
        if picked.getBoxSize():
            ratio = picked.getMicrographs().getSamplingRate() / self.inputMicrographs.get().getSamplingRate()
            output.setBoxSize(2 * round(picked.getBoxSize() * ratio / 2))
        for coordinate in picked.iterItems():
            place = places[coordinate.getMicId()]
            moved = coordinate.clone()  # with its score
            moved.setPosition(round(coordinate.getX() * place.scale_x), round(coordinate.getY() * place.scale_y))
            moved.setMicrograph(place.micrograph)
            output.append(moved)
        self._defineOutputs(**{ReturnOutputs.outputCoordinates.name: output})
        self._defineTransformRelation(self.inputCoordinates, output)
        self._defineSourceRelation(self.inputMicrographs, output)

    # --------------------------- Information
    def _validate(self) -> list[str]:
        picked, originals = self.inputCoordinates.get(), self.inputMicrographs.get()
        if picked is None or originals is None:
            return []
        try:
            original_places(picked, originals)
        except DataError as error:
            return [str(error)]
        return []

    def _warnings(self) -> list[str]:
        picked = self.inputCoordinates.get()
        if picked is not None and not hasattr(picked.getMicrographs().getFirstItem(), "_cryogemPixelSizeX"):
            return ["The coordinates were not picked on micrographs of train noise translator; they are scaled by the "
                    "pixel sizes of the two sets, which is exact only where these are."]
        return []

    def _summary(self) -> list[str]:
        if not hasattr(self, ReturnOutputs.outputCoordinates.name):
            return ["Not finished yet."]
        micrographs = self.inputMicrographs.get()
        return [f"{self.outputCoordinates.getSize()} coordinates were brought back to micrographs at "
                f"{micrographs.getSamplingRate():.3g} Å/px; their box is {self.outputCoordinates.getBoxSize()} px."]

    def _methods(self) -> list[str]:
        return self._summary()

    def _citations(self) -> list[str]:
        return ["Zhang2024"]


@dataclass(frozen=True)
class Place:
    """Where coordinates of one picked micrograph belong."""

    micrograph: Micrograph
    """The original one."""
    scale_x: float
    """Original pixels per picked pixel."""
    scale_y: float


def original_places(picked: Any, originals: Any) -> dict[int, Place]:
    """Return the place of each micrograph that has coordinates, by its id.

    Both start at pixel (0, 0), whose centre is position 0, so that scaling is all there is between them.

    Parameters
    ----------
    picked
        SetOfCoordinates.
    originals
        SetOfMicrographs; found by name, where several have one name by name and id.

    Raises
    ------
    DataError
        A micrograph is not among the originals, or covers another field; or the coordinates are those of joined sets.
    """
    by_name: dict[str, list[Micrograph]] = {}
    for original in originals.iterItems():
        by_name.setdefault(original.getMicName(), []).append(original.clone())
    found = coordinate_micrographs(picked)
    wanted = picked.getUniqueValues("_micId")
    missing = [found[number].getMicName() for number in wanted if _original(found[number], by_name) is None]
    if missing:
        raise DataError(f"{len(missing)} of {len(wanted)} picked micrographs (first: {missing[0]}) are not among the "
                        "original ones; choose all micrographs that the noise translator was trained on")
    pixel_sizes = picked.getMicrographs().getSamplingRate(), originals.getSamplingRate()
    places = {number: _place(found[number], _original(found[number], by_name), *pixel_sizes) for number in wanted}
    if wanted:
        _check_field(found[wanted[0]], places[wanted[0]])
    return places


def _original(micrograph: Micrograph, by_name: dict[str, list[Micrograph]]) -> Micrograph | None:
    candidates = by_name.get(micrograph.getMicName(), [])
    if len(candidates) > 1:
        candidates = [one for one in candidates if one.getObjId() == micrograph.getObjId()]
    return candidates[0] if candidates else None


def _place(micrograph: Micrograph, original: Any, picked_pixel_size: float, original_pixel_size: float) -> Place:
    x, y = (getattr(micrograph, name).get() if hasattr(micrograph, name) else picked_pixel_size
            for name in ("_cryogemPixelSizeX", "_cryogemPixelSizeY"))
    return Place(original, x / original_pixel_size, y / original_pixel_size)


def _check_field(micrograph: Micrograph, place: Place) -> None:
    """Refuse, from one micrograph, originals of another field or with a wrong pixel size."""
    found, original = micrograph.getDim(), place.micrograph.getDim()
    if not (found and original):
        return  # a file that is not here any more tells nothing
    covered = found[0] * place.scale_x / original[0], found[1] * place.scale_y / original[1]
    if not all(LEAST < part < MOST for part in covered):
        raise DataError(f"{micrograph.getMicName()} covers {covered[0]:.3g} of its original's width and "
                        f"{covered[1]:.3g} of its height; choose the micrographs that the noise translator was trained "
                        "on, with their right pixel size")
