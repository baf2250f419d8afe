# SPDX-License-Identifier: GPL-3.0-or-later
"""What pickers are worth in the end: particles, their share of true ones, and the map from their assigned poses.

    python benchmarks/structure_of_picks.py --micrographs 'LABELLED/*.mrc' --ctfs ctfs.star --model MODEL \\
        --volume MAP --symmetry O --out OUT labels=PICKS/labels spectrum=PICKS/spectrum

A folder of picks is one of benchmarks/noise_models.py or expert_labels.py; its first seed is used, and the picks whose
score is at least --threshold. MODEL is a pose estimator of ``cryogem train-poses``, the same for all. RELION extracts
the particles and reconstructs the halves from the poses that ``cryogem assign-poses`` finds; there is no refinement.

The table has a row for the labelled centres themselves, one for as many places between the particles, and one for each
picker: number of particles, share that lies within --radius of a labelled one, share of the labelled particles that
were found, mean confidence of the poses, and the resolution of the map, as in benchmarks/structure.py. Poses that are
found with the given map bring the map out of noise alone; the row of the places between particles shows how far.
"""
import argparse
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from markdown_table import MarkdownTable
from scipy.spatial import cKDTree
from structure import (
    correlations,
    extract,
    fitted_box,
    labelled_centres,
    micrographs_with_ctf,
    read_volume,
    reconstruct,
    soft_sphere,
    timed,
)

from cryogem_scipion.engine.io.dataset import read_table
from cryogem_scipion.engine.io.mrc import read_header
from cryogem_scipion.engine.scoring.matching import match_positions

CORRELATIONS = (20, 16, 13)
"""Å, at which the correlation with the given map is printed."""
TRIED_PLACES = 100_000
"""Random places of a micrograph among which those between particles are sought."""


def picked_centres(table, args, file):
    """Centres (x, y) of the picks of one micrograph that reach the threshold, px of the micrograph."""
    rows = table[(table["image_name"] == file.stem) & (table["score"] >= args.threshold)]
    return [tuple(centre) for centre in rows[["x_coord", "y_coord"]].to_numpy(float) * args.scale]


def centres_of_gaps(args, file):
    """Random places, as many as labelled particles, at least --gap from each, whose boxes lie inside; px, (x, y)."""
    particles, margin = np.array(labelled_centres(file)), args.box // 2 + 1
    shape = read_header(file, 2)[0]
    places = np.random.default_rng(0).uniform(margin, np.array(shape[::-1]) - margin, (TRIED_PLACES, 2))
    far = cKDTree(particles).query(places)[0] > args.gap / args.pixel_size
    return [tuple(place) for place in places[far][:len(particles)]]


def found_and_true(centres, args):
    """Number of particles, how many lie at a labelled one, and the number of labelled ones."""
    counts = np.zeros(3, int)
    for file in args.files:
        picks, labels = (np.array(some(file), float).reshape(-1, 2) for some in (centres, labelled_centres))
        partner = match_positions(picks, labels, args.radius / args.pixel_size)
        counts += [len(picks), (partner >= 0).sum(), len(labels)]
    return counts


def main():
    """Print a row for each set of picks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", metavar="NAME=FOLDER", help="picks of one picker")
    parser.add_argument("--micrographs", required=True, help="pattern of the labelled micrographs")
    parser.add_argument("--ctfs", required=True, help="STAR file of their CTFs")
    parser.add_argument("--model", required=True, type=Path, help="model of 'cryogem train-poses'")
    parser.add_argument("--volume", required=True, type=Path, help="the map, at the pixel size of the micrographs")
    parser.add_argument("--symmetry", default="C1", help="point group of the map")
    parser.add_argument("--diameter", type=float, default=130, help="Å, of the particle")
    parser.add_argument("--radius", type=float, default=32, help="Å, within which a pick is a true one")
    parser.add_argument("--gap", type=float, default=75, help="Å, distance of a place between particles from each")
    parser.add_argument("--threshold", type=float, default=0.0, help="lowest score of a pick")
    parser.add_argument("--scale", type=int, default=2, help="factor by which micrographs were reduced for picking")
    parser.add_argument("--box", type=int, default=64, help="box size, px")
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()
    args.files = micrographs_with_ctf(args)
    args.pixel_size = read_header(args.files[0], 2)[1]
    reference = fitted_box(read_volume(args.volume), args.box)
    mask = soft_sphere(args.box, args.diameter / 2 / args.pixel_size + 2)
    table = MarkdownTable("particles from", "particles", "true", "found", "mean confidence",
                          "halves, FSC 0.143 (Å)", "against the given map, FSC 0.5 (Å)",
                          f"FSC against it at {', '.join(map(str, CORRELATIONS))} Å")
    sources = {"labelled centres": labelled_centres, "places between particles": partial(centres_of_gaps, args)}
    for name, folder in (text.split("=", 1) for text in args.sets):
        sources[name] = partial(picked_centres, pd.read_csv(Path(folder) / "picks_0.txt", sep="\t"), args)
    for name, centres in sources.items():
        particles, true, labelled = found_and_true(centres, args)
        if particles < 50:
            table.row(name, str(particles), f"{true / max(particles, 1):.0%}", f"{true / labelled:.0%}", *("–",) * 4)
            continue
        out = (args.out / name.replace(" ", "_")).absolute()
        out.mkdir(parents=True, exist_ok=True)
        extract(args, out, centres)
        timed([sys.executable, "-m", "cryogem_scipion", "assign-poses", "--model", args.model.absolute(), "--particles",
               "particles.star", "--out", "assigned"], out)
        reconstruct(args, out, "assigned/particles.star", "map")
        confidence = read_table(out / "assigned/particles.star", "particles")[1]["rlnMaxValueProbDistribution"]
        curves, resolutions, _ = correlations(out, ("map_half1.mrc", "map_half2.mrc"), reference, mask, args.pixel_size)
        at = [round(args.box * args.pixel_size / resolution) for resolution in CORRELATIONS]
        table.row(name, str(particles), f"{true / particles:.0%}", f"{true / labelled:.0%}", f"{confidence.mean():.2f}",
                  *(f"{value:.1f}" if value else f"below {2 * args.pixel_size:g}" for value in resolutions),
                  ", ".join(f"{float(curves[1][shell]):.2f}" if shell < len(curves[1]) else "–" for shell in at))


if __name__ == "__main__":
    main()
