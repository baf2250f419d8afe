# SPDX-License-Identifier: GPL-3.0-or-later
"""Scores of picks: small examples with known results, and the matching compared with an exhaustive search."""
import itertools
import json

import numpy as np
import pandas as pd
import pytest
import starfile
from hypothesis import given, settings
from hypothesis import strategies as st

from cryogem_scipion.__main__ import run
from cryogem_scipion.engine.errors import CryogemError, DataError, SettingsError
from cryogem_scipion.engine.io.dataset import read_manifest, write_table
from cryogem_scipion.engine.io.mrc import write_mrc
from cryogem_scipion.engine.scoring.coordinates import read_coordinates
from cryogem_scipion.engine.scoring.file_names import match_file_names
from cryogem_scipion.engine.scoring.matching import match_positions
from cryogem_scipion.engine.scoring.picks import precision_recall_curve
from cryogem_scipion.engine.settings import PicksSettings
from cryogem_scipion.engine.settings.picks import default_matching_radius


@pytest.fixture(autouse=True)
def few_figures(request, monkeypatch):
    """Draw the figure only in tests with "figure" in their name, because drawing takes long."""
    if "figure" not in request.node.name:
        monkeypatch.setattr("cryogem_scipion.engine.stages.picks.draw_picks", lambda figure, folder: None)


points = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=5)


@settings(max_examples=60, deadline=None)
@given(points, points)
def test_no_other_matching_has_a_larger_score(picks, particles):
    """All matchings of up to five picks with up to five particles are tried."""
    picks, particles = (np.array(some, float).reshape(-1, 2) for some in (picks, particles))
    radius = 5.0
    partners = match_positions(picks, particles, radius)
    paired = partners[partners >= 0]
    assert len(set(paired)) == len(paired)
    distance = np.linalg.norm(picks[:, None] - particles, axis=2)
    scores = np.maximum(0, radius**2 - distance**2)
    assert all(distance[i, j] < radius for i, j in enumerate(partners) if j >= 0)
    fewer, more = sorted((len(picks), len(particles)))
    table = scores if len(picks) <= len(particles) else scores.T
    best = max(sum(table[i, j] for i, j in enumerate(order)) for order in itertools.permutations(range(more), fewer))
    assert sum(scores[i, j] for i, j in enumerate(partners) if j >= 0) == pytest.approx(best)


def test_a_pick_at_exactly_the_radius_does_not_match_in_any_unit():
    for unit in (1.0, 1.06, 0.3):  # 3, 4 and 5 in units that are not binary fractions
        assert match_positions(np.array([[3.0, 4.0]]) * unit, np.zeros((1, 2)), 5.0 * unit).tolist() == [-1]
        assert match_positions(np.array([[3.0, 3.99]]) * unit, np.zeros((1, 2)), 5.0 * unit).tolist() == [0]


def test_the_precision_recall_curve_of_a_small_example():
    """Scores 9 (hit), 7 (false), 7 (hit), 3 (false), 1 (hit), four particles; equal scores are added together."""
    curve = precision_recall_curve(np.array([1, 1, 0, 0, 1]), np.array([9.0, 7, 7, 3, 1]), 4)
    assert curve.threshold.tolist() == [9, 7, 3, 1]
    assert curve.precision == pytest.approx([1, 2 / 3, 2 / 4, 3 / 5])
    assert curve.recall == pytest.approx([1 / 4, 2 / 4, 2 / 4, 3 / 4])
    assert curve.f1 == pytest.approx([2 / 5, 4 / 7, 4 / 8, 6 / 9])
    assert curve.auprc == pytest.approx(1 / 4 + 1 / 4 * 2 / 3 + 1 / 4 * 3 / 5)


def write_truth(folder, rows, pixel_size=4.0, micrographs=None, **extra):
    """Write particles.star with rows (micrograph, x, y, whole), and micrographs.star next to it."""
    folder.mkdir(exist_ok=True)
    optics = pd.DataFrame([{"rlnOpticsGroup": 1, "rlnOpticsGroupName": "o", "rlnMicrographPixelSize": pixel_size}])
    table = pd.DataFrame(rows, columns=["rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY", "cryogemWhole"])
    table = table.assign(rlnOpticsGroup=1, **extra)
    write_table(folder / "particles.star", "particles", optics, table)
    names = micrographs or sorted(set(table["rlnMicrographName"]))
    write_table(folder / "micrographs.star", "micrographs", optics,
                pd.DataFrame({"rlnMicrographName": names, "rlnOpticsGroup": 1}))
    return folder / "particles.star"


def write_picks(path, rows):
    columns = ["image_name", "x_coord", "y_coord", "score"]
    columns = columns[:len(rows[0])] if rows else columns
    pd.DataFrame(rows, columns=columns).to_csv(path, sep="\t", index=False)
    return path


