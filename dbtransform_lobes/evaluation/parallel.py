"""A function over many tasks, where a crash costs one task only."""

import multiprocessing
from concurrent.futures import (
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    as_completed,
)
from concurrent.futures.process import BrokenProcessPool
from queue import SimpleQueue

CRASHED = (
    "the process that worked on it died (crashed, or was killed for want of "
    "memory); leave this file out or make it shorter"
)


def run_isolated(function, tasks, jobs=1):
    """Call a function for every task in worker processes, in any order.

    Each worker process has one task at a time, so that when one dies, even
    of a segmentation fault in C code, its task is known and the others go on
    in a new process. Workers are not forked from this process, which may run
    threads; as always with such workers, a script that calls this needs
    ``if __name__ == "__main__":``.

    Arguments
    ---------
    function : callable
        A function of a module.
    tasks : sequence of tuple
        Arguments of each call.
    jobs : int
        Number of processes.

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
    pools = SimpleQueue()
    for _ in range(jobs):
        pools.put(_new_pool())
    with ThreadPoolExecutor(jobs) as threads:
        futures = {
            threads.submit(_run, pools, function, task): task for task in tasks
        }
        try:
            for future in as_completed(futures):
                yield (futures[future], *future.result())
        finally:  # also when interrupted
            threads.shutdown(cancel_futures=True)
            while not pools.empty():
                pools.get().shutdown()


def _new_pool():
    methods = multiprocessing.get_all_start_methods()
    method = "forkserver" if "forkserver" in methods else "spawn"
    return ProcessPoolExecutor(1, multiprocessing.get_context(method))


def _run(pools, function, task):
    """Return (result, reason) of one task, from a process that is free."""
    pool = pools.get()
    try:
        return pool.submit(function, *task).result(), ""
    except BrokenProcessPool:
        pool.shutdown()
        pool = _new_pool()
        return None, CRASHED
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"
    finally:
        pools.put(pool)
