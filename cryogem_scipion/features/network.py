# SPDX-License-Identifier: GPL-3.0-or-later
"""The network in a file, whichever it is."""
from pathlib import Path

from torch import nn

from cryogem_scipion.features.stored import read_network
from cryogem_scipion.features.topaz import topaz_features

__all__ = ["feature_network"]


def feature_network(path: Path) -> nn.Module:
    """Return what turns pieces of micrographs (n, y, x) into feature vectors.

    Raises
    ------
    CheckpointError
        The file cannot be read safely, or holds a network that is not known here.
    """
    return topaz_features(read_network(path), str(path))
