"""Where the time of a pass goes, by operation."""

import torch


def profile_pass(candidate, length, threads, rows=12, seed=0):
    """Profile the path from waveform to waveform.

    Arguments
    ---------
    candidate : Candidate
        The model.
    length : float
        In seconds.
    threads : int
        Number of threads; stays set.
    rows : int
        Operations that are listed, the longest first.
    seed : int
        Of the signal.

    Returns
    -------
    str
        A table: operation, share of the time in %, calls.
    """
    noisy = candidate.noise(length, seed=seed)
    torch.set_num_threads(threads)
    with torch.inference_mode():
        candidate.enhance(noisy)
        with torch.profiler.profile() as profiler:
            candidate.enhance(noisy)
    events = profiler.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    events = sorted(events, key=lambda event: -event.self_cpu_time_total)
    lines = [f"{candidate.name}, {length:g} s, threads: {threads}"]
    for event in events[:rows]:
        share = 100 * event.self_cpu_time_total / total
        name = event.key.removeprefix("aten::")
        lines.append(f"  {name:48} {share:5.1f} % {event.count:6} calls")
    return "\n".join(lines)
