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
from operator import itemgetter
from pathlib import Path
from statistics import median

from benchmark.candidates import LITERAL, load_candidate
from benchmark.counts import count_parameters, macs_per_second
from benchmark.worker import BATCH_SIZE, CROP_SECONDS, Worker, peak_memory
from dbtransform_lobes.versions import package_versions

BASELINES = [LITERAL, "bsrnn"]
FRAMES_A_CALL = (1, 4)  # of a live stream
STREAM_SECONDS = 8.0
# What is measured.
MACS, MEMORY = "MMAC per second of audio", "peak memory of a pass, MB"
INFERENCE, STREAMING = "real-time factor", "real-time factor of a live stream"
TRAINING = "seconds of audio trained on per second"
RATIOS = {INFERENCE: "time over that of", TRAINING: "training over that of"}


def benchmark(names, lengths, threads, repeats=5, training=True, report=print):
    """Measure models side by side, as the options of the command say.

    Returned are, ready for JSON, ``machine``, ``versions``, ``models`` and
    ``cases``, whose value is None where the memory did not suffice. Times are
    also given over those of the first model, of "literal" and of "bsrnn".
    """
    lengths, threads = sorted(set(lengths)), sorted(set(threads))
    _check_numbers(lengths, threads, repeats)
    report("making the models")
    candidates = {each.name: each for each in map(load_candidate, names)}
    if len(candidates) < len(names):
        raise ValueError(
            f"the models are {', '.join(names)}, expected models of different "
            "names: rename one of the files"
        )
    sources = dict(zip(candidates, names, strict=True))
    sized = _measure_sizes(candidates, sources, lengths, threads[-1], report)
    cases = list(sized)
    fit = {(case["model"], case["length"]) for case in cases if case["value"]}
    with ExitStack() as stack:
        workers = {
            label: stack.enter_context(Worker(name))
            for label, name in sources.items()
        }
        for count in threads:
            for length in lengths:
                report(f"time of {length:g} s, threads: {count}")
                able = {n: w for n, w in workers.items() if (n, length) in fit}
                case = {"measure": INFERENCE, "length": length}
                case["threads"] = count
                cases += _time(able, repeats, case, "inference", length)
            report(f"time of live streams, threads: {count}")
            cases += time_streaming(workers, candidates.values(), count)
        if training:
            report(f"time of training, threads: {count}")
            case = {"measure": TRAINING, "length": None, "threads": count}
            cases += _time(workers, repeats, case, "training")
    return {
        "machine": machine(),
        "versions": package_versions(),
        "models": {
            label: {
                "parameters": count_parameters(candidate.model),
                "sample_rate": candidate.sample_rate,
                "configuration": candidate.configuration,
            }
            for label, candidate in candidates.items()
        },
        "cases": cases + ratios(cases, [*sources][:1] + BASELINES),
    }


def _measure_sizes(candidates, sources, lengths, threads, report):
    """Yield the memory of passes and, where it sufficed, the operations."""
    for length in lengths:
        report(f"memory and operations at {length:g} s")
        for label, candidate in candidates.items():
            case = {"model": label, "length": length, "measure": MEMORY}
            peak = peak_memory(sources[label], length, threads)
            if peak is None:
                yield {**case, "value": None}
                continue
            yield {**case, "value": peak / 1e6}
            macs = macs_per_second(candidate, length)
            case |= {"measure": MACS, "value": macs["total"] / 1e6}
            yield {**case, "parts": macs}


def _time(workers, repeats, case, task, *arguments):
    """Time a task of ``Worker.run`` in turns; return a case of each model."""
    given = task, case["threads"], *arguments
    runs = {name: partial(each.run, *given) for name, each in workers.items()}
    cases = []
    for name, seconds in interleaved(runs, repeats).items():
        value = median(seconds) / (case["length"] or CROP_SECONDS * BATCH_SIZE)
        value = 1 / value if case["measure"] == TRAINING else value
        cases.append(
            {**case, "model": name, "value": value, "seconds": seconds}
        )
    return cases


def time_streaming(workers, candidates, threads, seconds=STREAM_SECONDS):
    """Time the calls of ``step`` on a live stream, for causal models.

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
            case = {"frames": frames, "threads": threads, "seconds": call}
            case |= {"model": candidate.name, "measure": STREAMING}
            cases.append({**case, "value": call / (frames * hop)})
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
    setting = itemgetter("measure", "length", "threads")
    found = []
    for other, case in product(timed, timed):
        if other["model"] in references and setting(case) == setting(other):
            pairs = zip(case["seconds"], other["seconds"], strict=True)
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
