# SPDX-License-Identifier: GPL-3.0-or-later
"""Topaz computes the same precision, recall and average precision for the same picks."""
import io
import json
import re

import numpy as np
import pandas as pd
import pytest

from cryogem_scipion.__main__ import run
from cryogem_scipion.engine.io.dataset import write_table
from cryogem_scipion.engine.settings import PicksSettings
from tests.optional.environments import Program

topaz = Program("topaz")
pytestmark = topaz.marks

SIZE, RADIUS, PIXEL_SIZE = 600, 9, 5.0


@pytest.fixture(scope="module", params=[1, 2])
def picked(request, tmp_path_factory):
    """Crowded particles, some cut by the border; picks with large errors, duplicates, equal scores and false picks."""
    random = np.random.default_rng(request.param)
    folder = tmp_path_factory.mktemp("picked")
    truth, picks = [], []
    for name in ("a", "b", "c", "d"):
        centres = random.integers(0, SIZE, (90, 2))
        truth += [(f"micrographs/{name}.mrc", x, y, int(min(x, y) >= 30 and max(x, y) < SIZE - 30)) for x, y in centres]
        picked_centres = centres[random.random(90) < 0.8]
        duplicates = picked_centres[random.random(len(picked_centres)) < 0.3]
        # Sub-pixel positions, because the programs choose differently among picks at the same distance.
        near = np.concatenate([picked_centres, duplicates])
        near = near + random.normal(0, RADIUS / 2, near.shape)
        anywhere = random.integers(0, SIZE, (50, 2))
        for (x, y), mean in [*((point, 1.0) for point in near), *((point, 0.0) for point in anywhere)]:
            picks.append((name, round(x, 2), round(y, 2), round(random.normal(mean, 1.0), 1)))
    truth = pd.DataFrame(truth, columns=["rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY", "cryogemWhole"])
    optics = pd.DataFrame([{"rlnOpticsGroup": 1, "rlnMicrographPixelSize": PIXEL_SIZE}])
    write_table(folder / "truth.star", "particles", optics, truth.assign(rlnOpticsGroup=1))
    picks = pd.DataFrame(picks, columns=["image_name", "x_coord", "y_coord", "score"])
    picks.to_csv(folder / "picks.txt", sep="\t", index=False)
    run("picks", PicksSettings(picks=(str(folder / "picks.txt"),), truth=(str(folder / "truth.star"),),
                               radius=RADIUS * PIXEL_SIZE, pixel_size=PIXEL_SIZE, out=folder / "report"))
    return folder, truth


def test_topaz_computes_the_same_precision_and_recall(picked):
    """Topaz does not know about cut particles, so it gets the picks without the dropped ones."""
    folder, truth = picked
    report = json.loads((folder / "report/picks.json").read_text())
    arrays = np.load(folder / "report/picks.npz")
    whole = truth[truth["cryogemWhole"] == 1]
    targets = pd.DataFrame({"image_name": whole["rlnMicrographName"].str.extract(r"/(\w+)\.")[0],
                            "x_coord": whole["rlnCoordinateX"], "y_coord": whole["rlnCoordinateY"]})
    targets.to_csv(folder / "targets.txt", sep="\t", index=False)
    counted = arrays["outcome"] >= 0
    assert 0.02 < np.mean(~counted) < 0.4
    pd.read_csv(folder / "picks.txt", sep="\t")[counted].to_csv(folder / "kept.txt", sep="\t", index=False)
    topaz_output = topaz(folder, "precision_recall_curve", "--predicted", "kept.txt", "--targets", "targets.txt", "-r",
                         RADIUS)
    auprc = float(re.search(r"auprc=([\d.]+)", topaz_output)[1])
    assert 0.3 < auprc < 0.9
    # Both use the same rule, so only the rounding of float32 differs.
    assert report["overall"]["auprc"] == pytest.approx(auprc, abs=1e-5)
    curve = pd.read_csv(io.StringIO(topaz_output), sep="\t", comment="#")
    for name in ("threshold", "precision", "recall", "f1"):
        assert arrays[name] == pytest.approx(curve[name].to_numpy(), abs=1e-5), name
