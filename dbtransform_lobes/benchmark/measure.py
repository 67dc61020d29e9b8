"""Side-by-side measurement of models: size, cost, speed, memory.

Times are only as good as the machine is idle. Models take turns within each
repeat, and their ratios are of times in the same repeat, so that a drift of
the machine hits all alike.
"""

import multiprocessing
import os
import platform
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

import torch

from dbtransform_lobes.benchmark.candidates import (
    LITERAL,
    find_configuration,
    load_candidate,
)
from dbtransform_lobes.benchmark.counts import count_macs, count_parameters
from dbtransform_lobes.versions import package_versions

BASELINES = (LITERAL, "bsrnn")
TRAINING = {"crop_seconds": 2.0, "batch_size": 4, "optimizer": "AdamW"}


def benchmark(
    names,
    lengths=(4.0, 10.0, 30.0, 120.0),
    threads=(1, 2),
    repeats=5,
    training=True,
    seed=0,
    report=None,
):
    """Measure models side by side.

    Arguments
    ---------
    names : sequence of str
        See ``find_configuration``; ratios are to the first, to "literal"
        and to "bsrnn".
    lengths : sequence of float
        Of the signals, in seconds.
    threads : sequence of int
        Numbers of threads.
    repeats : int
        Timed runs of each model, after one that is not timed.
    training : bool
        Whether training is timed as well.
    seed : int
        Of weights and signals.
    report : callable, optional
        Called with a line of text before every stage.

    Returns
    -------
    dict
        Ready for JSON: ``settings``, ``machine``, ``versions``, ``models``
        (parameters, configuration), and lists with an entry for each
        measured case: ``macs``, ``memory``, ``inference``, ``training``. A
        length for which a model found not enough memory has peak_bytes None
        and no further entries.

    Raises
    ------
    ValueError
        If a name or number is not as expected; before any measurement.
    """
    lengths, threads = sorted(set(lengths)), sorted(set(threads))
    _check_numbers(lengths, threads, repeats)
    _check_names(names)
    report = report or (lambda line: None)
    cases = [(name, length) for length in lengths for name in names]
    report("making the models")
    candidates = [load_candidate(name, seed) for name in names]
    memory = []
    for name, length in cases:
        report(f"memory of {name} at {length:g} s")
        peak = peak_memory(name, length, threads[-1], seed)
        label = candidates[names.index(name)].name
        memory.append({"model": label, "length": length, "peak_bytes": peak})
    skipped = {
        (case["model"], case["length"])
        for case in memory
        if case["peak_bytes"] is None
    }
    results = {
        "settings": {
            "models": [candidate.name for candidate in candidates],
            "lengths": lengths,
            "threads": threads,
            "repeats": repeats,
            "seed": seed,
            "memory_threads": threads[-1],
            "training": dict(TRAINING) if training else None,
        },
        "machine": machine(),
        "versions": package_versions(),
        "models": {
            candidate.name: {
                "parameters": count_parameters(candidate.model),
                "sample_rate": candidate.sample_rate,
                "configuration": candidate.configuration,
            }
            for candidate in candidates
        },
        "memory": memory,
    }
    report("counting operations")
    results["macs"] = operations(candidates, lengths, skipped, seed)
    results["inference"] = []
    for count in threads:
        for length in lengths:
            report(f"enhancing {length:g} s with {count} threads")
            able = [c for c in candidates if (c.name, length) not in skipped]
            results["inference"] += time_inference(
                able, length, count, repeats, seed
            )
    results["training"] = []
    if training:
        report(f"training with {threads[-1]} threads")
        results["training"] = time_training(
            candidates, threads[-1], repeats, seed
        )
    return results


