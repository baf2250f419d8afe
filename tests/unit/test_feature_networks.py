# SPDX-License-Identifier: GPL-3.0-or-later
"""Feature networks: Topaz detectors and Inception v3 built from tensors, and files that must not be run."""
import os
import pickle

import pytest
import torch
from torch import nn

from cryogem_scipion.engine.errors import CheckpointError
from cryogem_scipion.engine.realism.features.feature_network import feature_network
from cryogem_scipion.engine.realism.features.inception import BLOCKS, STEM
from cryogem_scipion.engine.realism.features.network_file import STAND_INS


def resnet8(generator, units=4, prefix="features.features."):
    """Weights of a Topaz resnet8 without batch norm, with the names of Topaz."""
    u, v, w = units, 2 * units, 4 * units
    shapes = {"0.conv": (u, 1, 7), "1.conv0": (u, u, 3), "1.conv1": (u, u, 3), "2.conv0": (u, u, 3),
              "2.conv1": (v, u, 3), "3.conv0": (v, v, 3), "3.conv1": (v, v, 3), "4.conv": (w, v, 5)}
    state = {}
    for name, (channels_out, channels_in, size) in shapes.items():
        weight = torch.randn(channels_out, channels_in, size, size, generator=generator)
        state[f"{prefix}{name}.weight"] = weight / channels_in**0.5 / size
        state[f"{prefix}{name}.bias"] = 0.1 * torch.randn(channels_out, generator=generator)
    state[f"{prefix}2.proj.weight"] = torch.randn(v, u, 1, 1, generator=generator) / u**0.5
    return {**state, "classifier.weight": torch.zeros(1, w, 1, 1), "classifier.bias": torch.zeros(1)}


def expected_maps(state, patches):
    """Feature maps of the same network, layer by layer: stride 2 in the first layer and in the second block."""
    def conv(x, name, **options):
        return nn.functional.conv2d(x, state[f"features.features.{name}.weight"],
                                    state.get(f"features.features.{name}.bias"), **options)

    x = torch.relu(conv(nn.functional.pad(patches[:, None], (35, 35, 35, 35)), "0.conv", stride=2))
    for number, stride in ((1, 1), (2, 2), (3, 1)):
        y = conv(torch.relu(conv(x, f"{number}.conv0")), f"{number}.conv1", dilation=2, stride=stride)
        x = x[:, :, 3:-3, 3:-3]
        x = torch.relu(y + (conv(x, f"{number}.proj", stride=2) if number == 2 else x))
    return torch.relu(conv(x, "4.conv"))


def test_topaz_detector_from_weights_has_the_expected_features(generator, tmp_path):
    state = resnet8(generator)
    torch.save(state, tmp_path / "detector.sav")
    network = feature_network(tmp_path / "detector.sav")
    patches = torch.randn(2, 96, 96, generator=generator)
    maps = expected_maps(state, patches)
    assert maps.shape == (2, 16, 24, 24)
    assert torch.allclose(network.maps(patches), maps, atol=1e-5)
    assert torch.allclose(network(patches), torch.cat([maps.mean((2, 3)), maps.std((2, 3))], 1), atol=1e-5)
    assert float(network(patches).std()) > 0.01


def test_the_old_file_format_is_read_as_well(generator, tmp_path):
    """The pretrained detectors of Topaz have this format."""
    torch.save(resnet8(generator), tmp_path / "old.sav", _use_new_zipfile_serialization=False)
    assert feature_network(tmp_path / "old.sav").receptive_field == 71


class Malicious:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("write", ["pickle", "torch", "old torch", "state"])
def test_a_file_that_is_a_program_is_not_run(write, tmp_path, generator):
    path, trace = tmp_path / "malicious.sav", tmp_path / "trace"
    malicious = Malicious(f"touch '{trace}'")
    if write == "pickle":
        path.write_bytes(pickle.dumps(malicious, protocol=2))
    elif write == "state":
        torch.save({**resnet8(generator), "extra": malicious}, path)
    else:
        torch.save(malicious, path, _use_new_zipfile_serialization=write == "torch")
    with pytest.raises(CheckpointError, match=r"malicious\.sav is damaged, or cannot be read without running its code"):
        feature_network(path)
    assert not trace.exists()
    pickle.loads(pickle.dumps(malicious))  # control: an ordinary reader runs the command
    assert trace.exists()


def test_a_program_behind_the_names_of_topaz_is_not_run_either(tmp_path):
    """The stand-in classes have no methods, and the reader forgets them afterwards."""
    from cryogem_scipion.engine.realism.features import network_file
    assert all(not [name for name in vars(kind) if not name.startswith("__")] for kind in STAND_INS)
    before = set(torch.serialization.get_safe_globals())
    (tmp_path / "x.sav").write_bytes(pickle.dumps(Malicious("true"), protocol=2))
    with pytest.raises(CheckpointError):
        network_file.read_network(tmp_path / "x.sav")
    assert set(torch.serialization.get_safe_globals()) == before


