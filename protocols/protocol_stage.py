# SPDX-License-Identifier: GPL-3.0-or-later
"""Base classes of the protocols.

A protocol writes run.json, runs one command of the engine, and reads the folder that the command has written.
"""
import hashlib
import inspect
import json
import os
import shlex
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

from pwem.protocols import EMProtocol
from pyworkflow import BETA
from pyworkflow.exceptions import PyworkflowException
from pyworkflow.protocol.constants import GPU_LIST, LEVEL_ADVANCED, STEPS_SERIAL, USE_GPU
from pyworkflow.protocol.params import BooleanParam, StringParam

from cryogem_scipion.engine.errors import CryogemError
from cryogem_scipion.engine.io.dataset import MANIFEST, Manifest, read_manifest
from cryogem_scipion.engine.runs.progress import duration, read_progress
from cryogem_scipion.engine.settings import RunSettings
from cryogem_scipion.plugin import Plugin
from cryogem_scipion.protocols.binding import form_values, validation_errors

__all__ = ["ProtCryogem", "ProtCryogemStage"]


class ProtCryogem(EMProtocol):
    """A protocol of this plugin: its help, references and development status."""

    _label = None
    _devStatus = BETA
    _references = ["Zhang2024"]

    @classmethod
    def getHelpText(cls) -> str:
        """Return the class's docstring without indentation; Scipion shows it as the protocol's help."""
        return inspect.cleandoc(cls.getDoc())


