# SPDX-License-Identifier: GPL-3.0-or-later
"""Inception v3 up to its last pooling, from weights as torchvision or pytorch-fid name them.

Every convolution is followed by a batch norm and a rectifier; blocks put the results of several chains of convolutions
side by side. What the chains are stands in ``BLOCKS``; sizes are those of the weights.

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
"""Edge (px) of the images that the network was made for."""
DEVIATIONS = 4.0
"""Grey values of so many deviations around the mean fill its input range of -1 to 1."""
EPSILON = 1e-3
FID_CLASSES = 1008
"""Classes of the network that Fréchet distances of photographs are taken with; it pools a little differently."""

STEM = (("Conv2d_1a_3x3", 2), ("Conv2d_2a_3x3", 1), ("Conv2d_2b_3x3", 1), ("pool", 2), ("Conv2d_3b_1x1", 1),
        ("Conv2d_4a_3x3", 1), ("pool", 2))
# Convolutions without padding; all others keep the size.
BARE = {"Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_4a_3x3", "Mixed_6a.branch3x3", "Mixed_6a.branch3x3dbl_3",
        "Mixed_7a.branch3x3_2", "Mixed_7a.branch7x7x3_4"}
HALVING = {"Mixed_6a.branch3x3", "Mixed_6a.branch3x3dbl_3", "Mixed_7a.branch3x3_2", "Mixed_7a.branch7x7x3_4"}


def _chain(name: str, count: int) -> tuple[str, ...]:
    return tuple(f"{name}_{number}" for number in range(1, count + 1))


A = (("branch1x1",), _chain("branch5x5", 2), _chain("branch3x3dbl", 3), ("branch_pool",))
C = (("branch1x1",), _chain("branch7x7", 3), _chain("branch7x7dbl", 5), ("branch_pool",))
E = (("branch1x1",), ("branch3x3_1", "branch3x3_2a|branch3x3_2b"),
     ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3a|branch3x3dbl_3b"), ("branch_pool",))
# An empty chain is a pooling that halves the size; "a|b" puts two convolutions side by side.
BLOCKS = {"Mixed_5b": A, "Mixed_5c": A, "Mixed_5d": A,
          "Mixed_6a": (("branch3x3",), _chain("branch3x3dbl", 3), ()),
          "Mixed_6b": C, "Mixed_6c": C, "Mixed_6d": C, "Mixed_6e": C,
          "Mixed_7a": (_chain("branch3x3", 2), _chain("branch7x7x3", 4), ()), "Mixed_7b": E, "Mixed_7c": E}


class InceptionFeatures(nn.Module):
    """2048 features of a piece of image, enlarged to the size that the network was made for."""

    def __init__(self, convolutions: nn.ModuleDict, fid: bool) -> None:
        super().__init__()
        self.convolutions, self.fid = convolutions, fid

    def forward(self, pieces: Float[Tensor, "n y x"]) -> Float[Tensor, "n d"]:
        """The features of each piece."""
        grey = (pieces / DEVIATIONS).clamp(-1, 1)[:, None].expand(-1, 3, -1, -1)
        return self.pooled(nn.functional.interpolate(grey, (EDGE, EDGE), mode="bilinear", align_corners=False))

    def pooled(self, image: Float[Tensor, "n 3 y x"]) -> Float[Tensor, "n d"]:
        """The last features, averaged over the image."""
        for name, stride in STEM:
            image = nn.functional.max_pool2d(image, 3, stride) if name == "pool" else self._step("", name, image)
        for block, chains in BLOCKS.items():
            image = torch.cat([self._run(block, chain, image) for chain in chains], 1)
        return image.mean((2, 3))

    def _run(self, block: str, chain: tuple[str, ...], image: Tensor) -> Tensor:
        if not chain:
            return nn.functional.max_pool2d(image, 3, 2)
        if chain == ("branch_pool",):
            image = nn.functional.max_pool2d(image, 3, 1, 1) if self.fid and block == "Mixed_7c" else (
                nn.functional.avg_pool2d(image, 3, 1, 1, count_include_pad=not self.fid))
        for step in chain:
            image = torch.cat([self._step(f"{block}.", name, image) for name in step.split("|")], 1)
        return image

    def _step(self, prefix: str, name: str, image: Tensor) -> Tensor:
        return torch.relu(self.convolutions[(prefix + name).replace(".", ":")](image))


def inception_features(found: dict[str, Tensor], name: str) -> InceptionFeatures:
    """Return the network whose weights ``read_network`` found.

    Raises
    ------
    CheckpointError
        Tensors are missing or do not fit each other; ``name`` says which file.
    """
    steps = [step for step, _ in STEM if step != "pool"]
    steps += [f"{block}.{part}" for block, chains in BLOCKS.items() for chain in chains for step in chain
              for part in step.split("|")]
    try:
        convolutions = nn.ModuleDict({step.replace(".", ":"): _convolution(found, step) for step in steps})
        classes = found.get("fc.weight")
        network = InceptionFeatures(convolutions, classes is not None and classes.shape[0] == FID_CLASSES)
        with torch.no_grad():
            network.pooled(torch.zeros(1, 3, 75, 75))  # the smallest image that it takes
    except (KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{name} is no Inception v3 as torchvision or pytorch-fid write it "
                              f"({type(error).__name__}: {str(error).splitlines()[0]}); give such a file") from None
    return network.eval().requires_grad_(False)


def _convolution(found: dict[str, Tensor], step: str) -> nn.Conv2d:
    """A convolution with the batch norm behind it multiplied in."""
    weight, gain, shift, mean, variance = (found[f"{step}.{name}"].double() for name in
                                           ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"))
    scale = gain / (variance + EPSILON).sqrt()
    after, before, y, x = weight.shape
    padding = (0, 0) if step in BARE else (y // 2, x // 2)
    layer = nn.Conv2d(before, after, (y, x), 2 if step in HALVING or step == STEM[0][0] else 1, padding)
    layer.load_state_dict({"weight": (weight * scale[:, None, None, None]).float(),
                           "bias": (shift - mean * scale).float()})
    return layer
