# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs in separate environments, found by the environment variables of Scipion's plugins."""
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Program:
    """An optional program such as ``topaz``, in the environment that ``TOPAZ_ENV_ACTIVATION`` activates.

    Without this variable, the environment is the folder ``.venv-topaz`` that ``.ci/topaz-env.sh`` creates.
    """

    def __init__(self, name):
        self.name, self.variable = name, f"{name.upper()}_ENV_ACTIVATION"
        default = ROOT / f".venv-{name}/bin/activate"
        self.activation = os.environ.get(self.variable) or (f". '{default}'" if default.is_file() else "")
        reason = (f"{name} is not installed: neither {self.variable} is set nor does .venv-{name} exist "
                  f"(.ci/{name}-env.sh creates it)")
        self.marks = [pytest.mark.optional, pytest.mark.skipif(not self.activation, reason=reason)]

    def __call__(self, folder, *arguments, **environment):
        """Run the program in a folder and return its standard output."""
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        process = subprocess.run(["bash", "-c", f'{self.activation} && {self.name} "$@"', "bash", *map(str, arguments)],
                                 cwd=folder, env=inherited | environment, capture_output=True, text=True)
        assert process.returncode == 0, process.stderr
        return process.stdout
