# SPDX-License-Identifier: GPL-3.0-or-later
"""What all tests share: shapes checked while testing, a seeded generator, few threads."""
import os

os.environ.setdefault("MPLBACKEND", "Agg")

import pytest

try:
    from jaxtyping import install_import_hook
    install_import_hook(["cryogem_scipion.physics", "cryogem_scipion.translator", "cryogem_scipion.generation",
                         "cryogem_scipion.labels"], "beartype.beartype")
except ImportError:  # without beartype the shapes are documentation only
    pass


@pytest.fixture
def generator():
    """A random generator with the same seed in every test."""
    import torch
    return torch.Generator().manual_seed(20241115)


def pytest_collection_modifyitems(config, items):
    """Leave tests that need an optional program, or long, to ``make test-all`` (``CRYOGEM_TEST_ALL=1``)."""
    if os.environ.get("CRYOGEM_TEST_ALL"):
        return
    skip = pytest.mark.skip(reason="only in 'make test-all'")
    for item in items:
        if "optional" in item.keywords or "slow" in item.keywords:
            item.add_marker(skip)
