# SPDX-License-Identifier: GPL-3.0-or-later
"""Gives damaged files to every reader for a chosen time, and reports what the readers do.

    python -m tests.fuzz [--minutes 10] [--seed 0] [--keep FOLDER]

Valid files (maps, micrographs, compressed maps, STAR tables, manifests, settings, models, our checkpoints and those of
the published program, atomic models, coordinates) are damaged at random: bits, header fields, lines, words of text,
lengths, parts of other files. A reader may return, or refuse the file with a ``CryogemError``. Everything else is a
finding: another exception, a crash, more than 10 s, more than 8 GB. The readers run in a process of their own, which is
replaced when it dies. Files that cause a finding are kept under ``--keep``.
"""
import argparse
import json
import multiprocessing
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

SECONDS, BYTES = 10, 8 << 30
NUMBERS = [0, 1, -1, 2, 127, 128, 255, 256, 32767, 65535, 65536, 2**31 - 1, -(2**31), 2**30, 77, 1024]
WORDS = ["nan", "inf", "-1", "0", "1e999", "", "'", '"', "#", "loop_", "data_", "data_optics", "_rlnMicrographName",
         "../../x", "/etc/passwd", "\x00", "é", "{", "]", "null", "true", "1" * 400, "[" * 200, "9" * 5000, "\t", "@"]


def valid_files(folder):
    """Make a valid file of every kind, and return for each its name, its path and the function that reads it."""
    import gemmi
    import numpy as np

    from cryogem_scipion.engine.io.dataset import read_blocks, read_manifest
    from cryogem_scipion.engine.io.mrc import read_header, read_mrc, write_mrc
    from cryogem_scipion.engine.noise.simulated_set import open_simulated_set
    from cryogem_scipion.engine.scoring.coordinates import read_coordinates
    from cryogem_scipion.engine.settings import STAGES, parse, read_json
    from cryogem_scipion.engine.simulation.atomic_model import read_atoms
    from cryogem_scipion.engine.simulation.measured_star import read_measured_optics, read_measured_orientations
    from cryogem_scipion.engine.simulation.optics import Optics
    from cryogem_scipion.engine.simulation.volume import diameter_angstrom, read_volume
    from cryogem_scipion.engine.translator.model import load_model
    from cryogem_scipion.engine.translator.published_checkpoint import import_published
    from cryogem_scipion.engine.translator.tensor_files import load_tensors
    from tests.damaged_inputs import InputFolders, make_valid_inputs

    good = folder / "good"
    if not good.is_dir():
        make_valid_inputs(folder / "new")
        (folder / "new").rename(good)
    inputs = InputFolders(good, folder)
    inputs.published()
    inputs.atoms("x.cif", 3.0)
    gemmi.read_structure(str(folder / "x.cif")).write_pdb(str(folder / "x.pdb"))
    write_mrc(folder / "small.mrc", np.random.default_rng(1).normal(size=(12, 12, 12)).astype("f4"), 4.0)
    for library, suffix in ((__import__("gzip"), "gz"), (__import__("bz2"), "bz2")):
        (folder / f"x.{suffix}").write_bytes(library.compress((folder / "small.mrc").read_bytes()))
    (folder / "x.box").write_text("10\t20\t30\t30\n11\t22\t30\t30\n")
    (folder / "x.txt").write_text("image_name\tx_coord\ty_coord\tscore\na\t1\t2\t0.5\nb\t3\t4\t-1\n")
    (folder / "x.json").write_text(json.dumps({"volume": ["a.mrc"], "out": "o", "preferred_views": ["0:90:2"],
                                               "micrograph_size": [100, 100], "seed": 3, "defocus_min": 9e3}))
    base = Optics(300.0, 2.7, 0.1, 0.0, 0.0, 0.0)

    def settings(path):
        values = read_json(path)
        for kind in STAGES.values():
            try:
                parse(kind, values)
            except ValueError:
                continue

    def simulation(path):
        """Open a simulation that has this table."""
        copy = path.with_suffix("")
        if not copy.is_dir():
            shutil.copytree(good / "sim", copy)
        shutil.copyfile(path, copy / "micrographs.star")
        open_simulated_set(copy)

    def manifest(path):
        shutil.copyfile(path, path.parent / "manifest.json")
        read_manifest(path.parent)

    def volume(path):
        read = read_volume(path)
        if max(read.density.shape) <= 64:
            diameter_angstrom(read)

    def picks(path):
        read_coordinates([path], 4.0, "pixel_size")

    particles = good / "sim/particles.star"
    micrographs = good / "sim/micrographs.star"
    return [
        ("image", good / "real/0.mrc", lambda path: read_mrc(path, 2)),
        ("header", folder / "small.mrc", lambda path: read_header(path, 3)),
        ("volume data", folder / "small.mrc", lambda path: read_mrc(path, 3)),
        ("map", folder / "small.mrc", volume), ("map.gz", folder / "x.gz", volume),
        ("map.bz2", folder / "x.bz2", volume),
        ("pdb", folder / "x.pdb", read_atoms), ("cif", folder / "x.cif", read_atoms),
        ("star", particles, read_blocks), ("CTF table", micrographs, lambda path: read_measured_optics(path, base)),
        ("orientations", particles, read_measured_orientations), ("simulation", micrographs, simulation),
        ("manifest", good / "sim/manifest.json", manifest), ("settings", folder / "x.json", settings),
        ("model", good / "run/model.safetensors", load_model),
        ("checkpoint", good / "run/checkpoint.safetensors", lambda path: load_tensors(path, "checkpoint")),
        ("published", folder / "x.pth", lambda path: import_published(path, None, 5.0)),
        ("picks star", particles, picks), ("picks box", folder / "x.box", picks),
        ("picks topaz", folder / "x.txt", picks), ("picks cs", _cs(folder), picks),
    ]


