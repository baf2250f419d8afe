# SPDX-License-Identifier: GPL-3.0-or-later
"""Differences that the two-sample test of ``cryogem evaluate`` tells apart, and false alarms between halves of one set.

    python benchmarks/two_sample.py [--planted NAME ...] [--draws 50] [--micrographs 24] [--size 1024] [--threads 1]

The micrographs are simulated: particles of the package's phantom, each micrograph with its own defocus, in noise that
falls with the spatial frequency and has Thon rings. The engine's own functions make particles, CTF and noise.

1. *Planted differences.* Two sets with different random numbers; the second one differs in one property. The test runs
   with its default steps.
2. *False alarms.* Each draw divides one set, without any difference, at random into two halves. --draw-steps sets the
   training steps here. They can be few: what chance gives is computed for the networks as they are.

Each part takes less than half an hour on one idle core. --planted without a name, and --draws 0, leave a part out.
"""
import argparse
import math
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from markdown_table import MarkdownTable
from scipy.stats import beta

from cryogem_scipion.engine.compute import fourier
from cryogem_scipion.engine.compute.devices import chosen_device, chosen_precision
from cryogem_scipion.engine.figures.two_sample import SCALE_NAMES
from cryogem_scipion.engine.io.mrc import write_mrc
from cryogem_scipion.engine.noise.exposure import Exposure
from cryogem_scipion.engine.noise.spectrum import TILE, ColouredNoise, resample_half_plane, white_noise
from cryogem_scipion.engine.realism.micrograph_sets import open_set
from cryogem_scipion.engine.realism.two_sample.two_sample_test import Training, two_sample_test
from cryogem_scipion.engine.settings import EvaluateSettings, SimulateSettings
from cryogem_scipion.engine.simulation.contrast import measure_contrast
from cryogem_scipion.engine.simulation.microscope import prepare_microscope
from cryogem_scipion.engine.simulation.phantom import phantom
from cryogem_scipion.engine.simulation.specimen import seeded_generator

PIXEL_SIZE, DIAMETER = 6.0, 180.0
"""Å per pixel, and diameter of the phantom in Å."""
SNR = 0.1
DEFOCUS = (15000.0, 20000.0)
"""Range of the defocus, Å."""
OVERLAP, PARTICLES_SIGMA = 0.25, 6.0
"""Overlap of the particles, and standard deviation of their number in a micrograph."""
MODULATED_SHARE = 0.5
"""Share of the noise's power that the CTF modulates."""
LATTICE_PERIOD, LATTICE_TILE = 8, 64
"""Period of the lattice (px), and edge of the tiles (px) in whose power spectrum its nodes are 3 dB higher."""
BORDER, BORDER_SHIFT = 16, 0.3
"""Width of the shifted border (px), and its shift in standard deviations of the noise."""


@dataclass(frozen=True)
class Properties:
    """Properties of a set; the defaults are those of the set without a planted difference."""

    snr: float = SNR
    half_nyquist: float = 1.0
    """Factor on the particles' amplitude at half the Nyquist frequency; it falls as a Gaussian."""
    white: bool = False
    """Whether the noise is white."""
    rings: bool = True
    """Whether the noise has Thon rings."""
    particles: float = 1.0
    """Factor on the number of particles."""
    ghosts: float = 0.0
    """Contrast of a second copy of each particle, half a diameter beside it."""
    lattice_db: float = 0.0
    """How far the nodes of the lattice are above the noise, dB."""
    border: float = 0.0
    """Shift of the grey values along the border."""


PLANTED = {
    "snr": ("SNR 20 % lower", Properties(snr=0.8 * SNR)),
    "envelope": ("envelope 20 % lower at half Nyquist", Properties(half_nyquist=0.8)),
    "white": ("white noise", Properties(white=True)),
    "rings": ("noise without Thon rings", Properties(rings=False)),
    "twice": ("twice as many particles", Properties(particles=2.0)),
    "ghosts": ("each particle twice, at half contrast", Properties(ghosts=0.5)),
    "lattice": ("lattice of +3 dB, period 8 px", Properties(lattice_db=3.0)),
    "border": ("border of 16 px shifted by 0.3 σ", Properties(border=BORDER_SHIFT)),
}
"""Name, title and properties of each planted difference."""