def report(tmp_path, picks, truth, out="report", **values):
    values = {"radius": 40.0, "pixel_size": 4.0, **values}
    run("picks", PicksSettings(picks=(str(picks),), truth=(str(truth),), out=tmp_path / out, **values))
    return json.loads((tmp_path / out / "picks.json").read_text())


@pytest.fixture
def truth(tmp_path):
    """Two micrographs with two whole particles each, one particle cut by the border, and an empty micrograph."""
    return write_truth(tmp_path / "gen", [("micrographs/a.mrc", 100, 100, 1), ("micrographs/a.mrc", 200, 100, 1),
                                          ("micrographs/a.mrc", 2, 100, 0), ("micrographs/b.mrc", 50, 60, 1),
                                          ("micrographs/b.mrc", 150, 60, 1)],
                       micrographs=[f"micrographs/{name}.mrc" for name in "abc"])


def test_duplicates_empty_micrographs_and_cut_particles(tmp_path, truth):
    picks = write_picks(tmp_path / "picks.txt", [
        ("a", 103, 96, 5.0),    # 20 Å off: a hit
        ("a", 101, 100, 4.0),   # nearer to the same particle: the hit, and the one above is false
        ("a", 4, 100, 9.0),     # the cut particle: dropped
        ("a", 0, 103, 8.0),     # a second pick of it: dropped, too
        ("a", 300, 300, 1.0),   # nothing there
        ("b", 50, 69, 2.0),     # 36 Å off: a hit
        ("c", 10, 10, 3.0)])    # false, on a micrograph without particles
    scores = report(tmp_path, picks, truth)
    over_all = scores["overall"]
    assert (over_all["particles"], over_all["hits"], over_all["false_picks"], over_all["missed"],
            over_all["dropped_picks"]) == (4, 2, 3, 2, 2)
    assert over_all["precision"] == pytest.approx(2 / 5)
    assert over_all["recall"] == pytest.approx(2 / 4)
    assert over_all["f1"] == pytest.approx(4 / 9)
    # By falling score: false, hit, false, hit, false.
    assert over_all["auprc"] == pytest.approx((1 / 2 + 2 / 4) / 4)
    assert scores["best"] == pytest.approx({"threshold": 2.0, "precision": 1 / 2, "recall": 1 / 2, "f1": 1 / 2})
    error = over_all["position_error_angstrom"]
    assert (error["mean"], error["offset_x"], error["offset_y"]) == pytest.approx((20, 2, 18))
    a, b, c = scores["micrographs"]
    assert (a["micrograph"], a["hits"], a["dropped_picks"], a["recall"]) == ("micrographs/a.mrc", 1, 2, 0.5)
    assert (b["precision"], b["auprc"]) == (1.0, 0.5)
    assert (c["precision"], c["recall"], c["f1"], c["auprc"], c["position_error_angstrom"]) == (0, None, 0, None, None)
    assert scores["mean_of_micrographs"]["recall"] == 0.5
    manifest = read_manifest(tmp_path / "report")
    assert (manifest.stage, manifest.micrographs, manifest.whole_particles) == ("picks", 3, 4)
    assert manifest.figures["f1"] == over_all["f1"]


def test_a_pick_between_a_cut_and_a_whole_particle_matches_the_nearer_one(tmp_path):
    truth = write_truth(tmp_path / "gen", [("a.mrc", 0, 0, 0), ("a.mrc", 10, 0, 1)])
    near_whole = report(tmp_path, write_picks(tmp_path / "one.txt", [("a", 6, 0, 1.0)]), truth, "one")["overall"]
    assert (near_whole["hits"], near_whole["dropped_picks"]) == (1, 0)
    near_cut = report(tmp_path, write_picks(tmp_path / "two.txt", [("a", 4, 0, 1.0)]), truth, "two")["overall"]
    assert (near_cut["hits"], near_cut["missed"], near_cut["dropped_picks"]) == (0, 1, 1)


def test_equal_scores_are_one_point_of_the_curve_in_any_order(tmp_path, truth):
    rows = [("a", 100, 100, 1.0), ("b", 300, 300, 1.0), ("a", 200, 100, 1.0)]
    forward = report(tmp_path, write_picks(tmp_path / "one.txt", rows), truth, "one")
    backward = report(tmp_path, write_picks(tmp_path / "two.txt", rows[::-1]), truth, "two")
    assert forward["overall"] == backward["overall"]
    assert forward["overall"]["auprc"] == pytest.approx(2 / 3 * 2 / 4)


def test_a_report_without_any_pick(tmp_path, truth):
    scores = report(tmp_path, write_picks(tmp_path / "picks.txt", []), truth)["overall"]
    assert [scores[name] for name in ("recall", "precision", "f1", "auprc", "missed")] == [0, None, 0, 0, 4]
    assert "3" not in read_manifest(tmp_path / "report").warnings[0].split()[0]


