"""Anti-wrapping phase losses.

Source: MP-SENet (Lu, Ai & Ling, 2023, arXiv:2305.13686), section 2.3; first
in Ai & Ling (2023, arXiv:2211.15974). With `f(t) = |t - 2 pi round(t / 2 pi)|`
and the phases P of the clean and Q of the estimated spectrum,

  instantaneous phase              mean f(P - Q)
  group delay                      mean f(D_f P - D_f Q)
  instantaneous angular frequency  mean f(D_t P - D_t Q)

where D_f and D_t are differences between neighbouring bins and frames. All
map spectra (B, T, F, 2) in fp32 to (B,).
"""

import math

import torch


def instantaneous_phase(clean_spec, estimate_spec):
    """Average f(P - Q).

    Example
    -------
    >>> clean = torch.randn(2, 5, 9, 2)
    >>> bool((instantaneous_phase(clean, -clean) > 3.14).all())
    True
    """
    return _anti_wrapped(_phase_error(clean_spec, estimate_spec))


def group_delay(clean_spec, estimate_spec):
    """Average f(D_f P - D_f Q).

    Example
    -------
    >>> clean = torch.randn(2, 5, 9, 2)
    >>> bool((group_delay(clean, -clean) < 1e-3).all())  # one phase for all
    True
    """
    return _anti_wrapped(_phase_error(clean_spec, estimate_spec).diff(dim=2))


def angular_frequency(clean_spec, estimate_spec):
    """Average f(D_t P - D_t Q).

    Example
    -------
    >>> clean = torch.randn(2, 5, 9, 2)
    >>> bool((angular_frequency(clean, -clean) < 1e-3).all())
    True
    """
    return _anti_wrapped(_phase_error(clean_spec, estimate_spec).diff(dim=1))


def _phase_error(clean, estimate, floor=1e-3):
    """Return P - Q (B, T, F) in rad, between -pi and pi: of S conj(Y).

    A bin in which either magnitude is below the floor has an error of 0 and
    no gradient, which would grow as `1 / |Y|`.
    """
    (a, b), (c, d) = clean.unbind(-1), estimate.unbind(-1)
    weaker = torch.minimum(a**2 + b**2, c**2 + d**2)
    heard = weaker > floor**2
    imaginary = torch.where(heard, b * c - a * d, 0.0)
    return torch.atan2(imaginary, torch.where(heard, a * c + b * d, 1.0))


def _anti_wrapped(error):
    """Average f: the distance (B, ...) to the nearest multiple of 2 pi."""
    turns = torch.round(error / (2 * math.pi))
    return (error - 2 * math.pi * turns).abs().flatten(1).mean(-1)
