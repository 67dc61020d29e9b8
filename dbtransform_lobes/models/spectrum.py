"""Spectra, complex or as real and imaginary parts, and what is checked."""

import torch


def check_spectrum(spec, num_bins):
    """Refuse what is no finite complex spectrum (B, F, T), by a ValueError.

    F is that of the model, T >= 1. Values are looked at in inference only:
    training has a check of its own on the loss, and torch.compile cannot
    branch on values.
    """
    if not torch.is_complex(spec):
        raise ValueError(
            f"spec is {spec.dtype}, expected a complex spectrum; give "
            f"torch.view_as_complex of real and imaginary parts"
        )
    if spec.dim() != 3 or spec.shape[1] != num_bins or spec.shape[2] < 1:
        raise ValueError(
            f"spec has shape {tuple(spec.shape)}, expected "
            f"(batch, {num_bins} bins, at least 1 frame); "
            f"n_fft of the model and of the STFT must agree"
        )
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return
    if not torch.isfinite(torch.view_as_real(spec)).all():
        raise ValueError(
            "spec has values that are NaN or infinite, expected finite "
            "ones; look for broken samples in the audio"
        )


def real_parts(spec):
    """Return real and imaginary parts (B, T, F, 2) of (B, F, T)."""
    return torch.view_as_real(spec).transpose(1, 2)


def complex_spectrum(bins):
    """Return the complex spectrum (B, F, T) of (B, T, F, 2)."""
    return torch.view_as_complex(bins).transpose(1, 2)
