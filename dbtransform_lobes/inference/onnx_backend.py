"""Files and live streams as ever, computed by ONNX Runtime."""

import numpy as np
import torch
from speechbrain.processing.features import ISTFT, STFT

from dbtransform_lobes.inference.enhance_model import EnhanceModel
from dbtransform_lobes.inference.onnx_model import OnnxEnhancer


class OnnxModel(EnhanceModel):
    """An ``EnhanceModel`` whose network is a graph of ``export-onnx``.

    Arguments
    ---------
    path : str
        The file.
    threads : int, optional
        CPU threads, see ``OnnxEnhancer``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not such a graph, or onnxruntime is not installed.
    """

    def __init__(self, path, threads=None):
        enhancer = OnnxEnhancer(path, threads)
        same = torch.nn.Identity()  # the graph does it all
        super().__init__(
            {"model": same},
            {
                "sample_rate": enhancer.sample_rate,
                "compute_stft": same,
                "compute_istft": same,
            },
            {"device": "cpu"},
        )
        self.enhancer = enhancer

    def _enhance(self, noisy):
        enhanced = [self.enhancer.enhance(each.numpy()) for each in noisy]
        return torch.stack([torch.from_numpy(each) for each in enhanced])


class OnnxStreamModel(EnhanceModel):
    """A causal model for ``StreamingEnhancer`` whose network is a graph.

    Arguments
    ---------
    path : str
        A graph of ``dbtransform export-onnx --streaming --stft outside``.
    threads : int, optional
        CPU threads, see ``OnnxEnhancer``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no such graph, or onnxruntime is not installed.
    """

    def __init__(self, path, threads=None):
        enhancer = OnnxEnhancer(path, threads)
        if not enhancer.streaming or enhancer.stft_inside:
            raise ValueError(
                f"{path}: expected a graph of frames of a stream; write one "
                "with `dbtransform export-onnx MODEL_FOLDER OUT.onnx "
                "--streaming --stft outside`"
            )
        rate, window = enhancer.sample_rate, torch.tensor(enhancer.window)
        transform = {
            "sample_rate": rate,
            "n_fft": len(window),
            "win_length": 1000 * len(window) / rate,  # ms
            "hop_length": 1000 * enhancer.hop_length / rate,
            "window_fn": lambda length: window,
        }
        super().__init__(
            {"model": OnnxFrames(enhancer)},
            {
                "sample_rate": rate,
                "compute_stft": STFT(**transform),
                "compute_istft": ISTFT(**transform),
            },
            {"device": "cpu"},
        )


class OnnxFrames(torch.nn.Module):
    """Steps a streaming graph as a causal ``DBTransform`` is stepped.

    Frames are enhanced one call at a time, streams one after the other. What
    comes in need not be a multiple of N frames, so that N must be 1.

    Arguments
    ---------
    enhancer : OnnxEnhancer
        Of a streaming graph of spectra.

    Raises
    ------
    ValueError
        If the graph takes more than one frame a call.
    """

    causal = True

    def __init__(self, enhancer):
        super().__init__()
        if enhancer.frames != 1:
            raise ValueError(
                f"the graph takes {enhancer.frames} frames a call, expected "
                "1: export it without --frames"
            )
        self.enhancer = enhancer

    def initial_state(self):
        """Return the state of streams that have not begun."""
        return []

    def step(self, spec, state):
        """Enhance the next frames (B, F, T); also returns the next state."""
        frames = torch.view_as_real(spec.transpose(1, 2)).numpy()
        estimate, following = np.empty_like(frames), []
        begin = [self.enhancer.initial_state()] * len(frames)
        for number, one in enumerate(state or begin):
            for place in range(frames.shape[1]):
                frame = frames[number : number + 1, place : place + 1]
                out, one = self.enhancer.step(np.ascontiguousarray(frame), one)
                estimate[number, place] = out[0, 0]
            following.append(one)
        estimate = torch.view_as_complex(torch.from_numpy(estimate))
        return estimate.transpose(1, 2), following
