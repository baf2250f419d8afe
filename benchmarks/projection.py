# SPDX-License-Identifier: GPL-3.0-or-later
"""Projection: speed against rotating and summing in real space, and what accuracy costs.

Both ways are timed alternately in this one process, on the same map and orientations, so that a busy machine
slows both; ratios of medians are printed, seconds only beside them. The reference turns the map with torch's
``grid_sample`` and sums along z, one projection at a time. Errors are relative, in the L2 norm, against the exact
projections of a sum of Gaussians (deviation 2 to 5 pixels, two deviations inside 0.35 of the box).

    python benchmarks/projection.py [--boxes 64 128] [--rounds 7] [--threads 2] [--device cpu]
"""
import argparse
import time
from statistics import median

import torch
from torch.nn.functional import affine_grid, grid_sample

from cryogem_scipion.engine.simulation.phantom import Gaussians, exact_projections, gaussian_density
from cryogem_scipion.engine.simulation.projection import prepare_projector, project, rotation_matrices

SETTINGS = [(1, 1.0), (1, 2.0), (1, 3.0), (1, 4.0), (3, 1.0), (3, 1.25), (3, 1.5), (3, 2.0), (3, 3.0)]
DEFAULT = (3, 1.5)


def beads(box, generator, count=40):
    """Gaussians as the accuracy is defined on, voxel 1 Å."""
    sigmas = 2 + 3 * torch.rand(count, generator=generator)
    directions = torch.randn(count, 3, generator=generator)
    radii = torch.rand(count, 1, generator=generator) ** (1 / 3) * (0.35 * box - 2 * sigmas[:, None])
    return Gaussians(directions / directions.norm(dim=1, keepdim=True) * radii, sigmas, torch.ones(count))


def rotate_and_sum(volume, rotation):
    """The reference: one projection in real space."""
    turned = torch.cat([rotation.T, rotation.new_zeros(3, 1)], dim=1)[None]
    grid = affine_grid(turned, [1, 1, *volume.shape], align_corners=False)
    return grid_sample(volume[None, None], grid, align_corners=False)[0, 0].sum(0)


def seconds(work, count, device):
    """Time for one of the ``count`` projections that a call makes."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / count


def compare(box, rounds, device, settings):
    """Print one line for each setting: error, time, and how many times faster than the reference it is."""
    generator = torch.Generator().manual_seed(box)
    model = beads(box, generator)
    volume = gaussian_density(model, box, 1.0)
    count = max(60, 400 * 64**3 // box**3) * (1 if device.type == "cpu" else 10)
    slow = max(2, 8 * 64**3 // box**3)
    rotations = rotation_matrices(torch.rand(count, 3, generator=generator) * torch.tensor([360.0, 180.0, 360.0]))
    shifts = torch.rand(count, 2, generator=generator) - 0.5
    exact = exact_projections(model, rotations[:20], shifts[:20], box, 1.0)
    norms = exact.flatten(1).norm(dim=1)
    turns, moves, map_there = rotations.to(device), shifts.to(device), volume.density.to(device)
    for order, padding in settings:
        projector = prepare_projector(type(volume)(map_there, 1.0), padding, order)
        made = project(projector, turns[:20], moves[:20], box, 1.0).cpu()
        error = ((made - exact).flatten(1).norm(dim=1) / norms).max()
        rotate_and_sum(map_there, turns[0])
        project(projector, turns, moves, box, 1.0)
        times = [(seconds(lambda: [rotate_and_sum(map_there, turn) for turn in turns[:slow]], slow, device),
                  seconds(lambda p=projector: project(p, turns, moves, box, 1.0), count, device))
                 for _ in range(rounds)]
        reference, ours = (median(column) for column in zip(*times, strict=True))
        mark = "  <- default" if (order, padding) == DEFAULT else ""
        print(f"{box:4d}^3  {('linear', 'cubic')[order == 3]:6s} padding {padding:4.2f}  error {error:.5f}  "
              f"{reference / ours:6.0f} x faster  ({reference * 1e3:8.2f} -> {ours * 1e3:.3f} ms){mark}", flush=True)


def main():
    """Read the arguments and print the comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--boxes", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--default-only", action="store_true", help="leave the speed-error curve out")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for box in arguments.boxes:
        compare(box, arguments.rounds, torch.device(arguments.device),
                [DEFAULT] if arguments.default_only else SETTINGS)


if __name__ == "__main__":
    main()
