"""A function over many tasks, in several processes."""

import itertools
import multiprocessing
import os
import signal
import threading
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import resource_tracker

from pebble import ProcessExpired, ProcessPool
from tqdm import tqdm

ATTEMPTS = 2  # for a task whose process dies
MAX_STARTS = 5  # of pools whose processes die before their first task
CRASHED = (
    "the process that worked on it died (crashed, or was killed for want of "
    "memory); leave this file out or make it shorter"
)


def parallel_map(function, tasks, jobs, chunksize=1):
    """Yield the results of all tasks in their order, from ``jobs`` processes.

    OSError if a process dies.
    """
    if jobs == 1:
        yield from map(function, tasks)
        return
    try:
        with ProcessPoolExecutor(jobs) as pool:
            yield from pool.map(function, tasks, chunksize=chunksize)
    except BrokenProcessPool as error:
        raise OSError(
            f"one of {jobs} processes died, perhaps for want of memory; start "
            "again with fewer jobs"
        ) from error


def run_isolated(
    function, tasks, jobs=1, initializer=None, initargs=(), on_crash=None
):
    """Call a function for every task in worker processes, in any order.

    A task is a tuple of arguments. Yields (task, result, reason): the reason
    says why the task failed and is "" if it did not. When a process dies, even
    of a segmentation fault in C code, the tasks of the others go on, which the
    pools of the standard library cannot do; its own task is tried once more,
    and ``on_crash`` is called with the task and the process id. Workers begin
    with ``initializer`` and end with this generator; they are not forked from
    this process: a script needs ``if __name__ == "__main__":``.

    Example
    -------
    >>> list(run_isolated(divmod, [(7, 2)]))
    [((7, 2), (3, 1), '')]
    >>> _, result, reason = next(run_isolated(divmod, [(7, 0)]))
    >>> assert result is None and "ZeroDivisionError" in reason
    """
    work = _Work(jobs, initializer, initargs)
    try:
        yield from work.collect(function, tasks, on_crash)
    finally:  # also when interrupted
        work.stop()


class _Work:
    """A pool that is replaced when its processes die without a task."""

    def __init__(self, jobs, *initializer):
        self.jobs, self.initializer, self.starts = jobs, initializer, 0
        self.start()

    def start(self):
        """Start a pool."""
        methods = multiprocessing.get_all_start_methods()
        method = "forkserver" if "forkserver" in methods else "spawn"
        context = multiprocessing.get_context(method)
        begin = {"initializer": _start, "initargs": self.initializer}
        self.pool = ProcessPool(self.jobs, context=context, **begin)
        self.starts += 1

    def stop(self):
        """End the processes."""
        self.pool.stop()
        self.pool.join()

    def collect(self, function, tasks, on_crash):
        """Keep a few tasks waiting in the pool and yield what is done."""
        left, pending = iter(tasks), {}

        def submit(task, attempt):
            """Give a task to a pool that lives."""
            with _without_interrupts():  # the pool starts when it is asked
                if not self.pool.active:
                    self.stop()
                    self.start()
                future = self.pool.schedule(function, task)
            pending[future] = task, attempt

        for task in itertools.islice(left, 2 * self.jobs):
            submit(task, 1)
        while pending:
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                task, attempt = pending.pop(future)
                error = future.exception()
                idle = isinstance(error, BrokenProcessPool)
                if idle and self.starts < MAX_STARTS:
                    submit(task, attempt)
                    continue
                crashed = isinstance(error, ProcessExpired)
                if crashed and on_crash is not None:
                    on_crash(task, error.pid)
                if crashed and attempt < ATTEMPTS:
                    submit(task, attempt + 1)
                    continue
                if idle or crashed:
                    yield task, None, CRASHED
                elif error is not None:
                    yield task, None, f"{type(error).__name__}: {error}"
                else:
                    yield task, future.result(), ""
                for following in itertools.islice(left, 1):
                    submit(following, 1)


@contextmanager
def _without_interrupts():
    """Start processes that leave what a terminal sends to this one.

    This process acts on it at the end: a process whose start is interrupted
    is known to nobody, so nobody would stop it. Blocking is not enough, as
    other threads take the signal, and the main one then raises.
    """
    sent, came = {signal.SIGINT, signal.SIGHUP}, []
    handlers = {}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, sent)
    try:
        if threading.current_thread() is threading.main_thread():
            for number in {*sent, signal.SIGTERM}:
                handlers[number] = signal.signal(
                    number, lambda number, frame: came.append(number)
                )
        resource_tracker.ensure_running()  # its start unblocks Ctrl-C
        signal.pthread_sigmask(signal.SIG_BLOCK, sent)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


def _start(initializer, initargs):
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Its own lock, a semaphore, would be left by a process that is stopped.
    tqdm.set_lock(threading.RLock())
    if initializer is not None:
        initializer(*initargs)


def _end_with_parent():
    """End this process when the one that wants its results has ended."""
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGTERM)
