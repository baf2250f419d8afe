# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole simulation, from a map file to labelled micrographs, against the plain way to do it.

The job: 10 micrographs of 1024 x 1024 pixels with 98 particles each of a 90^3 map, no particle stacks. The
reference turns the map with torch's ``grid_sample`` and sums along z, one projection at a time, finds each
particle's place among all pixels that are still free, and applies the CTF by complex transforms; it writes the
same files. Both run alternately in this one process, micrograph by micrograph, so that a busy machine slows both;
ratios are printed, seconds beside them. Start-up (imports, compiled loops) stands apart.

    python benchmarks/simulation.py [--rounds 2] [--threads 2] [--device cpu]
"""
import argparse
import math
import shutil
import tempfile
import time
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch.nn.functional import affine_grid, grid_sample

from cryogem_scipion.engine.io.mrc import write_mrc
from cryogem_scipion.engine.settings import SimulateSettings
from cryogem_scipion.engine.simulation.composition import compose, particle_mask
from cryogem_scipion.engine.simulation.ctf import apply_ctf, delocalisation_margin, electron_wavelength, fast_shape
from cryogem_scipion.engine.simulation.dataset_writer import DatasetWriter
from cryogem_scipion.engine.simulation.microscope import measure_contrast, prepare_microscope
from cryogem_scipion.engine.simulation.phantom import phantom
from cryogem_scipion.engine.simulation.volume import read_volume
from cryogem_scipion.engine.stages import simulate

MICROGRAPHS, SIZE, PARTICLES, BOX, PIXEL_SIZE, DIAMETER, DISTANCE = 10, (1024, 1024), 98, 90, 5.36, 300.0, 240.0


class Stages:
    """Seconds spent in each stage."""

    def __init__(self, device):
        self.seconds, self.device = defaultdict(list), device

    @contextmanager
    def time(self, name):
        """Count the block to a stage."""
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds[name].append(time.perf_counter() - start)


def settings(volume, out, arguments, **changes):
    """Of the job."""
    return SimulateSettings(**{
        "out": out, "volume": (volume,), "micrographs": MICROGRAPHS, "micrograph_size": SIZE, "threads": 0,
        "particles_mean": PARTICLES, "particles_sigma": 0, "particle_distance": DISTANCE, "device": arguments.device,
        **changes})


def search_free_pixels(distance, generator):
    """The reference's placement: of all free pixels one at random, then those around it are taken."""
    free = np.ones(SIZE, bool)
    reach = math.ceil(distance)
    centres = []
    for _ in range(PARTICLES):
        places = np.flatnonzero(free)
        if not len(places):
            break
        y, x = divmod(int(places[torch.randint(len(places), (1,), generator=generator)]), SIZE[1])
        window = slice(max(0, y - reach), y + reach + 1), slice(max(0, x - reach), x + reach + 1)
        rows, columns = (np.arange(SIZE[axis])[window[axis]] for axis in (0, 1))
        free[window] &= (rows[:, None] - y) ** 2 + (columns - x) ** 2 >= distance**2
        centres.append((y, x))
    return torch.tensor(centres)


def rotate_and_sum(volume, rotation):
    """The reference's projection."""
    turned = torch.cat([rotation.T, rotation.new_zeros(3, 1)], dim=1)[None]
    grid = affine_grid(turned, [1, 1, *volume.shape], align_corners=False)
    return grid_sample(volume[None, None], grid, align_corners=False)[0, 0].sum(0)


def plain_ctf(shape, optics, device):
    """The reference's CTF, on the full plane."""
    y, x = (torch.fft.fftfreq(edge, PIXEL_SIZE, device=device) for edge in shape)
    u2, theta = y[:, None] ** 2 + x**2, torch.atan2(y[:, None], x[None])
    wavelength = electron_wavelength(optics.voltage_kv)
    mean, half = ((optics.defocus_u_angstrom + sign * optics.defocus_v_angstrom) / 2 for sign in (1, -1))
    defocus = mean + half * torch.cos(2 * (theta - math.radians(optics.defocus_angle_degrees)))
    phase = math.pi * wavelength * defocus * u2 - math.pi / 2 * optics.cs_mm * 1e7 * wavelength**3 * u2**2
    return torch.sin(phase + math.asin(optics.amplitude_contrast)) * torch.exp(-optics.b_factor_angstrom2 / 4 * u2)


def write(out, index, image, mask):
    """The two files of a micrograph."""
    write_mrc(out / f"{index}.mrc", image.cpu().numpy(), PIXEL_SIZE)
    write_mrc(out / f"{index}_mask.mrc", mask.to(torch.uint8).cpu().numpy(), PIXEL_SIZE)


