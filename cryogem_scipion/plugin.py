# SPDX-License-Identifier: GPL-3.0-or-later
"""Scipion's plugin class: the engine's environment, its installation, and the command that starts the engine."""
import importlib.util
import os
import shlex
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pwem
from packaging.requirements import Requirement
from pyworkflow.utils import Environ

from cryogem_scipion import __version__

__all__ = ["CRYODRGN_ENV_ACTIVATION", "CRYOGEM_ENV_ACTIVATION", "Plugin"]

CRYOGEM_ENV_ACTIVATION = "CRYOGEM_ENV_ACTIVATION"
# Scipion's cryoDRGN plugin has the same variable. Where it is installed, its value is used.
CRYODRGN_ENV_ACTIVATION = "CRYODRGN_ENV_ACTIVATION"
DISTRIBUTION = "scipion-em-cryogem"
CONDA_ENVIRONMENT = f"cryogem-{__version__}"
PYTHON_VERSION = "3.11"
# Libraries that a Python needs to run the engine. They are searched for, but never imported here.
ENGINE_LIBRARIES = ("torch", "numba", "ducc0", "threadpoolctl", "gemmi", "safetensors")
# Further libraries that the engine needs. Scipion's Python always has them, another environment may lack them.
SHARED_LIBRARIES = ("pydantic", "starfile", "mrcfile", "scipy", "tqdm", "jaxtyping")
ACTIVATION_TIMEOUT = 60
"""Seconds that the activation of an environment may take."""


class Plugin(pwem.Plugin):
    """The plugin CryoGEM for Scipion."""

    # Scipion takes the package's name and folder from here.
    __module__ = "cryogem_scipion"
    _supportedVersions = [__version__]
    _url = "https://pypi.org/project/scipion-em-cryogem"

    @classmethod
    def _defineVariables(cls):
        cls._defineVar(CRYOGEM_ENV_ACTIVATION, "",
                       description="Command that activates the engine's environment, such as 'conda activate cryogem' "
                       "or '. /path/to/venv/bin/activate'. Empty: Scipion's own Python if it has torch, otherwise the "
                       "conda environment that the plugin's installation creates.")

        if CRYODRGN_ENV_ACTIVATION not in cls.getVars():
            cls._defineVar(CRYODRGN_ENV_ACTIVATION, "",
                           description="Command that activates cryoDRGN's environment. cryoDRGN computes the maps of "
                           "conformations from its result folders.")

    @classmethod
    def getCryodrgnActivationCmd(cls):
        """Return the command that activates cryoDRGN's environment; empty if it is not configured."""
        activation = cls.getVar(CRYODRGN_ENV_ACTIVATION, os.environ.get(CRYODRGN_ENV_ACTIVATION, ""))
        return _with_conda(cls, activation) if activation else ""

    @classmethod
    def getEnviron(cls):
        environ = Environ(os.environ)
        if cls.getActivationCmd():
            # The other Python must not import Scipion's packages.
            environ.pop("PYTHONPATH", None)
            environ.pop("PYTHONHOME", None)
        return environ

    @classmethod
    def getActiveVersion(cls, home=None, versions=None):
        return __version__

    @classmethod
    def getActivationCmd(cls):
        """Return the command that activates the engine's environment.

        Empty if the engine runs in this Python; ``None`` if no environment can run the engine.
        """
        activation = cls.getVar(CRYOGEM_ENV_ACTIVATION, os.environ.get(CRYOGEM_ENV_ACTIVATION, ""))
        if activation:
            return _with_conda(cls, activation)
        if has_engine():
            return ""
        if (_installation_folder() / _installation_flag()).exists():
            return _with_conda(cls, f"conda activate {CONDA_ENVIRONMENT}")
        return None

    @classmethod
    def getProgram(cls):
        """Return the engine's command line up to the name of the stage."""
        activation = cls.getActivationCmd()
        if activation is None:
            raise FileNotFoundError(" ".join(cls.validateInstallation()))
        launcher = shlex.quote(str(Path(__file__).resolve().parent / "launcher.py"))
        if activation:
            return f"{activation} && python {launcher}"
        return f"{shlex.quote(sys.executable)} {launcher}"

    @classmethod
    def environmentErrors(cls):
        """Return the errors of the engine's environment on this machine; a working environment is checked only once."""
        activation = cls.getActivationCmd()
        if activation is None:
            return cls.validateInstallation()
        if not activation:
            return []
        libraries = ", ".join(map(repr, (*ENGINE_LIBRARIES, *SHARED_LIBRARIES)))
        check = (f"import sys; from importlib.util import find_spec; lacks = [name for name in ({libraries}) "
                 "if not find_spec(name)]; sys.exit('this Python lacks ' + ', '.join(lacks) if lacks else 0)")
        return [f"The engine's environment cannot be used ({error}); correct {CRYOGEM_ENV_ACTIVATION} in Scipion's "
                f"configuration (its value is {activation!r}), or install what is missing."
                for error in _command_errors(f"{activation} && python -c {shlex.quote(check)}", cls.getEnviron())]

    @classmethod
    def cryodrgnErrors(cls):
        """Return the errors of cryoDRGN's environment on this machine."""
        activation = cls.getCryodrgnActivationCmd()
        if not activation:
            return [f"The environment of cryoDRGN is not known; set {CRYODRGN_ENV_ACTIVATION} in Scipion's "
                    "configuration to the command that activates it."]
        return [f"The environment of cryoDRGN cannot be used ({error}); correct {CRYODRGN_ENV_ACTIVATION} in Scipion's "
                f"configuration (its value is {activation!r})."
                for error in _command_errors(
                    f"{activation} && (command -v cryodrgn || (echo no program cryodrgn >&2; false))",
                    Environ(os.environ), shell="/bin/bash")]

    @classmethod
    def validateInstallation(cls):
        if cls.getActivationCmd() is not None:
            return []
        return [f"There is no environment for the CryoGEM engine: this Python lacks {', '.join(_missing_libraries())}, "
                f"and the conda environment {CONDA_ENVIRONMENT} is not installed.",
                f"Run 'scipion3 installb cryogem', or set {CRYOGEM_ENV_ACTIVATION} in Scipion's configuration."]

    @classmethod
    def defineBinaries(cls, env):
        """Define the conda environment of the engine; it is installed by default if this Python lacks the libraries."""
        packages = " ".join(shlex.quote(requirement) for requirement in engine_requirements())
        steps = [f"{cls.getCondaActivationCmd()} conda create -y -n {CONDA_ENVIRONMENT} python={PYTHON_VERSION} pip",
                 f"conda activate {CONDA_ENVIRONMENT}", f"pip install {packages}", f"touch {_installation_flag()}"]
        env.addPackage("cryogem", version=__version__, tar="void.tgz",
                       commands=[(" && ".join(steps), _installation_flag())],
                       neededProgs=[] if cls.getCondaActivationCmd() else ["conda"], default=not has_engine())


