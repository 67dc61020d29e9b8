"""Tasks in processes that may die."""

import os
import signal
from pathlib import Path

import pytest

from dbtransform_lobes import parallel
from dbtransform_lobes.parallel import CRASHED, parallel_map, run_isolated


def die(folder, times):
    """Kill this process while fewer than so many have been killed."""
    if len(list(Path(folder).iterdir())) < times:
        Path(folder, str(os.getpid())).touch()
        os.kill(os.getpid(), signal.SIGKILL)


def half(number):
    """Return half of a number."""
    return number / 2


def test_processes_that_die_before_their_first_task_are_replaced(tmp_path):
    tasks = [(number,) for number in range(5)]
    found = list(run_isolated(half, tasks, 1, 1, die, (tmp_path, 2)))
    assert sorted(found) == [((n,), n / 2, "") for n in range(5)]


def test_processes_that_always_die_end_with_a_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "MAX_STARTS", 2)
    found = list(run_isolated(half, [(1,), (2,)], 1, 1, die, (tmp_path, 99)))
    assert sorted(found) == [((1,), None, CRASHED), ((2,), None, CRASHED)]


def test_a_map_says_that_a_process_died():
    with pytest.raises(OSError, match="fewer jobs"):
        list(parallel_map(os._exit, [1, 1], jobs=2))
