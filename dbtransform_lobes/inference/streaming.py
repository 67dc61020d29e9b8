"""Live streams: enhance samples as they come, by a causal model."""

import math
import time

import numpy as np
import torch

from dbtransform_lobes.inference.block_stft import block_transforms
from dbtransform_lobes.inference.enhance_model import EnhanceModel
from dbtransform_lobes.inference.strength import blend, wet_share
from dbtransform_lobes.models.db_transform import CHUNK_FRAMES


class StreamingEnhancer:
    """Enhances streams block by block, with the state that this needs.

    What all calls return is as long as what they were given, and the same
    whatever the blocks: the offline result of the model.

    Arguments
    ---------
    model : EnhanceModel
        Of a causal network.
    strength, attenuation_limit_db
        As in ``EnhanceModel.enhance_array``.

    Attributes
    ----------
    latency_ms : float
        Algorithmic latency: a sample comes out at the latest this long after
        it went in. A frame is complete n_fft - hop_length samples after the
        samples that it completes, and the next one a hop later: n_fft in all.
    sample_rate : int
        Of the samples, in Hz.
    hop_length : int
        Samples from frame to frame; blocks of a multiple of it cost least.
    processing_ms : float
        Measured time of computing for each hop, the mean since the beginning
        of the stream; NaN before the first frame.

    Raises
    ------
    ValueError
        If the model is not causal, or strength or limit is out of range.

    Example
    -------
    >>> from dbtransform_lobes.inference import EnhanceModel
    >>> from dbtransform_lobes.models.bands import BandLayout
    >>> from dbtransform_lobes.models.db_transform import DBTransform
    >>> from dbtransform_lobes.models.multi_scale_fusion import (
    ...     MultiScaleFusion,
    ... )
    >>> blocks = {"fusion": MultiScaleFusion}
    >>> from speechbrain.processing.features import ISTFT, STFT
    >>> settings = dict(sample_rate=16000, win_length=32, hop_length=16)
    >>> network = DBTransform(BandLayout(), 16, blocks, causal=True)
    >>> model = EnhanceModel(
    ...     modules={"model": network},
    ...     hparams={
    ...         "sample_rate": 16000,
    ...         "compute_stft": STFT(n_fft=512, **settings),
    ...         "compute_istft": ISTFT(n_fft=512, **settings),
    ...     },
    ...     run_opts={"device": "cpu"},
    ... )
    >>> enhancer = StreamingEnhancer(model)
    >>> enhancer.latency_ms
    32.0
    >>> noisy = np.random.default_rng(0).standard_normal(1000)
    >>> parts = [enhancer.feed(part) for part in np.split(noisy, [1, 700])]
    >>> parts.append(enhancer.flush())
    >>> [len(part) for part in parts]
    [0, 256, 256, 488]
    """

    def __init__(self, model, strength=1.0, attenuation_limit_db=None):
        if not isinstance(model, EnhanceModel):
            raise ValueError(
                f"the model is {type(model).__name__}, expected an "
                "EnhanceModel: load one by EnhanceModel.from_hparams()"
            )
        if not getattr(model.mods.model, "causal", False):
            raise ValueError(
                "this model sees the future, so it cannot enhance a stream: "
                "give one that was trained with causal: True, such as "
                "hparams/models/db_transform_streaming.yaml, or enhance whole "
                "files by enhance_file (dbtransform enhance)"
            )
        self._wet = wet_share(strength, attenuation_limit_db)
        self._model = model
        self.sample_rate = model.hparams.sample_rate
        self.reset()
        self.hop_length = self._stft.hop_length
        self.latency_ms = 1000 * self._stft.n_fft / self.sample_rate

    def reset(self):
        """Forget everything; the next samples begin other streams."""
        hparams = self._model.hparams
        self._stft, self._istft = block_transforms(
            hparams.compute_stft, hparams.compute_istft
        )
        self._state = self._noisy = None
        self._length = self._frames = 0
        self._seconds = 0.0

    @property
    def processing_ms(self):
        """Mean time of computing for each hop, in ms."""
        if not self._frames:
            return math.nan
        return 1000 * self._seconds / self._frames

    def feed(self, samples):
        """Take the next samples, return those that are ready.

        Arguments
        ---------
        samples : numpy.ndarray or torch.Tensor
            Floating point (n,), or (n, channels) for streams side by side,
            each enhanced on its own; any n >= 0.

        Returns
        -------
        numpy.ndarray or torch.Tensor
            Float32 (m,) or (m, channels), of the kind that was given.

        Raises
        ------
        ValueError
            If the type or shape is wrong or a sample is not finite; the
            stream then goes on as if nothing had been given.
        """
        noisy = self._checked(samples)
        start = time.perf_counter()
        if self._state is None:
            self._state = self._model.mods.model.initial_state()
            self._noisy = noisy[:, :0]
        self._noisy = torch.cat((self._noisy, noisy), dim=-1)
        self._length += noisy.shape[-1]
        with torch.inference_mode(), self._model.inference_ctx:
            enhanced = self._enhance(self._stft.push(noisy))
        enhanced = self._hand_out(enhanced)
        self._seconds += time.perf_counter() - start
        return enhanced

    def flush(self):
        """End the streams: return the samples that are left, and reset.

        Returns
        -------
        torch.Tensor or numpy.ndarray
            (m,) or (m, channels), as ``feed``; (0,) if nothing was fed.
        """
        if self._state is None:
            return np.zeros(0, dtype=np.float32)
        with torch.inference_mode(), self._model.inference_ctx:
            parts = [self._enhance(self._stft.end())]
            parts.append(self._istft.end(self._length))
        enhanced = self._hand_out(torch.cat(parts, dim=-1))
        self.reset()
        return enhanced

    def _enhance(self, spec):
        """Enhance frames (B, F, T), T >= 0; return samples that are whole."""
        parts = []
        for frames in spec.split(CHUNK_FRAMES, dim=-1):
            if frames.shape[-1]:
                parts.append(self._step(frames))
        self._frames += spec.shape[-1]
        return torch.cat(parts, dim=-1) if parts else self._noisy[:, :0]

    def _step(self, frames):
        step = self._model.mods.model.step
        estimate, self._state = step(frames, self._state)
        return self._istft.push(estimate)

    def _hand_out(self, enhanced):
        """Blend with the noisy samples of the same time, of the kind given."""
        size = min(enhanced.shape[-1], self._noisy.shape[-1])
        enhanced = enhanced[:, :size]  # without the padding of the last hop
        noisy, self._noisy = self._noisy[:, :size], self._noisy[:, size:]
        enhanced = blend(noisy, enhanced, self._wet)
        enhanced = enhanced[0] if self._single else enhanced.T
        # A copy: tensors of inference mode are of little use elsewhere.
        return enhanced.cpu().numpy() if self._array else enhanced.clone()

    def _checked(self, samples):
        """The samples as a tensor (B, n)."""
        try:
            noisy = torch.as_tensor(samples)
            finite = bool(torch.isfinite(noisy).all())
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"the samples are {type(samples).__name__}, expected an array "
                "or a tensor"
            ) from error
        if not noisy.is_floating_point():
            raise ValueError(
                f"the samples are {noisy.dtype}, expected floating point; "
                "divide 16-bit samples by 32768"
            )
        if noisy.dim() not in (1, 2) or noisy.dim() == 2 and not noisy.shape[1]:
            raise ValueError(
                f"the samples have shape {tuple(noisy.shape)}, expected "
                "(samples,) or (samples, channels), as soundfile reads them"
            )
        if noisy.dim() == 2 and noisy.shape[1] > max(32, noisy.shape[0]):
            raise ValueError(
                f"the samples have shape {tuple(noisy.shape)}, more channels "
                "than samples; expected (samples, channels): give samples.T"
            )
        if not finite:
            raise ValueError(
                "samples are not finite (NaN or infinity), expected audio; "
                "put zeros in their place"
            )
        self._single = noisy.dim() == 1
        self._array = not isinstance(samples, torch.Tensor)
        noisy = noisy.detach().to(self._model.device, torch.float32)
        noisy = noisy[None] if self._single else noisy.T
        if self._noisy is not None and len(noisy) != len(self._noisy):
            raise ValueError(
                f"{len(noisy)} channels given, expected {len(self._noisy)} as "
                "before; reset() begins others"
            )
        return noisy
