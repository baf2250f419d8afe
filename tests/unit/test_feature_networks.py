# SPDX-License-Identifier: GPL-3.0-or-later
"""Feature networks: Topaz's detectors rebuilt from tensors, and files that must not be run."""
import os
import pickle

import pytest
import torch
from torch import nn

from cryogem_scipion.errors import CheckpointError
from cryogem_scipion.features.network import feature_network
from cryogem_scipion.features.stored import STAND_INS


def resnet8(generator, units=4, prefix="features.features."):
    """Weights as Topaz names them, of its eight-layer network without batch norm."""
    u, v, w = units, 2 * units, 4 * units
    shapes = {"0.conv": (u, 1, 7), "1.conv0": (u, u, 3), "1.conv1": (u, u, 3), "2.conv0": (u, u, 3),
              "2.conv1": (v, u, 3), "3.conv0": (v, v, 3), "3.conv1": (v, v, 3), "4.conv": (w, v, 5)}
    state = {}
    for name, (after, before, size) in shapes.items():
        weight = torch.randn(after, before, size, size, generator=generator)
        state[f"{prefix}{name}.weight"] = weight / before**0.5 / size
        state[f"{prefix}{name}.bias"] = 0.1 * torch.randn(after, generator=generator)
    state[f"{prefix}2.proj.weight"] = torch.randn(v, u, 1, 1, generator=generator) / u**0.5
    return {**state, "classifier.weight": torch.zeros(1, w, 1, 1), "classifier.bias": torch.zeros(1)}


def straightforward(state, pieces):
    """The same network, written out step by step: strides 2 at the first layer and in the second block."""
    def conv(x, name, **how):
        return nn.functional.conv2d(x, state[f"features.features.{name}.weight"],
                                    state.get(f"features.features.{name}.bias"), **how)

    x = torch.relu(conv(nn.functional.pad(pieces[:, None], (35, 35, 35, 35)), "0.conv", stride=2))
    for number, stride in ((1, 1), (2, 2), (3, 1)):
        y = conv(torch.relu(conv(x, f"{number}.conv0")), f"{number}.conv1", dilation=2, stride=stride)
        x = x[:, :, 3:-3, 3:-3]
        x = torch.relu(y + (conv(x, f"{number}.proj", stride=2) if number == 2 else x))
    return torch.relu(conv(x, "4.conv"))


def test_weights_of_a_topaz_detector_are_that_network(generator, tmp_path):
    state = resnet8(generator)
    torch.save(state, tmp_path / "detector.sav")
    network = feature_network(tmp_path / "detector.sav")
    pieces = torch.randn(2, 96, 96, generator=generator)
    maps = straightforward(state, pieces)
    assert maps.shape == (2, 16, 24, 24)
    assert torch.allclose(network.maps(pieces), maps, atol=1e-5)
    assert torch.allclose(network(pieces), torch.cat([maps.mean((2, 3)), maps.std((2, 3))], 1), atol=1e-5)
    assert float(network(pieces).std()) > 0.01


def test_the_old_file_format_is_read_as_well(generator, tmp_path):
    """Topaz's own files are of this kind."""
    torch.save(resnet8(generator), tmp_path / "old.sav", _use_new_zipfile_serialization=False)
    assert feature_network(tmp_path / "old.sav").width == 71


class Malicious:
    def __init__(self, program):
        self.program = program

    def __reduce__(self):
        return os.system, (self.program,)


@pytest.mark.parametrize("write", ["pickle", "torch", "old torch", "state"])
def test_a_file_that_is_a_program_is_not_run(write, tmp_path, generator):
    path, trace = tmp_path / "evil.sav", tmp_path / "trace"
    evil = Malicious(f"touch '{trace}'")
    if write == "pickle":
        path.write_bytes(pickle.dumps(evil, protocol=2))
    elif write == "state":
        torch.save({**resnet8(generator), "extra": evil}, path)
    else:
        torch.save(evil, path, _use_new_zipfile_serialization=write == "torch")
    with pytest.raises(CheckpointError, match=r"evil\.sav is damaged, or would have to be run"):
        feature_network(path)
    assert not trace.exists()
    pickle.loads(pickle.dumps(evil))  # the control: run as a program it does what it says
    assert trace.exists()


def test_a_program_behind_topazs_names_is_not_run_either(tmp_path):
    """The names stand for empty classes: whatever a file says of them stays data."""
    from cryogem_scipion.features import stored
    assert all(not [name for name in vars(kind) if not name.startswith("__")] for kind in STAND_INS)
    before = torch.serialization.get_safe_globals()
    (tmp_path / "x.sav").write_bytes(pickle.dumps(Malicious("true"), protocol=2))
    with pytest.raises(CheckpointError):
        stored.read_network(tmp_path / "x.sav")
    assert torch.serialization.get_safe_globals() == before


def test_other_files_are_refused(generator, tmp_path):
    path = tmp_path / "x.sav"
    with pytest.raises(CheckpointError, match=r"x\.sav is not a file"):
        feature_network(path)
    path.write_bytes(b"no network" * 50)
    with pytest.raises(CheckpointError, match=r"x\.sav is damaged"):
        feature_network(path)
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="holds a list and no network"):
        feature_network(path)
    state = resnet8(generator)
    del state["features.features.3.conv1.weight"]
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=r"x\.sav is no Topaz detector that is known here .*3\.conv1\.weight"):
        feature_network(path)
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match="layers none, 0 of them blocks"):
        feature_network(path)

