# SPDX-License-Identifier: GPL-3.0-or-later
"""Unusual but valid inputs: special characters in names, equal names, one micrograph, micrographs without particles."""
import shutil
from pathlib import Path

import pytest

from cryogem_scipion.engine.io.dataset import (
    EXTRACTED,
    MICROGRAPHS,
    PARTICLES,
    plain_name,
    quoted_path,
    read_manifest,
    read_table,
    unquoted_path,
)
from cryogem_scipion.engine.io.mrc import read_header
from cryogem_scipion.engine.settings import GenerateSettings, SimulateSettings, TrainSettings, parse
from cryogem_scipion.engine.stages import generate, simulate, train

SMALL = {"steps": 2, "crop": 64, "generator_width": 4, "discriminator_width": 4}
UNUSUAL_NAME = "mic é'#.mrc"


@pytest.fixture(scope="module")
def unusual(world, tmp_path_factory):
    """Two real micrographs with the same name, in folders with blanks and special characters."""
    folder = tmp_path_factory.mktemp("dossier") / "réel, deux"
    for number, name in enumerate(("a b", "ç")):
        (folder / name).mkdir(parents=True)
        shutil.copy(world / f"real/mic {number}.mrc", folder / name / UNUSUAL_NAME)
    return folder


@pytest.fixture(scope="module")
def empty(world, tmp_path_factory):
    """A simulation of one micrograph without particles."""
    out = tmp_path_factory.mktemp("empty") / "sim"
    simulate.run(SimulateSettings(out=out, volume=(world / "map/phantom.mrc",), micrographs=1, pixel_size=6.0,
                                  micrograph_size=(192, 224), particles_mean=0, particles_sigma=0, extract=True))
    return out


def test_equal_names_in_two_folders_get_different_copies(world, unusual, tmp_path):
    out = tmp_path / "çà et là"
    train.run(parse(TrainSettings, {"real": [str(unusual / "*" / UNUSUAL_NAME)], "real_pixel_size": 2.9, "out": out,
                                    **SMALL, "simulation": world / "sim"}))
    _, rows = read_table(out / MICROGRAPHS, "micrographs")
    assert list(rows["rlnMicrographName"]) == ["micrographs/mic_.mrc", "micrographs/mic__2.mrc"]
    originals = [str(unusual / name / UNUSUAL_NAME) for name in ("a b", "ç")]
    assert [unquoted_path(word) for word in rows["cryogemOriginal"]] == originals
    for row in rows.itertuples():
        (height, width), _ = read_header(out / row.rlnMicrographName, 2)
        # The same field, except that fewer than three pixels are cut at its end.
        assert 0 <= 448 * 2.9 - width * row.cryogemPixelSizeX < 3 * 6
        assert 0 <= 384 * 2.9 - height * row.cryogemPixelSizeY < 3 * 6


def test_all_stages_work_with_one_micrograph(world, unusual, tmp_path):
    simulate.run(SimulateSettings(out=tmp_path / "sim", volume=(world / "map/phantom.mrc",), micrographs=1,
                                  pixel_size=6.0, micrograph_size=(192, 224), particles_mean=5,
                                  particles_sigma=0))
    train.run(parse(TrainSettings, {"real": [str(unusual / "ç" / UNUSUAL_NAME)], "simulation": tmp_path / "sim",
                                    **SMALL, "out": tmp_path / "run"}))
    manifest = generate.run(GenerateSettings(simulation=tmp_path / "sim", model=tmp_path / "run/model.safetensors",
                                             micrographs=1, out=tmp_path / "gen"))
    assert (manifest.micrographs, read_manifest(tmp_path / "run").micrographs) == (1, 1)
    assert manifest.particles == len(read_table(tmp_path / "gen" / PARTICLES, "particles")[1]) > 0


def test_all_stages_work_without_particles(world, unusual, empty, tmp_path):
    """Every stage works, and gives a warning about what it could not measure."""
    run = train.run(parse(TrainSettings, {"real": [str(unusual / "ç" / UNUSUAL_NAME)], "simulation": empty, **SMALL,
                                          "out": tmp_path / "run"}))
    assert "no particles to compare the real ones with" in run.warnings[0]
    assert read_manifest(tmp_path / "run").figures.keys() >= {"background_deviation", "adversarial"}
    manifest = generate.run(GenerateSettings(simulation=empty, model=tmp_path / "run/model.safetensors", reuse=True,
                                             out=tmp_path / "gen"))
    assert (manifest.micrographs, manifest.particles) == (1, 0)
    for table in (PARTICLES, EXTRACTED):
        assert read_table(tmp_path / "gen" / table, "particles", ("rlnMicrographName", "rlnAngleRot"))[1].empty
    assert not list((tmp_path / "gen/particles").iterdir())


def test_some_micrographs_may_have_no_particles(world, tmp_path):
    manifest = simulate.run(SimulateSettings(out=tmp_path / "sim", volume=(world / "map/phantom.mrc",), micrographs=6,
                                             pixel_size=6.0, micrograph_size=(192, 224), particles_mean=0.6,
                                             particles_sigma=0.6, extract=True))
    _, rows = read_table(tmp_path / "sim" / PARTICLES, "particles")
    assert 0 < rows["rlnMicrographName"].nunique() < 6
    assert manifest.particles == len(rows)
    for noise in ({"noise": "gaussian"}, {"noise": "spectrum", "real": (str(world / "real/*.mrc"),)}):
        out = tmp_path / noise["noise"]
        generate.run(GenerateSettings(out=out, simulation=tmp_path / "sim", reuse=True, **noise))
        generated = read_table(out / PARTICLES, "particles")[1]
        assert list(generated["rlnMicrographName"]) == list(rows["rlnMicrographName"])
        assert len(read_table(out / MICROGRAPHS, "micrographs")[1]) == 6


@pytest.mark.parametrize("path", ["/a b/ñ é.mrc", "/it's \"so\"/#1.mrc", "/tab\there/x  y.mrc", "/50%/%20.mrc",
                                  "/日本.mrc"])
def test_any_path_is_written_as_one_word_of_a_table(path):
    word = quoted_path(path)
    assert word.isascii()
    assert not set(word) & set(" \t\"'#")
    assert unquoted_path(word) == path
    assert quoted_path("/data/plain_1-2.mrc") == "/data/plain_1-2.mrc"
    assert not set(plain_name(Path(path).name)) & set(" \t\"'#é")
