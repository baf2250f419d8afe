# SPDX-License-Identifier: GPL-3.0-or-later
"""Speed of the whole simulation, from a map file to labelled micrographs, against a real-space reference.

    python benchmarks/simulation.py [--rounds 2] [--threads 2] [--device cpu]

The job is 10 micrographs of 1024 x 1024 pixels with 98 particles each, from a map of 90 x 90 x 90 voxels, without
particle stacks. The reference rotates the map with torch's ``grid_sample`` and sums along z, one projection at a time.
It draws the place of each particle from all free pixels, applies the CTF by complex Fourier transforms, and writes the
same files. Both run in turn in one process, micrograph by micrograph, so that other programs on the machine slow both.
The start of the program (imports, compilation of loops) is not counted.
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
from markdown_table import MarkdownTable
from torch.nn.functional import affine_grid, grid_sample

from cryogem_scipion.engine.io.mrc import write_mrc
from cryogem_scipion.engine.settings import SimulateSettings
from cryogem_scipion.engine.simulation.composition import compose, particle_mask
from cryogem_scipion.engine.simulation.contrast import measure_contrast
from cryogem_scipion.engine.simulation.ctf import apply_ctf, delocalisation_margin, electron_wavelength, fast_shape
from cryogem_scipion.engine.simulation.dataset_writer import DatasetWriter
from cryogem_scipion.engine.simulation.microscope import prepare_microscope
from cryogem_scipion.engine.simulation.phantom import phantom
from cryogem_scipion.engine.simulation.volume import read_volume
from cryogem_scipion.engine.stages import simulate

MICROGRAPHS, SIZE, PARTICLES, BOX, PIXEL_SIZE, DIAMETER, DISTANCE = 10, (1024, 1024), 98, 90, 5.36, 300.0, 240.0


class StageTimes:
    """Wall times (s) of each stage."""

    def __init__(self, device):
        self.seconds, self.device = defaultdict(list), device

    @contextmanager
    def time(self, name):
        """Add the time of the block to a stage."""
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds[name].append(time.perf_counter() - start)


def settings(volume, out, arguments, **changes):
    """Settings of the job."""
    return SimulateSettings(**{
        "out": out, "volume": (volume,), "micrographs": MICROGRAPHS, "micrograph_size": SIZE, "threads": 0,
        "particles_mean": PARTICLES, "particles_sigma": 0, "particle_distance": DISTANCE, "device": arguments.device,
        **changes})


def search_free_pixels(distance, generator):
    """Centres by the reference: each is drawn from all free pixels, and excludes the pixels around it."""
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
    """Projection by the reference, in real space."""
    matrix = torch.cat([rotation.T, rotation.new_zeros(3, 1)], dim=1)[None]
    grid = affine_grid(matrix, [1, 1, *volume.shape], align_corners=False)
    return grid_sample(volume[None, None], grid, align_corners=False)[0, 0].sum(0)


def reference_ctf(shape, optics, device):
    """CTF by the reference, on the full Fourier plane."""
    y, x = (torch.fft.fftfreq(edge, PIXEL_SIZE, device=device) for edge in shape)
    u2, theta = y[:, None] ** 2 + x**2, torch.atan2(y[:, None], x[None])
    wavelength = electron_wavelength(optics.voltage_kv)
    mean, half = ((optics.defocus_u_angstrom + sign * optics.defocus_v_angstrom) / 2 for sign in (1, -1))
    defocus = mean + half * torch.cos(2 * (theta - math.radians(optics.defocus_angle_degrees)))
    phase = math.pi * wavelength * defocus * u2 - math.pi / 2 * optics.cs_mm * 1e7 * wavelength**3 * u2**2
    return torch.sin(phase + math.asin(optics.amplitude_contrast)) * torch.exp(-optics.b_factor_angstrom2 / 4 * u2)


def write(out, index, image, mask):
    """Write the image and the mask of a micrograph."""
    write_mrc(out / f"{index}.mrc", image.cpu().numpy(), PIXEL_SIZE)
    write_mrc(out / f"{index}_mask.mrc", mask.to(torch.uint8).cpu().numpy(), PIXEL_SIZE)


def reference_micrograph(volume, run, index, out, times):
    """Write one micrograph by the reference, and time each stage."""
    generator = torch.Generator().manual_seed(index)
    with times.time("placement"):
        centres = search_free_pixels(DISTANCE / PIXEL_SIZE, generator)
    specimen = run.draw_specimen(0, index)  # gives orientations and optics; its time is not counted for the reference
    with times.time("projections"):
        turns = specimen.rotations.float().to(volume.device)
        images = [rotate_and_sum(volume, turns[number % len(turns)]) * PIXEL_SIZE for number in range(len(centres))]
    with times.time("composition"):
        margin = delocalisation_margin(PIXEL_SIZE, specimen.optics)
        canvas = torch.zeros([edge + 2 * (margin + BOX) for edge in SIZE], device=volume.device)
        for image, (y, x) in zip(images, (centres + margin + BOX - BOX // 2).tolist(), strict=True):
            canvas[y:y + BOX, x:x + BOX] += image
        canvas = canvas[BOX:-BOX, BOX:-BOX]
    with times.time("optics"):
        ctf = reference_ctf(canvas.shape, specimen.optics, volume.device)
        image = torch.fft.ifft2(torch.fft.fft2(canvas) * ctf).real
        image = image[margin:-margin, margin:-margin]
    with times.time("masks"):
        mask = canvas[margin:-margin, margin:-margin] > 0.1 * canvas.max()
    with times.time("files"):
        write(out, index, 1 - run.projection_scale * image, mask)


def engine_micrograph(run, index, out, times):
    """Write one micrograph by the engine, and time each stage (the program works on several at a time)."""
    s = run.settings
    with times.time("placement"):
        specimen = run.draw_specimen(0, index)
    with times.time("projections"):
        images = run.project_particles(specimen)
    with times.time("composition"):
        margin = delocalisation_margin(PIXEL_SIZE, specimen.optics)
        canvas = compose(images, specimen.centres + margin, fast_shape(SIZE, margin))
    with times.time("optics"):
        image = apply_ctf(canvas, PIXEL_SIZE, specimen.optics)[margin:margin + SIZE[0], margin:margin + SIZE[1]]
    with times.time("masks"):
        mask = particle_mask(images, specimen.centres, SIZE, s.mask_threshold, s.soft_mask)
    with times.time("files"):
        write(out, index, 1 - run.projection_scale * image, mask)


def prepare_run(volume, arguments, folder, times):
    """Virtual microscope of a run; times the steps that a run does once."""
    with times.time("reading the map"):
        run = prepare_microscope(settings(volume, folder, arguments), device=times.device)
    with times.time("contrast"):
        measure_contrast(run, 0)
    out = folder / "tables"
    out.mkdir(exist_ok=True)
    with times.time("tables"):
        tables = DatasetWriter(out, run, (), False)
        tables._map_names = ["map"]
        for index in range(MICROGRAPHS):
            tables.add_labels(index, run.draw_specimen(0, index))
        tables.write_tables()
    return run


def compare(volume, folder, arguments):
    """Print the table of the stages and of the whole job."""
    device = torch.device(arguments.device)
    engine, reference = StageTimes(device), StageTimes(device)
    density = read_volume(volume).density.to(device)
    job_times, processor_times, reference_processor_times = [], [], []
    for turn in range(-1, arguments.rounds):
        if turn == 0:  # the first round compiled the loops
            engine, reference = StageTimes(device), StageTimes(device)
            job_times, processor_times = [], []
        run = prepare_run(volume, arguments, folder, engine)
        engine_micrograph(run, turn + 1, folder, engine)
        before = time.process_time()
        if turn >= 0:
            reference_micrograph(density, run, turn + 1, folder, reference)
            reference_processor_times.append(time.process_time() - before)
        else:
            rotate_and_sum(density, torch.eye(3, device=device))
        shutil.rmtree(folder / "job", ignore_errors=True)
        start, before = time.perf_counter(), time.process_time()
        result = simulate.run(settings(volume, folder / "job", arguments))
        job_times.append(time.perf_counter() - start)
        processor_times.append(time.process_time() - before)
    assert result.particles == MICROGRAPHS * PARTICLES
    print(f"{MICROGRAPHS} micrographs of {SIZE[0]} x {SIZE[1]} px, {PARTICLES} particles of a {BOX}³ map, "
          f"{torch.get_num_threads()} threads, {device}:\n")
    table = MarkdownTable("stage", "reference (s)", "CryoGEM (s)", "times faster")
    for name, seconds in engine.seconds.items():
        micrographs = MICROGRAPHS if name in reference.seconds else 1
        ours = micrographs * median(seconds)
        if name in reference.seconds:
            theirs = micrographs * median(reference.seconds[name])
            table.row(name, f"{theirs:.2f}", f"{ours:.2f}", f"{theirs / ours:.0f}")
        else:
            table.row(name, "–", f"{ours:.2f}", "–")
    for name, theirs, ours in (
            ("CPU time of the whole job, all cores", MICROGRAPHS * median(reference_processor_times),
             median(processor_times)),
            ("wall time of the whole job, all threads", MICROGRAPHS * sum(map(median, reference.seconds.values())),
             median(job_times))):
        table.row(name, f"{theirs:.2f}", f"{ours:.2f}", f"{theirs / ours:.0f}")
    print(f"\nMicrographs timed for the reference: {arguments.rounds}. Its times are {MICROGRAPHS} times the median.")


def main():
    """Make the map and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2, help="timed runs of each way")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        volume = folder / "map.mrc"
        write_mrc(volume, phantom(BOX, PIXEL_SIZE, DIAMETER).density.numpy(), PIXEL_SIZE)
        compare(volume, folder, arguments)


if __name__ == "__main__":
    main()