def has_engine():
    """Return whether this Python has the engine's libraries, without importing them."""
    return not _missing_libraries()


def engine_requirements():
    """Return the requirements of the engine, for pip: those of the package without Scipion's."""
    requirements = [Requirement(text) for text in requires(DISTRIBUTION) or []]
    scipion = {item.name for item in requirements if item.marker and item.marker.evaluate({"extra": "scipion"})
               and not item.marker.evaluate({"extra": ""})}
    return [str(item) for item in requirements if item.name not in scipion
            and (item.marker is None or item.marker.evaluate({"extra": ""}))]


def _command_errors(line, environ, shell=None):
    """A list with the last output line of a command if it fails; empty if it works. It then is not run again."""
    if line in _working_commands:
        return []
    try:
        process = subprocess.run(line, shell=True, executable=shell, env=environ, capture_output=True, text=True,
                                 errors="replace", timeout=ACTIVATION_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [str(error)]
    if process.returncode:
        output = process.stderr.strip() or process.stdout.strip() or f"status {process.returncode}"
        return [output.splitlines()[-1]]
    _working_commands.add(line)
    return []


_working_commands = set()


def _missing_libraries():
    return [name for name in ENGINE_LIBRARIES if importlib.util.find_spec(name) is None]


def _installation_folder():
    return Path(pwem.Config.EM_ROOT) / CONDA_ENVIRONMENT


def _installation_flag():
    return f"ENGINE_{__version__}_INSTALLED"


def _with_conda(cls, activation):
    """Put Scipion's command that initialises conda before an activation command that uses conda."""
    return f"{cls.getCondaActivationCmd()} {activation}".strip() if "conda" in activation else activation
