# SPDX-License-Identifier: GPL-3.0-or-later
"""Properties that hold for any input, checked with random inputs: readers, settings and file names."""
import json
import random
import string
import warnings
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryogem_scipion.engine.errors import CryogemError, DataError
from cryogem_scipion.engine.io.dataset import path_inside, read_blocks, read_table, write_table
from cryogem_scipion.engine.runs.failures import one_line
from cryogem_scipion.engine.settings import STAGES, SimulateSettings, parse
from tests import fuzz

quick = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
OPTICS = pd.DataFrame([{"rlnOpticsGroup": 1, "rlnVoltage": 300.0}])
NAMES = st.text(st.sampled_from(string.ascii_letters + string.digits + "._-+/@ éÅ"), max_size=20).map(
    lambda name: f"micrographs/{name}.mrc")
VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner:
                      st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4))


def refusal(call, *arguments, otherwise=""):
    """Return the message of the refusal, which must not be empty, or ``otherwise`` where the input is accepted."""
    try:
        call(*arguments)
    except CryogemError as error:
        return str(error) or pytest.fail("refused without a message")
    return otherwise


@quick
@given(st.lists(st.tuples(NAMES, st.floats(-1e6, 1e6), st.integers(-10**6, 10**6)), min_size=1,
                max_size=6))
def test_tables_are_read_as_they_were_written(tmp_path, rows):
    frame = pd.DataFrame(rows, columns=["rlnMicrographName", "rlnCoordinateX", "rlnClassNumber"])
    write_table(tmp_path / "a.star", "particles", OPTICS, frame)
    _, rows_read = read_table(tmp_path / "a.star", "particles", tuple(frame))
    assert list(rows_read["rlnMicrographName"]) == list(frame["rlnMicrographName"])
    x_read = rows_read["rlnCoordinateX"].astype(float).tolist()
    assert x_read == pytest.approx(frame["rlnCoordinateX"].tolist(), abs=1e-5)
    assert rows_read["rlnClassNumber"].tolist() == frame["rlnClassNumber"].tolist()


def test_a_corrected_table_is_read_again(tmp_path):
    """A window may stay open while the user corrects the table."""
    path = tmp_path / "a.star"
    path.write_text("data_particles\n\nloop_\n_rlnA #1\n1 2 3\n")
    with pytest.raises(DataError, match="cannot be read as STAR"):
        read_blocks(path)
    write_table(path, "particles", OPTICS, pd.DataFrame({"rlnA": [5.0]}))
    assert read_blocks(path)["particles"]["rlnA"].tolist() == [5.0]


def test_a_table_with_a_column_twice_is_refused(tmp_path):
    path = tmp_path / "a.star"
    path.write_text("data_particles\n\nloop_\n_rlnA #1\n_rlnA #2\n1 2\n3 4\n")
    with pytest.raises(DataError, match="has the column rlnA twice"):
        read_blocks(path)


@pytest.mark.parametrize("table", [f"loop_\n_rlnA #1\n{'9' * 400}\n1\n", f"_rlnA {'9' * 400}\n_rlnB 1\n"])
def test_a_number_too_large_for_a_float_is_refused_or_read_as_text(tmp_path, table):
    """It depends on the version of pandas. Readers of numbers refuse text."""
    path = tmp_path / "a.star"
    path.write_text(f"data_particles\n\n{table}")
    try:
        result = read_blocks(path)["particles"]["rlnA"].iloc[0]
    except DataError as error:
        result = str(error)
    assert result == "9" * 400 or "cannot be read as STAR (int too large" in result


@quick
@given(st.binary(max_size=400) | st.text(max_size=400).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_read_as_a_table_or_refused(tmp_path, content):
    (tmp_path / "a.star").write_bytes(content)
    assert "a.star" in refusal(read_blocks, tmp_path / "a.star", otherwise="a.star")


@quick
@given(st.sampled_from(sorted(STAGES)), st.data())
def test_any_values_are_accepted_as_settings_or_refused(stage, data):
    kind = STAGES[stage]
    names = st.sampled_from(sorted(kind.model_fields)) | st.text(max_size=8)
    values = data.draw(st.dictionaries(names, VALUES, max_size=6))
    message = refusal(parse, kind, values)
    assert one_line(message).isprintable()
    if not message:
        parsed = parse(kind, values)
        assert parse(kind, json.loads(parsed.model_dump_json())) == parsed


@quick
@given(st.fixed_dictionaries({}, optional={
    "snr": st.floats(1e-3, 100), "micrograph_size": st.tuples(*[st.integers(16, 65536)] * 2),
    "seed": st.integers(0, 2**31 - 1),
    "symmetry": st.sampled_from(["c3", "D7", "O", "i2"]), "overlap": st.floats(0, 1), "device": st.just("cuda:3"),
    "preferred_views": st.lists(st.just("10:20.5:3"), max_size=3), "extract": st.booleans()}))
def test_settings_are_read_from_json_as_they_were_written(values):
    parsed = parse(SimulateSettings, {"volume": ["a.mrc"], "out": "o", **values})
    assert parse(SimulateSettings, json.loads(parsed.model_dump_json())) == parsed


@quick
@given(st.text(min_size=1))
def test_no_file_name_leads_out_of_its_folder(tmp_path, name):
    message = refusal(path_inside, tmp_path, name)
    assert one_line(message).isprintable()
    assert message or path_inside(tmp_path, name).is_relative_to(tmp_path.resolve())


def test_links_out_of_a_folder_are_refused(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/link").symlink_to(tmp_path)
    (tmp_path / "in/loop").symlink_to("loop")
    for name in ("link/secret.mrc", "link/../secret.mrc"):
        with pytest.raises(DataError, match="lies outside"):
            path_inside(tmp_path / "in", name)


@pytest.mark.slow
def test_a_short_run_of_the_fuzzer_finds_nothing(tmp_path):
    """The program tests/fuzz.py runs longer."""
    draw = random.Random(7)
    readers = [(path.read_bytes(), path.suffix, read) for _, path, read in fuzz.valid_files(tmp_path)]
    others = [content for content, _, _ in readers]
    refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(12):
            for content, ending, read in readers:
                case = tmp_path / f"case{ending}"
                case.write_bytes(fuzz.damaged(content, others, draw))
                refused += bool(refusal(read, case))
    assert refused > 100


@pytest.mark.parametrize("content", [
    b"PK\x03\x04", b"\x80\x02}q\x00.", b"\x80\x02K\x01K\x02\x86R.", b"\x80\x02ccollections"])
def test_damaged_pickles_are_refused_with_a_message(tmp_path, content):
    from cryogem_scipion.engine.errors import CheckpointError
    from cryogem_scipion.engine.translator.published_checkpoint import import_published
    path = Path(tmp_path / "x.pth")
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.pth"):
        import_published(path, None, 5.0)
