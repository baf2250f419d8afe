# SPDX-License-Identifier: GPL-3.0-or-later
"""The stage ``simulate``: the dataset folder, its labels, continued runs, and errors."""
import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from cryogem_scipion.engine.errors import DataError, SettingsError
from cryogem_scipion.engine.io.dataset import path_inside, read_manifest, read_table
from cryogem_scipion.engine.io.mrc import read_mrc
from cryogem_scipion.engine.settings import PhantomSettings, SimulateSettings
from cryogem_scipion.engine.simulation import projection
from cryogem_scipion.engine.stages import phantom, simulate


@pytest.fixture(scope="module")
def volume_file(tmp_path_factory):
    out = tmp_path_factory.mktemp("maps") / "a map with blanks, é"
    phantom.run(PhantomSettings(out=out, box=40, pixel_size=4.0, diameter_angstrom=110))
    return out / "phantom.mrc"


def settings(volume_file, out, **changes):
    values = {"out": out, "volume": (volume_file,), "pixel_size": 5.0, "micrographs": 3, "micrograph_size": (160, 200),
              "particles_mean": 9, "particles_sigma": 2, "particle_distance": 60.0, "seed": 4, "extract": True,
              **changes}
    return SimulateSettings(**values)


@pytest.fixture(scope="module")
def folder(volume_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "sim"
    simulate.run(settings(volume_file, out))
    return out


def hashes(out):
    """Hash of each file that a run writes; not of settings and manifest, which hold the folder's name."""
    own = {"settings.json", "manifest.json"}
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(out.rglob("*")) if path.is_file() and path.name not in own}


def test_the_dataset_folder_holds_all_files_and_columns(folder):
    manifest = read_manifest(folder)
    optics, micrographs = read_table(folder / "micrographs.star", "micrographs")
    assert manifest.micrographs == len(micrographs) == 3
    assert float(optics["rlnMicrographPixelSize"].iloc[0]) == manifest.pixel_size == 5.0
    _, particles = read_table(folder / "particles.star", "particles")
    _, extracted = read_table(folder / "extracted.star", "particles", ("rlnImageName",))
    assert (manifest.particles, manifest.whole_particles) == (len(particles), len(extracted))
    assert 0 < manifest.whole_particles < manifest.particles
    for row in micrographs.itertuples():
        image, pixel_size = read_mrc(path_inside(folder, row.rlnMicrographName), 2)
        mask, _ = read_mrc(path_inside(folder, row.cryogemMask), 2)
        assert image.shape == mask.shape == (160, 200)
        assert pixel_size == 5.0
        rows = particles[particles["rlnMicrographName"] == row.rlnMicrographName]
        assert (rows["rlnDefocusU"] == row.rlnDefocusU).all()
        # Protein is dark on a background of 1. With underfocus, the middle of a particle is dark on average.
        assert image[mask > 0].mean() < 1
        assert abs(np.median(image[mask == 0]) - 1) < 0.01
        for particle in rows.itertuples():
            y, x = int(particle.rlnCoordinateY), int(particle.rlnCoordinateX)
            assert mask[max(0, y - 3):y + 4, max(0, x - 3):x + 4].any()
    assert set(particles["rlnRandomSubset"]) == {1, 2}
    assert not set(particles["cryogemSource"]) - {path.name for path in (folder / "source").iterdir()}


def test_stacks_hold_the_whole_particles_in_order(folder):
    _, extracted = read_table(folder / "extracted.star", "particles")
    box = read_manifest(folder).box_size
    for name, rows in extracted.groupby("rlnMicrographName"):
        image, _ = read_mrc(folder / name, 2)
        stack, pixel_size = read_mrc(folder / name.replace("micrographs", "particles").replace(".mrc", ".mrcs"), 3) \
            if len(rows) > 1 else (None, 5.0)
        assert pixel_size == 5.0
        for number, row in enumerate(rows.itertuples(), 1):
            assert row.rlnImageName.startswith(f"{number:06d}@particles/")
            if stack is not None:
                y, x = int(row.rlnCoordinateY) - box // 2, int(row.rlnCoordinateX) - box // 2
                cut = image[y:y + box, x:x + box]
                assert np.corrcoef(cut.ravel(), stack[number - 1].ravel())[0, 1] == pytest.approx(-1, abs=1e-4)


