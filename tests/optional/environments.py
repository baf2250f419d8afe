# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs in environments of their own, found by the variables that Scipion's plugins have for them."""
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Program:
    """An optional program, such as ``topaz``: ``NAME_ENV_ACTIVATION``, else the folder that ``.ci/NAME-env.sh`` makes.
    """

    def __init__(self, name):
        self.name, self.variable = name, f"{name.upper()}_ENV_ACTIVATION"
        default = ROOT / f".venv-{name}/bin/activate"
        self.activation = os.environ.get(self.variable) or (f". '{default}'" if default.is_file() else "")
        reason = (f"{name} is not installed: neither {self.variable} is set nor .venv-{name} there (.ci/{name}-env.sh "
                  "makes it)")
        self.marks = [pytest.mark.optional, pytest.mark.skipif(not self.activation, reason=reason)]

    def __call__(self, folder, *arguments, **environment):
        """Run the program in a folder; what it printed."""
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(["bash", "-c", f'{self.activation} && {self.name} "$@"', "bash", *map(str, arguments)],
                              cwd=folder, env=inherited | environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout
