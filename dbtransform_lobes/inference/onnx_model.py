"""Enhancement by ONNX Runtime; NumPy besides, no torch.

A graph of ``dbtransform export-onnx`` says in its metadata what it takes:
waveforms or spectra, whole signals or a frame of a stream.
"""

import json
import os
from numbers import Integral

import numpy as np

from dbtransform_lobes.data.files import refuse_lfs_pointer
from dbtransform_lobes.inference.backend import usable_cores
from dbtransform_lobes.inference.blocks import BlockISTFT, BlockSTFT, Waiting
from dbtransform_lobes.inference.bundled import find_onnx
from dbtransform_lobes.inference.enhancer import Enhancer
from dbtransform_lobes.inference.onnx_stream import GraphStream

METADATA = "dbtransform"


class OnnxEnhancer(Enhancer):
    """An engine that runs a graph of ``dbtransform export-onnx``.

    Whole signals can be given to graphs of streams as well. FileNotFoundError
    if there is no such file; ValueError if it is not such a graph, onnxruntime
    is not installed or an argument is wrong.

    Arguments
    ---------
    source : str, optional
        A file, a model folder that has a model.onnx, or a model of the
        package; its default one if not given.
    threads : int, optional
        CPU threads of ONNX Runtime; by default one for a stream, else all.

    Example
    -------
    >>> model = OnnxEnhancer()
    >>> model.enhance_array(np.zeros(16000), 16000).shape
    (16000,)
    """

    segment_seconds = 20  # memory grows with it

    def __init__(self, source=None, threads=None):
        given = 1 if threads is None else threads
        if not isinstance(given, Integral) or given < 1:
            raise ValueError(
                f"threads is {threads!r}, expected a whole number above 0, or "
                "None"
            )
        path = find_onnx(source)
        settings, self.session = _load(path, threads)
        self.description = settings
        self.sample_rate = settings["sample_rate"]
        self.causal = settings["form"] == "streaming"
        self.stft_inside = settings["stft"] == "inside"
        self.hop_length = settings["hop_length"]
        self.window = np.array(settings["window"], np.float32)
        self.reach = settings.get("reach")

    def enhance_segment(self, noisy):
        """Map samples (n,), float32, to as many."""
        if self.stft_inside:
            return self._run(noisy[None])[0]
        transform = self.window, self.hop_length
        spec = BlockSTFT(*transform).push(noisy[None], last=True)
        estimate = self._run(_parts(spec))
        made = BlockISTFT(*transform).push(_complex(estimate), last=True)
        return made[0, : len(noisy)]

    def open_signal(self, channels):
        """Return a stage for a whole signal."""
        opened = self.open_stream if self.causal else super().open_signal
        return opened(channels)

    def open_stream(self, channels):
        """Return a stage for live streams."""
        if self.causal and self.stft_inside:
            return _Hops(self, channels)
        return super().open_stream(channels)

    def open_frames(self, channels):
        """Return a function for the next frames, see ``Enhancer``."""
        calls = self.open_calls(channels)

        def enhance(spec):
            """Return the estimate of the frames that follow."""
            frames = _parts(spec)
            estimate = np.empty_like(frames)
            for number, call in enumerate(calls):
                for place in range(frames.shape[1]):
                    frame = frames[number, None, None, place]
                    estimate[number, place] = call(frame)[0, 0]
            return _complex(estimate)

        return enhance

    def open_calls(self, channels):
        """Return for each channel a ``GraphStream``."""
        in_place = self.description.get("in_place", ())
        return [GraphStream(self.session, in_place) for _ in range(channels)]

    def _run(self, block):
        (place,) = self.session.get_inputs()
        return self.session.run(None, {place.name: block})[0]


class _Hops:
    """A stage for a graph of samples: a hop in, the hop before out."""

    def __init__(self, model, channels):
        self._hop, self._waiting = model.hop_length, Waiting()
        self._calls = model.open_calls(channels)
        self._skip, self._left = self._hop, 0

    def push(self, noisy, last=False):
        """Take samples (channels, n); return those that are ready."""
        hop = self._hop
        self._waiting.put(noisy)
        self._left += noisy.shape[-1]
        count = self._waiting.size // hop
        if last:  # the last hop, and one of silence that completes it
            count = -(-self._waiting.size // hop) + 1
        made = np.zeros((len(noisy), count * hop), np.float32)
        for start in range(0, count * hop, hop):
            block = self._waiting.take(hop)
            for number, call in enumerate(self._calls):
                made[number, start : start + hop] = call(block[number][None])
        # The first hop is the one before the signal.
        skipped = min(self._skip, made.shape[-1])
        self._skip -= skipped
        made = made[:, skipped:][:, : self._left]
        self._left -= made.shape[-1]
        return made


def _parts(spec):
    """Real and imaginary parts (B, T, F, 2) of a spectrum (B, F, T)."""
    spec = np.ascontiguousarray(spec.swapaxes(1, 2), dtype=np.complex64)
    return spec.view(np.float32).reshape(*spec.shape, 2)


def _complex(parts):
    """A spectrum (B, F, T) of its parts (B, T, F, 2)."""
    return np.ascontiguousarray(parts).view(np.complex64)[..., 0].swapaxes(1, 2)


def _load(path, threads):
    refuse_lfs_pointer(path)
    session = open_session(path, threads)
    text = session.get_modelmeta().custom_metadata_map.get(METADATA)
    if text is None:
        raise ValueError(
            f"{path}: this graph does not say what it takes, expected one of "
            "`dbtransform export-onnx`"
        )
    settings = json.loads(text)
    if settings["form"] == "streaming":
        session = open_session(path, threads or 1, whole=False)
    return settings, session


def open_session(path, threads, whole=True):
    """Return an InferenceSession of a graph, of signals or of blocks."""
    runtime = import_onnxruntime()
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    # By 0 one for each core of the machine, hyper-threads left out.
    cores = usable_cores()
    spare = 0 if cores == os.cpu_count() else cores
    options.intra_op_num_threads = int(threads or spare)
    # For whole signals buffers of all layers would be held to the end, twice
    # the memory; the small ones of a stream are best planned once, each with
    # its own place.
    options.enable_mem_reuse = False
    options.enable_mem_pattern = not whole
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
            f"onnxruntime ({error})"
        ) from error
    return onnxruntime
