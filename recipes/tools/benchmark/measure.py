"""Side-by-side measurement of models: size, cost, speed, memory.

Times are only as good as the machine is idle. Every model has a process of
its own; they take turns within each repeat, and their ratios are of times in
the same repeat, so that a drift of the machine hits all alike.
"""

import os
import platform
import re
import sys
from contextlib import ExitStack
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median

from benchmark import worker
from benchmark.candidates import LITERAL, load_candidate
from benchmark.counts import count_parameters, macs_per_second
from dbtransform_lobes.cli.options import check_range
from dbtransform_lobes.versions import package_versions

BASELINES = [LITERAL, "bsrnn"]
FRAMES_A_CALL = (1, 4)  # of a live stream
# What is measured.
MACS, MEMORY = "MMAC per second of audio", "peak memory of a pass, MB"
INFERENCE, STREAMING = "real-time factor", "real-time factor of a live stream"
TRAINING = "seconds of audio trained on per second"
TASKS = {worker.time_pass: INFERENCE, worker.time_stream: STREAMING}
TASKS[worker.time_training] = TRAINING
RATIOS = {INFERENCE: "time over that of", TRAINING: "training over that of"}


def benchmark(names, lengths, threads, repeats=5, training=True, report=print):
    """Measure models side by side, as the options of the command say.

    Returned are, ready for JSON, ``machine``, ``versions``, ``models`` and
    ``cases``, whose value is None where a pass failed. Times are
    also given over those of the first model, of "literal" and of "bsrnn".
    """
    lengths, threads = sorted(set(lengths)), sorted(set(threads))
    check_range("lengths", 0.1, 1e5, *lengths)
    check_range("threads", 1, os.cpu_count(), *threads)
    check_range("repeats", 1, 1e5, repeats)
    report("making the models")
    candidates = {each.name: each for each in map(load_candidate, names)}
    if len(candidates) < len(names):
        raise ValueError(
            f"the models are {', '.join(names)}, expected models of different "
            "names: rename one of the files"
        )
    cases, timed = [], []
    for length in lengths:
        report(f"memory and operations at {length:g} s")
        found = _sizes(candidates.values(), length, threads[-1])
        able = {case["model"] for case in found if case["value"]}
        timed.append((worker.time_pass, {"length": length}, able))
        cases += found
    for frames in FRAMES_A_CALL:
        timed.append((worker.time_stream, {"frames": frames}, candidates))
    if training:
        timed.append((worker.time_training, {}, candidates))
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(worker.Worker(candidate.source))
            for name, candidate in candidates.items()
        }
        for (task, given, able), count in product(timed, threads):
            case = {"measure": TASKS[task], **given, "threads": count}
            report(", ".join(map(str, case.values())))
            some = {n: w for n, w in workers.items() if n in able}
            cases += _time(some, repeats, case, task, *given.values())
    models = {
        name: {
            "parameters": count_parameters(candidate.model),
            "sample_rate": candidate.sample_rate,
            "configuration": candidate.configuration,
        }
        for name, candidate in candidates.items()
    }
    cases += ratios(cases, [*models][:1] + BASELINES)
    about = {"machine": machine(), "versions": package_versions()}
    return {**about, "models": models, "cases": cases}


def _sizes(candidates, length, threads):
    """Return the memory of passes and, of those that ran, the operations."""
    cases = []
    for each in candidates:
        case = {"model": each.name, "length": length}
        peak = worker.peak_memory(each.source, length, threads)
        value = None if peak is None else peak / 1e6
        cases.append({**case, "measure": MEMORY, "value": value})
        if peak is not None:
            macs = macs_per_second(each, length)
            case |= {"measure": MACS, "value": macs["total"] / 1e6}
            cases.append({**case, "parts": macs})
    return cases


def _time(workers, repeats, case, task, *arguments):
    """Time a task of workers in turns; return a case of each model.

    Its ``factors`` are seconds of computing for a second of audio.
    """
    given = task, case["threads"], *arguments
    runs = {name: partial(each.run, *given) for name, each in workers.items()}
    cases = []
    for name, factors in interleaved(runs, repeats).items():
        value = median(factors)
        value = 1 / value if case["measure"] == TRAINING else value
        found = {"model": name, "value": value, "factors": factors}
        cases.append({**case, **found})
    return cases


def interleaved(runs, repeats):
    """Run functions in turns, after one run of each that does not count.

    Every other repeat goes through them backwards, so that a steady drift
    of the machine cancels in their ratios. A function returns its seconds,
    None if it cannot run; returned are those of every repeat by name.

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


def ratios(cases, references):
    """Return medians of times over those of references in the same repeat."""
    timed = [case for case in cases if case["measure"] in RATIOS]
    setting = "measure", "length", "threads"
    found = []
    for other, case in product(timed, timed):
        alike = all(case.get(key) == other.get(key) for key in setting)
        if other["model"] in references and alike:
            pairs = zip(case["factors"], other["factors"], strict=True)
            title = f"{RATIOS[case['measure']]} {other['model']}"
            ratio = median(mine / others for mine, others in pairs)
            found.append({**case, "measure": title, "value": ratio})
    return found


def machine():
    """Return what the times depend on besides the versions."""
    cpu = platform.processor() or platform.machine()
    if sys.platform == "linux":
        text = Path("/proc/cpuinfo").read_text("utf-8")
        found = re.search("^model name.*?: *(.+)", text, re.MULTILINE)
        cpu = found[1] if found else cpu
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }
