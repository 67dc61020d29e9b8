"""A function over many tasks, in several processes."""

import multiprocessing
import os
import signal
import sys
import threading
from concurrent.futures import (
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    as_completed,
)
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import resource_tracker

from tqdm import tqdm

ATTEMPTS = 2  # for a task whose process dies
CRASHED = (
    "the process that worked on it died (crashed, or was killed for want of "
    'memory; in a script of yours, perhaps `if __name__ == "__main__":` is '
    "missing); leave this file out or make it shorter"
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


def run_isolated(function, tasks, jobs=1, on_crash=None):
    """Call a function for every task in worker processes, in any order.

    A task is a tuple of arguments. Yields (task, result, reason): the reason
    says why the task failed and is "" if it did not. When a process dies, even
    of a segmentation fault in C code, the tasks of the others go on; its own
    is tried once more, and ``on_crash`` is called with the task and the
    process id. Workers end with this generator; they are not forked from this
    process: a script needs ``if __name__ == "__main__":``.

    Example
    -------
    >>> list(run_isolated(divmod, [(7, 2)]))
    [((7, 2), (3, 1), '')]
    >>> _, result, reason = next(run_isolated(divmod, [(7, 0)]))
    >>> assert result is None and "ZeroDivisionError" in reason
    """

    def attempt(task):
        """Call the function in the process of this thread."""
        for _ in range(ATTEMPTS):
            try:
                return workers.call(function, *task)
            except WorkerDied as error:
                if on_crash is not None:
                    on_crash(task, error.process.pid)
        return None, CRASHED

    with Workers(jobs) as workers:
        submit = workers.threads.submit
        futures = {submit(attempt, task): task for task in tasks}
        for future in as_completed(futures):
            yield futures[future], *future.result()


class WorkerDied(Exception):
    """The ``process`` of a worker died while it had a task."""

    def __init__(self, process):
        self.process = process


class Workers:
    """Threads that each have a process of their own, which may die.

    By hand, as a pool of pebble (5.2.3) breaks once an idle process of it is
    killed, and those of loky and Python lose all tasks with a process.
    """

    def __init__(self, jobs):
        self.processes, self.stopped = [], False
        self._own, self._lock = threading.local(), threading.Lock()
        resource_tracker.ensure_running()  # its start would unblock Ctrl-C
        # Processes inherit this: what a terminal sends is for their parent.
        blocked = signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP}
        self.threads = ThreadPoolExecutor(
            jobs, initializer=signal.pthread_sigmask, initargs=blocked
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.stop()

    def submit(self, *task):
        """Have a process call a function with arguments; see ``call``."""
        return self.threads.submit(self.call, *task)

    def call(self, *task):
        """Have the process of this thread call a function with arguments.

        Returned are its result and why it failed, "" if it did not. WorkerDied
        if the process dies; the next call has another one.
        """
        if getattr(self._own, "pipe", None) is None:
            self._start()
        try:
            self._own.pipe.send(task)
            return self._own.pipe.recv()
        except (EOFError, OSError):
            self._own.pipe = None
            self._own.process.join()
            raise WorkerDied(self._own.process) from None

    def _start(self):
        # Not a fork: this process has threads and maybe a GPU.
        context = multiprocessing.get_context("spawn")
        pipe, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs,), daemon=True)
        with self._lock:  # stop() knows of every process
            if self.stopped:
                raise RuntimeError("these workers have been stopped")
            process.start()
            self.processes.append(process)
        theirs.close()
        self._own.pipe, self._own.process = pipe, process

    def stop(self):
        """End the processes; what was not begun is forgotten."""
        self.threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self.stopped = True
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.join(5)
            process.kill()
        self.threads.shutdown()


def _serve(pipe):
    """Answer until the parent is gone."""
    signal.signal(signal.SIGTERM, _end)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Its own lock, a semaphore, would be left by a process that is stopped.
    tqdm.set_lock(threading.RLock())
    with suppress(EOFError, OSError):
        while True:
            function, *arguments = pipe.recv()
            try:
                pipe.send((function(*arguments), ""))
            except Exception as error:
                pipe.send((None, f"{type(error).__name__}: {error}"))


def _end(*_):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(130)  # temporary files are removed


def _end_with_parent():
    """End this process when the one that wants its results has ended."""
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGTERM)