def plain_micrograph(volume, run, index, out, stages):
    """One micrograph by the reference, stage by stage."""
    generator = torch.Generator().manual_seed(index)
    with stages.time("placement"):
        centres = search_free_pixels(DISTANCE / PIXEL_SIZE, generator)
    specimen = run.draw_specimen(0, index)  # its orientations and optics; their cost is ours
    with stages.time("projections"):
        turns = specimen.rotations.float().to(volume.device)
        images = [rotate_and_sum(volume, turns[number % len(turns)]) * PIXEL_SIZE for number in range(len(centres))]
    with stages.time("composition"):
        margin = delocalisation_margin(PIXEL_SIZE, specimen.optics)
        canvas = torch.zeros([edge + 2 * (margin + BOX) for edge in SIZE], device=volume.device)
        for image, (y, x) in zip(images, (centres + margin + BOX - BOX // 2).tolist(), strict=True):
            canvas[y:y + BOX, x:x + BOX] += image
        canvas = canvas[BOX:-BOX, BOX:-BOX]
    with stages.time("optics"):
        image = torch.fft.ifft2(torch.fft.fft2(canvas) * plain_ctf(canvas.shape, specimen.optics, volume.device)).real
        image = image[margin:-margin, margin:-margin]
    with stages.time("masks"):
        mask = canvas[margin:-margin, margin:-margin] > 0.1 * canvas.max()
    with stages.time("files"):
        write(out, index, 1 - run.projection_scale * image, mask)


def own_micrograph(run, index, out, stages):
    """One micrograph by the engine, stage by stage (the program itself works on several at a time)."""
    s = run.settings
    with stages.time("placement"):
        specimen = run.draw_specimen(0, index)
    with stages.time("projections"):
        images = run.project_particles(specimen)
    with stages.time("composition"):
        margin = delocalisation_margin(PIXEL_SIZE, specimen.optics)
        canvas = compose(images, specimen.centres + margin, fast_shape(SIZE, margin))
    with stages.time("optics"):
        image = apply_ctf(canvas, PIXEL_SIZE, specimen.optics)[margin:margin + SIZE[0], margin:margin + SIZE[1]]
    with stages.time("masks"):
        mask = particle_mask(images, specimen.centres, SIZE, s.mask_threshold, s.soft_mask)
    with stages.time("files"):
        write(out, index, 1 - run.projection_scale * image, mask)


def once(volume, arguments, folder, stages):
    """What a run does once, beside its micrographs; returns the microscope."""
    with stages.time("reading the map"):
        run = prepare_microscope(settings(volume, folder, arguments), device=stages.device)
    with stages.time("contrast"):
        measure_contrast(run, 0)
    out = folder / "tables"
    out.mkdir(exist_ok=True)
    with stages.time("tables"):
        tables = DatasetWriter(out, run, (), False)
        tables._names = ["map"]
        for index in range(MICROGRAPHS):
            tables.add_labels(index, run.draw_specimen(0, index))
        tables.write_tables()
    return run


def compare(volume, folder, arguments):
    """Print the table of stages and the whole job's ratio."""
    device = torch.device(arguments.device)
    own, plain = Stages(device), Stages(device)
    density = read_volume(volume).density.to(device)
    jobs, processor, plain_processor = [], [], []
    for turn in range(-1, arguments.rounds):
        if turn == 0:  # the round before compiled the loops
            own, plain = Stages(device), Stages(device)
            jobs, processor = [], []
        run = once(volume, arguments, folder, own)
        own_micrograph(run, turn + 1, folder, own)
        before = time.process_time()
        if turn >= 0:
            plain_micrograph(density, run, turn + 1, folder, plain)
            plain_processor.append(time.process_time() - before)
        else:
            rotate_and_sum(density, torch.eye(3, device=device))
        shutil.rmtree(folder / "job", ignore_errors=True)
        start, before = time.perf_counter(), time.process_time()
        made = simulate.run(settings(volume, folder / "job", arguments))
        jobs.append(time.perf_counter() - start)
        processor.append(time.process_time() - before)
    assert made.particles == MICROGRAPHS * PARTICLES
    print(f"{MICROGRAPHS} micrographs of {SIZE[0]} x {SIZE[1]}, {PARTICLES} particles of a {BOX}^3 map, "
          f"{torch.get_num_threads()} threads, {device}\n{'stage':18s}{'reference':>12s}{'here':>10s}{'ratio':>8s}")
    for name in own.seconds:
        times = MICROGRAPHS if name in plain.seconds else 1
        ours = times * median(own.seconds[name])
        line = f"{'':12s}{ours:8.2f} s"
        if name in plain.seconds:
            theirs = times * median(plain.seconds[name])
            line = f"{theirs:10.2f} s{ours:8.2f} s{theirs / ours:7.0f}x"
        print(f"{name:18s}{line}")
    job, reference = median(jobs), MICROGRAPHS * sum(map(median, plain.seconds.values()))
    spent, plain_spent = median(processor), MICROGRAPHS * median(plain_processor)
    print(f"{'processor time':18s}{plain_spent:10.2f} s{spent:8.2f} s{plain_spent / spent:7.0f}x   of the whole job, "
          "all cores together; other programs hardly change it")
    print(f"{'whole job':18s}{reference:10.2f} s{job:8.2f} s{reference / job:7.0f}x   file to files, on all "
          f"threads;\n{'':18s}the reference's is {MICROGRAPHS} times one micrograph's, of {arguments.rounds} measured")


def main():
    """Read the arguments and print the comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        volume = folder / "map.mrc"
        write_mrc(volume, phantom(BOX, PIXEL_SIZE, DIAMETER).density.numpy(), PIXEL_SIZE)
        compare(volume, folder, arguments)


if __name__ == "__main__":
    main()
