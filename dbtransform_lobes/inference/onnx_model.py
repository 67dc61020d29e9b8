"""Enhancement by ONNX Runtime; NumPy alone besides, no torch.

A graph of ``dbtransform export-onnx`` says in its metadata what it takes:
waveforms or spectra, whole signals or frames of a stream.
"""

import json
import os
from numbers import Integral
from pathlib import Path

import numpy as np

METADATA = "dbtransform"
NUMPY_TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64}


class OnnxEnhancer:
    """Runs a graph that ``dbtransform export-onnx`` wrote.

    Arguments
    ---------
    path : str
        The file.
    threads : int, optional
        CPU threads of ONNX Runtime; by default one for a stream, else all.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not such a graph, onnxruntime is not installed or an argument
        is wrong.

    Example
    -------
    >>> OnnxEnhancer("none.onnx")
    Traceback (most recent call last):
    ...
    FileNotFoundError: none.onnx: there is no such file; write one with \
`dbtransform export-onnx MODEL_FOLDER none.onnx`
    """

    def __init__(self, path, threads=None):
        if not isinstance(path, str | os.PathLike):
            raise ValueError(
                f"path is {path!r}, expected that of a graph, str or Path"
            )
        if threads is not None and not (
            isinstance(threads, Integral) and threads > 0
        ):
            raise ValueError(
                f"threads is {threads!r}, expected a whole number above 0, or "
                "None"
            )
        if not Path(path).is_file():
            raise FileNotFoundError(
                f"{path}: there is no such file; write one with `dbtransform "
                f"export-onnx MODEL_FOLDER {path}`"
            )
        settings, self.session = _load(path, threads)
        self.sample_rate = settings["sample_rate"]
        self.streaming = settings["form"] == "streaming"
        self.stft_inside = settings["stft"] == "inside"
        self.frames = settings["frames"]
        self.hop_length = settings["hop_length"]
        self.window = np.array(settings["window"], np.float32)
        first, *states = self.session.get_inputs()
        self.input_name = first.name
        # Graphs of before models followed their level take a gain as well.
        gain = {"gain": np.ones((1, 1), np.float32)}
        self._constants = {} if self.streaming or not states else gain
        self._zeros = {}
        if self.streaming:
            self._zeros = {
                state.name: np.zeros(state.shape, NUMPY_TYPES[state.type])
                for state in states
            }
        self._outputs = [each.name for each in self.session.get_outputs()]

    def enhance(self, noisy):
        """Enhance a whole waveform; its length is kept.

        Memory grows with the length, but for streaming graphs.

        Arguments
        ---------
        noisy : numpy.ndarray
            Floating point (L,), L > 0, at the model's sample rate.

        Returns
        -------
        numpy.ndarray
            (L,), float32.

        Raises
        ------
        ValueError
            If the shape, the type or a sample is wrong.
        """
        noisy = _check_signal(noisy)
        length, hop = len(noisy), self.hop_length
        if self.streaming:
            stream = self.stream()
            return np.concatenate((stream.feed(noisy), stream.flush()))
        noisy = np.pad(noisy, (0, -length % hop))  # to whole hops
        if self.stft_inside:
            feeds = {"noisy": noisy[None], **self._constants}
            return self.session.run(None, feeds)[0][0, :length]
        spec = stft(noisy, self.window, self.hop_length)
        estimate = self.session.run(None, {"spec": spec[None]})[0][0]
        return istft(estimate, self.window, hop, length)

    def stream(self):
        """Begin a stream.

        Returns
        -------
        OnnxStream

        Raises
        ------
        ValueError
            If the graph is not a streaming one.
        """
        if not self.streaming:
            raise ValueError(
                "this graph enhances whole signals, so it has no state: "
                "export a causal model with --streaming"
            )
        return OnnxStream(self)

    def initial_state(self):
        """The states of a stream that has not begun, by name."""
        return dict(self._zeros)

    def step(self, block, state):
        """One call of a streaming graph.

        Arguments
        ---------
        block : numpy.ndarray
            Frames (1, N, F, 2), or samples (1, N hop).
        state : dict
            Of ``initial_state`` or of the step before; it is not changed.

        Returns
        -------
        numpy.ndarray
            Of the shape of the block.
        dict
            The next state.
        """
        values = self.session.run(None, {self.input_name: block, **state})
        named = dict(zip(self._outputs, values, strict=True))
        following = {name: named.pop(f"next_{name}") for name in state}
        (out,) = named.values()
        return out, following


