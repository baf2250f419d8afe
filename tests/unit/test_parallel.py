# SPDX-License-Identifier: GPL-3.0-or-later
"""Parallel work: order, number of waiting results, threads and memory; and STAR tables written in batches."""
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
def test_results_keep_the_order_of_the_items(threads):
    def work(item):
        time.sleep(0.01 * (item % 3 == 0))
        return item * item

    assert list(map_in_order(work, range(20), threads)) == [item * item for item in range(20)]


def test_few_results_wait_for_the_caller():
    started = []
    results = map_in_order(lambda item: started.append(item), iter(range(1000)), 2)
    for taken in range(1, 10):
        next(results)
        assert len(started) <= taken + 4
    results.close()
    assert len(started) < 20


def test_an_error_stops_all_work():
    done = []

    def work(item):
        if item == 3:
            raise ValueError("three")
        time.sleep(0.002)
        done.append(item)

    with pytest.raises(ValueError, match="three"):
        list(map_in_order(work, range(1000), 2))
    assert len(done) < 20


def test_each_item_has_one_torch_thread_and_its_share_of_the_others():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        for threads, share in ((1, 4), (2, 2)):
            results = list(map_in_order(
                lambda item: (torch.get_num_threads(), available_threads(), threading.get_ident()), range(8), threads))
            assert {(of_torch, available) for of_torch, available, _ in results} == {(1, share)}
            assert (threading.get_ident() in {thread for *_, thread in results}) == (threads == 1)
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_memory_and_number_of_micrographs_limit_the_workers():
    cpu = torch.device("cpu")
    assert worker_count(cpu, 1, 1) == 1
    assert worker_count(cpu, 100, 1 << 60) == 1
    assert worker_count(cpu, 10**6, 1) == torch.get_num_threads()  # more micrographs than cores
    assert worker_count(torch.device("cuda"), 100, 1) == 2


@pytest.mark.parametrize("batches", [[3], [1, 2], [0, 1, 0, 2], [0]])
def test_a_table_written_in_batches_equals_one_written_at_once(tmp_path, batches):
    table = StarTableWriter(tmp_path / "batched.star", "particles")
    first = 0
    for count in batches:
        table.append(ROWS.iloc[first:first + count])
        first += count
    assert not list(tmp_path.iterdir())
    table.finish(OPTICS)
    write_table(tmp_path / "whole.star", "particles", OPTICS, ROWS.iloc[:first])
    batched, whole = (read_table(tmp_path / f"{name}.star", "particles", tuple(ROWS)) for name in ("batched", "whole"))
    for read, expected in zip(batched, whole, strict=True):
        pd.testing.assert_frame_equal(read, expected)
    assert (tmp_path / "batched.star").read_text().split() == (tmp_path / "whole.star").read_text().split()


def test_an_unfinished_table_leaves_no_file(tmp_path):
    table = StarTableWriter(tmp_path / "batched.star", "particles")
    table.append(ROWS)
    del table
    assert not list(tmp_path.iterdir())
