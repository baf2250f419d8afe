# SPDX-License-Identifier: GPL-3.0-or-later
"""Conformations of a cryoDRGN result folder, with a replacement for cryoDRGN; tests/optional use the real one."""
import json
import pickle
import re
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from cryogem_scipion.engine.errors import CryogemError, DataError, SettingsError
from cryogem_scipion.engine.io.dataset import PARTICLES, read_manifest, read_table
from cryogem_scipion.engine.io.mrc import read_mrc
from cryogem_scipion.engine.settings import GenerateSettings, SimulateSettings, parse
from cryogem_scipion.engine.simulation import conformations
from cryogem_scipion.engine.simulation.conformations import CRYODRGN_ENV_ACTIVATION, specimen_files
from cryogem_scipion.engine.simulation.cryodrgn_latents import draw_particles
from cryogem_scipion.engine.stages import generate, simulate

CONFORMATIONS = 4
# Decodes the latent coordinate z into a bar of three balls; the last ball is higher for a larger z.
STAND_IN = '''\
    import sys
    from pathlib import Path
    import numpy as np
    sys.path.append({root!r})
    from cryogem_scipion.engine.io.mrc import write_mrc
    if sys.argv[1] != "eval_vol":
        sys.exit("unknown command")
    option = dict(zip(sys.argv[3::2], sys.argv[4::2]))
    if not Path(option["-c"]).is_file() or not Path(sys.argv[2]).read_bytes():
        sys.exit("RuntimeError: these are no weights")
    out = Path(option["-o"])
    out.mkdir()
    z, y, x = np.mgrid[:24, :24, :24] - 12
    for number, row in enumerate(np.loadtxt(option["--zfile"]).reshape(-1, 2), 1):
        centres = [(0, 0, -6), (0, 0, 0), (3 * row[0], 0, 6)]
        density = sum(np.exp(-((z - c) ** 2 + (y - b) ** 2 + (x - a) ** 2) / 8) for c, b, a in centres)
        write_mrc(out / f"vol_{{number:03d}}.mrc", density.astype("float32"), float(option["--Apix"]))
'''


@pytest.fixture(scope="module")
def activation(tmp_path_factory):
    """Command that activates an environment with replacements for cryodrgn and the YAML reader (JSON is YAML)."""
    folder = tmp_path_factory.mktemp("an environment")
    root = str(Path(conformations.__file__).resolve().parents[3])
    (folder / "stand_in.py").write_text(textwrap.dedent(STAND_IN).format(root=root), "utf-8")
    # Started by the shell, because Linux cannot start an interpreter whose path is long or has a blank.
    for name, more in (("python", ""), ("cryodrgn", f"'{folder}/stand_in.py'")):
        (folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {more} "$@"\n', "utf-8")
        (folder / name).chmod(0o755)
    (folder / "yaml.py").write_text("from json import loads as safe_load\n")
    return f"export PATH='{folder}':$PATH PYTHONPATH='{folder}'"


@pytest.fixture
def result(tmp_path):
    """A result folder as cryodrgn train_vae leaves it: 60 particles, two latent dimensions, images of 24 pixels."""
    folder = tmp_path / "a result"
    folder.mkdir()
    latents = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
    for name in ("z.pkl", "z.3.pkl"):
        with (folder / name).open("wb") as file:
            pickle.dump(latents if name == "z.pkl" else latents + 100, file)
            pickle.dump(np.zeros_like(latents), file)
    for name in ("weights.pkl", "weights.3.pkl", "weights.4.pkl"):
        (folder / name).write_bytes(b"weights")
    with (folder / "ctf.pkl").open("wb") as file:
        pickle.dump(np.tile([48, 2.0, 1e4, 1e4, 0, 300, 2.7, 0.1, 0], (60, 1)), file)
    (folder / "config.yaml").write_text(json.dumps({
        "dataset_args": {"ctf": str(folder / "ctf.pkl")}, "lattice_args": {"D": 25}}))
    return folder


def settings(folder, activation, out, **changes):
    return parse(SimulateSettings, {
        "out": out, "cryodrgn_folder": folder, "cryodrgn_activation": activation, "micrographs": 2,
        "cryodrgn_conformations": CONFORMATIONS, "micrograph_size": (200, 200), "particles_mean": 20, "seed": 5,
        "device": "cpu", **changes})


def test_particles_are_drawn_by_the_seed_and_without_repetition():
    latents = np.zeros((50, 1))
    assert len(set(draw_particles(latents, 50, 1).tolist())) == 50
    first, again, other = (draw_particles(latents, 5, seed).tolist() for seed in (1, 1, 2))
    assert first == again != other
    assert draw_particles(latents, 80, 1).max() < 50


def test_decoded_conformations_are_the_maps_of_the_simulation(result, activation, tmp_path, caplog):
    with specimen_files(settings(result, activation, tmp_path / "sim")) as specimens:
        maps = [read_mrc(path, 3) for path in specimens.settings.volume]
        record = json.loads(specimens.record_files[0].read_text())
        origins = [f"{result}/weights.pkl, particle {number + 1}" for number in record["particles"]]
        assert list(specimens.provenance.values()) == [*origins, str(result)]
    assert not any(path.exists() for path in specimens.settings.volume)
    with (result / "z.pkl").open("rb") as file:
        latents = pickle.load(file)
    assert np.array_equal(record["latents"], latents[record["particles"]])
    z = np.arange(24) - 12
    for (density, pixel_size), (first, _) in zip(maps, record["latents"], strict=True):
        # The images had 48 pixels of 2 Å, and the network was trained with 24 pixels.
        assert pixel_size == pytest.approx(4.0)
        # The third ball lies at z = 3 times the first latent coordinate, the others at 0. So the mean z is that number.
        assert (density * z[:, None, None]).sum() / density.sum() == pytest.approx(first, abs=0.05)
    assert "reading them can run code" in caplog.text


def test_an_epoch_and_a_pixel_size_can_be_chosen(result, activation, tmp_path):
    chosen = settings(result, activation, tmp_path / "sim", cryodrgn_epoch=3, volume_pixel_size=3.0)
    with specimen_files(chosen) as specimens:
        record = json.loads(specimens.record_files[0].read_text())
        assert np.min(record["latents"]) > 50
        assert record["weights"].endswith("weights.3.pkl")
        assert read_mrc(specimens.settings.volume[0], 3)[1] == pytest.approx(3.0)


def test_an_unfinished_run_gives_its_last_complete_epoch(result, activation, tmp_path):
    (result / "weights.pkl").unlink()
    with specimen_files(settings(result, activation, tmp_path / "sim")) as specimens:
        # Epoch 4 has weights, but no latent coordinates.
        assert json.loads(specimens.record_files[0].read_text())["weights"].endswith("weights.3.pkl")


def test_a_run_is_continued_and_reused_without_cryodrgn(result, activation, tmp_path):
    out = tmp_path / "sim"
    simulate.run(settings(result, activation, out))
    manifest = read_manifest(out)
    _, rows = read_table(out / PARTICLES, "particles", ("cryogemSource", "rlnClassNumber"))
    assert len(manifest.simulation["volume"]) == CONFORMATIONS
    assert set(rows["cryogemSource"]) <= {Path(name).name for name in manifest.simulation["volume"]}
    numbers = rows["cryogemSource"].str.extract(r"conformation_(\d+)")[0].astype(int)
    assert (numbers == rows["rlnClassNumber"]).all()
    assert numbers.nunique() == CONFORMATIONS
    assert manifest.simulation["cryodrgn_folder"] is None
    record = json.loads((out / manifest.sources[-1].path).read_text())
    assert manifest.sources[0].origin == f"{result}/weights.pkl, particle {record['particles'][0] + 1}"

    broken = out / "micrographs/mic_000001.mrc"
    before = broken.read_bytes()
    broken.unlink()
    simulate.run(settings(result, "false", out))  # an environment that cannot be activated
    assert broken.read_bytes() == before
    assert read_manifest(out).sources == manifest.sources

    moved = tmp_path / "moved"
    out.rename(moved)
    generate.run(GenerateSettings(out=tmp_path / "gen", simulation=moved, noise="gaussian", reuse=True, device="cpu"))
    _, again = read_table(tmp_path / "gen" / PARTICLES, "particles")
    assert (again["cryogemSource"] == rows["cryogemSource"]).all()


def _without(name):
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(("change", "changes", "kind", "message"), [
    (_without("config.yaml"), {}, DataError, r"a result has no config\.yaml; give the folder that cryodrgn train_vae"),
    (None, {"cryodrgn_epoch": 4}, DataError, r"no weights\.4\.pkl and z\.4\.pkl \(it has epochs 3 with both files\)"),
    (_without("ctf.pkl"), {}, SettingsError, "does not give the pixel size.*set volume_pixel_size"),
    (lambda folder: (folder / "weights.pkl").write_bytes(b""), {}, DataError,
     r"cryoDRGN failed \(RuntimeError: these are no weights\) in the environment of"),
    (None, {"cryodrgn_activation": "cd /nowhere"}, DataError, "cryoDRGN failed .*nowhere.*check the folder"),
    (None, {"cryodrgn_activation": ""}, SettingsError,
     f"not known; set cryodrgn_activation.*{CRYODRGN_ENV_ACTIVATION}"),
    (lambda folder: (folder / "z.pkl").write_bytes(pickle.dumps(np.full((3, 2), np.nan))), {}, DataError,
     "does not hold latent coordinates"),
])
def test_unusable_cryodrgn_folders_are_refused(result, activation, tmp_path, monkeypatch, change, changes, kind,
                                               message):
    """Nothing is written."""
    monkeypatch.delenv(CRYODRGN_ENV_ACTIVATION, raising=False)
    if change:
        change(result)
    with pytest.raises(kind, match=message) as caught:
        simulate.run(settings(result, activation, tmp_path / "sim", **changes))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "sim").exists()


@pytest.mark.parametrize(("values", "message"), [
    ({"volume": ["a.mrc"], "cryodrgn_folder": "d"}, "both a map and a cryoDRGN folder"),
    ({"cryodrgn_folder": "d", "volume_proportions": [1, 2]}, "do not fit 0 maps"),
    ({}, "no specimen is given")])
def test_settings_need_exactly_one_source_of_maps(values, message):
    with pytest.raises(CryogemError, match=message):
        parse(SimulateSettings, {"out": "x", **values})


def test_cryodrgn_gets_the_chosen_device(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/scipion")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    seen = {device: conformations._environment(device)["CUDA_VISIBLE_DEVICES"] for device in ("cpu", "auto", "cuda:1")}
    assert seen == {"cpu": "", "auto": "4,7", "cuda:1": "7"}
    assert "PYTHONPATH" not in conformations._environment("cpu")


def test_only_the_program_in_cryodrgns_environment_reads_pickles():
    """No other file of the package reads pickles, and no file imports that program."""
    package = Path(conformations.__file__).parents[2]
    for path in package.rglob("*.py"):
        text = path.read_text("utf-8")
        if path.name != "cryodrgn_latents.py":
            assert not re.search(r"pickle\.(load|Unpickler)|weights_only=False|allow_pickle=True", text), path
            assert not re.search(r"^\s*(import|from) cryogem_scipion\..*cryodrgn_latents", text, re.M), path