def test_picks_without_scores_have_all_metrics_but_the_curve(tmp_path, truth):
    picks = write_picks(tmp_path / "picks.txt", [("a", 100, 100), ("b", 300, 300)])
    metrics = report(tmp_path, picks, truth)
    assert (metrics["overall"]["f1"], metrics["overall"]["auprc"]) == (pytest.approx(2 / 6), None)
    assert "best" not in metrics


def test_picks_on_unlabelled_micrographs_are_left_out_with_a_warning(tmp_path, truth):
    rows = [("a", 100, 100, 1.0), ("elsewhere", 1, 1, 2.0), ("elsewhere", 2, 1, 2.0)]
    scores = report(tmp_path, write_picks(tmp_path / "picks.txt", rows), truth)["overall"]
    assert (scores["picks"], scores["precision"]) == (1, 1.0)
    warnings = read_manifest(tmp_path / "report").warnings
    assert warnings[0].startswith("2 picks are on 1 micrographs that are not in the truth")
    assert warnings[1].startswith("1 micrographs with particles have no picks")


def test_pixel_sizes_of_picks_and_truth_may_differ(tmp_path):
    """Picked at 1 Å per pixel, labelled at 4 Å; the origins hold the sub-pixel part of the true centres."""
    truth = write_truth(tmp_path / "gen", [("a.mrc", 100, 50, 1)], rlnOriginXAngst=-2.0, rlnOriginYAngst=-1.0)
    picks = write_picks(tmp_path / "picks.txt", [("a", 405, 197, 1.0)])
    error = report(tmp_path, picks, truth, pixel_size=1.0)["overall"]["position_error_angstrom"]
    assert (error["offset_x"], error["offset_y"]) == pytest.approx((405 - 402, 197 - 201))


def test_the_default_radius_comes_from_the_particle_diameter(tmp_path, truth):
    picks = write_picks(tmp_path / "picks.txt", [("a", 100, 100, 1.0)])
    with pytest.raises(SettingsError, match="diameter is not known; give radius"):
        report(tmp_path, picks, truth, radius=None)
    # The intersection of two discs at this distance is half of their union; both areas are counted in points.
    y, x = np.mgrid[-1:2:0.005, -1:2:0.005]
    disc, shifted = (np.hypot(x - centre, y) < 0.5 for centre in (0, default_matching_radius(1.0)))
    assert (disc & shifted).sum() / (disc | shifted).sum() == pytest.approx(0.5, abs=0.005)


def coordinates(path, pixel_size=None):
    return read_coordinates([path], pixel_size, "pixel_size")


def test_all_file_formats_give_the_same_coordinates(tmp_path):
    """Two picks at (10, 20) and (30.5, 40) px of 2 Å on micrograph a, in the formats of five programs."""
    rows = pd.DataFrame({"rlnMicrographName": ["m/a.mrc"] * 2, "rlnCoordinateX": [10, 30.5],
                         "rlnCoordinateY": [20, 40.0], "rlnAutopickFigureOfMerit": [0.5, 0.25]})
    optics = pd.DataFrame([{"rlnOpticsGroup": 1, "rlnMicrographPixelSize": 2.0}])
    starfile.write({"optics": optics, "particles": rows.assign(rlnOpticsGroup=1)}, tmp_path / "new.star")
    starfile.write({"": rows.drop(columns="rlnMicrographName")}, tmp_path / "a_autopick.star")
    topaz = rows.set_axis(["image_name", "x_coord", "y_coord", "score"], axis=1).assign(image_name="a")
    topaz.to_csv(tmp_path / "t.txt", sep="\t", index=False)
    topaz.to_csv(tmp_path / "t.csv", index=False)
    (tmp_path / "a.box").write_text("0 10 20 20 0.5\n20.5\t30\t20\t20\t0.25\n")
    cs = np.zeros(2, [("location/micrograph_path", "S40"), ("location/micrograph_shape", "<u4", (2,)),
                      ("location/micrograph_psize_A", "<f4"), ("location/center_x_frac", "<f4"),
                      ("location/center_y_frac", "<f4"), ("pick_stats/ncc_score", "<f4")])
    cs["location/micrograph_path"] = b"J1/imported/000012345678901234567_a.mrc"
    cs["location/micrograph_shape"], cs["location/micrograph_psize_A"] = (100, 200), 2.0
    cs["location/center_x_frac"] = [10 / 200, 30.5 / 200]
    cs["location/center_y_frac"] = [1 - 20 / 100, 1 - 40 / 100]
    cs["pick_stats/ncc_score"] = [0.5, 0.25]
    with open(tmp_path / "p.cs", "wb") as file:
        np.save(file, cs)
    for name, pixel_size in (("new.star", None), ("a_autopick.star", 2.0), ("t.txt", 2.0), ("t.csv", 2.0),
                             ("a.box", 2.0), ("p.cs", None)):
        table = coordinates(tmp_path / name, pixel_size)
        assert table[["x", "y", "score"]].to_numpy() == pytest.approx(np.array([[20, 40, 0.5], [61, 80, 0.25]])), name
        assert set(match_file_names(["somewhere/a.mrc"], table["micrograph"]).values()) == {"somewhere/a.mrc"}
    with pytest.raises(DataError, match=r"a_autopick\.star does not contain the pixel size of its coordinates; "
                       "give pixel"):
        coordinates(tmp_path / "a_autopick.star")


