# SPDX-License-Identifier: GPL-3.0-or-later
"""Losses of the training: adversarial, mask-guided contrastive (arXiv:2312.02235), and the contrast drift."""
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

__all__ = ["ContrastiveForm", "SamplePoints", "at_least_float32", "contrast_drift", "contrastive_loss",
           "gradient_penalty", "least_squares_loss", "patch_nce_loss", "sample_points", "score_difference"]

MIN_SIGNAL_POWER = 3e-3
"""Smallest mean power of the signal, in noise variances, that the contrast drift is divided by."""
ContrastiveForm = Literal["guided", "published", "unguided"]
SamplePoints = tuple[Int[Tensor, " inside"], Int[Tensor, " outside"]]
"""Places on the grid of an encoder layer, as indices into its flattened pixels: inside and outside particles."""


def least_squares_loss(scores: Sequence[Float[Tensor, "b 1 _ _"]], target: float) -> Float[Tensor, ""]:
    """Least-squares adversarial loss: mean squared difference of the discriminator's scores from a target.

    Parameters
    ----------
    scores
        Score maps of a discriminator. All maps have the same weight.
    target
        1 for real images, 0 for generated ones.

    References
    ----------
    doi:10.1109/ICCV.2017.304
    """
    return torch.stack([(score_map - target).square().mean() for score_map in scores]).mean()


def score_difference(real: Sequence[Float[Tensor, "b 1 _ _"]],
                     generated: Sequence[Float[Tensor, "b 1 _ _"]]) -> Float[Tensor, ""]:
    """Mean score of real minus mean score of generated images.

    Parameters
    ----------
    real, generated
        Score maps of a discriminator. All maps have the same weight.
    """
    return torch.stack([one.mean() - other.mean() for one, other in zip(real, generated, strict=True)]).mean()


