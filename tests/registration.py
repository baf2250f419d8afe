# SPDX-License-Identifier: GPL-3.0-or-later
"""Scipion finds plugins through installed metadata; a bare checkout has none, so tests make it outside of it."""
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]


def is_installed():
    """Whether the checkout is what Python finds as the installed plugin."""
    try:
        distribution("scipion-em-cryogem")
    except PackageNotFoundError:
        return False
    return True


def checkout_environment(folder):
    """Return an environment in which Python and Scipion find the checkout; its metadata goes to ``folder``."""
    subprocess.run([sys.executable, "setup.py", "--quiet", "egg_info", "--egg-base", str(folder)], cwd=CHECKOUT,
                   check=True, capture_output=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SCIPION_")}
    return {**kept, "PYTHONPATH": os.pathsep.join([str(CHECKOUT), str(folder)]), "SCIPION_DOMAIN": "pwem",
            "MPLBACKEND": "Agg"}
