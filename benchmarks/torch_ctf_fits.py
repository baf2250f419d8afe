# SPDX-License-Identifier: GPL-3.0-or-later
"""CTFs of micrographs by torch-ctf-estimation (teamtomo), as JSON; runs in an environment with that package.

benchmarks/ctf_fits.py starts it. It reads a JSON object from standard input: files, pixel_size, voltage_kv, cs_mm,
amplitude_contrast, range (Å, lowest and highest resolution), defocus (µm, lowest and highest), patch (pixels).
"""
import json
import sys

import mrcfile
import numpy as np
import torch

# A torchvision of another build than torch cannot be imported, because it lacks these two operators. Its blur, which
# the package needs, does not use them.
operators = torch.library.Library("torchvision", "FRAGMENT")
for name in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, name):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from torch_ctf_estimation import estimate_ctf  # noqa: E402
from torch_ctf_estimation.models import CTFFittingParams, OpticalParams  # noqa: E402


def main():
    """Write one line of JSON for each file: defocus of the fit in one dimension, and of that in two (Å)."""
    torch.set_num_threads(1)
    request = json.load(sys.stdin)
    pixel_size = request["pixel_size"]
    optics = OpticalParams(pixel_spacing_angstroms=pixel_size, target_pixel_spacing_angstroms=pixel_size,
                           voltage_kev=request["voltage_kv"], spherical_aberration_mm=request["cs_mm"],
                           amplitude_contrast_fraction=request["amplitude_contrast"])
    fitting = CTFFittingParams(defocus_grid_resolution=(1, 1, 1), frequency_fit_range_angstroms=request["range"],
                               defocus_range_microns=request["defocus"], patch_sidelength=request["patch"])
    for file in request["files"]:
        torch.manual_seed(0)
        image = torch.tensor(np.asarray(mrcfile.read(file), np.float32))
        _, radial, plane = estimate_ctf((image - image.mean()) / image.std(), optics, fitting)
        print(json.dumps({"radial": 1e4 * float(radial.ctf_model.defocus_um), "correlation":
                          float(radial.cross_correlation_final), "u": 1e4 * float(plane.defocus_u),
                          "v": 1e4 * float(plane.defocus_v), "angle": float(plane.astigmatism_angle) % 180}),
              flush=True)


if __name__ == "__main__":
    main()