class ProtCryogemStage(ProtCryogem):
    """A protocol that runs one stage of the engine."""

    stepsExecutionMode = STEPS_SERIAL
    # Each protocol sets these three.
    _stage: str
    """Name of the engine's command."""
    _settings: type[RunSettings]
    """Settings of that command."""
    _folder: str
    """Output folder of that command, inside the protocol's extra folder."""
    _methodSentence = "The method is that of CryoGEM [Zhang2024]."
    """Last sentence of the methods."""

    # --------------------------- What each protocol defines
    def inputsReady(self) -> bool:
        """Return whether all required inputs are chosen."""
        raise NotImplementedError

    def inputValues(self) -> dict[str, Any]:
        """Return the settings that come from the protocol's inputs and not from form fields."""
        raise NotImplementedError

    def writeInputFiles(self) -> None:
        """Write the input files that ``inputValues`` names and that Scipion does not have yet."""

    # --------------------------- Form
    def _addParallel(self, form: Any) -> None:
        """Add the hidden GPU parameters and the section for threads and queue, as the last part of a form."""
        form.addHidden(USE_GPU, BooleanParam, default=True, label="Use GPU", help="Yes: the engine runs on the GPU "
                       "with the number below. With number 0, it runs on the CPU if the machine has no GPU. No: the "
                       "engine runs on the CPU.")
        form.addHidden(GPU_LIST, StringParam, default="0", expertLevel=LEVEL_ADVANCED, label="GPU",
                       help="Number of one GPU. The system numbers its GPUs from 0.")
        form.addParallelSection(threads=4, mpi=0, binThreadsHelp="CPU threads of the engine. More threads are "
                                "faster, up to the number of CPU cores. The result does not depend on their number.")

    # --------------------------- Steps
    def _insertAllSteps(self) -> None:
        # "Continue" skips a finished step if its arguments have not changed. So the argument depends on all settings.
        values = json.dumps(self.settingsValues(), sort_keys=True, default=str)
        key = hashlib.sha256(values.encode()).hexdigest()[:16]
        self._insertFunctionStep(self.configureStep, key, needsGPU=False)
        self._insertFunctionStep(self.runStep, key, needsGPU=self.usesGpu())
        self._insertFunctionStep(self.createOutputStep, key, needsGPU=False)

    def configureStep(self, key: str) -> None:
        try:
            self.writeInputFiles()
        except CryogemError as error:
            raise PyworkflowException(str(error)) from None
        text = json.dumps(self.settingsValues(), indent=2, default=str)
        Path(self.configFile()).write_text(text + "\n", "utf-8")

    def runStep(self, key: str) -> None:
        """Run the engine. It continues an interrupted run by itself."""
        log = self.getStderrLog()
        start = os.path.getsize(log) if os.path.exists(log) else 0
        program, arguments = self.engineCommand()
        try:
            self.runJob(program, arguments, numberOfMpi=1)
        except CalledProcessError:
            raise PyworkflowException(_last_line(Path(log), start) or "the engine stopped; see the log") from None
        if not (self.outFolder() / MANIFEST).is_file():
            # A job of a queue gives no exit status.
            job = max(Path(self._getLogsPath()).glob("*.err"), key=os.path.getmtime, default=None)
            raise PyworkflowException((job and _last_line(job, 0)) or "the job ended without a result; see its log")

    def createOutputStep(self, key: str) -> None:
        raise NotImplementedError

    def engineCommand(self) -> tuple[str, str]:
        """Return the engine's program and its arguments, for ``runJob``."""
        program, device = Plugin.getProgram(), "cpu"
        config = shlex.quote(os.path.abspath(self.configFile()))
        if self.usesGpu():
            device = "auto"
            if self.getGpuList() not in ([], [0]):
                # Scipion replaces %(GPU)s by the number, also by the number that a queue assigned. Other % are doubled.
                device, config = "cuda:%(GPU)s", config.replace("%", "%%")
        return program, f"{self._stage} --config {config} --device {device} --threads {self.numberOfThreads.get()}"

    # --------------------------- Settings and folders
    def settingsValues(self) -> dict[str, Any]:
        """Return the content of run.json: the settings from the form and from the inputs."""
        values = {**form_values(self, self._settings), **self.inputValues()}
        return {"out": os.path.abspath(self.outFolder()), **values}

    def configFile(self) -> str:
        """Return the path of run.json."""
        return self._getExtraPath("run.json")

    def outFolder(self) -> Path:
        """Return the engine's output folder, relative to the project."""
        return Path(self._getExtraPath(self._folder))

    def manifest(self) -> Manifest | None:
        """Return the manifest of the finished run, ``None`` before the run has finished."""
        try:
            return read_manifest(self.outFolder())
        except CryogemError:
            return None

    # --------------------------- Information
    def _validate(self) -> list[str]:
        errors = []
        if self.usesGpu() and len(self.getGpuList()) > 1:
            errors.append(f"*GPU*: this protocol uses one GPU, found {self.gpuList.get()!r}; give one number.")
        if not self.useQueue():  # The queue's machines may have an environment that this machine lacks.
            errors += Plugin.environmentErrors()
        if not self.inputsReady():
            return errors
        try:
            errors += validation_errors(self._settings, self.settingsValues())
            return errors or self.inputErrors()
        except CryogemError as error:
            return [*errors, str(error)]

    def inputErrors(self) -> list[str]:
        """Return the errors that can be found only with the inputs: in them, or between them and form fields."""
        return []

    def _summary(self) -> list[str]:
        manifest = self.manifest()
        if manifest is None:
            return self.progressSentences() or ["Not finished yet."]
        return [*self.resultSentences(manifest), *(f"*Note*: {warning}." for warning in manifest.warnings)]

    def _warnings(self) -> list[str]:
        if not self.inputsReady() or self._validate():
            return []
        return self.inputWarnings()

    def inputWarnings(self) -> list[str]:
        """Return warnings about inputs and form fields that are valid but may be a mistake."""
        return []

    def progressSentences(self) -> list[str]:
        """Return the progress of an unfinished run, which the engine writes into its folder."""
        state = read_progress(self.outFolder())
        if state is None:
            return ["Running."] if self.isRunning() else []
        if not self.isActive():
            return [f"Stopped at {state.what} {state.done} of {state.total}; Continue goes on from there."]
        left = "" if state.seconds_left is None else f", {duration(state.seconds_left)} left"
        note = [f"Now: {state.note}."] if state.note else []
        return [f"Running: {state.what} {state.done} of {state.total}{left}.", *note]

    def resultSentences(self, manifest: Manifest) -> list[str]:
        """Return the result of the run as sentences for summary and methods."""
        raise NotImplementedError

    def _methods(self) -> list[str]:
        manifest = self.manifest()
        if manifest is None:
            return []
        return [*self.resultSentences(manifest), f"The program was CryoGEM for Scipion {manifest.version} with random "
                f"seed {manifest.seed}. {self._methodSentence}"]


def _last_line(log: Path, start: int) -> str:
    """The last line of a log that is not empty, from the byte ``start`` on, without the program's name."""
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
