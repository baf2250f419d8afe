# SPDX-License-Identifier: GPL-3.0-or-later
"""Work side by side: in order, a bounded number at a time; and tables that grow on disk."""
import threading
import time

import pandas as pd
import pytest
import torch

from cryogem_scipion.engine.compute.parallel import map_in_order, worker_count
from cryogem_scipion.engine.compute.threads import available_threads
from cryogem_scipion.engine.io.dataset import read_table, write_table
from cryogem_scipion.engine.io.star_writer import StarTableWriter

OPTICS = pd.DataFrame([{"rlnOpticsGroup": 1, "rlnVoltage": 300.0}])
ROWS = pd.DataFrame({"rlnMicrographName": ["a.mrc", "b.mrc", "b.mrc"], "rlnCoordinateX": [1.0, 2.25, 1e4 / 3],
                     "rlnClassNumber": [1, 2, 30]})


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_order(threads):
    def work(item):
        time.sleep(0.01 * (item % 3 == 0))
        return item * item

    assert list(map_in_order(work, range(20), threads)) == [item * item for item in range(20)]


def test_only_a_few_wait_to_be_taken():
    started = []
    results = map_in_order(lambda item: started.append(item), iter(range(1000)), 2)
    for taken in range(1, 10):
        next(results)
        assert len(started) <= taken + 4
    results.close()
    assert len(started) < 20


def test_an_error_ends_the_work():
    done = []

    def work(item):
        if item == 3:
            raise ValueError("three")
        time.sleep(0.002)
        done.append(item)

    with pytest.raises(ValueError, match="three"):
        list(map_in_order(work, range(1000), 2))
    assert len(done) < 20


def test_an_item_has_one_thread_of_torch_and_a_share_of_the_others_and_all_are_back_after():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        for threads, share in ((1, 4), (2, 2)):
            seen = list(map_in_order(lambda item: (torch.get_num_threads(), available_threads(), threading.get_ident()),
                                 range(8), threads))
            assert {(torchs, own) for torchs, own, _ in seen} == {(1, share)}
            assert (threading.get_ident() in {thread for *_, thread in seen}) == (threads == 1)
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_memory_and_count_limit_the_workers():
    cpu = torch.device("cpu")
    assert worker_count(cpu, 1, 1) == 1
    assert worker_count(cpu, 100, 1 << 60) == 1
    assert worker_count(cpu, 10**6, 1) == torch.get_num_threads()  # more than any machine's cores
    assert worker_count(torch.device("cuda"), 100, 1) == 2


@pytest.mark.parametrize("lots", [[3], [1, 2], [0, 1, 0, 2], [0]])
def test_a_table_that_grew_is_the_table(tmp_path, lots):
    table = StarTableWriter(tmp_path / "grown.star", "particles")
    first = 0
    for count in lots:
        table.append(ROWS.iloc[first:first + count])
        first += count
    assert not list(tmp_path.iterdir())
    table.finish(OPTICS)
    write_table(tmp_path / "whole.star", "particles", OPTICS, ROWS.iloc[:first])
    grown, whole = (read_table(tmp_path / f"{name}.star", "particles", tuple(ROWS)) for name in ("grown", "whole"))
    for found, expected in zip(grown, whole, strict=True):
        pd.testing.assert_frame_equal(found, expected)
    assert (tmp_path / "grown.star").read_text().split() == (tmp_path / "whole.star").read_text().split()


def test_an_unfinished_table_leaves_nothing(tmp_path):
    table = StarTableWriter(tmp_path / "grown.star", "particles")
    table.append(ROWS)
    del table
    assert not list(tmp_path.iterdir())
