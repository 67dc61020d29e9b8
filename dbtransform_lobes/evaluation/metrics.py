"""The scores of one enhanced file against its clean speech.

PESQ is wide band (ITU-T P.862.2), STOI and ESTOI are those of ``pystoi``,
SI-SDR follows Le Roux et al. ("SDR - half-baked or well done?", ICASSP 2019),
the rest Hu and Loizou (2008).
"""

import warnings

import numpy as np
from pesq import NoUtterancesError, PesqError
from pesq import pesq as pesq_package
from pystoi import stoi as stoi_package

from dbtransform_lobes.evaluation.composite import EPS, SAMPLE_RATE, composite

LABELS = {  # of tables and plots; a metric without label goes by its name
    "pesq": "PESQ-WB",
    "stoi": "STOI",
    "estoi": "ESTOI",
    "si_sdr": "SI-SDR (dB)",
    "seg_snr": "SegSNR (dB)",
    "csig": "CSIG",
    "cbak": "CBAK",
    "covl": "COVL",
}
METRICS = tuple(LABELS)
LABELS |= {  # of scores that need no clean signal, see dnsmos.py
    "dnsmos_sig": "DNSMOS SIG",
    "dnsmos_bak": "DNSMOS BAK",
    "dnsmos_ovrl": "DNSMOS OVRL",
    "dnsmos_p808": "DNSMOS P.808",
}
SILENT_PEAK = 1e-9  # -180 dBFS, far below one step of 24 bits
# PESQ has room for 50 utterances and crashes the process not far above.
MAX_SECONDS = 30
MAX_PEAK = 100.0  # above: integers as floats, or a model that diverged


class SilentFileError(ValueError):
    """The clean file holds no speech to score against."""


def si_sdr(clean, estimate):
    """Return the scale-invariant signal-to-distortion ratio in dB.

    Both signals (L,), which are not silent, keep their means. The ratio stays
    within +-156.5 dB (the float64 precision), so that equal signals do not give
    infinity.

    Example
    -------
    >>> clean, noise = np.array([1.0, 1.0]), np.array([0.1, -0.1])
    >>> assert abs(si_sdr(clean, 3 * (clean + noise)) - 20.0) < 1e-9
    """
    target = np.dot(estimate, clean) / np.dot(clean, clean) * clean
    floor = EPS * np.dot(estimate, estimate)
    target_energy = max(np.dot(target, target), floor)
    error_energy = max(np.sum((estimate - target) ** 2), floor)
    return float(10 * np.log10(target_energy / error_energy))


def pesq_wide_band(clean, estimate):
    """Return the wide-band PESQ (MOS-LQO, ITU-T P.862.2) at 16 kHz.

    It is from 1.0 (bad) to 4.64 (equal), for signals of equal shape (L,).
    SilentFileError if PESQ finds no utterance in clean; ValueError if it
    cannot score the pair, for example below 0.25 s, or finds utterances in
    clean but cannot align the estimate to any.

    Example
    -------
    >>> time = np.arange(16000) / 16000
    >>> clean = np.sin(1500 * time) * np.sin(10 * time) ** 2
    >>> assert pesq_wide_band(clean, clean) > 4.6
    """
    try:
        return float(pesq_package(SAMPLE_RATE, clean, estimate, "wb"))
    except NoUtterancesError as error:
        raise _no_utterance(clean, estimate) from error
    except PesqError as error:
        text = error.args[0] if error.args else type(error).__name__
        text = text.decode() if isinstance(text, bytes) else text
        raise ValueError(
            f"PESQ failed: {text}; leave this file out of the folders"
        ) from error


def _no_utterance(clean, estimate):
    """Return the error for a pair in which PESQ found no utterance."""
    # PESQ says the same when it aligns a bad estimate past all utterances of
    # clean. That is a failure: only silent clean files leave the means.
    try:
        if estimate is not clean:
            pesq_wide_band(clean, clean)
            return ValueError(
                "PESQ found utterances in clean but could not align the "
                "estimate to any; check that both hold the same recording"
            )
    except SilentFileError:
        pass
    return SilentFileError(
        "PESQ found no utterance in clean; the file is left out of the means"
    )


