# SPDX-License-Identifier: GPL-3.0-or-later
"""Progress of a run: lines for people, and the file for Scipion's windows."""
import logging

import pytest

from cryogem_scipion.engine.runs.progress import PROGRESS, Progress, duration, read_progress, track_progress


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"),
                                               (3725, "1 h 02 min")])
def test_time_spans_are_written_with_units(seconds, text):
    assert duration(seconds) == text


@pytest.mark.usefixtures("clock")
def test_a_stopped_run_keeps_its_progress_and_a_finished_run_has_none(tmp_path):
    assert read_progress(tmp_path) is None
    steps = track_progress(range(3, 6), 5, "training step", done=2, seconds=0, note=lambda item: f"loss {item}",
                    folder=tmp_path)
    next(steps)
    assert read_progress(tmp_path) == Progress("training step", 2, 5, None, "")
    next(steps)
    progress = read_progress(tmp_path)
    assert (progress.done, progress.total, progress.note) == (3, 5, "loss 3")
    assert progress.seconds_left == pytest.approx(0.02)  # two more steps take twice the time of the first
    steps.close()  # as when the run is interrupted
    assert read_progress(tmp_path) == progress
    assert list(track_progress(range(4, 6), 5, "training step", done=3, folder=tmp_path)) == [4, 5]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("clock")
def test_without_a_terminal_the_progress_is_plain_lines(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "cryogem"):
        list(track_progress("abc", 3, "reading", seconds=0, note=lambda item: f"now {item}"))
    assert caplog.messages[1].startswith("reading 2/3, 0 s left, now b")
    assert len(caplog.messages) == 3


def test_a_damaged_progress_file_is_ignored(tmp_path):
    for text in ("", "[1]", '{"what": "x"}'):
        (tmp_path / PROGRESS).write_text(text)
        assert read_progress(tmp_path) is None