def operations(candidates, lengths, skipped=(), seed=0):
    """Multiply-accumulates per second of audio, at each length.

    Arguments
    ---------
    candidates : sequence of Candidate
        The models.
    lengths : sequence of float
        In seconds; the cost of a second may depend on it.
    skipped : collection of (str, float)
        Names and lengths to leave out.
    seed : int
        Of the signals.

    Returns
    -------
    list of dict
        ``model``, ``length``, ``macs_per_second`` (see ``count_macs``).
    """
    cases = []
    for candidate in candidates:
        for length in lengths:
            if (candidate.name, length) in skipped:
                continue
            noisy = candidate.noise(length, seed=seed)
            macs = count_macs(
                candidate.model, partial(candidate.enhance, noisy)
            )
            per_second = {part: n / length for part, n in macs.items()}
            case = {"model": candidate.name, "length": length}
            cases.append({**case, "macs_per_second": per_second})
    return cases


def time_inference(candidates, length, threads, repeats=5, seed=0):
    """Time the whole path from waveform to waveform, models interleaved.

    Arguments
    ---------
    candidates : sequence of Candidate
        The models.
    length : float
        In seconds.
    threads : int
        Number of threads.
    repeats : int
        Timed runs of each model.
    seed : int
        Of the signals.

    Returns
    -------
    list of dict
        ``model``, ``length``, ``threads``, ``seconds`` (of every repeat),
        ``real_time_factor`` (median) and ``time_ratios`` (see
        ``time_ratios``).
    """
    runs = {
        candidate.name: partial(
            candidate.enhance, candidate.noise(length, seed=seed)
        )
        for candidate in candidates
    }
    with using_threads(threads), torch.inference_mode():
        seconds = interleaved(runs, repeats)
    return [
        {
            "model": name,
            "length": length,
            "threads": threads,
            "seconds": times,
            "real_time_factor": median(times) / length,
            "time_ratios": time_ratios(seconds, name),
        }
        for name, times in seconds.items()
    ]


def time_training(candidates, threads, repeats=5, seed=0):
    """Time training steps: forward, backward, AdamW; models interleaved.

    The loss is the mean squared error of waveforms, so that the models cost
    and no loss does. The weights of the candidates are changed.

    Arguments
    ---------
    candidates : sequence of Candidate
        The models.
    threads : int
        Number of threads.
    repeats : int
        Timed steps of each model.
    seed : int
        Of the signals.

    Returns
    -------
    list of dict
        ``model``, ``threads``, ``seconds`` (of every repeat),
        ``audio_seconds_per_second`` (median) and ``time_ratios``.
    """
    heard = TRAINING["crop_seconds"] * TRAINING["batch_size"]
    runs = {
        candidate.name: _training_step(candidate, seed)
        for candidate in candidates
    }
    with using_threads(threads):
        seconds = interleaved(runs, repeats)
    for candidate in candidates:
        candidate.model.eval()
        candidate.model.zero_grad()
    return [
        {
            "model": name,
            "threads": threads,
            "seconds": times,
            "audio_seconds_per_second": heard / median(times),
            "time_ratios": time_ratios(seconds, name),
        }
        for name, times in seconds.items()
    ]


def _training_step(candidate, seed):
    """A function that takes one training step."""
    crop, batch = TRAINING["crop_seconds"], TRAINING["batch_size"]
    noisy = candidate.noise(crop, batch, seed)
    clean = candidate.noise(crop, batch, seed + 1)
    candidate.model.train()
    optimizer = torch.optim.AdamW(candidate.model.parameters(), lr=1e-4)

    def step():
        optimizer.zero_grad()
        (candidate.enhance(noisy) - clean).square().mean().backward()
        optimizer.step()

    return step


