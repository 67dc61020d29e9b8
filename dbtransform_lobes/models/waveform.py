"""From a noisy waveform to an enhanced one, around any spectral model."""

import torch
import torch.nn.functional as F

from dbtransform_lobes.models.edges import edge_offset


def sqrt_hann_window(length):
    """Return the square root of a periodic Hann window, (length,).

    Its square sums to one at hops of half its length.

    Example
    -------
    >>> square = sqrt_hann_window(8) ** 2
    >>> torch.allclose(square[:4] + square[4:], torch.ones(4))
    True
    """
    return torch.hann_window(length).sqrt()


def continued(noisy, half, before, after):
    """Return signals (B, before + L + after) with what goes on beyond edges.

    See ``edge_offset``; ``half`` is the number of samples that tell an offset.

    Example
    -------
    >>> continued(torch.ones(1, 4), half=2, before=1, after=3).tolist()
    [[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]]
    """
    begin = edge_offset(F.pad(noisy, (0, half))[:, :half])
    noisy = torch.cat((begin.expand(-1, before), noisy), dim=-1)
    end = edge_offset(noisy[:, -half:])
    return torch.cat((noisy, end.expand(-1, after)), dim=-1)


def noisy_spectrum(compute_stft, noisy):
    """Compute the spectrum that a model is given.

    The signal is padded to whole hops: at other lengths the last samples
    would lie in one frame alone, where its window is nearly 0, and the
    inverse transform would amplify what the model does to them. Where an
    edge of the signal is mostly an offset, this goes on in the padding;
    elsewhere that is zeros. With SpeechBrain's STFT (B, L) becomes complex
    (B, F, T), T = 1 + ceil(L / hop).

    Example
    -------
    >>> from speechbrain.processing.features import STFT
    >>> stft = STFT(16000, n_fft=512, win_length=32, hop_length=8)
    >>> noisy_spectrum(stft, torch.randn(2, 1280)).shape
    torch.Size([2, 257, 11])
    """
    hop, half = compute_stft.hop_length, compute_stft.n_fft // 2
    around = -(-half // hop)  # frames of padding alone, before and after
    if compute_stft.pad_mode != "constant":  # it has another padding
        around = 0
    after = around * hop + -noisy.shape[-1] % hop
    noisy = continued(noisy, half, around * hop, after)
    stft = compute_stft(noisy)  # (B, T, F, 2)
    stft = stft[:, around : stft.shape[1] - around]
    return torch.view_as_complex(stft.contiguous()).transpose(1, 2)


def enhance_waveform(
    model, compute_stft, compute_istft, noisy, return_spec=False
):
    """Enhance waveforms; the length of the input is kept.

    The spectral transforms run in fp32 whatever the precision of the model.

    Arguments
    ---------
    model : torch.nn.Module
        Maps a complex spectrum (B, F, T) to one of the same shape.
    compute_stft, compute_istft : torch.nn.Module
        SpeechBrain's STFT and ISTFT with the same settings.
    noisy : torch.Tensor
        (B, L), L > 0, all of it valid (no padding).
    return_spec : bool
        Whether to return the estimated spectrum as well.

    Returns
    -------
    enhanced : torch.Tensor
        (B, L).
    spec : torch.Tensor
        Only if asked for: what the model returned, complex (B, F, T), with
        T = 1 + L // hop, as of ``compute_stft``.

    Example
    -------
    >>> from speechbrain.processing.features import ISTFT, STFT
    >>> settings = dict(sample_rate=16000, win_length=32, hop_length=8)
    >>> settings["window_fn"] = torch.hann_window
    >>> stft = STFT(n_fft=512, **settings)
    >>> istft = ISTFT(n_fft=512, **settings)
    >>> noisy = torch.randn(1, 4000)
    >>> same = enhance_waveform(torch.nn.Identity(), stft, istft, noisy)
    >>> torch.allclose(noisy, same, atol=1e-5)
    True
    """
    with torch.autocast(noisy.device.type, enabled=False):
        noisy = noisy.float()
        spec = noisy_spectrum(compute_stft, noisy)
    estimate = model(spec)  # (B, F, T)
    with torch.autocast(noisy.device.type, enabled=False):
        stft = torch.view_as_real(estimate.transpose(1, 2))
        enhanced = compute_istft(stft, sig_length=noisy.shape[-1])
    if not return_spec:
        return enhanced
    frames = 1 + noisy.shape[-1] // compute_stft.hop_length
    return enhanced, estimate[..., :frames]