def test_the_seed_determines_every_byte(folder, volume_file, tmp_path):
    simulate.run(settings(volume_file, tmp_path / "again"))
    assert hashes(tmp_path / "again") == hashes(folder)
    simulate.run(settings(volume_file, tmp_path / "other", seed=5))
    assert not set(hashes(tmp_path / "other").values()) & {
        value for name, value in hashes(folder).items() if name.startswith("micrographs/")}


@pytest.mark.parametrize("options", [{}, {"ice_thickness_angstrom": 500, "soft_mask": True}])
def test_threads_and_batches_do_not_change_a_byte(volume_file, tmp_path, monkeypatch, torch_threads, processor,
                                                    options):
    """The images are so large that torch, too, would use several threads for one image."""
    hashes_of_runs = []
    for count, chunk in ((1, 1 << 19), (3, 1 << 19), (2, 1 << 14)):
        torch_threads(count)
        monkeypatch.setitem(projection.CHUNK_BYTES, True, chunk)
        out = tmp_path / str(len(hashes_of_runs))
        simulate.run(settings(volume_file, out, micrograph_size=(400, 420), particles_mean=40, **options))
        hashes_of_runs.append(hashes(out))
    assert len(hashes_of_runs[0]) >= 3 * 3 + 3
    assert hashes_of_runs[0] == hashes_of_runs[1] == hashes_of_runs[2]


def test_another_process_with_one_thread_gives_the_same_bytes(folder, volume_file, tmp_path):
    """The run has one micrograph more; this changes nothing in the others."""
    values = settings(volume_file, tmp_path / "one", threads=1, micrographs=4).model_dump(mode="json")
    (tmp_path / "run.json").write_text(json.dumps(values))
    subprocess.run([sys.executable, "-m", "cryogem_scipion", "simulate", "--config", str(tmp_path / "run.json")],
                   check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    own_hashes = hashes(tmp_path / "one")
    for name, value in hashes(folder).items():
        if name.endswith((".mrc", ".mrcs")):
            assert own_hashes[name] == value


def test_an_interrupted_run_continues_and_gives_the_same_bytes(folder, volume_file, tmp_path, monkeypatch):
    out = tmp_path / "sim"
    started, written = [], []
    write = simulate.DatasetWriter.write_images

    def write_or_stop(self, index, image, clean):
        started.append(index)
        if index == 1 and started.count(1) == 1:
            raise KeyboardInterrupt
        write(self, index, image, clean)
        written.append(index)

    monkeypatch.setattr(simulate.DatasetWriter, "write_images", write_or_stop)
    with pytest.raises(KeyboardInterrupt):
        simulate.run(settings(volume_file, out))
    assert not (out / "manifest.json").exists()
    simulate.run(settings(volume_file, out))
    assert sorted(written) == [0, 1, 2]
    assert not list(out.glob(".*"))
    assert hashes(out) == hashes(folder)


def test_a_folder_of_another_run_is_refused(folder, volume_file, tmp_path):
    before = hashes(folder)
    with pytest.raises(SettingsError, match=r"another seed \(4\)"):
        simulate.run(settings(volume_file, folder, seed=9))
    assert hashes(folder) == before
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SettingsError, match="not empty"):
        simulate.run(settings(volume_file, tmp_path))


def test_particles_that_do_not_fit_are_left_out_with_a_warning(volume_file, tmp_path):
    manifest = simulate.run(settings(volume_file, tmp_path / "sim", particles_mean=400, particle_distance=200.0,
                                     micrographs=1, extract=False))
    assert 0 < manifest.particles < 100
    assert "did not fit" in manifest.warnings[0]


def test_a_simulation_without_particles(volume_file, tmp_path):
    manifest = simulate.run(settings(volume_file, tmp_path / "sim", particles_mean=0, particles_sigma=0))
    assert manifest.particles == 0
    _, particles = read_table(tmp_path / "sim/particles.star", "particles", ("rlnCoordinateX", "cryogemWhole"))
    assert len(particles) == 0


def test_a_full_disk_is_an_error_before_anything_is_written(volume_file, tmp_path):
    with pytest.raises(DataError, match="GB free"):
        simulate.run(settings(volume_file, tmp_path / "sim", micrographs=10_000_000, micrograph_size=(60000, 60000)))
    assert not (tmp_path / "sim").exists()
