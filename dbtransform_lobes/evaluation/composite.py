"""Segmental SNR, LLR, WSS and the composite measures CSIG, CBAK, COVL.

The numbers equal those of the authors' MATLAB reference: frames of 30 ms with
a hop of a quarter, LLR and WSS averaged over their lowest 95 % of frames, WSS
on the int16 scale (its energy floor is absolute) and wide-band PESQ. LLR is
not defined for frames of digital silence; here such frames count as white.
Kept by hand: the packages that have these measures are not maintained or not
under a free licence.

All functions take one signal or a pair, clean and estimate, as numpy arrays
(L,) of equal length at 16 kHz, full scale 1.0.

Reference
---------
Y. Hu and P. C. Loizou, "Evaluation of objective quality measures for speech
enhancement", IEEE Trans. Audio, Speech, Lang. Process. 16(1), 2008.
"""

import numpy as np

SAMPLE_RATE = 16000
WIN_LENGTH = 480  # 30 ms
HOP_LENGTH = 120  # a quarter of the window
ALPHA = 0.95  # share of the frames that LLR and WSS are averaged over
EPS = np.finfo(np.float64).eps
INT16_SCALE = 32768.0

SNR_RANGE = (-10.0, 35.0)  # dB
LPC_ORDER = 16

WSS_N_FFT = 1024
K_MAX = 20.0
K_LOC_MAX = 1.0
# fmt: off
CRITICAL_CENTRES = np.array([  # Hz
    50.0, 120.0, 190.0, 260.0, 330.0, 400.0, 470.0, 540.0, 617.372,
    703.378, 798.717, 904.128, 1020.38, 1148.30, 1288.72, 1442.54, 1610.70,
    1794.16, 1993.93, 2211.08, 2446.71, 2701.97, 2978.04, 3276.17, 3597.63,
])
CRITICAL_WIDTHS = np.array([  # Hz
    70.0, 70.0, 70.0, 70.0, 70.0, 70.0, 70.0, 77.3724, 86.0056,
    95.3398, 105.411, 116.256, 127.914, 140.423, 153.823, 168.154, 183.457,
    199.776, 217.153, 235.631, 255.255, 276.072, 298.126, 321.465, 346.136,
])
# fmt: on


def _frame_signal(signal):
    """Cut a signal into the reference's Hann frames, (T, 480), 7.5 ms apart."""
    num_frames = len(signal) // HOP_LENGTH - WIN_LENGTH // HOP_LENGTH
    if num_frames < 1:
        raise ValueError(
            f"expected at least {WIN_LENGTH + HOP_LENGTH} samples (37.5 ms at "
            f"16 kHz), got {len(signal)}; leave such short files out"
        )
    frames = np.lib.stride_tricks.sliding_window_view(signal, WIN_LENGTH)
    return frames[::HOP_LENGTH][:num_frames] * np.hanning(WIN_LENGTH + 2)[1:-1]


def _trimmed_mean(values):
    """Average the lowest share of values (T,), their number rounded half up."""
    num_kept = max(1, int(np.floor(ALPHA * len(values) + 0.5)))
    return float(np.mean(np.sort(values)[:num_kept]))


def _segmental_snr(clean, estimate):
    """Return the mean SNR over all frames, each limited to [-10, 35] dB."""
    clean_frames = _frame_signal(clean)  # (T, win_length)
    noise_frames = clean_frames - _frame_signal(estimate)
    clean_energy = np.sum(clean_frames**2, axis=1)  # (T,)
    noise_energy = np.sum(noise_frames**2, axis=1)
    snr = 10 * np.log10(clean_energy / (noise_energy + EPS) + EPS)
    return float(np.mean(np.clip(snr, *SNR_RANGE)))


def _autocorrelation(frames):
    """Map frames (T, N) to lags 0 to 16, (T, 17)."""
    size = frames.shape[1]
    lags = [
        np.einsum("tn,tn->t", frames[:, : size - lag], frames[:, lag:])
        for lag in range(LPC_ORDER + 1)
    ]
    return np.stack(lags, axis=1)


def _predictor(correlation):
    """Return the prediction error filters (T, 17), by Levinson and Durbin."""
    filters = np.zeros_like(correlation)
    filters[:, 0] = 1.0
    # The limits on gain and error act on rounding noise, as of pure tones.
    floor = EPS * correlation[:, 0]
    error = correlation[:, 0]
    for order in range(1, correlation.shape[1]):
        past = correlation[:, order:0:-1]  # (T, order)
        gain = -np.sum(filters[:, :order] * past, axis=1) / error
        gain = np.clip(gain, -1.0, 1.0)
        filters[:, 1 : order + 1] += (
            gain[:, None] * filters[:, order - 1 :: -1][:, :order]
        )
        error = np.maximum(error * (1 - gain**2), floor)
    return filters


def _residual_energy(filters, correlation):
    """Return the energy a R a^T (T,) of the residual of each frame."""
    order = np.arange(filters.shape[1])
    toeplitz = correlation[:, np.abs(order[:, None] - order)]  # (T, 17, 17)
    return np.einsum("ti,tij,tj->t", filters, toeplitz, filters)