def stoi(clean, estimate, extended=False):
    """Return the short-time objective intelligibility at 16 kHz.

    It is from about 0 (none) to 1, for signals of equal shape (L,): STOI
    (Taal et al. 2011), or ``extended`` ESTOI (Jensen and Taal 2016).
    ValueError if less than 0.4 s of speech is left without its pauses.

    Example
    -------
    >>> clean = np.random.default_rng(0).standard_normal(16000)
    >>> assert abs(stoi(clean, clean) - 1.0) < 1e-6
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Not enough STFT frames")
        try:
            value = stoi_package(clean, estimate, SAMPLE_RATE, extended)
        except RuntimeWarning as error:
            raise ValueError(
                "STOI expects at least 0.4 s of speech without pauses, got "
                "less; leave this file out of the folders"
            ) from error
    return float(value)


def _check_signal(signal, name):
    """Return a signal as float64 (L,), or say why it cannot be scored."""
    signal = np.asarray(signal)
    if signal.ndim != 1:
        raise ValueError(
            f"{name} has the shape {signal.shape}, expected (samples,); "
            "give one channel"
        )
    signal = signal.astype(np.float64)
    peak = np.max(np.abs(signal), initial=0.0)
    if not peak <= MAX_PEAK:  # nor NaN
        raise ValueError(
            f"{name} reaches {peak:.3g}, expected floats within [-1, 1]; "
            "divide 16-bit samples by 32768 or check what wrote the file"
        )
    return signal


def _check_pair(clean, estimate, sample_rate):
    if sample_rate != SAMPLE_RATE:
        raise ValueError(
            f"sample_rate is {sample_rate} Hz, expected {SAMPLE_RATE} Hz; "
            "resample both signals first"
        )
    clean = _check_signal(clean, "clean")
    estimate = _check_signal(estimate, "estimate")
    if len(clean) != len(estimate):
        raise ValueError(
            f"clean has {len(clean)} samples and estimate {len(estimate)}, "
            "expected equal lengths; trim or pad the estimate where it was "
            "made, so that both stay aligned"
        )
    if len(clean) > MAX_SECONDS * SAMPLE_RATE:
        raise ValueError(
            f"the signals last {len(clean) / SAMPLE_RATE:.1f} s, expected at "
            f"most {MAX_SECONDS} s, which PESQ is made for; cut both into "
            "shorter pieces"
        )
    if np.max(np.abs(clean), initial=0.0) < SILENT_PEAK:
        raise SilentFileError(
            "clean is silent; the file is left out of the means"
        )
    if np.max(np.abs(estimate)) < SILENT_PEAK:
        raise ValueError(
            "estimate is silent although clean is not; enhance the file anew"
        )
    return clean, estimate


def score(clean, estimate, sample_rate=SAMPLE_RATE):
    """Score one noisy or enhanced signal against its clean speech.

    Both are aligned, floats with full scale 1.0, (L,), at 16000 Hz. Returned
    is a dict of a float for each name of ``METRICS``: ``pesq`` (wide band, 1
    to 4.64), ``stoi``, ``estoi`` (0 to 1), ``si_sdr``, ``seg_snr`` (dB),
    ``csig``, ``cbak``, ``covl`` (1 to 5). SilentFileError if the clean signal
    is silent or PESQ finds no utterance in it; ValueError for a wrong rate,
    shape, type or length (at most 30 s), or for NaN.

    Example
    -------
    >>> time = np.arange(16000) / 16000
    >>> clean = np.sin(1500 * time) * np.sin(10 * time) ** 2
    >>> scores = score(clean, 0.5 * clean)
    >>> assert tuple(scores) == METRICS and scores["si_sdr"] > 100
    """
    clean, estimate = _check_pair(clean, estimate, sample_rate)
    pesq = pesq_wide_band(clean, estimate)
    scores = {
        "pesq": pesq,
        "stoi": stoi(clean, estimate),
        "estoi": stoi(clean, estimate, extended=True),
        "si_sdr": si_sdr(clean, estimate),
        **composite(clean, estimate, pesq),
    }
    return {name: scores[name] for name in METRICS}
