# SPDX-License-Identifier: GPL-3.0-or-later
"""Pose estimators trained on generated particles, and their errors on particles whose poses are known.

    python benchmarks/poses.py --train spectrum=GEN1 trained=GEN2 --held-out other=GEN3 --labelled LABELLED

GEN1, GEN2 and GEN3 are folders that 'cryogem generate' wrote, with extracted particles. One small network is trained on
each --train folder, from the same start and for the same number of steps. It is scored on the --held-out folders and on
the particles of the labelled micrographs. Settings may be chosen by the first, not by the second. LABELLED holds
mic_*.mrc, each with a mic_*.json whose "particles" have x, y (px), matrix (RELION's A) and inside. Particles are cut at
their true centres; those that are not inside are left out.

The network sees a particle at twice the pixel size and gives a probability for each of 4608 orientations, which are 15°
apart (a Fibonacci lattice of viewing directions times rotations in the plane). It trains on images that are rotated in
the plane at random; their poses are rotated in the same way. The predicted orientation is the mean around the most
probable one. No pose is refined against a map, so the errors are larger than those of a refinement.

References: doi:10.1145/1201775.882360 (grids on SO(3)), arXiv:2106.05965 (probabilities over SO(3)).
"""
import argparse
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from markdown_table import MarkdownTable
from torch import nn
from torch.nn import functional

from cryogem_scipion.engine.compute.resampling import fourier_crop
from cryogem_scipion.engine.io.dataset import EXTRACTED, read_manifest, read_table
from cryogem_scipion.engine.io.mrc import read_mrc
from cryogem_scipion.engine.scoring.alignment import random_pose_errors, rotation_angles
from cryogem_scipion.engine.scoring.particles import relion_matrices

DIRECTIONS, ROTATIONS = 192, 24
"""Number of viewing directions, 15° apart, and of rotations in the plane for each."""
EDGE = 32
"""Edge (px) of the images that the network sees."""


def orientation_grid():
    """Matrices A (DIRECTIONS · ROTATIONS, 3, 3) of uniform orientations: a Fibonacci lattice times rotations."""
    index = np.arange(DIRECTIONS)
    tilt = np.degrees(np.arccos(1 - (2 * index + 1) / DIRECTIONS))
    rot = (index * 360 / ((1 + math.sqrt(5)) / 2)) % 360
    psi = np.arange(ROTATIONS) * 360 / ROTATIONS
    angles = np.stack([np.repeat(rot, ROTATIONS), np.repeat(tilt, ROTATIONS), np.tile(psi, DIRECTIONS)], axis=1)
    return torch.from_numpy(relion_matrices(angles)).float()


class PoseNetwork(nn.Module):
    """A residual network from an image to the logits of all orientations."""

    def __init__(self, orientations, width=16):
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width]
        layers = [nn.Conv2d(1, width, 5, padding=2), nn.BatchNorm2d(width), nn.ReLU()]
        for before, after in zip([width, *widths], widths, strict=False):
            layers.append(ResidualBlock(before, after))
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.2))
        self.head = nn.LazyLinear(orientations)

    def forward(self, images):
        """Logits (n, orientations) of images (n, y, x)."""
        return self.head(self.layers(images[:, None]))


class ResidualBlock(nn.Module):
    """Two convolutions with a shortcut, then half the size."""

    def __init__(self, before, after):
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1, bias=False), nn.BatchNorm2d(after))
        self.shortcut = nn.Conv2d(before, after, 1, bias=False)

    def forward(self, values):
        """Features of half the size."""
        values = functional.relu(self.convolutions(values) + self.shortcut(values))
        return functional.avg_pool2d(values, 2, ceil_mode=True)


def normalised_images(stack, box):
    """Centre of each image, ``box`` pixels wide, Fourier-cropped to EDGE pixels; mean 0, standard deviation 1."""
    start = (stack.shape[-1] - box) // 2
    images = torch.stack([fourier_crop(image[start:start + box, start:start + box], (EDGE, EDGE)) for image in stack])
    return (images - images.mean((1, 2), keepdim=True)) / images.std((1, 2), keepdim=True)


