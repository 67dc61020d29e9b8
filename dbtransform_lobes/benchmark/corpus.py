"""How a corpus is enhanced faster by more workers, on this machine."""

import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile as sf

from dbtransform_lobes.inference.ray_workers import enhance_corpus, task_size

SAMPLE_RATE = 16000


def corpus_speed(source, jobs, files=96, seconds=20.0, seed=0):
    """Seconds of audio that workers of one thread each enhance in a second.

    Arguments
    ---------
    source : str
        Of the model, None for the one that comes with the package.
    jobs : int
        Number of workers.
    files : int
        Files of noise; those of the first task of each worker are not timed.
    seconds : float
        Length of each.
    seed : int
        Of the noise.

    Returns
    -------
    dict
        ``running``: from the first result on; ``total``: with the start of
        Ray and of the workers; ``seconds`` of the whole.

    Raises
    ------
    ValueError
        If there are too few files to time, or a file fails.
    """
    untimed = jobs * task_size(files, jobs)
    if files <= untimed:
        raise ValueError(
            f"files are {files}, expected more than {untimed}: the first "
            f"task of each of {jobs} workers is not timed"
        )
    options = {"source": source, "run_opts": {"device": "cpu"}}
    with tempfile.TemporaryDirectory() as folder:
        pairs = _make_files(Path(folder), files, seconds, seed)
        start, first = time.perf_counter(), None
        for path, reason, *_ in enhance_corpus(pairs, options, {}, jobs):
            first = first or time.perf_counter()
            end = time.perf_counter()
            if reason is not None:
                raise ValueError(f"{path}: {reason}")
    return {
        "running": (files - untimed) * seconds / (end - first),
        "total": files * seconds / (end - start),
        "seconds": end - start,
    }


def _make_files(folder, files, seconds, seed):
    generator = np.random.default_rng(seed)
    pairs = []
    for number in range(files):
        noise = 0.1 * generator.standard_normal(round(seconds * SAMPLE_RATE))
        path = folder / f"{number}.wav"
        sf.write(path, noise.clip(-1, 1), SAMPLE_RATE)
        pairs.append((str(path), str(folder / "enhanced" / path.name)))
    return pairs
