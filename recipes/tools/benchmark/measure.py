"""Side-by-side measurement of models: size, cost, speed, memory.

Times are only as good as the machine is idle. Every model has a process of
its own; they take turns within each repeat, and their ratios are of times in
the same repeat, so that a drift of the machine hits all alike.
"""

import os
import platform
import sys
from functools import partial
from pathlib import Path
from statistics import median

from benchmark.candidates import (
    LITERAL,
    find_configuration,
    load_candidate,
)
from benchmark.counts import count_macs, count_parameters
from benchmark.memory import peak_memory
from benchmark.worker import TRAINING, Worker
from dbtransform_lobes.versions import package_versions

BASELINES = (LITERAL, "bsrnn")
FRAMES_A_CALL = (1, 4)  # of a live stream
COUNTED_SECONDS = 30.0


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
        measured case: ``macs``, ``memory``, ``inference``, ``streaming`` (of
        causal models), ``training``. A
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
    report("making the models")
    candidates = [load_candidate(name, seed) for name in names]
    settings = {
        "models": [candidate.name for candidate in candidates],
        "lengths": lengths,
        "threads": threads,
        "repeats": repeats,
        "seed": seed,
        "memory_threads": threads[-1],
        "training": dict(TRAINING) if training else None,
    }
    results = {
        "settings": settings,
        "machine": machine(),
        "versions": package_versions(),
        "models": {each.name: _description(each) for each in candidates},
        **_measurements(names, candidates, settings, report),
    }
    _add_ratios(results)
    return results


def _measurements(names, candidates, settings, report):
    """The lists of measured cases."""
    threads, seed = settings["threads"], settings["seed"]
    memory, macs = [], []
    able = {}  # those with enough memory, for each length
    for length in settings["lengths"]:
        report(f"memory and operations at {length:g} s")
        cases = _memory(names, candidates, length, threads[-1], seed)
        able[length] = [
            candidate
            for candidate, case in zip(candidates, cases, strict=True)
            if case["peak_bytes"] is not None
        ]
        memory += cases
        macs += operations(able[length], length, seed)
    workers = {
        candidate.name: Worker(name, seed)
        for name, candidate in zip(names, candidates, strict=True)
    }
    try:
        timed = _times(workers, candidates, able, settings, report)
    finally:
        for worker in workers.values():
            worker.close()
    return {"memory": memory, "macs": macs, **timed}


def _times(workers, candidates, able, settings, report):
    """Times of inference, streams and training."""
    inference, streaming, training = [], [], []
    threads, repeats = settings["threads"], settings["repeats"]
    for count in threads:
        for length in settings["lengths"]:
            report(f"time of {length:g} s, threads: {count}")
            chosen = {each.name: workers[each.name] for each in able[length]}
            inference += time_inference(chosen, length, count, repeats)
        report(f"time of live streams, threads: {count}")
        streaming += time_streaming(workers, candidates, count)
    if settings["training"]:
        report(f"time of training, threads: {threads[-1]}")
        training = time_training(workers, threads[-1], repeats)
    return {
        "inference": inference,
        "streaming": streaming,
        "training": training,
    }


def _description(candidate):
    return {
        "parameters": count_parameters(candidate.model),
        "sample_rate": candidate.sample_rate,
        "configuration": candidate.configuration,
    }


def _memory(names, candidates, length, threads, seed):
    return [
        {
            "model": candidate.name,
            "length": length,
            "peak_bytes": peak_memory(name, length, threads, seed),
        }
        for name, candidate in zip(names, candidates, strict=True)
    ]


def operations(candidates, length, seed=0):
    """Multiply-accumulates per second of audio, in a signal of this length.

    Arguments
    ---------
    candidates : sequence of Candidate
        The models.
    length : float
        In seconds; with full attention the cost of a second depends on it.
    seed : int
        Of the signals.

    Returns
    -------
    list of dict
        ``model``, ``length``, ``macs_per_second`` (see ``count_macs``).
    """
    cases = []
    for candidate in candidates:
        # The cost of a model that cuts its input is the same at any length.
        linear = getattr(candidate.model, "in_chunks", False)
        seconds = min(length, COUNTED_SECONDS) if linear else length
        run = partial(candidate.enhance, candidate.noise(seconds, seed=seed))
        macs = count_macs(candidate.model, run)
        per_second = {part: count / seconds for part, count in macs.items()}
        case = {"model": candidate.name, "length": length}
        cases.append({**case, "macs_per_second": per_second})
    return cases


