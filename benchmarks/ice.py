# SPDX-License-Identifier: GPL-3.0-or-later
"""The ice map of a real micrograph, drawn: micrograph | ice map | micrograph without its ice.

    python benchmarks/ice.py [MICROGRAPH.mrc] [--out ice.png]

Without a micrograph it takes the sample in the package. It also prints how far the ice reaches, how well the maps of
two halves of the pixels agree (even and odd rows: the same ice under independent noise), and what is left of the
slow changes once the ice is divided out: the deviation of means over 64 x 64 pixels.
"""
import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch

from cryogem_scipion.engine.io.mrc import read_mrc
from cryogem_scipion.engine.noise.ice_map import ice_map, upsample_ice

SAMPLE = Path(__file__).resolve().parents[1] / "cryogem_scipion/data/krios_micrograph_3.4A.mrc"
BLOCK = 64
SHOWN = 4  # pixels a side of the means that are drawn: a single pixel is nearly all noise


def means(image, edge):
    """Means over squares of pixels."""
    return torch.nn.functional.avg_pool2d(image[None, None], edge)[0, 0]


def measured(image):
    """The ice map at the size of the micrograph."""
    return upsample_ice(ice_map(image), tuple(image.shape))


def draw(image, ice, path):
    """Write the three panels; micrograph and flattened one share their grey scale."""
    flat = image / ice
    typical = float(flat.median())
    spread = float((means(flat, SHOWN) / typical).std())
    grey = {"cmap": "gray", "vmin": 1 - 4 * spread, "vmax": 1 + 4 * spread}
    figure, axes = plt.subplots(1, 3, figsize=(15, 5.4), layout="constrained")
    panels = [("micrograph / median", means(image, SHOWN) / typical, grey),
              ("ice map", means(ice, SHOWN), {"cmap": "viridis"}),
              ("micrograph / ice / median", means(flat, SHOWN) / typical, grey)]
    for axis, (title, values, colours) in zip(axes, panels, strict=True):
        shown = axis.imshow(values, **colours)
        axis.set_title(title)
        axis.set_axis_off()
        figure.colorbar(shown, ax=axis, shrink=0.8)
    figure.savefig(path, dpi=80)


def main():
    """Draw, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("micrograph", type=Path, nargs="?", default=SAMPLE)
    parser.add_argument("--out", type=Path, default=Path("ice.png"))
    arguments = parser.parse_args()
    image = torch.tensor(read_mrc(arguments.micrograph, 2)[0]).float()
    ice = measured(image)
    rows = image.shape[0] // 2 * 2
    even, odd = measured(image[:rows:2]), measured(image[1:rows:2])
    before, after = (means(values, BLOCK) for values in (image, image / ice))
    print(f"{arguments.micrograph.name}: ice from {float(ice.min()):.3f} to {float(ice.max()):.3f} of its median\n"
          f"maps of the even and the odd rows differ by {100 * float((even - odd).square().mean().sqrt()):.2f} % on "
          f"average, {100 * float((even - odd).abs().max()):.2f} % at most\n"
          f"means over {BLOCK} x {BLOCK} pixels deviate by {100 * float(before.std() / before.mean()):.2f} % before "
          f"and {100 * float(after.std() / after.mean()):.2f} % after the ice is divided out")
    draw(image, ice, arguments.out)
    print(f"drawn in {arguments.out}")


if __name__ == "__main__":
    main()
