"""The loss with the terms of the recipe, by their weights."""

from functools import partial

from dbtransform_lobes.training.losses import (
    EnhancementLoss,
    EnvelopeDistance,
    compressed_complex,
    compressed_magnitude,
    consistency,
    negative_si_sdr,
    time_l1,
)
from dbtransform_lobes.training.losses_multi_resolution import (
    multi_resolution_stft,
)
from dbtransform_lobes.training.losses_pesq import PesqDisturbance
from dbtransform_lobes.training.losses_phase import (
    angular_frequency,
    group_delay,
    instantaneous_phase,
)

TERMS = {
    "magnitude": compressed_magnitude,
    "complex": compressed_complex,
    "si_sdr": negative_si_sdr,
    "envelope": EnvelopeDistance,
    "phase": instantaneous_phase,
    "group_delay": group_delay,
    "angular_frequency": angular_frequency,
    "time": time_l1,
    "multi_resolution": multi_resolution_stft,
    "pesq": PesqDisturbance,
}


def loss_of(stft, magnitude=1, complex=1, si_sdr=0, front_end=None, **weights):
    """Return an EnhancementLoss of these weights."""
    weights |= {"magnitude": magnitude, "complex": complex, "si_sdr": si_sdr}
    terms = dict(TERMS, consistency=partial(consistency, front_end=front_end))
    return EnhancementLoss(stft, {k: [w, terms[k]] for k, w in weights.items()})