def test_flags_of_eman_boxes_are_not_scores(tmp_path):
    (tmp_path / "a.box").write_text("0 10 20 20 -3\n")
    assert coordinates(tmp_path / "a.box", 1.0)["score"].isna().all()


@pytest.mark.parametrize(("name", "text", "message"), [
    ("p.txt", "image_name\tx_coord\ny\t1\n", "lacks the columns y_coord"),
    ("p.box", "1 2 3\n", "fewer than four columns"),
    ("p.box", "1 2 3 4\n1 2 3\n", "cannot be read as coordinates"),
    ("p.star", "data_x\n\nloop_\n_rlnMicrographName #1\na.mrc\n", "has no rlnCoordinateX and rlnCoordinateY"),
    ("p.cs", "no array", "cannot be read as coordinates"),
    ("p.pdf", "", "ends in .pdf; coordinates are read from"),
    ("p.txt", "image_name\tx_coord\ty_coord\na\tnan\t1\n", "not finite numbers"),
    ("p.txt", "image_name\tx_coord\ty_coord\tscore\na\t1\t1\t2\na\t2\t2\t\n", "1 of 2 picks have no score"),
])
def test_unusable_coordinate_files_are_refused(tmp_path, truth, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(CryogemError, match=message) as caught:
        report(tmp_path, tmp_path / name, truth)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report").exists()


def test_a_pickle_is_not_loaded(tmp_path):
    np.save(tmp_path / "p.npy", np.array([{"a": 1}], object), allow_pickle=True)
    (tmp_path / "p.npy").rename(tmp_path / "p.cs")
    with pytest.raises(DataError, match="cannot be read as coordinates"):
        coordinates(tmp_path / "p.cs", 1.0)


def test_picks_of_other_micrographs_only_are_refused(tmp_path, truth):
    picks = write_picks(tmp_path / "picks.txt", [("x", 1, 1, 1.0)])
    with pytest.raises(DataError, match=r"none of the picked micrographs \(such as 'x'\) is a micrograph of the truth"):
        report(tmp_path, picks, truth)


def test_names_are_matched_with_as_many_folders_as_needed():
    assert match_file_names(["m/a.mrc", "m/b.1.mrc"], ["a", "/data/b.1.mrc", "c"]) == {
        "a": "m/a.mrc", "/data/b.1.mrc": "m/b.1.mrc"}
    twins = ["one/a.mrc", "two/a.mrc", "two/b.mrc"]
    assert match_file_names(twins, ["x/two/a.tif", "one/a"]) == {"x/two/a.tif": "two/a.mrc", "one/a": "one/a.mrc"}
    with pytest.raises(DataError, match="'a' matches 2 files of the truth"):
        match_file_names(twins, ["a"])
    with pytest.raises(DataError, match=r"'x/a' and 'y/a' both match m/a\.mrc; rename one"):
        match_file_names(["m/a.mrc"], ["x/a", "y/a"])
    assert match_file_names([], ["a"]) == {}


def test_the_figure_shows_a_micrograph(tmp_path):
    folder = tmp_path / "with blanks é"
    truth = write_truth(folder, [("a b.mrc", 100, 50, 1)])
    image = np.random.default_rng(1).normal(size=(1810, 2000)).astype(np.float32)
    write_mrc(folder / "a b.mrc", image, 4.0)
    report(tmp_path, write_picks(tmp_path / "picks.txt", [("a b", 100, 50, 1.0)]), truth)
    arrays = np.load(tmp_path / "report/picks.npz")
    assert arrays["image"].shape == (603, 666)
    assert arrays["image_shape"].tolist() == [1810, 2000]
    assert (tmp_path / "report/picks.png").stat().st_size > 50_000


def test_a_figure_without_scores_hits_or_pictures(tmp_path, truth):
    report(tmp_path, write_picks(tmp_path / "picks.txt", [("a", 300, 300)]), truth)
    assert (tmp_path / "report/picks.png").stat().st_size > 20_000
