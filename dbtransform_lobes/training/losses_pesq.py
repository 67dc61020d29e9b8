"""PESQ as a loss: disturbances of the package torch-pesq.

It games the metric: a model trained with it has seen its own test metric, so
its PESQ says less about how it sounds and is not comparable with that of
models trained without.
"""

import torch
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

    def forward(self, clean, estimate):
        """Map waveforms (B, L) of 0.4 s or more to (B,)."""
        heard = (clean.abs().amax(-1) > 0) & (estimate.abs().amax(-1) > 0)
        disturbance = torch.zeros_like(clean[:, 0])
        if heard.any():
            value = self.loss(clean[heard], estimate[heard])
            disturbance[heard] = value.to(disturbance.dtype)
        return disturbance