def gradient_penalty(scores: Sequence[Float[Tensor, "b 1 _ _"]],
                     image: Float[Tensor, "b 1 y x"]) -> Float[Tensor, ""]:
    """Mean squared gradient of a score with respect to the image.

    The gradients of neighbouring scores overlap. They are computed together, as if they were independent.

    Parameters
    ----------
    scores
        Score maps of a discriminator for ``image``.
    image
        Images that require a gradient.

    References
    ----------
    arXiv:1801.04406 (R1 regularisation)
    """
    total = torch.stack([score_map.sum() / score_map[0].numel() ** 0.5 for score_map in scores]).sum()
    (gradient,) = torch.autograd.grad(total, image, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean() / len(scores)


def at_least_float32(values: Float[Tensor, "*size"]) -> Float[Tensor, "*size"]:
    """Values in float32 if their precision is lower; float64 stays."""
    return values if values.dtype == torch.float64 else values.float()


def sample_points(mask: Float[Tensor, "y x"], grid: tuple[int, int], count: int,
                  generator: torch.Generator) -> SamplePoints:
    """Draw places of an encoder layer without repetition, half of them inside particles and half outside.

    If a region is too small for its half, the other region gets more places. Queries, positives and negatives are all
    read at these places.

    Parameters
    ----------
    mask
        1 inside particles. A place is inside if the mean of the mask over its cell of the grid is 0.5 or more.
    grid
        Size (y, x) of the layer.
    count
        Number of places in both regions together.
    """
    cells = functional.adaptive_avg_pool2d(mask[None, None].to(torch.float32), grid).flatten() >= 0.5
    inside, outside = (torch.nonzero(region).flatten() for region in (cells.cpu(), ~cells.cpu()))
    half = count // 2
    counts = (min(len(inside), max(half, count - len(outside))), min(len(outside), max(half, count - len(inside))))
    drawn = [region[torch.randperm(len(region), generator=generator)[:number]]
             for region, number in zip((inside, outside), counts, strict=True)]
    return drawn[0], drawn[1]


def patch_nce_loss(query: Float[Tensor, "points d"], key: Float[Tensor, "points d"], inside: int,
                   temperature: float = 0.07, form: ContrastiveForm = "guided") -> Float[Tensor, ""]:
    """Patch-wise contrastive loss (PatchNCE) of one layer of one image.

    Parameters
    ----------
    query, key
        Unit vectors of the generated and of the physical image at the same places. Places inside particles come
        first.
    inside
        Number of places inside particles.
    temperature
        Divisor of the similarities.
    form
        guided: the negatives of a query are the keys of the other region. unguided: its negatives are all other keys.
        published: as the published program computes it; each negative key is compared with all queries of a region
        instead of its own query.

    Returns
    -------
    Mean cross-entropy of classifying the positive. If all places are in one region, the unguided form is used; a
    single place has loss 0.

    References
    ----------
    doi:10.1007/978-3-030-58545-7_19; with masks arXiv:2312.02235
    """
    count = len(query)
    if count < 2:
        return query.sum() * 0
    similarity = query @ key.T / temperature
    if form == "published":
        return _published(query, key, inside, temperature)
    is_inside = torch.arange(count, device=query.device) < inside
    if form == "guided" and 0 < inside < count:
        compared = is_inside[:, None] != is_inside[None]
    else:
        compared = torch.ones(count, count, dtype=torch.bool, device=query.device)
    compared = compared | torch.eye(count, dtype=torch.bool, device=query.device)
    logits = similarity.masked_fill(~compared, float("-inf"))
    return (torch.logsumexp(logits, 1) - similarity.diagonal()).mean()


def contrastive_loss(projections: Callable[[int, Tensor], Tensor], generated: Sequence[Float[Tensor, "b _ _ _"]],
                     physical: Sequence[Float[Tensor, "b _ _ _"]], masks: Float[Tensor, "b y x"],
                     generator: torch.Generator, patches: int = 256, temperature: float = 0.07,
                     form: ContrastiveForm = "guided") -> Float[Tensor, ""]:
    """Mask-guided contrastive loss, averaged over layers and images.

    Parameters
    ----------
    projections
        Function of a layer and its features (points, channels) that returns unit vectors.
    generated, physical
        Encoder features of the generated and of the physical images, one tensor for each layer. No gradient flows
        through the projections of ``physical``.
    masks
        1 inside particles.
    generator
        Random generator of the places.
    patches
        Number of places in each image and layer.
    temperature, form
        See ``patch_nce_loss``.
    """
    losses = []
    for layer, (generated_layer, physical_layer) in enumerate(zip(generated, physical, strict=True)):
        grid = (generated_layer.shape[2], generated_layer.shape[3])
        for image in range(len(masks)):
            points = sample_points(masks[image], grid, patches, generator)
            indices = torch.cat(points).to(generated_layer.device)
            query, key = (projections(layer, features[image].flatten(1).T[indices])
                          for features in (generated_layer, physical_layer))
            losses.append(patch_nce_loss(at_least_float32(query), at_least_float32(key).detach(), len(points[0]),
                                         temperature, form))
    return torch.stack(losses).mean()


def contrast_drift(change: Float[Tensor, "b y x"], signal: Float[Tensor, "b y x"],
                   total: Callable[[Tensor], Tensor] = lambda value: value) -> Float[Tensor, ""]:
    """Relative change of the particles' contrast by the translation.

    Parameters
    ----------
    change
        Generated minus physical image.
    signal
        Part of the physical image that comes from the particles, in the same units; negative in dark particles.
    total
        Function that adds up a value over all processes of the batch.

    Returns
    -------
    Slope of a linear fit of the change by the signal over the whole batch: 0 if the contrast stays, 0.1 if it grows by
    10 %, 0 if there are no particles.
    """
    centred = signal - signal.mean((1, 2), keepdim=True)
    power, pixels = total(centred.square().sum()), total(signal.new_tensor(float(signal.numel())))
    # With very little signal in the batch, the slope would be random.
    return total((change * centred).sum()) / torch.maximum(power, MIN_SIGNAL_POWER * pixels)


def _published(query: Float[Tensor, "points d"], key: Float[Tensor, "points d"], inside: int,
               temperature: float) -> Float[Tensor, ""]:
    """The published form: row i has query i with its positive, and negative key i with all queries of the region."""
    half = min(inside, len(query) - inside)
    if not half:
        return patch_nce_loss(query, key, inside, temperature, "unguided")
    regions = (slice(0, half), slice(inside, inside + half))
    losses = []
    for region, other_region in (regions, regions[::-1]):
        positive = (query[region] * key[region]).sum(1, keepdim=True)
        logits = torch.cat([positive, key[other_region] @ query[region].T], 1) / temperature
        losses.append(functional.cross_entropy(logits, torch.zeros(half, dtype=torch.long, device=query.device)))
    return torch.stack(losses).mean()