def write_micrographs(folder, properties, seed, arguments):
    """Write the micrographs of a set, if its folder does not exist; return their files."""
    if folder.is_dir():
        return sorted(folder.glob("*.mrc"))
    folder.mkdir()
    volume = folder.parent / "map.mrc"
    if not volume.exists():
        write_mrc(volume, phantom(2 * round(0.7 * DIAMETER / PIXEL_SIZE), PIXEL_SIZE, DIAMETER).density.numpy(),
                  PIXEL_SIZE)
    microscope = prepare_microscope(SimulateSettings(
        out=folder, volume=(volume,), micrograph_size=(arguments.size, arguments.size), snr=SNR,
        background_deviation=1.0, defocus_min=DEFOCUS[0], defocus_max=DEFOCUS[1], overlap=OVERLAP,
        particles_mean=arguments.particles * properties.particles, particles_sigma=PARTICLES_SIGMA))
    microscope = replace(microscope, projection_scale=measure_contrast(microscope, 0).scale)
    files = []
    for index in range(arguments.micrographs):
        files.append(folder / f"mic_{index:03d}.mrc")
        write_mrc(files[-1], micrograph(microscope, properties, seed, index).numpy(), PIXEL_SIZE)
    return files


def micrograph(microscope, properties, seed, index):
    """A micrograph; the standard deviation of its noise is 1."""
    specimen = microscope.draw_specimen(seed, index)
    signal = math.sqrt(properties.snr / SNR) * changed_signal(microscope.form_image(specimen).signal, properties)
    noise = background(properties).draw(tuple(signal.shape), seeded_generator(seed, "noise", index),
                                        Exposure(specimen.optics, PIXEL_SIZE))
    image = noise - signal
    if properties.lattice_db:
        image = image + lattice(tuple(signal.shape), properties)
    if properties.border:
        image[BORDER:-BORDER, BORDER:-BORDER] -= properties.border
    return image


def changed_signal(signal, properties):
    """The particles' part of a micrograph with another envelope, and with ghosts."""
    if properties.half_nyquist != 1:
        y, x = fourier.fftfreq(signal.shape[0])[:, None], fourier.rfftfreq(signal.shape[1])
        envelope = properties.half_nyquist ** ((y**2 + x**2) / 0.25**2)
        signal = fourier.irfft2(fourier.rfft2(signal) * envelope, tuple(signal.shape))
    if properties.ghosts:
        signal = signal + properties.ghosts * signal.roll(round(DIAMETER / PIXEL_SIZE / 2), 1)
    return signal


