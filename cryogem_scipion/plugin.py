# SPDX-License-Identifier: GPL-3.0-or-later
"""Scipion's plugin class: where the engine runs, how it is installed, the command that starts it."""
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
# Scipion's cryoDRGN plugin has this variable, too; where it is installed, its value is ours.
CRYODRGN_ENV_ACTIVATION = "CRYODRGN_ENV_ACTIVATION"
DISTRIBUTION = "scipion-em-cryogem"
ENVIRONMENT = f"cryogem-{__version__}"
PYTHON = "3.11"
# The heavy libraries that tell whether a Python can run the engine; looked for, never imported.
ENGINE = ("torch", "numba", "ducc0", "threadpoolctl", "gemmi", "safetensors")
# What else another environment has to have.
LIGHT = ("pydantic", "starfile", "mrcfile", "scipy", "tqdm", "jaxtyping")
PATIENCE = 60
"""Seconds that activating an environment may take."""


class Plugin(pwem.Plugin):
    """CryoGEM in Scipion."""

    # Scipion takes the package's name and folder from here.
    __module__ = "cryogem_scipion"
    _supportedVersions = [__version__]
    _url = "https://pypi.org/project/scipion-em-cryogem"

    @classmethod
    def _defineVariables(cls):
        cls._defineVar(CRYOGEM_ENV_ACTIVATION, "",
                       description="Command that activates the environment of the engine, such as 'conda activate "
                       "cryogem' or '. /path/to/venv/bin/activate'. Empty: this Python when it has torch, else the "
                       "conda environment that the plugin's installation makes.")

        if CRYODRGN_ENV_ACTIVATION not in cls.getVars():
            cls._defineVar(CRYODRGN_ENV_ACTIVATION, "",
                           description="Command that activates the environment of cryoDRGN, which decodes "
                           "conformations from its result folders.")

    @classmethod
    def getCryodrgnActivation(cls):
        """Return the command that activates cryoDRGN's environment; empty when it is not known."""
        activation = cls.getVar(CRYODRGN_ENV_ACTIVATION, os.environ.get(CRYODRGN_ENV_ACTIVATION, ""))
        return _with_conda(cls, activation) if activation else ""

    @classmethod
    def getEnviron(cls):
        environ = Environ(os.environ)
        if cls.getActivation():
            # Another Python must not find Scipion's packages.
            environ.pop("PYTHONPATH", None)
            environ.pop("PYTHONHOME", None)
        return environ

    @classmethod
    def getActiveVersion(cls, home=None, versions=None):
        return __version__

    @classmethod
    def getActivation(cls):
        """Return the command that activates the engine's environment.

        Empty for this Python; ``None`` when there is no environment that could run the engine.
        """
        activation = cls.getVar(CRYOGEM_ENV_ACTIVATION, os.environ.get(CRYOGEM_ENV_ACTIVATION, ""))
        if activation:
            return _with_conda(cls, activation)
        if has_engine():
            return ""
        if (_installation() / _target()).exists():
            return _with_conda(cls, f"conda activate {ENVIRONMENT}")
        return None

    @classmethod
    def getProgram(cls):
        """Return the start of the engine's command line, before the stage's name."""
        activation = cls.getActivation()
        if activation is None:
            raise FileNotFoundError(" ".join(cls.validateInstallation()))
        launcher = shlex.quote(str(Path(__file__).resolve().parent / "launcher.py"))
        if activation:
            return f"{activation} && python {launcher}"
        return f"{shlex.quote(sys.executable)} {launcher}"

    @classmethod
    def environmentErrors(cls):
        """Return why the engine cannot run on this machine; empty when it can. A good answer is asked for once."""
        activation = cls.getActivation()
        if activation is None:
            return cls.validateInstallation()
        if not activation:
            return []
        wanted = ", ".join(map(repr, (*ENGINE, *LIGHT)))
        ask = ("import sys; from importlib.util import find_spec; lacks = [name for name in "
               f"({wanted}) if not find_spec(name)]; sys.exit('this Python lacks ' + ', '.join(lacks) if lacks else 0)")
        return [f"The engine's environment cannot be used ({said}); correct {CRYOGEM_ENV_ACTIVATION} in Scipion's "
                f"configuration, which is {activation!r}, or install what is missing."
                for said in _failure(f"{activation} && python -c {shlex.quote(ask)}", cls.getEnviron())]

    @classmethod
    def cryodrgnErrors(cls):
        """Return why cryoDRGN cannot run on this machine; empty when it can."""
        activation = cls.getCryodrgnActivation()
        if not activation:
            return [f"The environment of cryoDRGN is not known; set {CRYODRGN_ENV_ACTIVATION} in Scipion's "
                    "configuration to the command that activates it."]
        return [f"The environment of cryoDRGN cannot be used ({said}); correct {CRYODRGN_ENV_ACTIVATION} in Scipion's "
                f"configuration, which is {activation!r}."
                for said in _failure(f"{activation} && (command -v cryodrgn || (echo no program cryodrgn >&2; false))",
                                     Environ(os.environ), shell="/bin/bash")]

    @classmethod
    def validateInstallation(cls):
        if cls.getActivation() is not None:
            return []
        return [f"No environment for the CryoGEM engine: this Python lacks {', '.join(_missing())}, and the conda "
                f"environment {ENVIRONMENT} is not installed.",
                f"Run 'scipion3 installb cryogem', or set {CRYOGEM_ENV_ACTIVATION} in Scipion's configuration."]

    @classmethod
    def defineBinaries(cls, env):
        """Offer a conda environment with what the engine needs; made unasked where this Python has no torch."""
        packages = " ".join(shlex.quote(requirement) for requirement in engine_requirements())
        steps = [f"{cls.getCondaActivationCmd()} conda create -y -n {ENVIRONMENT} python={PYTHON} pip",
                 f"conda activate {ENVIRONMENT}", f"pip install {packages}", f"touch {_target()}"]
        env.addPackage("cryogem", version=__version__, tar="void.tgz", commands=[(" && ".join(steps), _target())],
                       neededProgs=[] if cls.getCondaActivationCmd() else ["conda"], default=not has_engine())


def has_engine():
    """Whether this Python has the engine's libraries; found without importing them."""
    return not _missing()


def engine_requirements():
    """Return what pip has to install for the engine alone: all requirements but those of Scipion."""
    found = [Requirement(text) for text in requires(DISTRIBUTION) or []]
    scipion = {item.name for item in found if item.marker and item.marker.evaluate({"extra": "scipion"})
               and not item.marker.evaluate({"extra": ""})}
    return [str(item) for item in found if item.name not in scipion
            and (item.marker is None or item.marker.evaluate({"extra": ""}))]


def _failure(line, environ, shell=None):
    """The last words of a command line that fails, in a list; an empty list when it works, which is remembered."""
    if line in _worked:
        return []
    try:
        done = subprocess.run(line, shell=True, executable=shell, env=environ, capture_output=True, text=True,
                              errors="replace", timeout=PATIENCE)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [str(error)]
    if done.returncode:
        return [(done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}").splitlines()[-1]]
    _worked.add(line)
    return []


_worked = set()


def _missing():
    return [name for name in ENGINE if importlib.util.find_spec(name) is None]


def _installation():
    return Path(pwem.Config.EM_ROOT) / ENVIRONMENT


def _target():
    return f"ENGINE_{__version__}_INSTALLED"


def _with_conda(cls, activation):
    """Put Scipion's command that initialises conda before a command that uses it."""
    return f"{cls.getCondaActivationCmd()} {activation}".strip() if "conda" in activation else activation
