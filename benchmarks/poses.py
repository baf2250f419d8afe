# SPDX-License-Identifier: GPL-3.0-or-later
"""Pose estimators trained on generated particles, scored on particles whose poses are known.

    python benchmarks/poses.py --train spectrum=spectrum trained=trained --held other=other --labelled world/labelled

Each --train folder (of 'cryogem generate' with extraction) trains a small network of its own, from the same start and
for the same number of steps. It is scored on the generated folders of --held, for choosing what to do, and once, in
the end, on the particles of a labelled folder, cut at their true centres: mic_*.mrc, each with a mic_*.json whose
"particles" hold x, y (px), matrix (RELION's A) and inside; those that are not inside are left out.

The network sees a particle at twice the pixel size and gives the probability of each of 4608 orientations, 15° apart
(Hopf coordinates over a HEALPix grid of directions are even; here a Fibonacci lattice stands for that grid). It learns
with images turned in the plane at random, whose poses are known as well. The answer is the mean orientation around
the most probable cell. No pose is refined against a map: the scores say what the particles teach, not what a
refinement reaches.

References: direct prediction of poses by classification and SO(3) grids, doi:10.1145/1201775.882360 (Hopf grids),
arXiv:2106.05965 (probabilities over SO(3)).
"""
import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from cryogem_scipion.engine.compute.resampling import fourier_crop
from cryogem_scipion.engine.io.dataset import EXTRACTED, read_manifest, read_table
from cryogem_scipion.engine.io.mrc import read_mrc
from cryogem_scipion.engine.scoring.alignment import random_pose_errors, rotation_angles
from cryogem_scipion.engine.scoring.particles import relion_matrices

VIEWS, SPINS = 192, 24
"""Directions of view, 15° apart, and turns about each."""
EDGE = 32
"""Pixels of the images that the network sees."""


def grid():
    """Return even orientations, matrices A (VIEWS · SPINS, 3, 3): a Fibonacci lattice of views times turns."""
    number = np.arange(VIEWS)
    tilt = np.degrees(np.arccos(1 - (2 * number + 1) / VIEWS))
    rot = (number * 360 / ((1 + math.sqrt(5)) / 2)) % 360
    spin = np.arange(SPINS) * 360 / SPINS
    angles = np.stack([np.repeat(rot, SPINS), np.repeat(tilt, SPINS), np.tile(spin, VIEWS)], axis=1)
    return torch.from_numpy(relion_matrices(angles)).float()


class Network(nn.Module):
    """A residual network from an image to the logits of all orientations."""

    def __init__(self, cells, width=16):
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width]
        layers = [nn.Conv2d(1, width, 5, padding=2), nn.BatchNorm2d(width), nn.ReLU()]
        for before, after in zip([width, *widths], widths, strict=False):
            layers.append(Block(before, after))
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.2))
        self.head = nn.LazyLinear(cells)

    def forward(self, images):
        """Logits (n, cells) of images (n, y, x)."""
        return self.head(self.layers(images[:, None]))


class Block(nn.Module):
    """Two convolutions with a way around them, then half the size."""

    def __init__(self, before, after):
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1, bias=False), nn.BatchNorm2d(after))
        self.around = nn.Conv2d(before, after, 1, bias=False)

    def forward(self, values):
        """Features of half the size."""
        values = functional.relu(self.convolutions(values) + self.around(values))
        return functional.avg_pool2d(values, 2, ceil_mode=True)


def shrunk(boxes, box):
    """Boxes of ``box`` pixels, Fourier-cropped to EDGE pixels, mean 0 and deviation 1, protein bright."""
    start = (boxes.shape[-1] - box) // 2
    images = torch.stack([fourier_crop(one[start:start + box, start:start + box], (EDGE, EDGE)) for one in boxes])
    return (images - images.mean((1, 2), keepdim=True)) / images.std((1, 2), keepdim=True)


