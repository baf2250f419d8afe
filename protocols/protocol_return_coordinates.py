# SPDX-License-Identifier: GPL-3.0-or-later
"""Protocol *return coordinates*: picks at the working pixel size, moved to the original micrographs."""
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pwem.objects import Micrograph, SetOfCoordinates
from pyworkflow.protocol.params import PointerParam

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.protocols.inputs import coordinate_micrographs
from cryogem_scipion.protocols.protocol_stage import ProtCryogem

__all__ = ["OriginalMicrograph", "ProtCryogemReturnCoordinates", "ReturnOutputs", "original_micrographs"]

# Share of the original's width and height that the micrograph at the working pixel size has to cover. It may be
# slightly smaller, because resampling crops the original until its size in pixels is a whole number.
MIN_COVERAGE, MAX_COVERAGE = 0.8, 1.01


class ReturnOutputs(Enum):
    """The picks on the original micrographs."""

    outputCoordinates = SetOfCoordinates


class ProtCryogemReturnCoordinates(ProtCryogem):
    """Move picks from the working pixel size to the original micrographs.

    A picker that was trained on a generated dataset works at the pixel size of that
    dataset. It picks the micrographs that *train noise translator* has resampled
    to this pixel size. This protocol scales the picks to the original micrographs.
    The error is at most half an original pixel. You can then extract particles at
    full resolution.

    *Inputs*
    - _Picked coordinates_: picked by any picker on outputMicrographs of
      *train noise translator*, or on a part of them
    - _Original micrographs_: the micrographs that the noise translator was trained
      on, or micrographs of the same names and fields at any pixel size
    - _CTFs_ (optional): CTFs of the original micrographs. Picks on micrographs
      without a CTF are left out. Scipion's particle extraction with CTFs would
      wait for these CTFs without end.

    *Outputs*
    - outputCoordinates: the picks on the original micrographs, with their scores

    Method: [[https://arxiv.org/abs/2312.02235][CryoGEM (Zhang et al., 2024)]]
    """

    _label = "return coordinates"
    _possibleOutputs = ReturnOutputs

    # --------------------------- Form
    def _defineParams(self, form: Any) -> None:
        form.addSection(label="Input")
        form.addParam("inputCoordinates", PointerParam, pointerClass="SetOfCoordinates", important=True,
                      label="Picked coordinates", help="Picks of any picker on the output micrographs of train noise "
                      "translator, or on a part of them.")
        form.addParam("inputMicrographs", PointerParam, pointerClass="SetOfMicrographs", important=True,
                      label="Original micrographs", help="The micrographs that the noise translator was trained on, or "
                      "micrographs of the same names and fields at any pixel size.")
        form.addParam("inputCtfs", PointerParam, pointerClass="SetOfCTF", allowsNull=True, label="CTFs",
                      help="CTFs of the original micrographs, such as those of measure micrographs. Picks on "
                      "micrographs without a CTF are left out, because Scipion's particle extraction with CTFs waits "
                      "for them without end. Empty: all picks are returned.")

    # --------------------------- Steps
    def _insertAllSteps(self) -> None:
        self._insertFunctionStep(self.createOutputStep, needsGPU=False)

    def createOutputStep(self) -> None:
        picked = self.inputCoordinates.get()
        originals = self._usableOriginals()
        output = self._createSetOfCoordinates(self.inputMicrographs)
        if picked.getBoxSize():
            ratio = picked.getMicrographs().getSamplingRate() / self.inputMicrographs.get().getSamplingRate()
            output.setBoxSize(2 * round(picked.getBoxSize() * ratio / 2))
        for coordinate in picked.iterItems():
            original = originals.get(coordinate.getMicId())
            if original is None:
                continue
            returned = coordinate.clone()  # keeps the score
            returned.setPosition(round(coordinate.getX() * original.scale_x),
                                 round(coordinate.getY() * original.scale_y))
            returned.setMicrograph(original.micrograph)
            output.append(returned)
        self._defineOutputs(**{ReturnOutputs.outputCoordinates.name: output})
        self._defineTransformRelation(self.inputCoordinates, output)
        self._defineSourceRelation(self.inputMicrographs, output)

    def _usableOriginals(self) -> dict[int, "OriginalMicrograph"]:
        """The originals of the picked micrographs, without those that have no CTF where CTFs are given."""
        originals = original_micrographs(self.inputCoordinates.get(), self.inputMicrographs.get())
        if self.inputCtfs.get() is None:
            return originals
        # Names, because the extraction matches by these, too.
        with_ctf = {ctf.getMicrograph().getMicName() for ctf in self.inputCtfs.get().iterItems()}
        return {number: one for number, one in originals.items() if one.micrograph.getMicName() in with_ctf}

    # --------------------------- Information
    def _validate(self) -> list[str]:
        if self.inputCoordinates.get() is None or self.inputMicrographs.get() is None:
            return []
        try:
            usable = self._usableOriginals()
        except DataError as error:
            return [str(error)]
        if self.inputCtfs.get() is not None and not usable:
            return ["*CTFs*: none of the picked micrographs has one; choose the CTFs of these micrographs, or leave "
                    "the field empty."]
        return []

    def _warnings(self) -> list[str]:
        picked = self.inputCoordinates.get()
        if picked is not None and not hasattr(picked.getMicrographs().getFirstItem(), "_cryogemPixelSizeX"):
            return ["The coordinates were not picked on micrographs of train noise translator. They are scaled by the "
                    "ratio of the pixel sizes of the two sets; if a pixel size is not exact, the coordinates are not "
                    "exact either."]
        return []

    def _summary(self) -> list[str]:
        if not hasattr(self, ReturnOutputs.outputCoordinates.name):
            return ["Not finished yet."]
        micrographs = self.inputMicrographs.get()
        returned = self.outputCoordinates.getSize()
        sentences = [f"{returned} coordinates were returned to micrographs at {micrographs.getSamplingRate():.3g} "
                     f"Å/px; the box size is {self.outputCoordinates.getBoxSize()} px."]
        left_out = self.inputCoordinates.get().getSize() - returned
        if left_out:
            sentences.append(f"{left_out} coordinates were left out, because their micrographs have no CTF.")
        return sentences

    def _methods(self) -> list[str]:
        return self._summary()


