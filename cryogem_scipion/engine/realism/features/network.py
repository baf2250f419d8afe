# SPDX-License-Identifier: GPL-3.0-or-later
"""The network in a file, whichever it is."""
from pathlib import Path

from cryogem_scipion.engine.realism.features.inception import InceptionFeatures, inception_features
from cryogem_scipion.engine.realism.features.stored import read_network
from cryogem_scipion.engine.realism.features.topaz import TopazFeatures, topaz_features

__all__ = ["feature_network"]


def feature_network(path: Path) -> TopazFeatures | InceptionFeatures:
    """Return what turns pieces of micrographs (n, y, x) into feature vectors.

    Raises
    ------
    CheckpointError
        The file cannot be read safely, or holds a network that is not known here.
    """
    found = read_network(path)
    if isinstance(found, dict) and any(name.startswith("Mixed_") for name in found):
        return inception_features(found, str(path))
    return topaz_features(found, str(path))
