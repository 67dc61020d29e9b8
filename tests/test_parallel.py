"""Tasks in processes that may die."""

import os
import signal
from pathlib import Path

import pytest

from dbtransform_lobes.parallel import CRASHED, parallel_map, run_isolated


def die(folder, times):
    """Kill this process while fewer than so many have been killed."""
    if len(list(Path(folder).iterdir())) < times:
        Path(folder, str(os.getpid())).touch()
        os.kill(os.getpid(), signal.SIGKILL)


def share(number):
    """Return 20 / number; crash at 3, as PESQ does at long files."""
    if number == 3:
        os.kill(os.getpid(), signal.SIGSEGV)
    return 20 / number


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_process_that_dies_costs_one_task(jobs):
    tasks = [(number,) for number in (1, 3, 0, 3, 5)]
    found = list(run_isolated(share, tasks, jobs))
    assert sorted(task for task, *_ in found) == sorted(tasks)
    for (number,), value, reason in found:
        if number == 3:
            assert value is None and reason == CRASHED
        elif number == 0:
            assert value is None and "ZeroDivisionError" in reason
        else:
            assert value == 20 / number and reason == ""


def test_a_task_whose_process_was_killed_is_tried_once_more(tmp_path):
    for times, reason in ((1, ""), (2, CRASHED)):
        folder = tmp_path / str(times)
        folder.mkdir()
        found = list(run_isolated(die, [(folder, times)]))
        assert found == [((folder, times), None, reason)]


def test_a_map_says_that_a_process_died():
    with pytest.raises(OSError, match="fewer jobs"):
        list(parallel_map(os._exit, [1, 1], jobs=2))