@dataclass(frozen=True)
class OriginalMicrograph:
    """The original of a picked micrograph, and the factors from picked to original coordinates."""

    micrograph: Micrograph
    scale_x: float
    """Original pixels per picked pixel."""
    scale_y: float


def original_micrographs(picked: Any, originals: Any) -> dict[int, OriginalMicrograph]:
    """Return the originals of the micrographs that have coordinates, by the id of the picked micrograph.

    Picked and original micrographs begin at the same pixel (0, 0), whose centre is position 0. So the coordinates
    only have to be scaled.

    Parameters
    ----------
    picked
        SetOfCoordinates.
    originals
        SetOfMicrographs. They are matched by name; where several have the same name, by name and id.

    Raises
    ------
    DataError
        A micrograph has no original, or covers another field than its original; or the coordinates come from
        joined sets.
    """
    by_name: dict[str, list[Micrograph]] = {}
    for original in originals.iterItems():
        by_name.setdefault(original.getMicName(), []).append(original.clone())
    by_id = coordinate_micrographs(picked)
    picked_ids = picked.getUniqueValues("_micId")
    missing = [by_id[number].getMicName() for number in picked_ids if _original(by_id[number], by_name) is None]
    if missing:
        raise DataError(f"{len(missing)} of {len(picked_ids)} picked micrographs (first: {missing[0]}) are not among "
                        "the original ones; choose all micrographs that the noise translator was trained on")
    pixel_sizes = picked.getMicrographs().getSamplingRate(), originals.getSamplingRate()
    originals_by_id = {number: _scaled(by_id[number], _original(by_id[number], by_name), *pixel_sizes)
                       for number in picked_ids}
    if picked_ids:
        _check_field(by_id[picked_ids[0]], originals_by_id[picked_ids[0]])
    return originals_by_id


def _original(micrograph: Micrograph, by_name: dict[str, list[Micrograph]]) -> Micrograph | None:
    candidates = by_name.get(micrograph.getMicName(), [])
    if len(candidates) > 1:
        candidates = [candidate for candidate in candidates if candidate.getObjId() == micrograph.getObjId()]
    return candidates[0] if candidates else None


def _scaled(micrograph: Micrograph, original: Any, picked_pixel_size: float,
            original_pixel_size: float) -> OriginalMicrograph:
    x, y = (getattr(micrograph, name).get() if hasattr(micrograph, name) else picked_pixel_size
            for name in ("_cryogemPixelSizeX", "_cryogemPixelSizeY"))
    return OriginalMicrograph(original, x / original_pixel_size, y / original_pixel_size)


def _check_field(micrograph: Micrograph, original: OriginalMicrograph) -> None:
    """Raise ``DataError`` when a micrograph and its original do not cover the same field."""
    picked_size, original_size = micrograph.getDim(), original.micrograph.getDim()
    if not (picked_size and original_size):
        return  # Without the files, the fields cannot be compared.
    coverage = (picked_size[0] * original.scale_x / original_size[0],
                picked_size[1] * original.scale_y / original_size[1])
    if not all(MIN_COVERAGE < share < MAX_COVERAGE for share in coverage):
        raise DataError(f"{micrograph.getMicName()} covers {coverage[0]:.3g} of the width and {coverage[1]:.3g} of the "
                        "height of its original; choose the micrographs that the noise translator was trained on, with "
                        "the correct pixel size")
