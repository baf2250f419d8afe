# SPDX-License-Identifier: GPL-3.0-or-later
"""Signal-to-noise ratio of single frames, from that of the averages of all frames. It needs no labels of the frames.

    python benchmarks/frame_ratio.py --frames 'frames/*.mrc' --averages 'movies/*.mrc' --ratio 0.193

At high spatial frequencies, a frame and the average of all N frames have in common only the noise of this frame. Their
correlation there is 1 / √N, which gives N. Noise is independent in each frame, so that the average has N times the
ratio of a frame, if the particles are as strong in a frame as in the average. Movement between the frames makes the
particles of the average weaker, so that a frame has at least the ratio of the average divided by N.

--ratio is the signal-to-noise ratio of the averages at the pixel size of the frames, such as the labelled value of
benchmarks/measurement.py.
"""
import argparse
import glob
import math
from pathlib import Path

import numpy as np
import torch

from cryogem_scipion.engine.compute import fourier
from cryogem_scipion.engine.compute.resampling import fourier_crop
from cryogem_scipion.engine.io.mrc import read_mrc

BAND = (0.3, 0.5)
"""Spatial frequencies (cycles/px) at which the particles have no power to speak of."""


def number_of_frames(frame: torch.Tensor, average: torch.Tensor) -> float:
    """Number of frames in the average, from the correlation of the noise that one frame shares with it."""
    size = (frame.shape[0], frame.shape[1])
    if average.shape != frame.shape:
        average = fourier_crop(average, size)
    y, x = torch.fft.fftfreq(size[0]), torch.fft.rfftfreq(size[1])
    radius = torch.hypot(y[:, None], x[None])
    band = (radius >= BAND[0]) & (radius < BAND[1])
    one, other = (fourier.rfft2(image - image.mean())[band] for image in (frame, average))
    covariance = float((one * other.conj()).real.sum())
    return float(one.abs().square().sum()) * float(other.abs().square().sum()) / covariance**2


def read(path: str) -> torch.Tensor:
    """A micrograph as float32."""
    return torch.tensor(read_mrc(Path(path), 2)[0]).float()


def main() -> None:
    """Print the number of frames and the ratio of a single frame."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", required=True, help="pattern of the single frames")
    parser.add_argument("--averages", required=True, help="pattern of the averages, which have the same file names")
    parser.add_argument("--ratio", type=float, required=True, help="signal-to-noise ratio of the averages")
    args = parser.parse_args()
    averages = {Path(path).name: path for path in glob.glob(args.averages)}
    pairs = [(path, averages[Path(path).name]) for path in sorted(glob.glob(args.frames))
             if Path(path).name in averages]
    if not pairs:
        raise SystemExit(f"no file of {args.frames} has the name of one of {args.averages}; check both patterns")
    numbers = np.array([number_of_frames(read(frame), read(average)) for frame, average in pairs])
    error = numbers.std(ddof=1) / math.sqrt(len(numbers)) if len(numbers) > 1 else math.nan
    print(f"{len(pairs)} fields: {numbers.mean():.1f} ± {error:.1f} frames in an average "
          f"({numbers.min():.1f} to {numbers.max():.1f})")
    print(f"signal-to-noise ratio of a frame: at least {args.ratio / numbers.mean():.4f}")


if __name__ == "__main__":
    main()
