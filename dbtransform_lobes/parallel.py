"""A function over many tasks, where a crash costs one task only."""

import itertools
import multiprocessing
import os
import signal
import threading
from concurrent.futures import FIRST_COMPLETED, wait

from pebble import ProcessExpired, ProcessPool

CRASHED = (
    "the process that worked on it died (crashed, or was killed for want of "
    "memory); leave this file out or make it shorter"
)


def run_isolated(
    function, tasks, jobs=1, attempts=1, initializer=None, initargs=()
):
    """Call a function for every task in worker processes, in any order.

    When a process dies, even of a segmentation fault in C code, the tasks of
    the others go on, which the pools of the standard library cannot do.
    Workers are not forked from this process, which may run threads. As always
    with such workers, a script that calls this needs
    ``if __name__ == "__main__":``. Workers end with this generator and with
    this process.

    Arguments
    ---------
    function : callable
        A function of a module.
    tasks : sequence of tuple
        Arguments of each call.
    jobs : int
        Number of processes.
    attempts : int
        How often a task whose process dies is tried.
    initializer : callable, optional
        Called first in each process, with ``initargs``.
    initargs : tuple
        Arguments of the initializer.

    Yields
    ------
    task : tuple
        As given.
    result : object
        What the function returned, None if it failed.
    reason : str
        Why it failed, "" if it did not.

    Example
    -------
    >>> list(run_isolated(divmod, [(7, 2)]))
    [((7, 2), (3, 1), '')]
    >>> _, result, reason = next(run_isolated(divmod, [(7, 0)]))
    >>> assert result is None and "ZeroDivisionError" in reason
    """
    methods = multiprocessing.get_all_start_methods()
    method = "forkserver" if "forkserver" in methods else "spawn"
    pool = ProcessPool(
        jobs,
        context=multiprocessing.get_context(method),
        initializer=_start,
        initargs=(initializer, initargs),
    )
    try:
        yield from _collect(pool, function, tasks, 2 * jobs, attempts)
    finally:  # also when interrupted
        pool.stop()
        pool.join()


def _collect(pool, function, tasks, at_once, attempts):
    """Keep a few tasks waiting in the pool and yield what is done."""
    left, pending = iter(tasks), {}

    def submit(task, attempt):
        pending[pool.schedule(function, task)] = task, attempt

    for task in itertools.islice(left, at_once):
        submit(task, 1)
    while pending:
        for future in wait(pending, return_when=FIRST_COMPLETED).done:
            task, attempt = pending.pop(future)
            if isinstance(future.exception(), ProcessExpired):
                if attempt < attempts:
                    submit(task, attempt + 1)
                    continue
                yield task, None, CRASHED
            elif (error := future.exception()) is not None:
                yield task, None, f"{type(error).__name__}: {error}"
            else:
                yield task, future.result(), ""
            for following in itertools.islice(left, 1):
                submit(following, 1)


def _start(initializer, initargs):
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if initializer is not None:
        initializer(*initargs)


def _end_with_parent():
    """End this process when the one that wants its results has ended."""
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGTERM)
