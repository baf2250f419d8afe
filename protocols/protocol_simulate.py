# SPDX-License-Identifier: GPL-3.0-or-later
"""Protocol *simulate micrographs*: clean micrographs of a map, with all labels."""
import os
from pathlib import Path
from typing import Any

from pwem.objects import AtomStruct, EMSet, SetOfAtomStructs, Volume
from pyworkflow.protocol.constants import LEVEL_ADVANCED
from pyworkflow.protocol.params import BooleanParam, EnumParam, FloatParam, FolderParam, PointerParam

from cryogem_scipion.engine.io.dataset import Manifest
from cryogem_scipion.engine.settings import MEASURED, NEEDED, SimulateSettings, read_measurement, with_measured
from cryogem_scipion.plugin import Plugin
from cryogem_scipion.protocols.binding import define_fields, form_values
from cryogem_scipion.protocols.checks import crowding_warnings, missing_file_errors, pixel_size_warnings
from cryogem_scipion.protocols.inputs import (
    acquisition_values,
    ctf_files,
    map_files,
    micrograph_files,
    write_ctfs,
    write_orientations,
)
from cryogem_scipion.protocols.labelled_dataset import LabelledOutputs, define_labelled_outputs, labelled_summary
from cryogem_scipion.protocols.measured_values import chosen_values, measurement_errors, measurement_warnings
from cryogem_scipion.protocols.protocol_stage import ProtCryogemStage

__all__ = ["ProtCryogemSimulate"]

SPECIMENS = ["maps or atomic models", "cryoDRGN folder"]
MAPS, CRYODRGN = range(2)