def _cs(folder):
    import numpy as np
    rows = np.zeros(3, [("location/micrograph_path", "S20"), ("location/center_x_frac", "f4"),
                        ("location/center_y_frac", "f4"), ("location/micrograph_shape", "u4", (2,))])
    with (folder / "x.cs").open("wb") as file:
        np.save(file, rows)
    return folder / "x.cs"


def damaged(content, others, draw):
    """Return the content with one to four kinds of damage; ``others`` are files from which parts are inserted."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        kind = draw.randrange(9)
        place = draw.randrange(len(data) + 1) if draw.random() < 0.5 else draw.randrange(min(len(data), 1100) + 1)
        if kind == 0 and data:
            data[min(place, len(data) - 1)] ^= 1 << draw.randrange(8)
        elif kind == 1:  # a field of a header
            place = place // 4 * 4
            data[place:place + 4] = struct.pack(draw.choice("<>") + "i", draw.choice(NUMBERS))
        elif kind == 2:
            data[place:place + 4] = struct.pack(draw.choice("<>") + "f", draw.choice(
                [0.0, -1.0, float("nan"), float("inf"), 1e-30, 1e30]))
        elif kind == 3:
            del data[place:place + draw.choice([1, 4, 40, 400])]
        elif kind == 4:
            del data[place:]
        elif kind == 5:
            data[place:place] = draw.randbytes(draw.choice([1, 4, 100]))
        elif kind == 6:
            other = draw.choice(others)
            start = draw.randrange(len(other) + 1)
            data[place:place] = other[start:start + draw.choice([8, 80, 800])]
        else:  # a word or a line of text
            split = b"\n" if kind == 7 else b" "
            parts = bytes(data).split(split)
            index = draw.randrange(len(parts))
            change = draw.randrange(3)
            if change == 0:
                parts[index] = draw.choice(WORDS).encode()
            elif change == 1:
                del parts[index]
            else:
                parts.insert(draw.randrange(len(parts) + 1), parts[index])
            data = bytearray(split.join(parts))
    return bytes(data)


def work(folder, keep, seed, minutes, queue):
    """Damage and read files until the time is over, and send each result to ``queue``."""
    from cryogem_scipion.engine.errors import CryogemError
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    warnings.simplefilter("ignore")
    readers = [(name, path.read_bytes(), path.suffix, read) for name, path, read in valid_files(folder)]
    cases = folder / str(seed)
    cases.mkdir()
    draw = random.Random(seed)

    def raise_timeout(*_):
        raise TimeoutError(f"more than {SECONDS} s")

    signal.signal(signal.SIGALRM, raise_timeout)
    number = 0
    until = time.time() + 60 * minutes
    while time.time() < until:
        name, content, ending, read = draw.choice(readers)
        bad = damaged(content, [other for _, other, _, _ in readers], draw)
        case = cases / f"case{ending}"
        case.write_bytes(bad)
        queue.put(("reads", name, str(case), ""))
        number += 1
        signal.alarm(SECONDS)
        try:
            read(case)
            queue.put(("accepted", name, "", ""))
        except CryogemError as error:
            queue.put(("refused" if str(error).strip() else "finding", name, str(case), "no message"))
        except Exception as error:
            copy = keep / f"{name.replace(' ', '_')}-{type(error).__name__}-{seed}-{number}{ending}"
            copy.write_bytes(bad)
            last = traceback.extract_tb(error.__traceback__)[-1]
            message = " ".join(str(error).split())[:120]
            where = f"{Path(last.filename).name}:{last.lineno}"
            queue.put(("finding", name, str(copy), f"{type(error).__name__} {message} ({where})"))
        finally:
            signal.alarm(0)


def main():
    """Start a new worker whenever one has died, until the time is over, and print a table of the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("findings"))
    arguments = parser.parse_args()
    arguments.keep.mkdir(exist_ok=True)
    left = arguments.minutes
    counts, findings, last, seed = Counter(), Counter(), ("", ""), arguments.seed
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        while left > 0.1:
            queue = context.SimpleQueue()
            worker = context.Process(target=work, args=(Path(name), arguments.keep, seed, left, queue))
            started = time.time()
            worker.start()
            while worker.is_alive() or not queue.empty():
                if queue.empty():
                    time.sleep(0.01)
                    continue
                outcome, reader, path, text = queue.get()
                if outcome == "reads":
                    last = (reader, path)
                    continue
                counts[reader, outcome] += 1
                if outcome == "finding":
                    findings[reader, text] += 1
                    if findings[reader, text] == 1:
                        print(f"{reader}: {text}\n    {path}", flush=True)
            if worker.exitcode and last[1]:
                copy = arguments.keep / f"crash-{seed}{Path(last[1]).suffix}"
                shutil.copyfile(last[1], copy)
                findings[last[0], f"the process died with {worker.exitcode}"] += 1
                print(f"{last[0]}: the process died with {worker.exitcode}\n    {copy}", flush=True)
            seed += 1
            left = left - (time.time() - started) / 60 if worker.exitcode else 0
    print(f"{'reader':14s}{'refused':>10s}{'accepted':>10s}{'findings':>10s}")
    for reader in sorted({reader for reader, _ in counts}):
        print(f"{reader:14s}" + "".join(f"{counts[reader, outcome]:10d}" for outcome in
                                            ("refused", "accepted", "finding")))
    print(f"{sum(counts.values())} damaged files in {arguments.minutes:g} minutes; {len(findings)} kinds of findings")
    return bool(findings)


if __name__ == "__main__":
    sys.exit(main())
