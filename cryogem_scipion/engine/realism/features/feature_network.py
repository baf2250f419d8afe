# SPDX-License-Identifier: GPL-3.0-or-later
"""Feature network from a file: an Inception v3 or a Topaz detector."""
from pathlib import Path

from cryogem_scipion.engine.realism.features.inception import InceptionFeatures, inception_features
from cryogem_scipion.engine.realism.features.network_file import read_network
from cryogem_scipion.engine.realism.features.topaz import TopazFeatures, topaz_features

__all__ = ["feature_network"]


def feature_network(path: Path) -> TopazFeatures | InceptionFeatures:
    """Network from a file that returns a feature vector for each patch of an array (n, y, x).

    Raises
    ------
    CheckpointError
        The file cannot be read safely, or holds an unknown network.
    """
    contents = read_network(path)
    if isinstance(contents, dict) and any(name.startswith("Mixed_") for name in contents):
        return inception_features(contents, str(path))
    return topaz_features(contents, str(path))