def interleaved(runs, repeats):
    """Time functions in turns, after one run of each that is not timed.

    Every other repeat goes through them backwards, so that a steady drift
    of the machine cancels in their ratios.

    Arguments
    ---------
    runs : dict
        Name to function without arguments.
    repeats : int
        Timed runs of each.

    Returns
    -------
    dict
        Name to seconds of every repeat.

    Example
    -------
    >>> order = []
    >>> runs = {name: partial(order.append, name) for name in "ab"}
    >>> times = interleaved(runs, repeats=2)
    >>> "".join(order), len(times["a"])
    ('ababba', 2)
    """
    for run in runs.values():
        run()
    seconds = {name: [] for name in runs}
    for repeat in range(repeats):
        order = list(runs) if repeat % 2 == 0 else list(reversed(runs))
        for name in order:
            start = time.perf_counter()
            runs[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def time_ratios(seconds, name):
    """Time of a model over that of the first and of the baselines.

    Arguments
    ---------
    seconds : dict
        Name to seconds of every repeat.
    name : str
        The model.

    Returns
    -------
    dict
        Reference to the median of the ratios within the same repeat.

    Example
    -------
    >>> time_ratios({"a": [2, 2, 4], "b": [1, 2, 3]}, "b")
    {'a': 0.75}
    """
    references = [next(iter(seconds)), *(b for b in BASELINES if b in seconds)]
    return {
        reference: median(
            mine / other
            for mine, other in zip(
                seconds[name], seconds[reference], strict=True
            )
        )
        for reference in dict.fromkeys(references)
    }


def peak_memory(name, length, threads=1, seed=0):
    """Peak memory of one pass in a fresh process, over that after loading.

    Arguments
    ---------
    name : str
        See ``find_configuration``.
    length : float
        In seconds.
    threads : int
        Number of threads.
    seed : int
        Of weights and signal.

    Returns
    -------
    int | None
        In bytes; None if the memory of the machine does not suffice.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        try:
            return pool.submit(
                _peak_of_one_pass, name, length, threads, seed
            ).result()
        except BrokenProcessPool:  # killed, as the kernel does
            return None


def _peak_of_one_pass(name, length, threads, seed):
    """What ``peak_memory`` runs in its process."""
    torch.set_num_threads(threads)
    candidate = load_candidate(name, seed)
    noisy = candidate.noise(length, seed=seed)
    _refuse_more_than_available()
    _reset_peak()
    before = _peak_bytes()
    try:
        with torch.inference_mode():
            candidate.enhance(noisy)
    except RuntimeError as error:
        if "allocate memory" not in str(error):
            raise
        return None
    return _peak_bytes() - before


def _refuse_more_than_available():
    """Let allocations fail that would make the machine kill processes."""
    if sys.platform == "linux":
        available = _kilobytes("/proc/meminfo", "MemAvailable")
        mapped = _kilobytes("/proc/self/status", "VmSize")
        limit = (mapped + available) * 1024
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        if hard == resource.RLIM_INFINITY or limit < hard:
            resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _reset_peak():
    """Make the peak of this process what it uses now (Linux)."""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak_bytes():
    """Most memory that this process has used.

    On Linux not ru_maxrss, in which a new process begins with the peak of
    its parent.
    """
    if sys.platform == "linux":
        return _kilobytes("/proc/self/status", "VmHWM") * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _kilobytes(path, field):
    """A field of a status file of the Linux kernel."""
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise OSError(f"{path} has no field {field}")


@contextmanager
def using_threads(count):
    """Let torch use so many threads within the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def machine():
    """What the times depend on besides the versions.

    Returns
    -------
    dict
        ``cpu``, ``cores``, ``system``, ``load`` (of the last minute, None
        where unknown).

    Example
    -------
    >>> sorted(machine())
    ['cores', 'cpu', 'load', 'system']
    """
    cpu = platform.processor() or platform.machine()
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    system = f"{platform.system()} {platform.machine()}"
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "system": system,
        "load": load,
    }


def _check_names(names):
    if not names:
        raise ValueError("no models are given, expected at least one name")
    labels = [
        LITERAL if name == LITERAL else find_configuration(name).stem
        for name in names
    ]
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(
                f"{label} is given {labels.count(label)} times, expected "
                f"models of different names: rename one of the files"
            )


def _check_numbers(lengths, threads, repeats):
    if not lengths or not all(0.1 <= length < 1e5 for length in lengths):
        raise ValueError(
            f"lengths are {lengths}, expected one or more from 0.1 s"
        )
    cores = os.cpu_count()
    if not threads or not all(1 <= count <= cores for count in threads):
        raise ValueError(
            f"threads are {threads}, expected one or more from 1 to {cores} "
            f"(the cores of this machine): set --threads"
        )
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}, expected at least 1")
