"""Side-by-side measurement of models: size, cost, speed, memory.

Times are only as good as the machine is idle. Every model has a process of
its own; they take turns within each repeat, and their ratios are of times in
the same repeat, so that a drift of the machine hits all alike.
"""

import os
import platform
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median

from benchmark.candidates import LITERAL, load_candidate
from benchmark.counts import count_parameters, macs_per_second
from benchmark.worker import TRAINING, Worker, peak_memory
from dbtransform_lobes.versions import package_versions

BASELINES = (LITERAL, "bsrnn")
FRAMES_A_CALL = (1, 4)  # of a live stream
STREAM_SECONDS = 8.0


def benchmark(
    names,
    lengths=(4.0, 10.0, 30.0, 120.0),
    threads=(1, 2),
    repeats=5,
    training=True,
    report=print,
):
    """Measure models side by side, as the options of the command say.

    Ratios of times are to the first model, to "literal" and to "bsrnn".
    ``report`` is called with a line of text before every stage. A ValueError
    tells of a wrong name or number before any measurement.

    Returned are, ready for JSON, ``settings``, ``machine``, ``versions``,
    ``models`` (parameters, configuration), and lists with an entry for each
    measured case: ``macs``, ``memory``, ``inference``, ``streaming`` (of
    causal models), ``training``. A length for which a model found not enough
    memory has peak_bytes None and no further entries.
    """
    lengths, threads = sorted(set(lengths)), sorted(set(threads))
    _check_numbers(lengths, threads, repeats)
    report("making the models")
    candidates = {name: load_candidate(name) for name in names}
    labels = [candidate.name for candidate in candidates.values()]
    if len(set(labels)) < len(names):
        raise ValueError(
            f"the models are {', '.join(names)}, expected models of different "
            "names: rename one of the files"
        )
    results = {
        "settings": {
            "models": labels,
            "lengths": lengths,
            "threads": threads,
            "repeats": repeats,
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
            for candidate in candidates.values()
        },
    }
    for kind in ("memory", "macs", "inference", "streaming", "training"):
        results[kind] = []
    _measure_sizes(candidates, results, report)
    with ExitStack() as stack:
        workers = {
            candidate.name: stack.enter_context(Worker(name))
            for name, candidate in candidates.items()
        }
        _measure_times(workers, candidates.values(), results, report)
    for kind in ("inference", "training"):
        _add_ratios(results[kind], results["settings"]["models"])
    return results


def _measure_sizes(candidates, results, report):
    """Measure memory, and count the operations of those with enough."""
    for length in results["settings"]["lengths"]:
        report(f"memory and operations at {length:g} s")
        for name, candidate in candidates.items():
            case = {"model": candidate.name, "length": length}
            threads = results["settings"]["memory_threads"]
            peak = peak_memory(name, length, threads)
            results["memory"].append({**case, "peak_bytes": peak})
            if peak is not None:
                macs = macs_per_second(candidate, length)
                results["macs"].append({**case, "macs_per_second": macs})


def _measure_times(workers, candidates, results, report):
    """Measure inference, live streams and training, models in turns."""
    settings = results["settings"]
    repeats = settings["repeats"]
    for threads in settings["threads"]:
        for length in settings["lengths"]:
            report(f"time of {length:g} s, threads: {threads}")
            able = {
                case["model"]: workers[case["model"]]
                for case in results["macs"]
                if case["length"] == length
            }
            cases = time_task(able, "inference", threads, repeats, length)
            for case in cases:
                factor = median(case["seconds"]) / length
                case |= {"length": length, "real_time_factor": factor}
            results["inference"] += cases
        report(f"time of live streams, threads: {threads}")
        results["streaming"] += time_streaming(workers, candidates, threads)
    if settings["training"]:
        report(f"time of training, threads: {threads}")
        cases = time_task(workers, "training", threads, repeats)
        heard = TRAINING["crop_seconds"] * TRAINING["batch_size"]
        for case in cases:
            speed = heard / median(case["seconds"])
            case["audio_seconds_per_second"] = speed
        results["training"] = cases


def time_task(workers, task, threads, repeats, *arguments):
    """Return ``model``, ``threads`` and ``seconds`` of every repeat of a task.

    ``workers`` are those of ``Worker`` by name of the model. Models for which
    the memory does not suffice are left out.
    """
    runs = {
        name: partial(worker.run, task, threads, *arguments)
        for name, worker in workers.items()
    }
    return [
        {"model": name, "threads": threads, "seconds": seconds}
        for name, seconds in interleaved(runs, repeats).items()
    ]


def time_streaming(workers, candidates, threads, seconds=STREAM_SECONDS):
    """Time the calls of ``step`` on a live stream, for causal models.

    Returned are ``model``, ``threads``, ``frames`` of a call, ``seconds``,
    the median of a call, without STFT and iSTFT, and ``real_time_factor``.
    The first quarter of the stream fills the state and is not timed.
    """
    cases = []
    for candidate in candidates:
        if not getattr(candidate.model, "causal", False):
            continue
        hop = candidate.compute_stft.hop_length / candidate.sample_rate
        total = round(seconds / hop)
        for frames in FRAMES_A_CALL:
            worker = workers[candidate.name]
            times = worker.run("streaming", threads, frames, total)
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


def interleaved(runs, repeats):
    """Run functions in turns, after one run of each that does not count.

    Every other repeat goes through them backwards, so that a steady drift
    of the machine cancels in their ratios. A function takes no arguments and
    returns its seconds, None if it cannot run; returned are those of every
    repeat by name, of those that can.

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
    """Return the median of the ratios of times in the same repeat."""
    pairs = zip(times, reference, strict=True)
    return median(mine / other for mine, other in pairs)


def _add_ratios(cases, names):
    """Give every timed case its ``time_ratios`` to the references."""
    references = [n for n in names if n in {names[0], *BASELINES}]
    seconds = {_key(case): case["seconds"] for case in cases}
    for case in cases:
        _, *rest = _key(case)
        case["time_ratios"] = {
            other: median_ratio(case["seconds"], seconds[(other, *rest)])
            for other in references
            if (other, *rest) in seconds
        }


def _key(case):
    return case["model"], case.get("length"), case["threads"]


def machine():
    """Return what the times depend on besides the versions.

    The load is that of the last minute, None where it is unknown.
    """
    cpu = platform.processor() or platform.machine()
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


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
