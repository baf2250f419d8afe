# SPDX-License-Identifier: GPL-3.0-or-later
"""The programs of the folder benchmarks as modules."""
import importlib.util
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


def benchmark(name):
    """Return the module of a benchmark; skips the test where only the package is installed."""
    if not FOLDER.is_dir():
        pytest.skip("benchmarks are not part of the installed package")
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))  # a benchmark imports others of its folder
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a dataclass looks for its module
    spec.loader.exec_module(module)
    return module