def background(properties):
    """Noise of variance 1: its power falls to a fifth at Nyquist, and the CTF modulates half of it."""
    if properties.white:
        return white_noise()
    radius = torch.hypot(fourier.fftfreq(TILE)[:, None], fourier.rfftfreq(TILE))
    noise = ColouredNoise(0.25 + torch.exp(-radius / 0.2))
    share = torch.full((TILE // 2 + 1,), MODULATED_SHARE) if properties.rings else None
    return ColouredNoise(noise.power / noise.variance, modulated_share=share)


def lattice(shape, properties):
    """A periodic pattern: all its nodes are as high above the noise in the power spectrum of a tile."""
    points = torch.zeros(shape)
    points[::LATTICE_PERIOD, ::LATTICE_PERIOD] = LATTICE_PERIOD**2
    # Each node is a wave of amplitude 1 now, which has the power LATTICE_TILE² in a tile.
    amplitude = resample_half_plane(background(properties).power.sqrt(), shape) / LATTICE_TILE
    factor = math.sqrt(10 ** (properties.lattice_db / 10) - 1)
    return factor * fourier.irfft2(fourier.rfft2(points - 1) * amplitude, shape)


def run_test(first, second, steps, seed, arguments):
    """Result of the test at each scale."""
    device = chosen_device(arguments.device)
    training = Training(steps, device, chosen_precision("auto", device), arguments.threads, with_floor=False)
    sets = [open_set(name, files, None) for name, files in (("generated", first), ("real", second))]
    return two_sample_test(sets, DIAMETER, training, arguments.threads, seeded_generator(seed, "benchmark"))


def compare_planted(base, folder, arguments):
    """Print for each planted difference what the test says."""
    table = None
    for index, name in enumerate(arguments.planted):
        title, properties = PLANTED[name]
        files = write_micrographs(folder / name, properties, 2 + index, arguments)
        results = run_test(files, base, arguments.steps, index, arguments)
        if table is None:
            table = MarkdownTable("planted difference", *(SCALE_NAMES[result.scale.name] for result in results),
                                  "adjusted p", "told apart")
        table.row(title, *(f"{'**' * result.told_apart}{result.between.auc:.2f}{'**' * result.told_apart} "
                           f"({result.between.chance_high:.2f})" for result in results),
                  f"{min(result.adjusted_p for result in results):.2g}",
                  "yes" if any(result.told_apart for result in results) else "no")
    print("\nAUC, in parentheses the upper limit of the range of chance of this scale alone. Bold: told apart at this "
          "scale.\n")


def count_false_alarms(base, arguments):
    """Print how often two halves of one set are told apart."""
    alarms, at_scales = 0, Counter()
    for draw in range(arguments.draws):
        order = torch.randperm(len(base), generator=seeded_generator(draw, "halves")).tolist()
        halves = [sorted(base[index] for index in order[part::2]) for part in (0, 1)]
        results = run_test(*halves, arguments.draw_steps, 1000 + draw, arguments)
        at_scales.update(result.scale.name for result in results if result.between.auc > result.between.chance_high)
        alarms += any(result.told_apart for result in results)
        print(f"draw {draw}: {alarms} false alarms; adjusted p {min(r.adjusted_p for r in results):.3f}",
              file=sys.stderr, flush=True)
    low, high = binomial_interval(alarms, arguments.draws)
    single = "; ".join(f"{SCALE_NAMES[result.scale.name]} {at_scales[result.scale.name]}" for result in results)
    print(f"Two halves of one set ({len(halves[0])} and {len(halves[1])} micrographs, {arguments.draw_steps} steps): "
          f"{alarms} false alarms in {arguments.draws} draws, a share of {alarms / arguments.draws:.2f} (95 % interval "
          f"{low:.3f} to {high:.3f}); at most 0.05 is expected. AUCs above the range of chance of one scale, of which "
          f"0.025 are expected: {single}.")


def binomial_interval(count, total):
    """95 % interval of Clopper and Pearson for a share."""
    return (float(beta.ppf(0.025, count, total - count + 1)) if count else 0.0,
            float(beta.ppf(0.975, count + 1, total - count)) if count < total else 1.0)


def main():
    """Print the planted differences, then the false alarms."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--planted", nargs="*", choices=PLANTED, default=list(PLANTED))
    parser.add_argument("--draws", type=int, default=50, help="random divisions of one set into halves; 0: none")
    parser.add_argument("--micrographs", type=int, default=24, help="of each set")
    parser.add_argument("--size", type=int, default=1024, help="edge of the micrographs, pixels")
    parser.add_argument("--particles", type=float, default=410, help="mean number in a micrograph")
    parser.add_argument("--steps", type=int, default=EvaluateSettings.model_fields["two_sample_steps"].default,
                        help="training steps for the planted differences")
    parser.add_argument("--draw-steps", type=int, default=10, help="training steps for the halves")
    parser.add_argument("--folder", type=Path, help="folder for the micrographs; those that are there are used again")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        base = write_micrographs(folder / "base", Properties(), 1, arguments)
        print(f"{arguments.micrographs} micrographs in a set, {arguments.size} x {arguments.size} px at "
              f"{PIXEL_SIZE:g} Å, about {arguments.particles:g} particles of {DIAMETER:g} Å, SNR {SNR}, "
              f"{arguments.steps} steps.\n")
        if arguments.planted:
            compare_planted(base, folder, arguments)
        if arguments.draws:
            count_false_alarms(base, arguments)


if __name__ == "__main__":
    main()
