"""DNSMOS P.835: mean opinion scores that a network predicts, no reference.

C. K. A. Reddy, V. Gopal, R. Cutler, "DNSMOS P.835: A non-intrusive perceptual
objective speech quality metric to evaluate noise suppressors", ICASSP 2022,
arXiv:2110.01763. The networks are inside the package ``speechmos``.
"""

import importlib.util

import numpy as np

SAMPLE_RATE = 16000
# Their names in the paper to those in the package.
SCORES = {n: f"{n.lower()}_mos" for n in ("SIG", "BAK", "OVRL", "P808")}


def dnsmos(signal, sample_rate):
    """Predict the scores of speech, background and both, from 1 to 5.

    Signals shorter than 9.01 s are repeated, of longer ones windows of that
    length are averaged, one a second; both inside the package. The level
    counts: do not normalise.

    The signal has samples (L,) within [-1, 1] at 16000 Hz; anything else, or
    if the package ``speechmos`` is missing, is a ValueError. Returned are SIG,
    BAK and OVRL of P.835, and P808, as a dict of floats.
    """
    signal = np.asarray(signal, dtype=np.float64)
    if signal.ndim != 1 or not signal.size:
        raise ValueError(
            f"the signal has shape {signal.shape}, expected (L,) with L > 0"
        )
    if sample_rate != SAMPLE_RATE:
        raise ValueError(
            f"sample_rate is {sample_rate}, expected {SAMPLE_RATE}: resample"
        )
    if not np.all(np.isfinite(signal)) or np.max(np.abs(signal)) > 1:
        raise ValueError(
            "samples are not finite or beyond [-1, 1], expected audio that is "
            "not clipped when it is written: lower its level"
        )
    check_installed()
    from speechmos import dnsmos as network

    found = network.run(signal, SAMPLE_RATE)
    return {name: float(found[key]) for name, key in SCORES.items()}


def check_installed():
    """Raise a ValueError if the package with the networks is missing."""
    if importlib.util.find_spec("speechmos") is None:
        raise ValueError(
            "DNSMOS needs speechmos: pip install 'dbtransform[dnsmos]'"
        )