def time_inference(workers, length, threads, repeats=5):
    """Time the whole path from waveform to waveform, models interleaved.

    Arguments
    ---------
    workers : dict of Worker
        By name of the model.
    length : float
        In seconds.
    threads : int
        Number of threads.
    repeats : int
        Timed runs of each model.

    Returns
    -------
    list of dict
        ``model``, ``length``, ``threads``, ``seconds`` (of every repeat),
        ``real_time_factor`` (median).
    """
    runs = {
        name: partial(worker.time, "inference", threads, length)
        for name, worker in workers.items()
    }
    return [
        {
            "model": name,
            "length": length,
            "threads": threads,
            "seconds": times,
            "real_time_factor": median(times) / length,
        }
        for name, times in interleaved(runs, repeats).items()
    ]


def time_streaming(workers, candidates, threads, seconds=8.0):
    """Time the calls of ``step`` on a live stream, for causal models.

    Arguments
    ---------
    workers : dict of Worker
        By name of the model.
    candidates : sequence of Candidate
        The models; those that are not causal are left out.
    threads : int
        Number of threads.
    seconds : float
        Length of the stream; its first quarter fills the state and is not
        timed.

    Returns
    -------
    list of dict
        ``model``, ``frames`` (of a call), ``threads``, ``seconds`` (median
        of a call), ``real_time_factor``, both without STFT and iSTFT.
    """
    cases = []
    for candidate in candidates:
        if not getattr(candidate.model, "causal", False):
            continue
        hop = candidate.compute_stft.hop_length / candidate.sample_rate
        total = round(seconds / hop)
        for frames in FRAMES_A_CALL:
            worker = workers[candidate.name]
            times = worker.time("streaming", threads, frames, total)
            call = median(times[len(times) // 4 :])
            cases.append(
                {
                    "model": candidate.name,
                    "frames": frames,
                    "threads": threads,
                    "seconds": call,
                    "real_time_factor": call / (frames * hop),
                }
            )
    return cases


def time_training(workers, threads, repeats=5):
    """Time training steps, models interleaved.

    Arguments
    ---------
    workers : dict of Worker
        By name of the model.
    threads : int
        Number of threads.
    repeats : int
        Timed steps of each model.

    Returns
    -------
    list of dict
        ``model``, ``threads``, ``seconds`` (of every repeat),
        ``audio_seconds_per_second`` (median). Models for which the memory
        does not suffice are left out.
    """
    heard = TRAINING["crop_seconds"] * TRAINING["batch_size"]
    runs = {
        name: partial(worker.time, "training", threads)
        for name, worker in workers.items()
    }
    return [
        {
            "model": name,
            "threads": threads,
            "seconds": times,
            "audio_seconds_per_second": heard / median(times),
        }
        for name, times in interleaved(runs, repeats).items()
    ]


def interleaved(runs, repeats):
    """Run functions in turns, after one run of each that does not count.

    Every other repeat goes through them backwards, so that a steady drift
    of the machine cancels in their ratios.

    Arguments
    ---------
    runs : dict
        Name to a function without arguments that returns its seconds, None
        if it cannot run.
    repeats : int
        Timed runs of each.

    Returns
    -------
    dict
        Name to seconds of every repeat, of those that can run.

    Example
    -------
    >>> order = []
    >>> def run(name):
    ...     order.append(name)
    ...     return 0.5
    >>> interleaved({name: partial(run, name) for name in "ab"}, repeats=2)
    {'a': [0.5, 0.5], 'b': [0.5, 0.5]}
    >>> "".join(order)
    'ababba'
    """
    able = [name for name in runs if runs[name]() is not None]
    seconds = {name: [] for name in able}
    for repeat in range(repeats):
        for name in able if repeat % 2 == 0 else reversed(able):
            seconds[name].append(runs[name]())
    return {n: times for n, times in seconds.items() if None not in times}


def median_ratio(times, reference):
    """Median of the ratios of times in the same repeat.

    Arguments
    ---------
    times, reference : sequence of float
        Seconds of every repeat.

    Returns
    -------
    float

    Example
    -------
    >>> median_ratio([1, 2, 3], [2, 2, 4])
    0.75
    """
    pairs = zip(times, reference, strict=True)
    return median(mine / other for mine, other in pairs)


def _add_ratios(results):
    """Give every timed case its ``time_ratios`` to the references."""
    names = results["settings"]["models"]
    references = {names[0], *BASELINES}
    for kind in ("inference", "training"):
        seconds = {_key(case): case["seconds"] for case in results[kind]}
        for case in results[kind]:
            name, *rest = _key(case)
            case["time_ratios"] = {
                other: median_ratio(case["seconds"], seconds[(other, *rest)])
                for other in names
                if other in references and (other, *rest) in seconds
            }


def _key(case):
    return case["model"], case.get("length"), case["threads"]


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
