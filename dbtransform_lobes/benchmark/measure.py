"""Side-by-side measurement of models: size, cost, speed, memory.

Times are only as good as the machine is idle. Models take turns within each
repeat, and their ratios are of times in the same repeat, so that a drift of
the machine hits all alike.
"""

import multiprocessing
import os
import platform
import resource
import signal
import sys
import time
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
FRAMES_A_CALL = (1, 4)  # of a live stream
COUNTED_SECONDS = 30.0
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
    memory, macs, inference, streaming, training = [], [], [], [], []
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
    for count in threads:
        for length in settings["lengths"]:
            report(f"time of {length:g} s, threads: {count}")
            inference += time_inference(
                able[length], length, count, settings["repeats"], seed
            )
        report(f"time of live streams, threads: {count}")
        streaming += time_streaming(candidates, count, seed)
    if settings["training"]:
        report(f"time of training, threads: {threads[-1]}")
        training = time_training(
            candidates, threads[-1], settings["repeats"], seed
        )
    return {
        "memory": memory,
        "macs": macs,
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
        ``real_time_factor`` (median).
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
        }
        for name, times in seconds.items()
    ]


def time_streaming(candidates, threads, seed=0, seconds=8.0):
    """Time the calls of ``step`` on a live stream, for causal models.

    Arguments
    ---------
    candidates : sequence of Candidate
        The models; those that are not causal are left out.
    threads : int
        Number of threads.
    seed : int
        Of the signal.
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
        for frames in FRAMES_A_CALL:
            with using_threads(threads), torch.inference_mode():
                times = _calls(candidate, frames, round(seconds / hop), seed)
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


def _calls(candidate, frames, total, seed):
    """Seconds of each call on a stream of this many frames."""
    model, times = candidate.model, []
    generator = torch.Generator().manual_seed(seed)
    shape = (1, model.layout.num_bins, total)
    spec = torch.randn(shape, generator=generator, dtype=torch.complex64)
    state = model.initial_state()
    for chunk in spec.split(frames, dim=-1):
        start = time.perf_counter()
        _, state = model.step(chunk, state)
        times.append(time.perf_counter() - start)
    return times


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
        ``audio_seconds_per_second`` (median). Models for which the memory
        does not suffice are left out.
    """
    heard = TRAINING["crop_seconds"] * TRAINING["batch_size"]
    with using_threads(threads):
        with memory_limit():
            runs = {
                candidate.name: _training_step(candidate, seed)
                for candidate in candidates
            }
            runs = {n: step for n, step in runs.items() if _has_memory(step)}
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
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(
        target=_send_peak, args=(sender, name, length, threads, seed)
    )
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        if process.exitcode == -signal.SIGKILL:  # out of memory
            return None
        raise RuntimeError(
            f"the process that measures the memory of {name} ended with code "
            f"{process.exitcode}: see its message above; scripts need "
            f"'if __name__ == \"__main__\":'"
        ) from None
    finally:
        process.join()


def _send_peak(sender, name, length, threads, seed):
    """What ``peak_memory`` runs in its process."""
    torch.set_num_threads(threads)
    candidate = load_candidate(name, seed)
    noisy = candidate.noise(length, seed=seed)
    _reset_peak()
    before = _peak_bytes()
    with memory_limit(), torch.inference_mode():
        able = _has_memory(partial(candidate.enhance, noisy))
    sender.send(_peak_bytes() - before if able else None)


def _has_memory(function):
    """Call a function; whether its allocations succeeded."""
    try:
        function()
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and "alloc" not in str(error):
            raise
        return False
    return True


@contextmanager
def memory_limit():
    """Let allocations fail that would make the machine kill processes."""
    if sys.platform != "linux":
        yield
        return
    available = _kilobytes("/proc/meminfo", "MemAvailable")
    mapped = _kilobytes("/proc/self/status", "VmSize")
    limit = int((mapped + 0.9 * available) * 1024)
    before, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (before, hard))


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
