# SPDX-License-Identifier: GPL-3.0-or-later
"""Shared by all tests: checks of array shapes, a seeded random generator, a clock, and the choice of slow tests."""
import os
from itertools import count
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the program sets it

import pytest
from jaxtyping import install_import_hook

collect_ignore = ["test_protocols_cryogem.py"]  # for Scipion's test runner, see tests/scipion/test_scipion_runner.py
PACKAGE = Path(__file__).resolve().parents[1] / "cryogem_scipion"


def checked_modules():
    """Yield the names of the modules whose array shapes are checked in tests: all except those that numba compiles."""
    for path in [path for package in ("compute", "simulation", "noise", "measurement", "translator", "realism",
                                                  "pose_estimation")
                 for path in PACKAGE.glob(f"engine/{package}/*.py")]:
        if "import numba" not in path.read_text("utf-8"):
            yield ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


try:
    import tests.typechecker  # noqa: F401
except ImportError:  # without beartype the shapes are not checked
    pass
else:
    install_import_hook(list(checked_modules()), "tests.typechecker.typechecked")

try:
    from hypothesis import HealthCheck, settings
except ImportError:  # the test modules that need hypothesis skip themselves
    pass
else:
    # No deadline, because a busy machine is slow. Every run uses the same examples, so that a change never fails by
    # chance. tests/fuzz.py searches for new examples.
    settings.register_profile("steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("steady")


@pytest.fixture
def generator():
    """A random generator with the same seed in every test."""
    import torch
    return torch.Generator().manual_seed(20241115)


@pytest.fixture
def clock(monkeypatch):
    """A clock for the progress that advances by 0.01 s at each reading, also on a busy machine."""
    readings = count()
    clock = SimpleNamespace(monotonic=lambda: 0.01 * next(readings))
    monkeypatch.setattr("cryogem_scipion.engine.runs.progress.time", clock)


def by_group(items):
    """Let all tests of a file run in one process, and all of Scipion's, because they share a project."""
    for item in items:
        folder = item.path.parent
        item.add_marker(pytest.mark.xdist_group(folder.name if folder.name == "scipion" else str(item.path)))


def pytest_collection_modifyitems(config, items):
    """Group the tests. Skip slow ones and those of optional programs, except in ``make test-all`` (CRYOGEM_TEST_ALL=1).
    """
    by_group(items)
    if os.environ.get("CRYOGEM_TEST_ALL"):
        return
    skip = pytest.mark.skip(reason="only in 'make test-all'")
    for item in items:
        if "optional" in item.keywords or "slow" in item.keywords:
            item.add_marker(skip)
