"""Live streams: enhance samples as they come, by a causal model."""

import math

import numpy as np

from dbtransform_lobes.inference.blocks import BlockISTFT, BlockSTFT
from dbtransform_lobes.inference.signal_path import (
    SignalPath,
    as_channels,
    check_sample_rate,
)
from dbtransform_lobes.inference.stream_resampler import ZEROS, StreamResampler
from dbtransform_lobes.inference.strength import wet_share

MOST_CHANNELS = 32  # of blocks of fewer samples


class Frames:
    """A stage that steps a causal model (an Enhancer) frame by frame."""

    def __init__(self, model, channels):
        transform = model.window, model.hop_length, channels
        self._stft, self._istft = BlockSTFT(*transform), BlockISTFT(*transform)
        self._enhance = model.open_frames(channels)
        self._left = 0  # samples to return

    def push(self, noisy, last=False):
        """Take samples (channels, n); return those that are ready."""
        self._left += noisy.shape[-1]
        spec = self._stft.push(noisy, last)
        if spec.shape[-1]:
            spec = self._enhance(spec)
        made = self._istft.push(spec, last)[:, : self._left]
        self._left -= made.shape[-1]
        return made


class StreamingEnhancer:
    """Enhances streams block by block, with the state that this needs.

    What all calls return is as long as what they were given, and the same
    whatever the blocks: the offline result of the model. ValueError if the
    model is not causal, or an option is out of range.

    Arguments
    ---------
    model : Enhancer
        Of a causal network.
    strength, attenuation_limit_db
        As in ``Enhancer.enhance_array``.
    sample_rate : int, optional
        Of the samples, in Hz; another one than the model's is resampled to
        it and back, and bands above it are dropped.

    Attributes
    ----------
    latency_ms : float
        Algorithmic latency, n_fft: a frame is complete n_fft - hop_length
        samples late, and the next one a hop later. Resampling there and back
        adds 128 samples of the lower rate, 8 ms at 48 kHz.
    sample_rate : int
        Of the samples, in Hz.
    hop_length : int
        Samples from frame to frame; blocks of a multiple of it cost least.

    Example
    -------
    >>> from dbtransform_lobes.inference import OnnxEnhancer
    >>> enhancer = StreamingEnhancer(OnnxEnhancer("db_transform_streaming"))
    >>> enhancer.latency_ms
    32.0
    >>> noisy = np.random.default_rng(0).standard_normal(1000)
    >>> parts = [enhancer.feed(part) for part in np.split(noisy, [1, 700])]
    >>> [len(part) for part in (*parts, enhancer.flush())]
    [0, 256, 256, 488]
    """

    def __init__(
        self, model, strength=1.0, attenuation_limit_db=None, sample_rate=None
    ):
        if not hasattr(model, "open_stream"):
            raise ValueError(
                f"the model is {type(model).__name__}, expected an "
                "EnhanceModel or OnnxEnhancer: load one by "
                "EnhanceModel.from_hparams()"
            )
        self._wet = wet_share(strength, attenuation_limit_db)
        self._model, given = model, sample_rate is not None
        self.sample_rate = sample_rate if given else model.sample_rate
        check_sample_rate(self.sample_rate)
        self.sample_rate = int(self.sample_rate)
        model.open_stream(channels=1)  # refuses what is not causal
        hop = model.hop_length * self.sample_rate / model.sample_rate
        self.hop_length = max(1, round(hop))
        self.latency_ms = 1000 * len(model.window) / model.sample_rate
        rates = {self.sample_rate, model.sample_rate}
        if len(rates) == 2:
            self.latency_ms += 2 * 1000 * ZEROS / min(rates)
        self.reset()

    def reset(self):
        """Forget everything; the next samples begin other streams."""
        self._path = None

    def feed(self, samples):
        """Take the next samples, return those that are ready.

        They are floating point (n,), or (n, channels) for streams side by
        side, each enhanced on its own; any n >= 0. Returned is float32 (m,) or
        (m, channels), of the kind (array or tensor) that was given. ValueError
        if the type or shape is wrong or a sample is not finite; the stream
        then goes on as if nothing had been given.
        """
        most = MOST_CHANNELS if self._path is None else math.inf
        noisy, give_back = as_channels(samples, least=0, most=most)
        if self._path and noisy.shape[1] != self._path.channels:
            raise ValueError(
                f"{noisy.shape[1]} channels given, expected "
                f"{self._path.channels} as before; reset() begins others"
            )
        self._give_back = give_back
        return self._push(noisy.T)

    def flush(self):
        """End the streams: return what is left, as ``feed``, and reset."""
        if self._path is None:
            return np.zeros(0, dtype=np.float32)
        nothing = np.zeros((self._path.channels, 0), np.float32)
        enhanced = self._push(nothing, last=True)
        self.reset()
        return enhanced

    def _push(self, noisy, last=False):
        if self._path is None:
            rates = self._model.sample_rate, self.sample_rate
            stage = self._model.open_stream(len(noisy))
            given = stage, *rates, len(noisy), self._wet, "drop"
            self._path = SignalPath(*given, StreamResampler)
        return self._give_back(self._path.push(noisy, last).T)
