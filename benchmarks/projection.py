# SPDX-License-Identifier: GPL-3.0-or-later
"""Speed and error of Fourier-slice projection, for several interpolations and paddings.

    python benchmarks/projection.py [--boxes 64 128] [--rounds 7] [--threads 2] [--device cpu]

The real-space reference rotates the map with torch's ``grid_sample`` and sums along z, one projection at a time. Both
run in turn in one process, on the same map and orientations, so that other programs on the machine slow both. The table
gives the median time of one projection and the ratio of the medians. The error is the largest relative L2 error of 20
projections against the exact projections of a sum of Gaussians (standard deviations of 2 to 5 pixels, up to two
deviations inside 0.35 of the box).
"""
import argparse
import time
from statistics import median

import torch
from markdown_table import MarkdownTable
from torch.nn.functional import affine_grid, grid_sample

from cryogem_scipion.engine.simulation.phantom import Gaussians, exact_projections, gaussian_density
from cryogem_scipion.engine.simulation.projection import prepare_projector, project, rotation_matrices

SETTINGS = [(1, 1.0), (1, 2.0), (1, 3.0), (1, 4.0), (3, 1.0), (3, 1.25), (3, 1.5), (3, 2.0), (3, 3.0)]
DEFAULT = (3, 1.5)


def random_gaussians(box, generator, count=40):
    """Gaussians whose exact projections are known, voxel 1 Å."""
    sigmas = 2 + 3 * torch.rand(count, generator=generator)
    directions = torch.randn(count, 3, generator=generator)
    radii = torch.rand(count, 1, generator=generator) ** (1 / 3) * (0.35 * box - 2 * sigmas[:, None])
    return Gaussians(directions / directions.norm(dim=1, keepdim=True) * radii, sigmas, torch.ones(count))


def rotate_and_sum(volume, rotation):
    """One projection in real space: the reference."""
    matrix = torch.cat([rotation.T, rotation.new_zeros(3, 1)], dim=1)[None]
    grid = affine_grid(matrix, [1, 1, *volume.shape], align_corners=False)
    return grid_sample(volume[None, None], grid, align_corners=False)[0, 0].sum(0)


def seconds(work, count, device):
    """Wall time (s) of one of the ``count`` projections that a call makes."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / count


def compare(table, box, rounds, device, settings):
    """Add a row to the table for each setting: error, times, and the ratio of the times."""
    generator = torch.Generator().manual_seed(box)
    model = random_gaussians(box, generator)
    volume = gaussian_density(model, box, 1.0)
    count = max(60, 400 * 64**3 // box**3) * (1 if device.type == "cpu" else 10)
    reference_count = max(2, 8 * 64**3 // box**3)
    rotations = rotation_matrices(torch.rand(count, 3, generator=generator) * torch.tensor([360.0, 180.0, 360.0]))
    shifts = torch.rand(count, 2, generator=generator) - 0.5
    exact = exact_projections(model, rotations[:20], shifts[:20], box, 1.0)
    norms = exact.flatten(1).norm(dim=1)
    device_rotations, device_shifts, device_density = rotations.to(device), shifts.to(device), volume.density.to(device)
    for order, padding in settings:
        projector = prepare_projector(type(volume)(device_density, 1.0), padding, order)
        projections = project(projector, device_rotations[:20], device_shifts[:20], box, 1.0).cpu()
        error = ((projections - exact).flatten(1).norm(dim=1) / norms).max()
        rotate_and_sum(device_density, device_rotations[0])
        project(projector, device_rotations, device_shifts, box, 1.0)
        times = [(seconds(lambda: [rotate_and_sum(device_density, rotation)
                                   for rotation in device_rotations[:reference_count]], reference_count, device),
                  seconds(lambda p=projector: project(p, device_rotations, device_shifts, box, 1.0), count, device))
                 for _ in range(rounds)]
        reference, ours = (median(column) for column in zip(*times, strict=True))
        mark = " (default)" if (order, padding) == DEFAULT else ""
        table.row(f"{box}³", f"{('linear', 'cubic')[order == 3]}{mark}", f"{padding:.2f}", f"{error:.5f}",
                  f"{reference * 1e3:.2f}", f"{ours * 1e3:.3f}", f"{reference / ours:.0f}")


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boxes", type=int, nargs="+", default=[64, 128], help="edges of the maps (voxels)")
    parser.add_argument("--rounds", type=int, default=7, help="timed runs of each way")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--default-only", action="store_true", help="time the default setting only")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    table = MarkdownTable("map", "interpolation", "padding", "error", "real space (ms)", "CryoGEM (ms)", "times faster")
    for box in arguments.boxes:
        compare(table, box, arguments.rounds, torch.device(arguments.device),
                [DEFAULT] if arguments.default_only else SETTINGS)


if __name__ == "__main__":
    main()