def read_generated(folder, box):
    """Images and poses of the extracted particles of a generated folder."""
    if read_manifest(folder).box_size < box:
        raise SystemExit(f"{folder} has a box size of {read_manifest(folder).box_size} px; set --box to at most that")
    _, rows = read_table(folder / EXTRACTED, "particles", ("rlnImageName", "rlnAngleRot"))
    images = []
    for stack_name in dict.fromkeys(name.partition("@")[2] for name in rows["rlnImageName"]):
        images.append(normalised_images(torch.tensor(np.atleast_3d(read_mrc(folder / stack_name, 3)[0])), box))
    angles = rows[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy(float)
    return torch.cat(images), torch.from_numpy(relion_matrices(angles)).float()


def read_labelled(folder, box):
    """Images and poses of the labelled particles, cut at their true centres; protein is made bright."""
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
    return normalised_images(torch.stack(images), box), torch.tensor(poses).float().reshape(-1, 3, 3)


def rotate_in_plane(images, poses, degrees):
    """Images rotated in the plane, and their poses: a rotation of the image by w rotates A about z by w."""
    angle = torch.deg2rad(degrees)
    c, s, o = torch.cos(angle), torch.sin(angle), torch.zeros_like(angle)
    # grid_sample takes the source of each pixel. Its centre is half a pixel from ours, which is N // 2.
    shift = 1 / EDGE
    matrix = torch.stack([c, s, shift * (1 - c - s), -s, c, shift * (1 - c + s)], 1).reshape(-1, 2, 3)
    sources = functional.affine_grid(matrix, [len(images), 1, EDGE, EDGE], align_corners=False)
    rotated = functional.grid_sample(images[:, None], sources, mode="bicubic", padding_mode="reflection",
                                  align_corners=False)[:, 0]
    about_z = torch.stack([c, -s, o, s, c, o, o, o, o + 1], 1).reshape(-1, 3, 3)
    return rotated, about_z @ poses


def soft_targets(poses, orientations, spread_degrees=12.0):
    """Target probabilities (n, orientations): they fall with the angle to the true pose."""
    cosine = (torch.einsum("nij,mij->nm", poses, orientations) - 1) / 2
    return torch.softmax((cosine - 1) / math.radians(spread_degrees) ** 2, 1)


def train(images, poses, orientations, steps, seed):
    """A network, trained for a number of steps with batches of 64 images."""
    torch.manual_seed(seed)
    network = PoseNetwork(len(orientations))
    network(images[:2])
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.2)
    start = time.process_time()
    for step in range(steps):
        batch_indices = torch.randint(len(images), (64,))
        batch, truth = rotate_in_plane(images[batch_indices], poses[batch_indices], 360 * torch.rand(64))
        loss = functional.cross_entropy(network(batch), soft_targets(truth, orientations))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 200 == 199:
            seconds = (time.process_time() - start) / (step + 1)
            print(f"  step {step + 1}: loss {float(loss.detach()):.3f}, {seconds:.2f} core-s a step", file=sys.stderr)
    return network.eval()


@torch.no_grad()
def predict(network, images, orientations):
    """Mean orientation (n, 3, 3) around the most probable one; probabilities are means over four rotations by 90°."""
    probabilities = []
    for quarter in range(4):
        degrees = torch.full((len(images),), 90.0 * quarter)
        rotated, _ = rotate_in_plane(images, torch.eye(3).expand(len(images), 3, 3), degrees)
        probability = torch.cat([functional.softmax(network(batch), 1) for batch in rotated.split(256)])
        # A rotation of the image by 90° lowers psi by 90°; the roll undoes this.
        by_direction = probability.reshape(len(images), DIRECTIONS, ROTATIONS)
        probabilities.append(by_direction.roll(quarter * ROTATIONS // 4, 2).reshape(len(images), -1))
    probability = torch.stack(probabilities).mean(0)
    best = orientations[probability.argmax(1)]
    near = torch.einsum("nij,mij->nm", best, orientations) > 1 + 2 * math.cos(math.radians(30))
    mean = torch.einsum("nm,mij->nij", probability * near, orientations)
    left, _, right = torch.linalg.svd(mean)
    sign = torch.linalg.det(left @ right)
    return (left @ torch.diag_embed(torch.stack([torch.ones_like(sign), torch.ones_like(sign), sign], 1)) @ right)


def angular_errors(predicted, truth):
    """Angles (degrees) between predicted and true orientations; both have the same frame."""
    return rotation_angles((predicted @ truth.mT).double().numpy())


def main():
    """Print the table: median error (lowest and highest seed), particles within 15°, within 30°."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", nargs="+", required=True, metavar="NAME=FOLDER", help="sets to train on")
    parser.add_argument("--held-out", nargs="*", default=[], metavar="NAME=FOLDER", help="generated sets to score on")
    parser.add_argument("--labelled", type=Path, help="folder of labelled micrographs to score on")
    parser.add_argument("--box", type=int, default=64, help="box size (px) at the pixel size of the micrographs")
    parser.add_argument("--steps", type=int, default=600, help="training steps")
    parser.add_argument("--seeds", type=int, default=2, help="networks for each set")
    parser.add_argument("--limit", type=int, help="train on at most so many particles")
    args = parser.parse_args()
    orientations = orientation_grid()
    tests = {name: read_generated(Path(folder), args.box)
             for name, folder in (argument.split("=", 1) for argument in args.held_out)}
    if args.labelled:
        tests["labelled"] = read_labelled(args.labelled, args.box)
    sets = {name: tuple(values[:args.limit] for values in read_generated(Path(folder), args.box))
            for name, folder in (argument.split("=", 1) for argument in args.train)}
    errors = {(name, test): [] for name in sets for test in tests}
    for seed in range(args.seeds):
        for name, (images, poses) in sets.items():
            print(f"{name}, seed {seed}: {len(images)} particles", file=sys.stderr)
            network = train(images, poses, orientations, args.steps, seed)
            for test, (test_images, truth) in tests.items():
                errors[name, test].append(angular_errors(predict(network, test_images, orientations), truth))
                print(f"  {test}: {summary(errors[name, test][-1:])}", file=sys.stderr)
    table = MarkdownTable("trained on", *(f"{test} ({len(images)} particles)" for test, (images, _) in tests.items()))
    for name in sets:
        table.row(name, *(summary(errors[name, test]) for test in tests))
    print(f"\nEach cell: median error, particles within 15°, within 30°. Chance gives a median of "
          f"{np.median(random_pose_errors(np.eye(3)[None])):.1f}°.")


def summary(runs):
    """Median error, the lowest and highest of the seeds, and the part of the particles within 15° and 30°."""
    medians = [np.median(angles) for angles in runs]
    interval = f" ({min(medians):.1f}–{max(medians):.1f})" if len(runs) > 1 else ""
    all_errors = np.concatenate(runs)
    return f"{np.mean(medians):.1f}°{interval}, {np.mean(all_errors < 15):.0%}, {np.mean(all_errors < 30):.0%}"


if __name__ == "__main__":
    main()
