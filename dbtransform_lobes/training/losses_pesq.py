"""PESQ as a loss: disturbances of the package torch-pesq.

It games the metric: a model trained with it has seen its own test metric, so
its PESQ says less about how it sounds and is not comparable with that of
models trained without.
"""

import torch
from scipy.signal import lfilter
from torch import nn


class PesqDisturbance(nn.Module):
    """0.1 d + 0.0309 d_a of ITU-T P.862, without time alignment.

    d and d_a are its symmetric and asymmetric disturbance; PESQ falls with
    the weighted sum. Silent items count 0: PESQ is not defined for them.
    ``sample_rate`` is in Hz; other rates than 16000 are resampled. ValueError
    if the package torch-pesq is not installed.
    """

    def __init__(self, sample_rate=16000):
        super().__init__()
        try:
            from torch_pesq import PesqLoss
        except ImportError as error:
            raise ValueError(
                "the PESQ loss needs the package torch-pesq, which is not "
                "installed; pip install 'dbtransform[pesq-loss]' or set "
                "pesq_weight to 0"
            ) from error
        self.loss = PesqLoss(1.0, sample_rate=sample_rate)
        self.loss.align_level = self._align_level
        self.loss.preemphasize = self._preemphasize
        self.register_buffer("band", _response(self.loss.power_filter))
        self.register_buffer("emphasis", _response(self.loss.pre_filter))

    def forward(self, clean, estimate):
        """Map waveforms (B, L) of 0.4 s or more to (B,)."""
        heard = (clean.abs().amax(-1) > 0) & (estimate.abs().amax(-1) > 0)
        disturbance = torch.zeros_like(clean[:, 0])
        if heard.any():
            value = self.loss(clean[heard], estimate[heard])
            disturbance[heard] = value.to(disturbance.dtype)
        return disturbance

    # The package's own two filters have no finite gradient where an estimate
    # ends in digital silence.
    def _align_level(self, signal):
        """Bring the power from 325 to 3250 Hz to 10^7, as the package does."""
        length = signal.shape[1]
        filtered = _filter(signal, self.band)
        power = filtered.square().sum(1, keepdim=True) / (length + 5120)
        return signal * (1e7 * 1.04684 / power.clamp_min(1e-20)).sqrt()

    def _preemphasize(self, signal):
        """Fade the ends over 15 samples and filter, as the package does."""
        ramp = torch.arange(1, 16, device=signal.device) / 16
        gain = torch.ones_like(signal[0])
        gain[:15], gain[-15:] = ramp, ramp.flip(0)
        return _filter(signal * gain, self.emphasis)


def _response(coefficients, length=4096):
    """Impulse response of an IIR filter (numerator, denominator)."""
    numerator, denominator = coefficients.double().numpy()
    pulse = torch.zeros(length, dtype=torch.float64)
    pulse[0] = 1
    return torch.from_numpy(lfilter(numerator, denominator, pulse)).float()


def _filter(signal, response):
    """Convolve along time by a product of spectra; keeps the length."""
    length = signal.shape[-1]
    n_fft = 1 << (length + len(response) - 1).bit_length()
    product = torch.fft.rfft(signal, n_fft) * torch.fft.rfft(response, n_fft)
    return torch.fft.irfft(product, n_fft)[..., :length]
