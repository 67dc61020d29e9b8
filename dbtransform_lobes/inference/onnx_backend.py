"""Files, channels and sample rates as ever, computed by ONNX Runtime."""

import torch

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

    def _enhance(self, noisy, gain=None):
        gains = [None] * len(noisy) if gain is None else gain.flatten().tolist()
        return torch.stack(
            [
                torch.from_numpy(self.enhancer.enhance(each.numpy(), one))
                for each, one in zip(noisy, gains, strict=True)
            ]
        )
