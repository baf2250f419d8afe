# SPDX-License-Identifier: GPL-3.0-or-later
"""What the protocols share: a protocol writes run.json, runs one command, and reads the folder it leaves."""
import hashlib
import json
import os
import shlex
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

from pwem.protocols import EMProtocol
from pyworkflow.exceptions import PyworkflowException
from pyworkflow.protocol.constants import GPU_LIST, LEVEL_ADVANCED, STEPS_SERIAL, USE_GPU
from pyworkflow.protocol.params import BooleanParam, StringParam

from cryogem_scipion.engine.errors import CryogemError
from cryogem_scipion.engine.io.dataset import MANIFEST, Manifest, read_manifest
from cryogem_scipion.engine.runs.progress import duration, read_progress
from cryogem_scipion.engine.settings import RunSettings
from cryogem_scipion.plugin import Plugin
from cryogem_scipion.protocols.binding import complaints, form_values

__all__ = ["ProtCryogemStage"]


class ProtCryogemStage(EMProtocol):
    """One stage of the program as a protocol."""

    _label = None
    stepsExecutionMode = STEPS_SERIAL
    # In the protocols: name of the command, its settings, its folder under extra.
    _stage: str
    _settings: type[RunSettings]
    _folder: str

    # --------------------------- Parts that protocols define
    def inputsReady(self) -> bool:
        """Whether every input that is needed has been chosen."""
        raise NotImplementedError

    def inputValues(self) -> dict[str, Any]:
        """Return the settings that come from inputs instead of fields."""
        raise NotImplementedError

    def writeInputs(self) -> None:
        """Write the files that ``inputValues`` names and that do not exist yet."""

    # --------------------------- Form
    def _addParallel(self, form: Any) -> None:
        """Hidden GPU parameters, then threads and queue; call it last."""
        form.addHidden(USE_GPU, BooleanParam, default=True, label="Use GPU", help="Yes takes the GPU below; GPU 0 "
                       "stands for the first one if there is any, else the processor. No takes the processor.")
        form.addHidden(GPU_LIST, StringParam, default="0", expertLevel=LEVEL_ADVANCED, label="GPU",
                       help="Number of one GPU, as the system counts them.")
        form.addParallelSection(threads=4, mpi=0, binThreadsHelp="Processor threads of the engine. More is faster up "
                                "to the number of cores; the result is the same for any number.")

    # --------------------------- Steps
    def _insertAllSteps(self) -> None:
        # Steps with the same arguments are not run again by "Continue"; so the settings are the argument.
        values = json.dumps(self.settingsValues(), sort_keys=True, default=str)
        key = hashlib.sha256(values.encode()).hexdigest()[:16]
        self._insertFunctionStep(self.configureStep, key, needsGPU=False)
        self._insertFunctionStep(self.runStep, key, needsGPU=self.usesGpu())
        self._insertFunctionStep(self.createOutputStep, key, needsGPU=False)

    def configureStep(self, key: str) -> None:
        try:
            self.writeInputs()
        except CryogemError as error:
            raise PyworkflowException(str(error)) from None
        text = json.dumps(self.settingsValues(), indent=2, default=str)
        Path(self.configFile()).write_text(text + "\n", "utf-8")

    def runStep(self, key: str) -> None:
        """Run the engine; it continues by itself what an interrupted run left in its folder."""
        log = self.getStderrLog()
        start = os.path.getsize(log) if os.path.exists(log) else 0
        program, arguments = self.engineCommand()
        try:
            self.runJob(program, arguments, numberOfMpi=1)
        except CalledProcessError:
            raise PyworkflowException(_last_line(Path(log), start) or "the engine stopped; see the log") from None
        if not (self.outFolder() / MANIFEST).is_file():
            # A job of a queue ends without a status.
            job = max(Path(self._getLogsPath()).glob("*.err"), key=os.path.getmtime, default=None)
            raise PyworkflowException((job and _last_line(job, 0)) or "the job ended without a result; see its log")

    def createOutputStep(self, key: str) -> None:
        raise NotImplementedError

    def engineCommand(self) -> tuple[str, str]:
        """Return the program and its arguments for ``runJob``."""
        program, device = Plugin.getProgram(), "cpu"
        config = shlex.quote(os.path.abspath(self.configFile()))
        if self.usesGpu():
            device = "auto"
            if self.getGpuList() not in ([], [0]):
                # Scipion fills in the number, also the one that a queue gave; a lone % is doubled for that.
                device, config = "cuda:%(GPU)s", config.replace("%", "%%")
        return program, f"{self._stage} --config {config} --device {device} --threads {self.numberOfThreads.get()}"

    # --------------------------- Values and places
    def settingsValues(self) -> dict[str, Any]:
        """Return the whole content of run.json."""
        values = {**form_values(self, self._settings), **self.inputValues()}
        return {"out": os.path.abspath(self.outFolder()), **values}

    def configFile(self) -> str:
        """Return where run.json is written."""
        return self._getExtraPath("run.json")

    def outFolder(self) -> Path:
        """Return the engine's folder, relative to the project."""
        return Path(self._getExtraPath(self._folder))

    def manifest(self) -> Manifest | None:
        """Return what the finished run says of itself."""
        try:
            return read_manifest(self.outFolder())
        except CryogemError:
            return None

    # --------------------------- Information
    def _validate(self) -> list[str]:
        errors = []
        if self.usesGpu() and len(self.getGpuList()) > 1:
            errors.append(f"*GPU*: this protocol takes one, found {self.gpuList.get()!r}; give one number.")
        if not self.useQueue():  # Its machines may have environments that this one lacks.
            errors += Plugin.environmentErrors()
        if not self.inputsReady():
            return errors
        try:
            errors += complaints(self._settings, self.settingsValues())
            return errors or self.crossChecks()
        except CryogemError as error:
            return [*errors, str(error)]

    def crossChecks(self) -> list[str]:
        """Return what is wrong between inputs and fields, each of which is right by itself."""
        return []

    def _summary(self) -> list[str]:
        manifest = self.manifest()
        if manifest is None:
            return self.progress() or ["Not finished yet."]
        return [*self.sentences(manifest), *(f"*Note*: {warning}." for warning in manifest.warnings)]

    def _warnings(self) -> list[str]:
        if not self.inputsReady() or self._validate():
            return []
        return self.doubts()

    def doubts(self) -> list[str]:
        """Return what may be a mistake, of inputs and fields that can be used."""
        return []

    def progress(self) -> list[str]:
        """Return how far a run is that has not finished, as the engine left it in its folder."""
        state = read_progress(self.outFolder())
        if state is None:
            return ["Running."] if self.isRunning() else []
        if not self.isActive():
            return [f"Stopped at {state.what} {state.done} of {state.total}; Continue goes on from there."]
        left = "" if state.seconds_left is None else f", {duration(state.seconds_left)} left"
        note = [f"Now: {state.note}."] if state.note else []
        return [f"Running: {state.what} {state.done} of {state.total}{left}.", *note]

    def sentences(self, manifest: Manifest) -> list[str]:
        """Return the run's result in words."""
        raise NotImplementedError

    def _methods(self) -> list[str]:
        manifest = self.manifest()
        if manifest is None:
            return []
        return [*self.sentences(manifest), f"This was done with CryoGEM for Scipion {manifest.version} (random seed "
                f"{manifest.seed}), by the method of CryoGEM [Zhang2024]."]

    def _citations(self) -> list[str]:
        return ["Zhang2024"]


def _last_line(log: Path, start: int) -> str:
    """The last line that the engine wrote, without its name."""
    try:
        with log.open("rb") as file:
            file.seek(start)
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    line = next((line.strip() for line in reversed(lines) if line.strip()), "").removeprefix("cryogem: ")
    if "holds a run with another" in line:
        line += " (in Scipion: Restart instead of Continue)"
    return line
