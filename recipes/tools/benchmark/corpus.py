"""How a corpus is enhanced faster by more workers, on this machine."""

import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile as sf

from dbtransform_lobes.inference.ray_workers import enhance_corpus

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
        Files of noise, at least 2.
    seconds : float
        Length of each.
    seed : int
        Of the noise.

    Returns
    -------
    dict
        ``running``: from the first enhanced file to the last; ``total``:
        with the start of Ray and of the workers; ``seconds`` of the whole.

    Raises
    ------
    ValueError
        If there are too few files, or one fails.
    """
    if files < 2:
        raise ValueError(f"files are {files}, expected 2 or more to time")
    options = {"source": source, "run_opts": {"device": "cpu"}}
    with tempfile.TemporaryDirectory() as folder:
        pairs = _make_files(Path(folder), files, seconds, seed)
        start = time.perf_counter()
        for path, reason, *_ in enhance_corpus(pairs, options, {}, jobs):
            if reason is not None:
                raise ValueError(f"{path}: {reason}")
        whole = time.perf_counter() - start
        # Reports come in batches, later than the files that they are of.
        written = [Path(target).stat().st_mtime for _, target in pairs]
    return {
        "running": (files - 1) * seconds / (max(written) - min(written)),
        "total": files * seconds / whole,
        "seconds": whole,
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
