# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the critic of a training's validations ranks generated sets as a two-sample test does.

    python benchmarks/state_choice.py --sets SETS.json [--test PROGRAM]

SETS.json is a list of groups with the same real set:

    [{"name": "movies", "real": "REAL/*.mrc", "real_pixel_size": 3.0, "diameter": 125,
      "generated": {"spectrum": "GEN/spectrum/micrographs/*.mrc", "trained": "GEN/trained/micrographs/*.mrc"}}]

All files of a group are compared at the pixel size of the generated sets. The critic learns from half of the generated
micrographs and the real micrographs that it would have in a training, and judges the others.

The two-sample test is that of 'cryogem evaluate': the mean of its AUC over its scales. --test gives another one: a
Python program, with its own options if there are any, that takes --made PATTERN --real PATTERN --edge N and prints
'two-sample AUC 0.9'; its AUC is averaged over the edges of --edges. The pixel sizes of the files have to be equal then.

It prints a table of all sets, and Spearman's rank correlation of both AUCs within each group and over all sets.
"""
import argparse
import json
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from markdown_table import MarkdownTable
from scipy.stats import spearmanr

from cryogem_scipion.engine.io.file_patterns import matching_files
from cryogem_scipion.engine.realism.micrograph_sets import open_set
from cryogem_scipion.engine.translator.crops import RealImages, draw_real_crops
from cryogem_scipion.engine.translator.validation import EDGE, HELD_OUT_FACTOR, PIXELS
from cryogem_scipion.engine.translator.validation_critic import critic_sets, prepare_validation_critic


def images(pattern, pixel_size, working_pixel_size):
    """The micrographs of a pattern at the working pixel size."""
    micrographs = open_set("set", matching_files([pattern], "micrographs"), pixel_size)
    size = working_pixel_size or micrographs.pixel_size
    micrographs = type(micrographs)(micrographs.name, micrographs.files, micrographs.pixel_size, size)
    return [micrographs.image(path).numpy() for path in micrographs.files], size


def real_images(arrays):
    """Images with a grey scale each; the critic standardises all crops again."""
    return RealImages(arrays, [float(np.median(array)) for array in arrays], [float(array.std()) for array in arrays])


def crops(arrays, edge, count, random):
    """Random crops of images."""
    return list(draw_real_crops(real_images(arrays), edge, count, random))


def held_out(count):
    """Places of the micrographs that a training holds out: every sixth."""
    number = max(count // 6, 1)
    return {(2 * index + 1) * count // (2 * number) for index in range(number)}


def critic_aucs(generated, real, seed):
    """Result of the critic for one generated set."""
    random = torch.Generator().manual_seed(seed)
    edge = min(EDGE, *(min(array.shape) for array in (*generated, *real)))
    count = max(PIXELS // edge**2, 2)
    outside = held_out(len(real))
    parts = [[array for index, array in enumerate(real) if (index in outside) == kept] for kept in (False, True)]
    critic = prepare_validation_critic(*(list(draw_real_crops(part, edge, HELD_OUT_FACTOR * count, random))
                                         for part in critic_sets(*(real_images(part) for part in parts))), seed)
    return critic(crops(generated[::2], edge, count, random), crops(generated[1::2], edge, count, random),
                  torch.device("cpu"), "float32")


def product_test(group, pattern, pixel_size):
    """Mean AUC over the scales of the two-sample test of 'cryogem evaluate'."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report"
        subprocess.run([sys.executable, "-m", "cryogem_scipion", "evaluate", "--generated", pattern, "--real",
                        group["real"], "--real-pixel-size", str(group.get("real_pixel_size") or pixel_size),
                        "--particle-diameter", str(group["diameter"]), "--threads", "1", "--out", str(report)],
                       check=True, stdout=subprocess.DEVNULL)
        figures = json.loads((report / "manifest.json").read_text("utf-8"))["figures"]
    return statistics.mean(value for name, value in figures.items() if re.fullmatch("two_sample_[a-z]+_auc", name))


def external_test(program, edges, group, pattern):
    """Mean AUC over the edges of another program."""
    values = []
    for edge in edges:
        sets = ["--made", pattern, "--real", group["real"]]
        command = [sys.executable, *shlex.split(program), *sets, "--edge", str(edge)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        values.append(float(re.search(r"AUC ([\d.]+)", output)[1]))
    return statistics.mean(values)


def rank_correlation(pairs):
    """Spearman's rank correlation of the first and second values."""
    return spearmanr(*zip(*pairs, strict=True))[0]


def main():
    """Print the table and the correlations."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sets", type=Path, required=True, help="JSON file with the groups")
    parser.add_argument("--test", help="another two-sample test: PROGRAM, or 'PROGRAM OPTIONS'")
    parser.add_argument("--edges", type=int, nargs="+", default=[64, 96, 192], help="squares of that program (px)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    table = MarkdownTable("set", "critic: pixels", "critic: textures", "critic", "two-sample test")
    pairs, correlations = [], []
    for group in json.loads(args.sets.read_text("utf-8")):
        real, of_group = None, []
        for name, pattern in group["generated"].items():
            generated, pixel_size = images(pattern, group.get("pixel_size"), None)
            if real is None:
                real, _ = images(group["real"], group.get("real_pixel_size"), pixel_size)
            critic = critic_aucs(generated, real, args.seed)
            test = external_test(args.test, args.edges, group, pattern) if args.test else product_test(
                group, pattern, pixel_size)
            of_group.append((critic["auc"], test))
            table.row(f"{group['name']}: {name}", f"{critic['auc_pixels']:.3f}", f"{critic['auc_textures']:.3f}",
                      f"{critic['auc']:.3f}", f"{test:.3f}")
        pairs += of_group
        if len(of_group) > 2:
            correlations.append(f"{group['name']} {rank_correlation(of_group):.2f} ({len(of_group)} sets)")
    print(f"\nSpearman's rank correlation of both: {rank_correlation(pairs):.2f} over {len(pairs)} sets"
          + "".join(f"; {line}" for line in correlations) + ".")


if __name__ == "__main__":
    main()
