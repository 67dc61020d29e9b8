"""From a model folder to an ONNX file that was compared with it."""

import importlib.util
import json
import logging
import warnings
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from dbtransform_lobes.data.files import check_parent, replacing
from dbtransform_lobes.inference.enhance_model import EnhanceModel
from dbtransform_lobes.inference.onnx_model import (
    METADATA,
    OnnxEnhancer,
    import_onnxruntime,
)
from dbtransform_lobes.models.db_transform import DBTransform

STFTS = ("inside", "outside")
TOLERANCE = 1e-4
CHECKED_SECONDS = (0.01, 0.5, 2.0)


def export_onnx(
    source,
    path,
    streaming=False,
    stft="inside",
    int8=False,
    **model_options,
):
    """Write a model as an ONNX file of real arithmetic; return its difference.

    Before the file gets its name, ONNX Runtime enhances signals of several
    lengths with it, and so does PyTorch: samples of signals of an RMS of 1 may
    differ by 1e-4, but with weights of eight bits. FileNotFoundError if the
    model or the folder of the file is missing; ValueError if the model has no
    such form, packages of the extra ``onnx`` are missing, or the graph differs.

    Arguments
    ---------
    source, path : str
        As for ``EnhanceModel.from_hparams``; a file, which is replaced.
    streaming : bool
        A frame and states in and out, for a causal model; else whole signals.
    stft : str
        "inside": the graph takes and gives waveforms; "outside": spectra.
    int8 : bool
        Whether weights that all bands share are stored and multiplied with
        eight bits (dynamic quantisation).
    **model_options
        For ``EnhanceModel.from_hparams``.
    """
    path = Path(path)
    _check_options(path, stft)
    _check_packages()
    model = EnhanceModel.from_hparams(
        source, run_opts={"device": "cpu"}, **model_options
    )
    network = model.mods.model.eval()
    inside = None
    if stft == "inside":
        inside = torch.from_numpy(model.window), model.hop_length
    _check_network(network, streaming, inside)
    from dbtransform_lobes.export import onnx_graph

    with _quiet():
        if streaming:
            proto = onnx_graph.streaming_model(network, inside)
        else:
            proto = onnx_graph.offline_model(network, inside)
    _describe(proto, model, streaming, stft)
    return _write(proto, model, path, int8)


def _check_options(path, stft):
    if stft not in STFTS:
        raise ValueError(
            f"stft is {stft!r}, expected one of {', '.join(STFTS)}"
        )
    check_parent(path)
    if path.is_dir():
        raise ValueError(f"{path}: is a folder, expected a file to write")


def _check_packages():
    import_onnxruntime()
    if not all(map(importlib.util.find_spec, ("onnx", "onnxscript"))):
        raise ValueError(
            "the export needs the packages onnx and onnxscript: pip install "
            "'dbtransform[onnx]'"
        )


def _check_network(network, streaming, stft):
    """Refuse what has no such graph; ``stft`` is inside or None."""
    if not isinstance(network, DBTransform):
        raise ValueError(
            f"the model is {type(network).__name__}, expected DBTransform: "
            "others have no ONNX form here"
        )
    if any(
        getattr(residual.block, "statistics", None) is not None
        for residual in network.blocks
    ):
        raise ValueError(
            "lambda_form is 'statistics', expected 'token' or 'vector': the "
            "maps of whole signals do not go into an ONNX graph"
        )
    if not streaming:
        return
    if not network.causal:
        raise ValueError(
            "this model sees the future, so it has no streaming form: leave "
            "out --streaming, or export a model made with causal: True"
        )
    if stft and 2 * stft[1] != len(stft[0]):
        raise ValueError(
            f"the hop is {stft[1]} samples and n_fft {len(stft[0])}, expected "
            "half of n_fft for a STFT inside a stream: export with --stft "
            "outside"
        )


def _describe(proto, model, streaming, stft):
    settings = {
        "form": "streaming" if streaming else "offline",
        "stft": stft,
        "sample_rate": model.sample_rate,
        "hop_length": model.hop_length,
        "window": model.window.tolist(),
        "reach": model.reach,
        "causal": model.causal,
        "in_place": _written_in_place(proto.graph),
        **model.description,
    }
    entry = proto.metadata_props.add()
    entry.key, entry.value = METADATA, json.dumps(settings)


def _written_in_place(graph):
    """Return the states whose only reader writes into them, see GraphStream."""
    readers = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    return [
        state.name
        for state in graph.input
        if [(n.op_type, n.input[0], *n.output) for n in readers[state.name]]
        == [("ScatterND", state.name, f"next_{state.name}")]
    ]


def _write(proto, model, path, int8):
    """Write the file if it computes what the model does."""
    with replacing(path) as temporary:
        temporary.write_bytes(proto.SerializeToString())
        difference = _difference(model, temporary)
        if not difference <= TOLERANCE:
            raise ValueError(
                f"{path}: not written: samples of ONNX Runtime and PyTorch "
                f"differ by {difference:.2g}, expected at most "
                f"{TOLERANCE:g}; try other versions of both"
            )
        if int8:
            _quantise(temporary)
            difference = _difference(model, temporary)
    return difference


def _difference(model, path):
    """Return how far PyTorch and a graph differ on noise and on silence."""
    enhancer = OnnxEnhancer(path, threads=1)
    rng, differences = np.random.default_rng(0), []
    signals = [
        rng.standard_normal(int(seconds * enhancer.sample_rate))
        for seconds in CHECKED_SECONDS
    ]
    signals.append(np.zeros_like(signals[0]))
    for signal in signals:
        found = enhancer.enhance_array(signal, enhancer.sample_rate)
        expected = model.enhance_array(signal, model.sample_rate)
        differences.append(np.abs(found - expected).max())
    return float(np.max(differences))


def _quantise(path):
    """Round the weights that all bands share to eight bits.

    Their products are those that a vector, their bias, is added to. The weights
    of each band and of the STFT stay: they take little time. One bit is not
    used, because processors without VNNI add such products in 16 bits.
    """
    import onnx
    from onnxruntime.quantization import quantize_dynamic

    graph = onnx.load(path).graph
    vectors = {x.name for x in graph.initializer if len(x.dims) == 1}
    biased = {
        node.input[0]
        for node in graph.node
        if node.op_type == "Add" and node.input[1] in vectors
    }
    shared = [n.name for n in graph.node if biased.intersection(n.output)]
    with _quiet():
        quantize_dynamic(
            path,
            path,
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=shared,
            reduce_range=True,
        )


@contextmanager
def _quiet():
    """Silence notes on torchvision, folding and pre-processing."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