def _log_likelihood_ratio(clean, estimate):
    """Average the lowest 95 % of frames; 0 for equal signals, else above."""
    # Noise of -313 dB, always the same, makes frames of digital silence, whose
    # predictor is undefined, white and changes no other.
    dither = EPS * np.random.default_rng(1).standard_normal(len(clean))
    # both (T, 17)
    clean_correlation = _autocorrelation(_frame_signal(clean + dither))
    correlation = _autocorrelation(_frame_signal(estimate + dither))
    clean_energy = np.maximum(
        _residual_energy(_predictor(clean_correlation), clean_correlation),
        EPS * clean_correlation[:, 0],
    )
    energy = _residual_energy(_predictor(correlation), clean_correlation)
    return _trimmed_mean(np.log(np.maximum(energy / clean_energy, 1.0)))


def _critical_filters():
    """Return the gains (25, 512) of the critical bands over the FFT bins."""
    num_bins = WSS_N_FFT // 2
    bins_per_hz = num_bins / (SAMPLE_RATE / 2)
    centres = np.floor(CRITICAL_CENTRES * bins_per_hz)[:, None]
    widths = (CRITICAL_WIDTHS * bins_per_hz)[:, None]
    level = np.log(CRITICAL_WIDTHS[0] / CRITICAL_WIDTHS)[:, None]
    distances = (np.arange(num_bins) - centres) / widths
    gains = np.exp(-11 * distances**2 + level)
    floor = np.exp(-30 / (2 * 2.303))  # -30 dB
    return np.where(gains > floor, gains, 0.0)


def _band_levels(signal):
    """Return the levels (T, 25) in dB of the critical bands."""
    spec = np.fft.rfft(_frame_signal(signal * INT16_SCALE), WSS_N_FFT)  # (T, F)
    power = np.abs(spec[:, : WSS_N_FFT // 2]) ** 2
    return 10 * np.log10(np.maximum(power @ _critical_filters().T, 1e-10))


def _nearest_peaks(levels, slopes):
    """Return the level (T, 24) of the next peak, upwards if a band rises.

    On a rising slope the reference takes the band just below the peak.
    """
    num_slopes = slopes.shape[1]
    bands = np.arange(num_slopes)
    rises = slopes > 0
    stops = np.where(rises, num_slopes, bands)[:, ::-1]
    next_stop = np.minimum.accumulate(stops, axis=1)[:, ::-1]
    last_rise = np.maximum.accumulate(np.where(rises, bands, -1), axis=1)
    peaks = np.where(rises, next_stop - 1, last_rise + 1)
    return np.take_along_axis(levels, peaks, axis=1)


def _slope_weights(levels, slopes):
    """Return Klatt's weights (T, 24), large near global and local peaks."""
    below_max = np.max(levels, axis=1, keepdims=True) - levels[:, :-1]
    below_peak = _nearest_peaks(levels, slopes) - levels[:, :-1]
    near_peak = K_LOC_MAX / (K_LOC_MAX + below_peak)
    return K_MAX / (K_MAX + below_max) * near_peak


def _weighted_spectral_slope(clean, estimate):
    """Return the distance of the spectral slopes (D. Klatt, ICASSP 1982)."""
    clean_levels = _band_levels(clean)  # (T, 25)
    levels = _band_levels(estimate)
    clean_slopes = np.diff(clean_levels, axis=1)  # (T, 24)
    slopes = np.diff(levels, axis=1)
    weights = (
        _slope_weights(clean_levels, clean_slopes)
        + _slope_weights(levels, slopes)
    ) / 2
    distance = np.sum(weights * (clean_slopes - slopes) ** 2, axis=1)
    return _trimmed_mean(distance / np.sum(weights, axis=1))


def composite(clean, estimate, pesq):
    """Return segmental SNR, LLR, WSS and the three composite measures.

    ``pesq`` is the wide-band PESQ of the same pair. Returned is a dict of
    ``seg_snr`` in dB, ``llr``, ``wss`` and ``csig``, ``cbak``, ``covl`` on the
    scale of 1 to 5. Signals too short for one frame are a ValueError.

    Example
    -------
    >>> clean = np.random.default_rng(0).standard_normal(16000)
    >>> measures = composite(clean, clean, pesq=4.64)
    >>> assert measures["seg_snr"] == 35.0 and measures["csig"] == 5.0
    """
    seg_snr = _segmental_snr(clean, estimate)
    llr = _log_likelihood_ratio(clean, estimate)
    wss = _weighted_spectral_slope(clean, estimate)
    opinions = {
        "csig": 3.093 - 1.029 * llr + 0.603 * pesq - 0.009 * wss,
        "cbak": 1.634 + 0.478 * pesq - 0.007 * wss + 0.063 * seg_snr,
        "covl": 1.594 + 0.805 * pesq - 0.512 * llr - 0.007 * wss,
    }
    opinions = {k: float(np.clip(v, 1.0, 5.0)) for k, v in opinions.items()}
    return {"seg_snr": seg_snr, "llr": llr, "wss": wss, **opinions}
