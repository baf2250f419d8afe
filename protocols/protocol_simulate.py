# SPDX-License-Identifier: GPL-3.0-or-later
"""Box 1: clean micrographs of a map, with all labels."""
import os
from pathlib import Path
from typing import Any

from pwem.objects import AtomStruct, EMSet, SetOfAtomStructs, Volume
from pyworkflow.protocol.constants import LEVEL_ADVANCED
from pyworkflow.protocol.params import EnumParam, FloatParam, FolderParam, PointerParam

from cryogem_scipion.engine.io.dataset import Manifest
from cryogem_scipion.engine.settings import SimulateSettings
from cryogem_scipion.plugin import Plugin
from cryogem_scipion.protocols.binding import define_fields
from cryogem_scipion.protocols.checks import crowding, missing, pixel_sizes_differ
from cryogem_scipion.protocols.inputs import map_files, write_ctfs, write_orientations
from cryogem_scipion.protocols.labelled import LabelledOutputs, define_labelled_outputs, labelled_sentences
from cryogem_scipion.protocols.stage import ProtCryogemStage

__all__ = ["ProtCryogemSimulate"]

SPECIMENS = ["maps or atomic models", "cryoDRGN folder"]
MAPS, CRYODRGN = range(2)


class ProtCryogemSimulate(ProtCryogemStage):
    """Simulate what the microscope would see without noise: micrographs of a map, protein dark on background 1,
    with the exact position, pose, defocus and mask of every particle. It is the first of three boxes: train noise
    translator and generate dataset go on from here."""

    _label = "simulate micrographs"
    _possibleOutputs = LabelledOutputs
    _stage = "simulate"
    _settings = SimulateSettings
    _folder = "simulation"

    # --------------------------- Form
    def _defineParams(self, form: Any) -> None:
        given = "inputMicrographs is None"
        drawn = "inputCtfs is None"
        mapped, decoded = f"specimenSource == {MAPS}", f"specimenSource == {CRYODRGN}"
        viewed = "inputParticles is None"
        define_fields(form, SimulateSettings,
                      first={"Specimen": self._specimen, "Microscope": self._microscope}, after={},
                      conditions={"volume_proportions": mapped, "resolution_angstrom": mapped,
                                  "cryodrgn_conformations": decoded, "cryodrgn_epoch": decoded,
                                  "voltage_kv": given, "cs_mm": given, "amplitude_contrast": given,
                                  "defocus_min": drawn, "defocus_max": drawn, "astigmatism_angstrom": drawn,
                                  "orientation_spread_degrees": "inputParticles is not None",
                                  "preferred_views": viewed, "preferred_cone_degrees": viewed,
                                  "preferred_uniform": viewed})
        self._addParallel(form)

    def _specimen(self, form: Any) -> None:
        form.addParam("specimenSource", EnumParam, choices=SPECIMENS, default=MAPS, display=EnumParam.DISPLAY_HLIST,
                      label="Specimen", help="Maps or atomic models of this project; or conformations from a cryoDRGN "
                      "result, decoded by cryoDRGN in its own environment (CRYODRGN_ENV_ACTIVATION).")
        form.addParam("inputVolume", PointerParam, important=True, label="Map",
                      condition=f"specimenSource == {MAPS}",
                      pointerClass="Volume, SetOfVolumes, AtomStruct, SetOfAtomStructs",
                      help="The particle's density map, protein bright, any box and pixel size; or its atomic model. "
                      "Of a set (conformations, different species) each particle takes one at random.")

        folder, size = (SimulateSettings.model_fields[name] for name in ("cryodrgn_folder", "volume_pixel_size"))
        decoded = f"specimenSource == {CRYODRGN}"
        form.addParam("cryodrgnFolder", FolderParam, default="", label=folder.title, help=folder.description,
                      condition=decoded)
        form.addParam("volumePixelSize", FloatParam, allowsNull=True, default=None, expertLevel=LEVEL_ADVANCED,
                      label=size.title, help=size.description, condition=decoded)
        form.addParam("inputParticles", PointerParam, pointerClass="SetOfParticles", allowsNull=True,
                      pointerCondition="hasAlignmentProj", label="Views of particles",
                      help="The views are distributed as in these refined particles. Empty: all views are equally "
                      "frequent, or as the preferred views (Advanced) say.")

    def _microscope(self, form: Any) -> None:
        form.addParam("inputMicrographs", PointerParam, pointerClass="SetOfMicrographs", allowsNull=True,
                      label="Microscope of micrographs",
                      help="Voltage, spherical aberration and amplitude contrast are taken from these real "
                      "micrographs; the pixel size too, where it is left empty and theirs is larger than the map's. "
                      "Empty: they are set below.")
        form.addParam("inputCtfs", PointerParam, pointerClass="SetOfCTF", allowsNull=True, label="Defocus of CTFs",
                      help="Each micrograph takes the defocus of one of these measured CTFs. Empty: it is drawn from "
                      "the range below.")

    # --------------------------- Settings
    def inputsReady(self) -> bool:
        return self._isDecoded() or self.inputVolume.get() is not None

    def inputValues(self) -> dict[str, Any]:
        volume = self.inputVolume.get()
        values: dict[str, Any] = {}
        if self._isDecoded():
            values |= {"cryodrgn_folder": os.path.abspath(self.cryodrgnFolder.get("").strip()),
                       "cryodrgn_activation": Plugin.getCryodrgnActivation(), "volume_proportions": [],
                       "volume_pixel_size": self.volumePixelSize.get()}
        else:
            values["volume"] = map_files(volume)
        if self._isMap():
            values["volume_pixel_size"] = volume.getSamplingRate()
        real = self.inputMicrographs.get()
        if real is not None:
            if self._isMap() and self.pixelSize.get() is None and real.getSamplingRate() > volume.getSamplingRate():
                values["pixel_size"] = real.getSamplingRate()
            acquisition = real.getAcquisition()
            values |= {name: value for name, value in [
                ("voltage_kv", acquisition.getVoltage()), ("cs_mm", acquisition.getSphericalAberration()),
                ("amplitude_contrast", acquisition.getAmplitudeContrast())] if value is not None}
        if self.inputCtfs.get() is not None:
            values["ctfs"] = os.path.abspath(self._getExtraPath("ctfs.star"))
        if self.inputParticles.get() is not None:
            values |= {"orientations": os.path.abspath(self._getExtraPath("orientations.star")), "preferred_views": []}
        return values

    def writeInputs(self) -> None:
        if self.inputCtfs.get() is not None:
            write_ctfs(self.inputCtfs.get(), Path(self._getExtraPath("ctfs.star")))
        if self.inputParticles.get() is not None:
            write_orientations(self.inputParticles.get(), Path(self._getExtraPath("orientations.star")))

    # --------------------------- Outputs
    def createOutputStep(self, key: str) -> None:
        define_labelled_outputs(self, self.outFolder(), [self.inputVolume, self.inputMicrographs, self.inputCtfs,
                                                         self.inputParticles])

    # --------------------------- Information
    def crossChecks(self) -> list[str]:
        settings = SimulateSettings.model_validate(self.settingsValues())
        errors = [f"*{label}*: the set is empty; choose another."
                  for label, pointer in (("Map", self.inputVolume), ("Views of particles", self.inputParticles),
                                         ("Microscope of micrographs", self.inputMicrographs),
                                         ("Defocus of CTFs", self.inputCtfs))
                  if isinstance(pointer.get(), EMSet) and not pointer.get().getSize()]
        if self.inputParticles.get() is not None and not self.inputParticles.get().hasAlignmentProj():
            errors.append("*Views of particles*: they have no projection angles; choose the output of a 3D refinement.")
        if settings.box_size and settings.box_size > min(settings.micrograph_size):
            errors.append(f"*Box size*: {settings.box_size} px is larger than the micrographs "
                          f"({min(settings.micrograph_size)} px); enlarge the micrograph size.")
        if self._isDecoded():
            return errors + self._cryodrgnErrors()
        errors += missing("Map", map_files(self.inputVolume.get()))
        if not self._isMap() and not settings.pixel_size:
            errors.append("*Working pixel size (Å)*: an atomic model has none; set it.")
        return errors or (self._mapErrors(settings) if self._isMap() else [])

    def _mapErrors(self, settings: SimulateSettings) -> list[str]:
        dimensions = self._mapDimensions()
        if dimensions is None:
            return ["*Map*: its file cannot be read; import it again."]
        if min(dimensions) < 2:
            return [f"*Map*: it is not a volume, its size is {dimensions}; choose a 3D map."]
        edge = max(dimensions) * self.inputVolume.get().getSamplingRate()
        shortest = min(settings.micrograph_size) * self._workingPixelSize(settings)
        return [f"*Map*: its edge is {edge:.0f} Å, longer than the micrographs ({shortest:.0f} Å); enlarge "
                "the micrograph size, or crop the map."] if edge > shortest else []

    def doubts(self) -> list[str]:
        settings = SimulateSettings.model_validate(self.settingsValues())
        doubts = []
        if self._isDecoded():
            doubts.append("The files of a cryoDRGN folder are run as code when cryoDRGN reads them; go on only if you "
                          f"trust where {settings.cryodrgn_folder} comes from.")
        if self._isMap():
            doubts += self._mapDoubts(settings)
        working = settings.pixel_size or (self._workingPixelSize(settings) if self._isMap() else None)
        real = self.inputMicrographs.get()
        if working and real is not None and real.getSamplingRate() > working * 1.001:
            doubts.append(f"The real micrographs have {real.getSamplingRate():g} Å/px, coarser than the {working:g} Å "
                          "of the simulation: no noise can be learned from them. Work at that pixel size, or a larger "
                          "one.")
        if working and settings.particle_distance:
            doubts += crowding(settings.particles_mean, settings.micrograph_size, working, settings.particle_distance)
        return doubts

    def _mapDoubts(self, settings: SimulateSettings) -> list[str]:
        given, working = self.inputVolume.get().getSamplingRate(), self._workingPixelSize(settings)
        doubts = pixel_sizes_differ("Map", map_files(self.inputVolume.get())[0], 3, given)
        if working < given * 0.999:
            doubts.append(f"The working pixel size {working:g} Å is finer than the map's ({given:g} Å): the images get "
                          "more pixels and no more detail.")
        if settings.particle_distance is None:
            # How large the particle is stands in the map's voxels only; half of the box is what most maps have.
            half = max(self._mapDimensions()) * given / 2
            doubts += crowding(settings.particles_mean, settings.micrograph_size, working,
                               (1 - settings.overlap) * half, " (if the particle fills half of the map's edge)")
        return doubts

    def sentences(self, manifest: Manifest) -> list[str]:
        return labelled_sentences(manifest, manifest.settings.get("micrograph_size"), "simulated")

    def _cryodrgnErrors(self) -> list[str]:
        folder = Path(self.cryodrgnFolder.get("").strip())
        errors = [] if (folder / "config.yaml").is_file() else [
            f"*cryoDRGN folder*: {str(folder)!r} has no config.yaml; choose the folder that cryodrgn train_vae wrote."]
        # A queue's machines may have the environment that this one lacks.
        if self.useQueue() and Plugin.getCryodrgnActivation():
            return errors
        return [*errors, *(f"*cryoDRGN folder*: {line}" for line in Plugin.cryodrgnErrors())]

    def _isDecoded(self) -> bool:
        return self.specimenSource.get() == CRYODRGN

    def _isMap(self) -> bool:
        return not self._isDecoded() and not isinstance(self.inputVolume.get(), AtomStruct | SetOfAtomStructs)

    def _mapDimensions(self) -> Any:
        volume = self.inputVolume.get()
        return volume.getDim() if isinstance(volume, Volume) else volume.getFirstItem().getDim()

    def _workingPixelSize(self, settings: SimulateSettings) -> float:
        return settings.pixel_size or self.inputVolume.get().getSamplingRate()