def test_other_files_are_refused(generator, tmp_path):
    path = tmp_path / "x.sav"
    with pytest.raises(CheckpointError, match=r"x\.sav is not a file"):
        feature_network(path)
    path.write_bytes(b"no network" * 50)
    with pytest.raises(CheckpointError, match=r"x\.sav is damaged"):
        feature_network(path)
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="holds a list, not a network"):
        feature_network(path)
    state = resnet8(generator)
    del state["features.features.3.conv1.weight"]
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=r"x\.sav holds no known Topaz detector .*3\.conv1\.weight"):
        feature_network(path)
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match="layers none, 0 of them blocks"):
        feature_network(path)


def inception(generator, width=4):
    """Weights of an Inception v3 with few channels, with the names of torchvision."""
    state = {}

    def add(name, channels_in, channels_out, y, x):
        weight = torch.randn(channels_out, channels_in, y, x, generator=generator)
        state[f"{name}.conv.weight"] = weight / (channels_in * y * x) ** 0.5
        for part, values in (("weight", 1.0), ("bias", 0.2), ("running_mean", 0.1)):
            state[f"{name}.bn.{part}"] = values * (1 + 0.3 * torch.randn(channels_out, generator=generator))
        state[f"{name}.bn.running_var"] = 0.5 + torch.rand(channels_out, generator=generator)
        return channels_out

    channels = 3
    for name, size in (("Conv2d_1a_3x3", 3), ("Conv2d_2a_3x3", 3), ("Conv2d_2b_3x3", 3), ("Conv2d_3b_1x1", 1),
                       ("Conv2d_4a_3x3", 3)):
        channels = add(name, channels, width, size, size)
    for block, branches in BLOCKS.items():
        block_channels = 0
        for branch in branches:
            branch_channels = channels
            for step in branch:
                layers = step.split("|")
                for layer in layers:
                    y, x = kernel_size(f"{block}.{layer}")
                    add(f"{block}.{layer}", branch_channels, width, y, x)
                branch_channels = width * len(layers)
            block_channels += branch_channels
        channels = block_channels
    return state


def kernel_size(layer):
    """Kernel size of a convolution, from the description of the network in the paper."""
    for ending, size in {"branch5x5_2": (5, 5), "branch3x3": (3, 3), "branch3x3dbl_2": (3, 3), "branch3x3_2": (3, 3),
                         "branch3x3dbl_3": (3, 3), "branch7x7x3_2": (1, 7), "branch7x7x3_3": (7, 1),
                         "branch7x7x3_4": (3, 3), "branch7x7_2": (1, 7), "branch7x7_3": (7, 1),
                         "branch7x7dbl_2": (7, 1), "branch7x7dbl_3": (1, 7), "branch7x7dbl_4": (7, 1),
                         "branch7x7dbl_5": (1, 7), "_2a": (1, 3), "_3a": (1, 3), "_2b": (3, 1), "_3b": (3, 1)}.items():
        if layer.endswith(ending):
            return size
    return 1, 1


def test_inception_from_weights_has_the_expected_features(generator, tmp_path):
    """Stem and first block against separate convolutions and batch norms; the whole network runs."""
    state = inception(generator)
    torch.save(state, tmp_path / "inception.pth")
    network = feature_network(tmp_path / "inception.pth")
    assert network(torch.randn(2, 96, 96, generator=generator)).shape == (2, 4 * 6)
    assert not network.fid
    torch.save({**state, "fc.weight": torch.zeros(1008, 24)}, tmp_path / "fid.pth")
    assert feature_network(tmp_path / "fid.pth").fid

    def step(x, name, **options):
        x = nn.functional.conv2d(x, state[f"{name}.conv.weight"], **options)
        norms = (state[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return torch.relu(nn.functional.batch_norm(x, *norms, eps=1e-3))

    image = torch.randn(1, 3, 99, 99, generator=generator)
    x = step(step(step(image, "Conv2d_1a_3x3", stride=2), "Conv2d_2a_3x3"), "Conv2d_2b_3x3", padding=1)
    x = nn.functional.max_pool2d(x, 3, 2)
    x = nn.functional.max_pool2d(step(step(x, "Conv2d_3b_1x1"), "Conv2d_4a_3x3"), 3, 2)
    branches = [step(x, "Mixed_5b.branch1x1"), step(step(x, "Mixed_5b.branch5x5_1"), "Mixed_5b.branch5x5_2", padding=2)]
    y = step(step(x, "Mixed_5b.branch3x3dbl_1"), "Mixed_5b.branch3x3dbl_2", padding=1)
    branches += [step(y, "Mixed_5b.branch3x3dbl_3", padding=1),
                 step(nn.functional.avg_pool2d(x, 3, 1, 1), "Mixed_5b.branch_pool")]
    expected = torch.cat(branches, 1)
    x = image
    for name, stride in STEM:
        x = nn.functional.max_pool2d(x, 3, stride) if name == "pool" else network._convolve("", name, x)
    result = torch.cat([network._run_branch("Mixed_5b", branch, x) for branch in BLOCKS["Mixed_5b"]], 1)
    assert torch.allclose(result, expected, atol=1e-5)
    del state["Mixed_7c.branch_pool.bn.bias"]
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"x\.pth is not an Inception v3 .*Mixed_7c\.branch_pool\.bn\.bias"):
        feature_network(tmp_path / "x.pth")
