# SPDX-License-Identifier: GPL-3.0-or-later
"""Package metadata for tests in a bare checkout, because Scipion finds plugins through installed metadata."""
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]


def is_installed():
    """Return whether the plugin is installed."""
    try:
        distribution("scipion-em-cryogem")
    except PackageNotFoundError:
        return False
    return True


def checkout_environment(folder):
    """Return environment variables with which Python and Scipion find the checkout; ``folder`` gets its metadata."""
    subprocess.run([sys.executable, "setup.py", "--quiet", "egg_info", "--egg-base", str(folder)], cwd=CHECKOUT,
                   check=True, capture_output=True)
    variables = {name: value for name, value in os.environ.items() if not name.startswith("SCIPION_")}
    return {**variables, "PYTHONPATH": os.pathsep.join([str(CHECKOUT), str(folder)]), "SCIPION_DOMAIN": "pwem",
            "MPLBACKEND": "Agg"}
