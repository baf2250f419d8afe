# SPDX-License-Identifier: GPL-3.0-or-later
"""The adversarial and the mask-guided contrastive loss (arXiv 2312.02235), and one that keeps the contrast."""
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

__all__ = ["Form", "Points", "contrast_drift", "contrastive", "gradient_penalty", "least_squares",
           "patch_contrast", "sample_points", "single"]

LEAST_SIGNAL = 3e-3
"""Mean power of the signal, in noise variances, below which a piece says nothing about the contrast."""
Form = Literal["guided", "published", "unguided"]
Points = tuple[Int[Tensor, " inside"], Int[Tensor, " outside"]]
"""Places on a layer's grid, as indices into its flattened pixels: inside particles and outside."""


def least_squares(judgements: Sequence[Float[Tensor, "b 1 _ _"]], target: float) -> Float[Tensor, ""]:
    """Mean squared distance of the judgements from the target, over all maps alike."""
    return torch.stack([(judgement - target).square().mean() for judgement in judgements]).mean()


def gradient_penalty(judgements: Sequence[Float[Tensor, "b 1 _ _"]],
                     image: Float[Tensor, "b 1 y x"]) -> Float[Tensor, ""]:
    """Squared gradient of a judgement with respect to the image, the mean over all of them (arXiv 1801.04406).

    Gradients of neighbouring judgements overlap; they are taken together, as if they were independent.
    """
    total = torch.stack([judgement.sum() / judgement[0].numel() ** 0.5 for judgement in judgements]).sum()
    (gradient,) = torch.autograd.grad(total, image, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean() / len(judgements)


def single(values: Float[Tensor, "*size"]) -> Float[Tensor, "*size"]:
    """In float32 where they were less exact."""
    return values if values.dtype == torch.float64 else values.float()


def sample_points(mask: Float[Tensor, "y x"], grid: tuple[int, int], count: int,
                  generator: torch.Generator) -> Points:
    """Draw places without repetition, up to half of ``count`` in each region.

    The mask is averaged over each cell of the layer's grid; a cell is inside from one half on.
    Where a region is smaller the other one takes its share. Queries, positives and negatives are
    all read at these places, by index.
    """
    cells = functional.adaptive_avg_pool2d(mask[None, None].to(torch.float32), grid).flatten() >= 0.5
    inside, outside = (torch.nonzero(region).flatten() for region in (cells.cpu(), ~cells.cpu()))
    half = count // 2
    wanted = (min(len(inside), max(half, count - len(outside))), min(len(outside), max(half, count - len(inside))))
    drawn = [region[torch.randperm(len(region), generator=generator)[:number]]
             for region, number in zip((inside, outside), wanted, strict=True)]
    return drawn[0], drawn[1]


def patch_contrast(query: Float[Tensor, "points d"], key: Float[Tensor, "points d"], inside: int,
                   temperature: float = 0.07, form: Form = "guided") -> Float[Tensor, ""]:
    """Contrastive loss of one layer of one image.

    Parameters
    ----------
    query, key
        Unit vectors of the generated and of the physical image at the same places, those inside
        particles first.
    inside
        How many are inside.
    form
        guided: the negatives of a query are the keys of the other region. unguided: all other keys.
        published: as guided, but with the roles exchanged: the negative keys are compared with all
        queries of the region instead of with their own.

    Returns
    -------
    Mean cross-entropy of finding the positive. Without another region the loss is that of unguided.
    """
    count = len(query)
    if count < 2:
        return query.sum() * 0
    similarity = query @ key.T / temperature
    if form == "published":
        return _published(query, key, inside, temperature)
    region = torch.arange(count, device=query.device) < inside
    if form == "guided" and 0 < inside < count:
        allowed = region[:, None] != region[None]
    else:
        allowed = torch.ones(count, count, dtype=torch.bool, device=query.device)
    allowed = allowed | torch.eye(count, dtype=torch.bool, device=query.device)
    logits = similarity.masked_fill(~allowed, float("-inf"))
    return (torch.logsumexp(logits, 1) - similarity.diagonal()).mean()


def contrastive(projections: Callable[[int, Tensor], Tensor], generated: Sequence[Float[Tensor, "b _ _ _"]],
                physical: Sequence[Float[Tensor, "b _ _ _"]], masks: Float[Tensor, "b y x"],
                generator: torch.Generator, patches: int = 256, temperature: float = 0.07,
                form: Form = "guided") -> Float[Tensor, ""]:
    """Mask-guided contrastive loss, the mean over layers and images.

    Parameters
    ----------
    generated, physical
        Encoder features of both images, layer by layer. No gradient goes through ``physical``'s projections.
    masks
        Where particles are.
    patches
        Places in each image and layer.
    """
    losses = []
    for layer, (of_generated, of_physical) in enumerate(zip(generated, physical, strict=True)):
        grid = (of_generated.shape[2], of_generated.shape[3])
        for image in range(len(masks)):
            points = sample_points(masks[image], grid, patches, generator)
            places = torch.cat(points).to(of_generated.device)
            query, key = (projections(layer, features[image].flatten(1).T[places])
                          for features in (of_generated, of_physical))
            losses.append(patch_contrast(single(query), single(key).detach(), len(points[0]), temperature, form))
    return torch.stack(losses).mean()


def contrast_drift(change: Float[Tensor, "b y x"], signal: Float[Tensor, "b y x"],
                   total: Callable[[Tensor], Tensor] = lambda value: value) -> Float[Tensor, ""]:
    """How much of the particles' signal the translation adds, as a part of it: 0 keeps the contrast.

    Parameters
    ----------
    change
        Translated minus physical image.
    signal
        The particles' part of the physical image, in the same units (dark is negative).
    total
        Adds up a number over all processes that share the batch.

    Returns
    -------
    Slope of the change against the signal, over the whole batch; 0 where there are no particles.
    """
    centred = signal - signal.mean((1, 2), keepdim=True)
    power, pixels = total(centred.square().sum()), total(signal.new_tensor(float(signal.numel())))
    # With hardly a particle in view the slope would be chance.
    return total((change * centred).sum()) / torch.maximum(power, LEAST_SIGNAL * pixels)


def _published(query: Float[Tensor, "points d"], key: Float[Tensor, "points d"], inside: int,
               temperature: float) -> Float[Tensor, ""]:
    """Row i holds its positive, and negative key i against every query of the region."""
    half = min(inside, len(query) - inside)
    if not half:
        return patch_contrast(query, key, inside, temperature, "unguided")
    regions = (slice(0, half), slice(inside, inside + half))
    losses = []
    for own, other in (regions, regions[::-1]):
        positive = (query[own] * key[own]).sum(1, keepdim=True)
        logits = torch.cat([positive, key[other] @ query[own].T], 1) / temperature
        losses.append(functional.cross_entropy(logits, torch.zeros(half, dtype=torch.long, device=query.device)))
    return torch.stack(losses).mean()