class OnnxStream:
    """A live stream of samples in chunks of any size.

    What ``feed`` and ``flush`` return is, put together, what the causal
    model gives for the whole signal. A sample comes out as soon as the last
    frame it is part of is complete: the latency is n_fft samples, and the
    frames of a call less one in hops.

    Arguments
    ---------
    enhancer : OnnxEnhancer
        Of a streaming graph.
    """

    def __init__(self, enhancer):
        self.enhancer = enhancer
        self.reset()

    def reset(self):
        """Begin anew."""
        enhancer = self.enhancer
        size, hop = len(enhancer.window), enhancer.hop_length
        self.state = enhancer.initial_state()
        self.fed = self.given = self.frames = 0
        # The first frame is centred on the first sample.
        self.pending = np.zeros(size // 2, np.float32)
        self.skip = size // 2
        self.tail = np.zeros((2, size - hop), np.float32)

    def feed(self, samples):
        """Take samples (n,), n >= 0; return those that are complete."""
        samples = _check_signal(samples, least=0)
        self.fed += len(samples)
        self.pending = np.concatenate((self.pending, samples))
        parts = []
        while len(self.pending) >= self._size():
            parts.append(self._call(self.enhancer.frames))
        return self._give(parts)

    def flush(self):
        """Return the samples that are left, then ``reset``."""
        hops = -(-self.fed // self.enhancer.hop_length)
        left = 1 + hops - self.frames
        self.pending = np.pad(self.pending, (0, self._size()))
        parts = []
        while self.fed and left > 0:
            parts.append(self._call(min(left, self.enhancer.frames)))
            self.pending = np.pad(self.pending, (0, self._size()))
            left -= self.enhancer.frames
        parts.append(_normalised(self.tail))
        out = self._give(parts, self.fed - self.given)
        self.reset()
        return out

    def _size(self):
        """Samples of a call: the window of its last frame is complete."""
        enhancer = self.enhancer
        hops = (enhancer.frames - 1) * enhancer.hop_length
        return len(enhancer.window) + hops

    def _give(self, parts, most=None):
        """Complete samples without those before the signal."""
        out = np.concatenate([np.zeros(0, np.float32), *parts])
        skipped = min(self.skip, len(out))
        self.skip -= skipped
        out = out[skipped:][:most]
        self.given += len(out)
        return out

    def _call(self, frames):
        """One call, of which so many frames count; returns their hops."""
        enhancer, hop = self.enhancer, self.enhancer.hop_length
        samples = self.pending[: self._size()]
        self.pending = self.pending[enhancer.frames * hop :]
        self.frames += frames
        if enhancer.stft_inside:
            # The graph itself remembers the hop before and the overlap.
            out, self.state = enhancer.step(samples[None, -hop:], self.state)
            square = enhancer.window.reshape(2, hop) ** 2
            overlap = self.state["past_overlap"][0] * square.sum(0)
            self.tail = np.stack((overlap, square[1]))
            return out[0]
        spec = _frames_of(samples, enhancer.window, hop)
        estimate, self.state = enhancer.step(spec[None], self.state)
        added = _overlap_add(estimate[0, :frames], enhancer.window, hop)
        added[:, : self.tail.shape[1]] += self.tail
        self.tail = added[:, frames * hop :]
        return _normalised(added[:, : frames * hop])


def _normalised(added):
    """The sum of frames over that of squared windows, 0 where there is none."""
    signal, weight = added
    return signal / np.where(weight > 0, weight, 1)


def stft(signal, window, hop_length):
    """Spectrum of a waveform, frames centred, zeros outside.

    Arguments
    ---------
    signal : numpy.ndarray
        (L,), float32.
    window : numpy.ndarray
        (n_fft,), float32.
    hop_length : int
        In samples.

    Returns
    -------
    numpy.ndarray
        (T, F, 2), float32; T = 1 + L // hop_length.

    Example
    -------
    >>> stft(np.zeros(1000, np.float32), np.ones(8, np.float32), 4).shape
    (251, 5, 2)
    """
    return _frames_of(np.pad(signal, len(window) // 2), window, hop_length)


def istft(spec, window, hop_length, length):
    """Waveform of a spectrum, the inverse of ``stft``.

    Arguments
    ---------
    spec : numpy.ndarray
        (T, F, 2), float32.
    window : numpy.ndarray
        (n_fft,), float32.
    hop_length : int
        In samples.
    length : int
        L.

    Returns
    -------
    numpy.ndarray
        (L,), float32.

    Example
    -------
    >>> x, window = np.ones(9, np.float32), np.hanning(9)[:8].astype("f")
    >>> np.allclose(istft(stft(x, window, 2), window, 2, 9), x, atol=1e-5)
    True
    """
    signal, weight = _overlap_add(spec, window, hop_length)
    valid = slice(len(window) // 2, len(window) // 2 + length)
    return signal[valid] / weight[valid]


def _frames_of(signal, window, hop_length):
    """The spectrum (T, F, 2) of all frames that lie within a signal."""
    frames = np.lib.stride_tricks.sliding_window_view(signal, len(window))
    spec = np.fft.rfft(frames[::hop_length] * window)
    return np.stack((spec.real, spec.imag), axis=-1).astype(np.float32)


def _overlap_add(spec, window, hop_length):
    """The sum of the frames and that of the squared windows, (2, L)."""
    size, count = len(window), len(spec)
    frames = np.fft.irfft(spec[..., 0] + 1j * spec[..., 1], size) * window
    out = np.zeros((2, (count - 1) * hop_length + size), np.float32)
    square = window**2
    for start in range(0, size, hop_length):
        part = slice(start, min(start + hop_length, size))
        width = part.stop - part.start
        # One hop of every frame at once, into rows of a hop.
        rows = np.zeros((2, count, hop_length), np.float32)
        rows[0, :, :width] = frames[:, part]
        rows[1, :, :width] = square[part]
        rows = rows.reshape(2, -1)[:, : out.shape[1] - start]
        out[:, start : start + rows.shape[1]] += rows
    return out


def _check_signal(noisy, least=1):
    try:
        noisy = np.asarray(noisy)
    except (TypeError, ValueError, RuntimeError) as error:  # such as tensors
        raise ValueError(
            f"the signal is no array of NumPy ({error}), expected (samples,)"
        ) from error
    if noisy.ndim != 1 or noisy.size < least or noisy.dtype.kind != "f":
        raise ValueError(
            f"the signal is {noisy.dtype} of shape {noisy.shape}, expected "
            f"floating point (samples,) with at least {least}; enhance "
            "channels one by one, divide 16-bit samples by 32768"
        )
    if not np.isfinite(noisy).all():
        raise ValueError(
            "samples are not finite (NaN or infinity), expected audio; repair "
            "or leave out this signal"
        )
    return noisy.astype(np.float32)


def _load(path, threads):
    """Settings and session of a graph."""
    try:
        session = _session(path, threads)
        text = session.get_modelmeta().custom_metadata_map[METADATA]
        settings = json.loads(text)
    except KeyError as error:
        raise ValueError(
            f"{path}: this graph does not say what it takes, expected one of "
            "`dbtransform export-onnx`"
        ) from error
    if threads is None and settings["form"] == "streaming":
        session = _session(path, 1)
    return settings, session


def _session(path, threads):
    runtime = import_onnxruntime()
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = int(threads or 0)  # 0: all
    try:
        return runtime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        # ONNX Runtime has a class of its own for every kind of damage.
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{path}: ONNX Runtime cannot load this file ({reason}); export "
            "it again"
        ) from error


def import_onnxruntime():
    """The module onnxruntime, or a ValueError that says how to get it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError(
            "ONNX graphs need the package onnxruntime: pip install "
            f"'dbtransform[onnx]' ({error})"
        ) from error
    return onnxruntime