def generated(folder, box):
    """Images and poses of a generated folder; the centre of a box is its particle's within a pixel."""
    if read_manifest(folder).box_size < box:
        raise SystemExit(f"{folder} has boxes of {read_manifest(folder).box_size} px; give --box of at most that")
    _, rows = read_table(folder / EXTRACTED, "particles", ("rlnImageName", "rlnAngleRot"))
    images = []
    for stack in dict.fromkeys(name.partition("@")[2] for name in rows["rlnImageName"]):
        images.append(shrunk(torch.tensor(np.atleast_3d(read_mrc(folder / stack, 3)[0])), box))
    angles = rows[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy(float)
    return torch.cat(images), torch.from_numpy(relion_matrices(angles)).float()


def labelled(folder, box):
    """Images and poses of a labelled folder, cut at the true centres."""
    images, poses = [], []
    for path in sorted(folder.glob("*.json")):
        micrograph = torch.tensor(read_mrc(path.with_suffix(".mrc"), 2)[0])
        for particle in json.loads(path.read_text("utf-8"))["particles"]:
            corner = [math.floor(particle[axis]) - box // 2 for axis in "yx"]
            fits = all(first >= 0 and first + box <= edge
                       for first, edge in zip(corner, micrograph.shape, strict=True))
            if particle["inside"] and fits:
                images.append(-micrograph[corner[0]:corner[0] + box, corner[1]:corner[1] + box])
                poses.append(particle["matrix"])
    return shrunk(torch.stack(images), box), torch.tensor(poses).float().reshape(-1, 3, 3)


def turned(images, poses, degrees):
    """Images turned in the plane, and their poses; a turn of the image by w is a turn of A about z by w."""
    angle = torch.deg2rad(degrees)
    c, s, o = torch.cos(angle), torch.sin(angle), torch.zeros_like(angle)
    # grid_sample asks where a pixel comes from; half a pixel off, because the origin is at N // 2.
    shift = 1 / EDGE
    matrix = torch.stack([c, s, shift * (1 - c - s), -s, c, shift * (1 - c + s)], 1).reshape(-1, 2, 3)
    places = functional.affine_grid(matrix, [len(images), 1, EDGE, EDGE], align_corners=False)
    spun = functional.grid_sample(images[:, None], places, mode="bicubic", padding_mode="reflection",
                                  align_corners=False)[:, 0]
    about = torch.stack([c, -s, o, s, c, o, o, o, o + 1], 1).reshape(-1, 3, 3)
    return spun, about @ poses


def soft_targets(poses, cells, spread_degrees=12.0):
    """Probabilities of the cells around each pose."""
    cosine = (torch.einsum("nij,mij->nm", poses, cells) - 1) / 2
    return torch.softmax((cosine - 1) / math.radians(spread_degrees) ** 2, 1)


def trained(images, poses, cells, steps, seed):
    """A network after so many steps of 64 images."""
    torch.manual_seed(seed)
    network = Network(len(cells))
    network(images[:2])
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.2)
    start = time.process_time()
    for step in range(steps):
        chosen = torch.randint(len(images), (64,))
        batch, truth = turned(images[chosen], poses[chosen], 360 * torch.rand(64))
        loss = functional.cross_entropy(network(batch), soft_targets(truth, cells))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 200 == 199:
            seconds = (time.process_time() - start) / (step + 1)
            print(f"  step {step + 1}: loss {float(loss.detach()):.3f}, {seconds:.2f} s CPU a step", flush=True)
    return network.eval()


@torch.no_grad()
def predicted(network, images, cells):
    """Mean orientations around the most probable cell, over four turns of the image by 90°."""
    logits = []
    for quarter in range(4):
        spun, _ = turned(images, torch.eye(3).expand(len(images), 3, 3), torch.full((len(images),), 90.0 * quarter))
        probability = torch.cat([functional.softmax(network(some), 1) for some in spun.split(256)])
        # A = Rz(-psi) …: a quarter turn takes psi, and the number of the cell, back by a quarter.
        cells_of = probability.reshape(len(images), VIEWS, SPINS)
        logits.append(cells_of.roll(quarter * SPINS // 4, 2).reshape(len(images), -1))
    probability = torch.stack(logits).mean(0)
    best = cells[probability.argmax(1)]
    near = torch.einsum("nij,mij->nm", best, cells) > 1 + 2 * math.cos(math.radians(30))
    mean = torch.einsum("nm,mij->nij", probability * near, cells)
    left, _, right = torch.linalg.svd(mean)
    sign = torch.linalg.det(left @ right)
    return (left @ torch.diag_embed(torch.stack([torch.ones_like(sign), torch.ones_like(sign), sign], 1)) @ right)


def errors(found, truth):
    """Angles between orientations, degrees; the frames are the same, so nothing is aligned."""
    return rotation_angles((found @ truth.mT).double().numpy())


def main():
    """Run the benchmark; each cell of its table: median error (lowest and highest seed), within 15°, within 30°."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", nargs="+", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--held", nargs="*", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--labelled", type=Path)
    parser.add_argument("--box", type=int, default=64, help="pixels of the box, at the pixel size of the micrographs")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--limit", type=int, help="particles used for training at most")
    args = parser.parse_args()
    cells = grid()
    tests = {name: generated(Path(folder), args.box) for name, folder in (one.split("=", 1) for one in args.held)}
    if args.labelled:
        tests["labelled"] = labelled(args.labelled, args.box)
    sets = {name: tuple(values[:args.limit] for values in generated(Path(folder), args.box))
            for name, folder in (one.split("=", 1) for one in args.train)}
    print(f"by chance: median {np.median(random_pose_errors(np.eye(3)[None])):.1f}°")
    found = {(name, test): [] for name in sets for test in tests}
    for seed in range(args.seeds):
        for name, (images, poses) in sets.items():
            print(f"{name}, seed {seed}: {len(images)} particles", flush=True)
            network = trained(images, poses, cells, args.steps, seed)
            for test, (pictures, truth) in tests.items():
                found[name, test].append(errors(predicted(network, pictures, cells), truth))
                print(f"  {test}: {summary(found[name, test][-1:])}", flush=True)
    print(f"\n| trained on | {' | '.join(f'{test} ({len(images)})' for test, (images, _) in tests.items())} |")
    print("|---" * (1 + len(tests)) + "|")
    for name in sets:
        print(f"| {name} | {' | '.join(summary(found[name, test]) for test in tests)} |")


def summary(runs):
    """Median error, the lowest and highest of the seeds, and how many are found within 15° and 30°."""
    medians = [np.median(angles) for angles in runs]
    extent = f" ({min(medians):.1f}–{max(medians):.1f})" if len(runs) > 1 else ""
    together = np.concatenate(runs)
    return f"{np.mean(medians):.1f}°{extent}, {np.mean(together < 15):.0%}, {np.mean(together < 30):.0%}"


if __name__ == "__main__":
    main()
