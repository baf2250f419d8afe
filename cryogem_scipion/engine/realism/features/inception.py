# SPDX-License-Identifier: GPL-3.0-or-later
"""Inception v3 up to its last pooling, from weights with the names of torchvision or pytorch-fid.

A batch norm and a ReLU follow every convolution. A block concatenates the results of several branches of
convolutions. ``BLOCKS`` lists the branches; the sizes of the convolutions are those of the weights.

References
----------
arXiv:1512.00567; as the features of a Fréchet distance arXiv:1706.08500
"""
import torch
from jaxtyping import Float
from torch import Tensor, nn

from cryogem_scipion.engine.errors import CheckpointError

__all__ = ["InceptionFeatures", "inception_features"]

EDGE = 299
"""Edge (px) of the images that the network was trained on."""
DEVIATIONS = 4.0
"""Grey values from -4 to 4 standard deviations fill the input range of -1 to 1."""
EPSILON = 1e-3
FID_CLASSES = 1008
"""Number of classes of the network for the Fréchet inception distance; its poolings differ from torchvision's."""

STEM = (("Conv2d_1a_3x3", 2), ("Conv2d_2a_3x3", 1), ("Conv2d_2b_3x3", 1), ("pool", 2), ("Conv2d_3b_1x1", 1),
        ("Conv2d_4a_3x3", 1), ("pool", 2))
# Convolutions without padding; all others keep the size of their input.
WITHOUT_PADDING = {"Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_4a_3x3", "Mixed_6a.branch3x3", "Mixed_6a.branch3x3dbl_3",
                   "Mixed_7a.branch3x3_2", "Mixed_7a.branch7x7x3_4"}
STRIDE_TWO = {"Mixed_6a.branch3x3", "Mixed_6a.branch3x3dbl_3", "Mixed_7a.branch3x3_2", "Mixed_7a.branch7x7x3_4"}


def _branch(name: str, count: int) -> tuple[str, ...]:
    return tuple(f"{name}_{number}" for number in range(1, count + 1))


BLOCK_A = (("branch1x1",), _branch("branch5x5", 2), _branch("branch3x3dbl", 3), ("branch_pool",))
BLOCK_C = (("branch1x1",), _branch("branch7x7", 3), _branch("branch7x7dbl", 5), ("branch_pool",))
BLOCK_E = (("branch1x1",), ("branch3x3_1", "branch3x3_2a|branch3x3_2b"),
           ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3a|branch3x3dbl_3b"), ("branch_pool",))
# An empty branch is a pooling with stride 2; "a|b" concatenates the results of two convolutions.
BLOCKS = {"Mixed_5b": BLOCK_A, "Mixed_5c": BLOCK_A, "Mixed_5d": BLOCK_A,
          "Mixed_6a": (("branch3x3",), _branch("branch3x3dbl", 3), ()),
          "Mixed_6b": BLOCK_C, "Mixed_6c": BLOCK_C, "Mixed_6d": BLOCK_C, "Mixed_6e": BLOCK_C,
          "Mixed_7a": (_branch("branch3x3", 2), _branch("branch7x7x3", 4), ()),
          "Mixed_7b": BLOCK_E, "Mixed_7c": BLOCK_E}


class InceptionFeatures(nn.Module):
    """2048 features of a patch, which is enlarged to the size of the network's training images."""

    def __init__(self, convolutions: nn.ModuleDict, fid: bool) -> None:
        super().__init__()
        self.convolutions, self.fid = convolutions, fid

    def forward(self, patches: Float[Tensor, "n y x"]) -> Float[Tensor, "n d"]:
        """Feature vector of each patch."""
        grey = (patches / DEVIATIONS).clamp(-1, 1)[:, None].expand(-1, 3, -1, -1)
        return self.pooled(nn.functional.interpolate(grey, (EDGE, EDGE), mode="bilinear", align_corners=False))

    def pooled(self, image: Float[Tensor, "n 3 y x"]) -> Float[Tensor, "n d"]:
        """Last feature maps, averaged over the image."""
        for name, stride in STEM:
            image = nn.functional.max_pool2d(image, 3, stride) if name == "pool" else self._convolve("", name, image)
        for block, branches in BLOCKS.items():
            image = torch.cat([self._run_branch(block, branch, image) for branch in branches], 1)
        return image.mean((2, 3))

    def _run_branch(self, block: str, branch: tuple[str, ...], image: Tensor) -> Tensor:
        if not branch:
            return nn.functional.max_pool2d(image, 3, 2)
        if branch == ("branch_pool",):
            image = nn.functional.max_pool2d(image, 3, 1, 1) if self.fid and block == "Mixed_7c" else (
                nn.functional.avg_pool2d(image, 3, 1, 1, count_include_pad=not self.fid))
        for step in branch:
            image = torch.cat([self._convolve(f"{block}.", name, image) for name in step.split("|")], 1)
        return image

    def _convolve(self, prefix: str, name: str, image: Tensor) -> Tensor:
        return torch.relu(self.convolutions[(prefix + name).replace(".", ":")](image))


def inception_features(weights: dict[str, Tensor], name: str) -> InceptionFeatures:
    """Feature network from the weights of an Inception v3.

    Parameters
    ----------
    weights
        Result of ``read_network``.
    name
        Name of the file, for messages.

    Raises
    ------
    CheckpointError
        Tensors are missing or do not fit each other.
    """
    layers = [layer for layer, _ in STEM if layer != "pool"]
    layers += [f"{block}.{layer}" for block, branches in BLOCKS.items() for branch in branches for step in branch
               for layer in step.split("|")]
    try:
        convolutions = nn.ModuleDict({layer.replace(".", ":"): _convolution(weights, layer) for layer in layers})
        classes = weights.get("fc.weight")
        network = InceptionFeatures(convolutions, classes is not None and classes.shape[0] == FID_CLASSES)
        with torch.no_grad():
            network.pooled(torch.zeros(1, 3, 75, 75))  # the smallest image that it takes
    except (KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{name} is not an Inception v3 of torchvision or pytorch-fid ({type(error).__name__}: "
                              f"{str(error).splitlines()[0]}); give such a file") from None
    return network.eval().requires_grad_(False)


def _convolution(weights: dict[str, Tensor], name: str) -> nn.Conv2d:
    """Convolution that includes the batch norm after it."""
    weight, gain, shift, mean, variance = (
        weights[f"{name}.{part}"].double() for part in
        ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"))
    scale = gain / (variance + EPSILON).sqrt()
    channels_out, channels_in, y, x = weight.shape
    padding = (0, 0) if name in WITHOUT_PADDING else (y // 2, x // 2)
    stride = 2 if name in STRIDE_TWO or name == STEM[0][0] else 1
    layer = nn.Conv2d(channels_in, channels_out, (y, x), stride, padding)
    layer.load_state_dict({"weight": (weight * scale[:, None, None, None]).float(),
                           "bias": (shift - mean * scale).float()})
    return layer
