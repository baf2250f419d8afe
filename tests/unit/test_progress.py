# SPDX-License-Identifier: GPL-3.0-or-later
"""Progress for people: lines, and the file that tells a window how far a run is."""
import logging

import pytest

from cryogem_scipion.engine.runs.progress import PROGRESS, Progress, duration, read_progress, track_progress


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"),
                                               (3725, "1 h 02 min")])
def test_time_spans_as_people_read_them(seconds, text):
    assert duration(seconds) == text


@pytest.mark.usefixtures("clock")
def test_a_stopped_run_tells_how_far_it_was_and_a_finished_one_nothing(tmp_path):
    assert read_progress(tmp_path) is None
    steps = track_progress(range(3, 6), 5, "training step", done=2, seconds=0, note=lambda item: f"loss {item}",
                    folder=tmp_path)
    next(steps)
    assert read_progress(tmp_path) == Progress("training step", 2, 5, None, "")
    next(steps)
    found = read_progress(tmp_path)
    assert (found.done, found.total, found.note) == (3, 5, "loss 3")
    assert found.seconds_left == pytest.approx(0.02)  # two more like the first
    steps.close()  # as an interruption does
    assert read_progress(tmp_path) == found
    assert list(track_progress(range(4, 6), 5, "training step", done=3, folder=tmp_path)) == [4, 5]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("clock")
def test_lines_are_plain_where_there_is_no_terminal(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "cryogem"):
        list(track_progress("abc", 3, "reading", seconds=0, note=lambda item: f"now {item}"))
    assert caplog.messages[1].startswith("reading 2/3, 0 s left, now b")
    assert len(caplog.messages) == 3


def test_a_damaged_file_is_no_progress(tmp_path):
    for text in ("", "[1]", '{"what": "x"}'):
        (tmp_path / PROGRESS).write_text(text)
        assert read_progress(tmp_path) is None