class ProtCryogemSimulate(ProtCryogemStage):
    """Simulate clean micrographs of a particle, with all labels.

    The micrographs have the contrast of the optics, but no noise. Protein is dark,
    and the background is 1. Position, pose, defocus and mask of every particle are
    known.

    Run it after *measure micrographs*, which measures on your own micrographs what
    this protocol needs. *Train noise translator* learns the noise of your
    micrographs from its output, and *generate dataset* takes its settings from it.

    *Inputs*
    - _Map_: density map or atomic model of the particle, or a set of them. Instead
      of a map, you can choose a cryoDRGN folder as _Specimen_.
    - _Measurement_ (optional): output of *measure micrographs*. Fields that are
      empty get the measured values.
    - _Views of particles_ (optional): particles whose orientations are used.
    - _Microscope of micrographs_ (optional): real micrographs whose voltage,
      spherical aberration and amplitude contrast are used. Without _Measurement_,
      this protocol can also measure them itself.
    - _Defocus of CTFs_ (optional): measured CTFs whose defocus is used.

    *Outputs*
    - outputMicrographs, and outputCTF with the defocus of each micrograph
    - outputCoordinates: the whole particles. Particles that the border cuts are
      only in the file particles.star.
    - outputParticles: extracted particles with poses and CTFs, if
      _Extract particles_ is Yes

    Method: [[https://arxiv.org/abs/2312.02235][CryoGEM (Zhang et al., 2024)]]
    """

    _label = "simulate micrographs"
    _possibleOutputs = LabelledOutputs
    _stage = "simulate"
    _settings = SimulateSettings
    _folder = "simulation"

    # --------------------------- Form
    def _defineParams(self, form: Any) -> None:
        from_form = "inputMicrographs is None and inputMeasurement is None"
        defocus_from_form = "inputCtfs is None"
        orientations_from_form = "inputParticles is None"
        from_maps, from_cryodrgn = f"specimenSource == {MAPS}", f"specimenSource == {CRYODRGN}"
        define_fields(form, SimulateSettings,
                      before_section={"Specimen": self._addSpecimenInputs, "Microscope": self._addMicroscopeInputs},
                      after_field={},
                      conditions={"volume_proportions": from_maps, "resolution_angstrom": from_maps,
                                  "cryodrgn_conformations": from_cryodrgn, "cryodrgn_epoch": from_cryodrgn,
                                  "voltage_kv": from_form, "cs_mm": from_form, "amplitude_contrast": from_form,
                                  "defocus_min": defocus_from_form, "defocus_max": defocus_from_form,
                                  "astigmatism_angstrom": defocus_from_form,
                                  "phase_shift_degrees": "inputMeasurement is None",
                                  "orientation_spread_degrees": "inputParticles is not None",
                                  "preferred_views": orientations_from_form,
                                  "preferred_cone_degrees": orientations_from_form,
                                  "preferred_uniform": orientations_from_form},
                      measured=MEASURED)
        self._addParallel(form)

    def _addSpecimenInputs(self, form: Any) -> None:
        form.addParam("specimenSource", EnumParam, choices=SPECIMENS, default=MAPS, display=EnumParam.DISPLAY_HLIST,
                      label="Specimen", help="Maps or atomic models of this project, or conformations of a cryoDRGN "
                      "result. CryoDRGN computes their maps in its own environment (CRYODRGN_ENV_ACTIVATION).")
        form.addParam("inputVolume", PointerParam, important=True, label="Map",
                      condition=f"specimenSource == {MAPS}",
                      pointerClass="Volume, SetOfVolumes, AtomStruct, SetOfAtomStructs",
                      help="Density map of the particle (protein bright, any box size and pixel size), or its atomic "
                      "model. With a set of maps or models, each particle uses one of them, chosen at random.")
        form.addParam("inputMeasurement", PointerParam, pointerClass="CryogemMeasurement", allowsNull=True,
                      label="Measurement", help="Output of measure micrographs. Number and distance of the particles, "
                      "defocus, signal-to-noise ratio, pixel size and micrograph size are taken from it, where the "
                      "fields of this form are empty. A value that you set is used instead of the measured one.")

        folder, pixel_size = (SimulateSettings.model_fields[name] for name in ("cryodrgn_folder", "volume_pixel_size"))
        from_cryodrgn = f"specimenSource == {CRYODRGN}"
        form.addParam("cryodrgnFolder", FolderParam, default="", label=folder.title, help=folder.description,
                      condition=from_cryodrgn)
        form.addParam("volumePixelSize", FloatParam, allowsNull=True, default=None, expertLevel=LEVEL_ADVANCED,
                      label=pixel_size.title, help=pixel_size.description, condition=from_cryodrgn)
        form.addParam("inputParticles", PointerParam, pointerClass="SetOfParticles", allowsNull=True,
                      pointerCondition="hasAlignmentProj", label="Views of particles",
                      help="The simulated particles have the orientations of these refined particles. Empty: "
                      "orientations are uniform, or follow the preferred views (Advanced).")

    def _addMicroscopeInputs(self, form: Any) -> None:
        form.addParam("inputMicrographs", PointerParam, pointerClass="SetOfMicrographs", allowsNull=True,
                      label="Microscope of micrographs",
                      help="Voltage, spherical aberration and amplitude contrast are taken from these real "
                      "micrographs. If the field of the working pixel size is empty, the larger of their pixel "
                      "size and the map's is used. Empty: the values are set below.")
        form.addParam("measureMicrographs", BooleanParam, default=True, label="Measure these micrographs",
                      condition="inputMicrographs is not None and inputMeasurement is None",
                      help="Yes: the number of particles and the defocus are measured on the real micrographs if their "
                      "fields are empty, and so are the other fields that say so. This needs one density map and takes "
                      "a few minutes. No: empty fields have their usual values. The protocol measure micrographs does "
                      "the same, and shows the result before the simulation.")
        form.addParam("inputCtfs", PointerParam, pointerClass="SetOfCTF", allowsNull=True, label="Defocus of CTFs",
                      help="Each micrograph gets the defocus of one of these measured CTFs. Empty: its defocus is "
                      "drawn from the range below.")

    # --------------------------- Settings
    def inputsReady(self) -> bool:
        return self._isCryodrgn() or self.inputVolume.get() is not None

    def inputValues(self) -> dict[str, Any]:
        volume = self.inputVolume.get()
        values: dict[str, Any] = {}
        if self._isCryodrgn():
            values |= {"cryodrgn_folder": os.path.abspath(self.cryodrgnFolder.get("").strip()),
                       "cryodrgn_activation": Plugin.getCryodrgnActivationCmd(), "volume_proportions": [],
                       "volume_pixel_size": self.volumePixelSize.get()}
        else:
            values["volume"] = map_files(volume)
        if self._isMap():
            values["volume_pixel_size"] = volume.getSamplingRate()
        real = self.inputMicrographs.get()
        if real is not None:
            values |= acquisition_values(real)
            if self._isMap() and self.pixelSize.get() is None and self.inputMeasurement.get() is None and (
                    real.getSamplingRate() > volume.getSamplingRate()):
                values["pixel_size"] = real.getSamplingRate()
            if self.measuresMicrographs():
                values |= {"real": micrograph_files(real), "real_pixel_size": real.getSamplingRate()}
        if self.inputCtfs.get() is not None:
            values["ctfs"] = os.path.abspath(self._getExtraPath("ctfs.star"))
        if self.inputParticles.get() is not None:
            values |= {"orientations": os.path.abspath(self._getExtraPath("orientations.star")), "preferred_views": []}
        return values

    def settingsValues(self) -> dict[str, Any]:
        if self.measuresMicrographs():
            return chosen_values(self)
        if self.inputMeasurement.get() is not None:
            return with_measured(chosen_values(self), read_measurement(self._measurementFolder())[0])
        return super().settingsValues()

    def measuresMicrographs(self) -> bool:
        """Return whether this run measures the real micrographs: a value that has no usual one is not set."""
        needed = NEEDED if self.inputCtfs.get() is None else NEEDED[:1]
        values = form_values(self, SimulateSettings)
        return (self.inputMicrographs.get() is not None and self.inputMeasurement.get() is None
                and self.measureMicrographs.get() and any(name not in values for name in needed))

    def _measurementFolder(self) -> Path:
        return Path(self.inputMeasurement.get().getFolder())

    def writeInputFiles(self) -> None:
        if self.inputCtfs.get() is not None:
            real = self.inputMicrographs.get()
            files = {} if real is None else ctf_files(self.inputCtfs.get(), real)
            write_ctfs(self.inputCtfs.get(), Path(self._getExtraPath("ctfs.star")), files)
        if self.inputParticles.get() is not None:
            write_orientations(self.inputParticles.get(), Path(self._getExtraPath("orientations.star")))

    # --------------------------- Outputs
    def createOutputStep(self, key: str) -> None:
        define_labelled_outputs(self, self.outFolder(), [self.inputVolume, self.inputMeasurement, self.inputMicrographs,
                                                         self.inputCtfs, self.inputParticles])

    # --------------------------- Information
    def inputErrors(self) -> list[str]:
        if self.measuresMicrographs() and not isinstance(self.inputVolume.get(), Volume):
            return ["*Measure these micrographs*: this needs one density map. Choose No, or run measure micrographs "
                    "with one map and choose its output as Measurement."]
        if self.inputMeasurement.get() is not None:
            problems = measurement_errors(self._measurementFolder(), chosen_values(self))
            if problems:
                return problems
        settings = self._expectedSettings()
        errors = [f"*{label}*: the set is empty; choose another."
                  for label, pointer in (("Map", self.inputVolume), ("Views of particles", self.inputParticles),
                                         ("Microscope of micrographs", self.inputMicrographs),
                                         ("Defocus of CTFs", self.inputCtfs))
                  if isinstance(pointer.get(), EMSet) and not pointer.get().getSize()]
        if self.inputParticles.get() is not None and not self.inputParticles.get().hasAlignmentProj():
            errors.append("*Views of particles*: the particles have no projection angles; choose the output of a 3D "
                          "refinement.")
        if settings.box_size and settings.box_size > min(settings.micrograph_size):
            errors.append(f"*Box size*: {settings.box_size} px is larger than the micrographs "
                          f"({min(settings.micrograph_size)} px); enlarge the micrograph size.")
        if self._isCryodrgn():
            return errors + self._cryodrgnErrors()
        errors += missing_file_errors("Map", map_files(self.inputVolume.get()))
        if not self._isMap() and not settings.pixel_size:
            errors.append("*Working pixel size (Å)*: an atomic model has no pixel size; set a value.")
        return errors or (self._mapErrors(settings) if self._isMap() else [])

    def _expectedSettings(self) -> SimulateSettings:
        """The settings, with the size of the real micrographs if the run takes that."""
        values, real = self.settingsValues(), self.inputMicrographs.get()
        dimensions = real.getDim() if self.measuresMicrographs() and "micrograph_size" not in values else None
        if dimensions:
            working = values.get("pixel_size") or self.inputVolume.get().getSamplingRate()
            x, y = (round(edge * real.getSamplingRate() / working) for edge in dimensions[:2])
            values["micrograph_size"] = (y, x)
        return SimulateSettings.model_validate(values)

    def _mapErrors(self, settings: SimulateSettings) -> list[str]:
        dimensions = self._mapDimensions()
        if dimensions is None:
            return ["*Map*: the file cannot be read; import the map again."]
        if min(dimensions) < 2:
            return [f"*Map*: this is not a volume (size {dimensions}); choose a 3D map."]
        edge = max(dimensions) * self.inputVolume.get().getSamplingRate()
        shortest = min(settings.micrograph_size) * self._workingPixelSize(settings)
        return [f"*Map*: its edge is {edge:.0f} Å, longer than the micrographs ({shortest:.0f} Å); enlarge "
                "the micrograph size, or crop the map."] if edge > shortest else []

    def inputWarnings(self) -> list[str]:
        settings = self._expectedSettings()
        warnings = []
        if self.inputMeasurement.get() is not None:
            warnings += measurement_warnings(self._measurementFolder(), chosen_values(self))
        if self._isCryodrgn():
            warnings.append("When cryoDRGN reads the files of its folder, they can run code; continue only if you "
                            f"trust the source of {settings.cryodrgn_folder}.")
        if self._isMap():
            warnings += self._mapWarnings(settings)
        working = settings.pixel_size or (self._workingPixelSize(settings) if self._isMap() else None)
        real = self.inputMicrographs.get()
        if working and real is not None and real.getSamplingRate() > working * 1.001:
            warnings.append(f"The real micrographs have {real.getSamplingRate():g} Å/px, coarser than the {working:g} "
                            "Å of the simulation: no noise can be learned from them. Set a working pixel size of "
                            f"{real.getSamplingRate():g} Å or more.")
        if working and settings.particle_distance and not self.measuresMicrographs():
            warnings += crowding_warnings(settings.particles_mean, settings.micrograph_size, working,
                                          settings.particle_distance)
        return warnings

    def _mapWarnings(self, settings: SimulateSettings) -> list[str]:
        map_pixel_size, working = self.inputVolume.get().getSamplingRate(), self._workingPixelSize(settings)
        warnings = pixel_size_warnings("Map", map_files(self.inputVolume.get())[0], 3, map_pixel_size)
        if working < map_pixel_size * 0.999:
            warnings.append(f"The working pixel size {working:g} Å is finer than the map's ({map_pixel_size:g} Å): the "
                            "images get more pixels, but no more detail.")
        if settings.particle_distance is None and not self.measuresMicrographs():
            # Only the map's voxels tell the particle's diameter. In most maps it is about half of the box.
            diameter = max(self._mapDimensions()) * map_pixel_size / 2
            warnings += crowding_warnings(settings.particles_mean, settings.micrograph_size, working,
                                          (1 - settings.overlap) * diameter,
                                          " (if the particle fills half of the map's edge)")
        return warnings

    def resultSentences(self, manifest: Manifest) -> list[str]:
        return labelled_summary(manifest, manifest.settings.get("micrograph_size"), "simulated")

    def _cryodrgnErrors(self) -> list[str]:
        folder = Path(self.cryodrgnFolder.get("").strip())
        errors = [] if (folder / "config.yaml").is_file() else [
            f"*cryoDRGN folder*: {str(folder)!r} has no config.yaml; choose the folder that cryodrgn train_vae wrote."]
        # The queue's machines may have the environment that this machine lacks.
        if self.useQueue() and Plugin.getCryodrgnActivationCmd():
            return errors
        return [*errors, *(f"*cryoDRGN folder*: {line}" for line in Plugin.cryodrgnErrors())]

    def _isCryodrgn(self) -> bool:
        return self.specimenSource.get() == CRYODRGN

    def _isMap(self) -> bool:
        return not self._isCryodrgn() and not isinstance(self.inputVolume.get(), AtomStruct | SetOfAtomStructs)

    def _mapDimensions(self) -> Any:
        volume = self.inputVolume.get()
        return volume.getDim() if isinstance(volume, Volume) else volume.getFirstItem().getDim()

    def _workingPixelSize(self, settings: SimulateSettings) -> float:
        return settings.pixel_size or self.inputVolume.get().getSamplingRate()
