"""Anti-wrapping phase losses.

Source: MP-SENet (Lu, Ai & Ling, 2023, arXiv:2305.13686), section 2.3; first
in Ai & Ling (2023, arXiv:2211.15974). With `f(t) = |t - 2 pi round(t / 2 pi)|`
and the phases P of the clean and Q of the estimated spectrum,

  instantaneous phase              mean f(P - Q)
  group delay                      mean f(D_f P - D_f Q)
  instantaneous angular frequency  mean f(D_t P - D_t Q)

where D_f and D_t are differences between neighbouring bins and frames.
"""

import math

import torch


def phase_error(clean, estimate, floor=1e-3):
    """P - Q, between -pi and pi, as the phase of S conj(Y).

    Arguments
    ---------
    clean, estimate : torch.Tensor
        Spectra (B, T, F, 2), fp32.
    floor : float
        A bin in which either magnitude is below has an error of 0 and no
        gradient, which would grow as `1 / |Y|`.

    Returns
    -------
    torch.Tensor
        (B, T, F), in rad.

    Example
    -------
    >>> clean = torch.tensor([0.0, 2.0]).view(1, 1, 1, 2)
    >>> estimate = torch.tensor([3.0, 0.0]).view(1, 1, 1, 2)
    >>> phase_error(clean, estimate) / math.pi
    tensor([[[0.5000]]])
    """
    (a, b), (c, d) = clean.unbind(-1), estimate.unbind(-1)
    weaker = torch.minimum(a**2 + b**2, c**2 + d**2)
    heard = weaker > floor**2
    imaginary = torch.where(heard, b * c - a * d, 0.0)
    return torch.atan2(imaginary, torch.where(heard, a * c + b * d, 1.0))


def anti_wrapped(error):
    """Mean of f(error), the distance to the nearest multiple of 2 pi.

    Arguments
    ---------
    error : torch.Tensor
        (B, ...), in rad.

    Returns
    -------
    torch.Tensor
        (B,), each between 0 and pi.

    Example
    -------
    >>> anti_wrapped(torch.tensor([[2 * math.pi, -1.5 * math.pi]])) / math.pi
    tensor([0.2500])
    """
    turns = torch.round(error / (2 * math.pi))
    return (error - 2 * math.pi * turns).abs().flatten(1).mean(-1)


def instantaneous_phase(clean_spec, estimate_spec):
    """Mean of f(P - Q): (B, T, F, 2) twice to (B,).

    Example
    -------
    >>> clean = torch.randn(2, 5, 9, 2)
    >>> bool((instantaneous_phase(clean, -clean) > 3.14).all())
    True
    """
    return anti_wrapped(phase_error(clean_spec, estimate_spec))


def group_delay(clean_spec, estimate_spec):
    """Mean of f(D_f P - D_f Q): (B, T, F, 2) twice to (B,).

    Example
    -------
    >>> clean = torch.randn(2, 5, 9, 2)
    >>> bool((group_delay(clean, -clean) < 1e-3).all())  # one phase for all
    True
    """
    return anti_wrapped(phase_error(clean_spec, estimate_spec).diff(dim=2))


def angular_frequency(clean_spec, estimate_spec):
    """Mean of f(D_t P - D_t Q): (B, T, F, 2) twice to (B,).

    Example
    -------
    >>> clean = torch.randn(2, 5, 9, 2)
    >>> bool((angular_frequency(clean, -clean) < 1e-3).all())
    True
    """
    return anti_wrapped(phase_error(clean_spec, estimate_spec).diff(dim=1))
