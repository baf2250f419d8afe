# SPDX-License-Identifier: GPL-3.0-or-later
"""Accuracy of the ice map of a real micrograph, and a figure: micrograph, ice map, micrograph divided by its ice map.

    python benchmarks/ice.py [MICROGRAPH.mrc] [--out ice.png]

The default is the sample micrograph of the package. The table gives the range of the ice map, the difference of two ice
maps (one from the even and one from the odd pixel rows: the same ice, independent noise), and the slow changes of the
micrograph before and after the division by the ice map. Slow changes are the standard deviation of means over 64 x 64
pixels, relative to their mean.
"""
import argparse
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch
from markdown_table import MarkdownTable

from cryogem_scipion.engine.io.mrc import read_mrc
from cryogem_scipion.engine.noise.ice_map import ice_map, upsample_ice

SAMPLE = Path(__file__).resolve().parents[1] / "cryogem_scipion/data/krios_micrograph_3.4A.mrc"
BLOCK = 64
DRAWN_BLOCK = 4  # the figure shows means over squares of this edge (px): a single pixel is nearly all noise


def block_means(image, edge):
    """Means over squares of ``edge`` pixels."""
    return torch.nn.functional.avg_pool2d(image[None, None], edge)[0, 0]


def full_size_ice_map(image):
    """Ice map of a micrograph, at the size of the micrograph."""
    return upsample_ice(ice_map(image), tuple(image.shape))


def draw(image, ice, path):
    """Write the figure; both micrographs have the same grey scale."""
    flat = image / ice
    typical = float(flat.median())
    spread = float((block_means(flat, DRAWN_BLOCK) / typical).std())
    grey = {"cmap": "gray", "vmin": 1 - 4 * spread, "vmax": 1 + 4 * spread}
    figure, axes = plt.subplots(1, 3, figsize=(15, 5.4), layout="constrained")
    panels = [("micrograph / median", block_means(image, DRAWN_BLOCK) / typical, grey),
              ("ice map", block_means(ice, DRAWN_BLOCK), {"cmap": "viridis"}),
              ("micrograph / ice / median", block_means(flat, DRAWN_BLOCK) / typical, grey)]
    for axis, (title, values, colours) in zip(axes, panels, strict=True):
        drawn = axis.imshow(values, **colours)
        axis.set_title(title)
        axis.set_axis_off()
        figure.colorbar(drawn, ax=axis, shrink=0.8)
    figure.savefig(path, dpi=80)


def main():
    """Print the table and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("micrograph", type=Path, nargs="?", default=SAMPLE, help="MRC file; default: the sample")
    parser.add_argument("--out", type=Path, default=Path("ice.png"), help="the figure")
    arguments = parser.parse_args()
    image = torch.tensor(read_mrc(arguments.micrograph, 2)[0]).float()
    ice = full_size_ice_map(image)
    rows = image.shape[0] // 2 * 2
    even, odd = full_size_ice_map(image[:rows:2]), full_size_ice_map(image[1:rows:2])
    before, after = (block_means(values, BLOCK) for values in (image, image / ice))
    table = MarkdownTable(f"ice map of {arguments.micrograph.name}", "value")
    table.row("lowest and highest transmission, over the median", f"{float(ice.min()):.3f} to {float(ice.max()):.3f}")
    table.row("difference of the maps of even and odd rows, root mean square",
              f"{100 * float((even - odd).square().mean().sqrt()):.2f} %")
    table.row("the same, largest", f"{100 * float((even - odd).abs().max()):.2f} %")
    table.row(f"deviation of means over {BLOCK} x {BLOCK} px before the division",
              f"{100 * float(before.std() / before.mean()):.2f} %")
    table.row("the same, after the division by the ice map", f"{100 * float(after.std() / after.mean()):.2f} %")
    draw(image, ice, arguments.out)
    print(f"figure: {arguments.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
