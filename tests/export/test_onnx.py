"""ONNX: both forms against PyTorch, streams, refusals, command line."""

import copy
import shutil
import sys

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import soundfile as sf
import torch
import yaml
from onnxscript import rewriter

import benchmark_onnx
from dbtransform_lobes.export import onnx_file, onnx_graph
from dbtransform_lobes.export.model_folder import PRETRAINER
from dbtransform_lobes.export.onnx_file import export_onnx
from dbtransform_lobes.export.onnx_graph import streaming_model
from dbtransform_lobes.inference import EnhanceModel
from dbtransform_lobes.inference.onnx_model import OnnxEnhancer
from dbtransform_lobes.inference.onnx_stream import NUMPY_TYPES
from tests.composition import composed, front_end_yaml, model_yaml
from tests.models.tiny import LEVEL
from tests.signals import noise_like, speech_like, write_wav

OPTIONS = yaml.safe_load(
    "{n_fft: 64, band_widths: [4, 4, 8, 8, 9], num_channels: 8, num_layers: 2, "
    "num_heads: 2, num_neighbours: 2, window: 5, feed_forward: 1, "
    "fusion_windows: [[2, 4, 8], [2, 3, 4], [1, 2, 4]], magnitude: True, "
    "fusion_activation: True}"
)


def tiny(**options):
    """A tiny DB-Transform, every weight random."""
    torch.manual_seed(0)
    model = composed(**{**OPTIONS, **options}).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model


def write_folder(folder, hop=2, **options):
    """A model folder of one layer; the hop is in ms."""
    options = {"num_layers": 1, **options}
    folder.mkdir()
    text = front_end_yaml(hop_length=hop)
    text += model_yaml(**{**OPTIONS, **options})
    (folder / "hyperparams.yaml").write_text(text + PRETRAINER)
    torch.save(tiny(**options).state_dict(), folder / "model.ckpt")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """An offline model of hops of a quarter window, and a causal one."""
    root = tmp_path_factory.mktemp("models")
    write_folder(root / "offline", hop=1, **LEVEL)
    write_folder(root / "causal", causal=True)
    write_folder(root / "short_hops", hop=1, causal=True)
    write_folder(root / "conditioned", input_conditioned=True)
    statistics = {"lambda_form": "statistics", "window": None}
    write_folder(root / "statistics", **statistics)
    return root


@pytest.fixture(scope="module")
def graph(folders):
    """A graph of streams of samples."""
    path = folders / "stream.onnx"
    export_onnx(folders / "causal", path, streaming=True)
    return path


@pytest.fixture
def proto(graph, monkeypatch):
    """The graph without its description; it need not be made again."""
    proto = onnx.load(graph)
    del proto.metadata_props[:]
    monkeypatch.setattr(onnx_graph, "streaming_model", lambda *_: proto)
    return proto


def opened(proto):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(proto.SerializeToString(), options)


def noise(length, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(length).astype(np.float32)


def enhanced_by_torch(folder, noisy):
    model = EnhanceModel.from_hparams(folder, run_opts={"device": "cpu"})
    return model.enhance_batch(torch.from_numpy(noisy)[None])[0].numpy()


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("offline", "inside"),
        ("causal", "outside"),
        ("conditioned", "outside"),
    ],
)
def test_offline_graph_of_any_length(folders, tmp_path, name, place):
    path = tmp_path / "model.onnx"
    assert export_onnx(folders / name, path, stft=place) < 1e-4
    graph = onnx.load(path).graph
    kinds = {tensor.type.tensor_type.elem_type for tensor in graph.input}
    assert kinds == {onnx.TensorProto.FLOAT}
    enhancer = OnnxEnhancer(path, threads=1)
    for length in (1, 15, 16, 17, 32, 79, 80, 81, 500, 3000):
        noisy = 0.1 * noise(length, length)
        expected = enhanced_by_torch(folders / name, noisy)
        found = enhancer.enhance_array(noisy, 16000)
        assert found.shape == noisy.shape and found.dtype == np.float32
        assert np.abs(found - expected).max() < 1e-5
    assert np.abs(found - noisy).max() > 1e-2  # the model does something
    # An offset goes on in the padding.
    expected = enhanced_by_torch(folders / name, noisy + np.float32(1))
    found = enhancer.enhance_array(noisy + np.float32(1), 16000)
    assert np.abs(found - expected).max() < 1e-4
    with pytest.raises(ValueError, match="sees the future"):
        enhancer.stream()
    assert not enhancer.enhance_array(np.zeros(50), 16000).any()
    if place == "inside":
        both = np.stack((noisy, noise(3000, 1)))
        found = enhancer.session.run(None, {"noisy": both})[0]
        for each, one in zip(found, both, strict=True):
            alone = enhancer.enhance_array(one, 16000)
            assert np.abs(alone - each).max() < 1e-5


VARIANTS = """[{},
{band_weights: per_band, norm_order: post},
{lambda_form: vector, rope: False, magnitude: False},
{separable: False, graph: fixed, differential: False},
{fusion: none, graph: none, compression: 1.0},
{fusion: uniform, fusion_activation: False, graph: dense, lambda_form: vector,
 band_weights: per_band, feed_forward: 0}]"""
VARIANTS = [LEVEL, *yaml.safe_load(VARIANTS)]


def run_graph(proto, spec, first):
    """Run a streaming graph over a spectrum (1, T, F, 2)."""
    session, state = opened(proto), {}
    for each in session.get_inputs()[1:]:
        state[each.name] = np.zeros(each.shape, NUMPY_TYPES[each.type])
    state["frames"][:] = first
    names = [each.name for each in session.get_outputs()]
    parts = []
    for frame in np.split(spec, spec.shape[1], axis=1):
        values = session.run(None, {"spec": frame, **state})
        named = dict(zip(names, values, strict=True))
        parts.append(named.pop("estimate"))
        state = {name: named[f"next_{name}"] for name in state}
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize("options", VARIANTS)
def test_streaming_graph_of_any_configuration(options):
    model, spec = tiny(causal=True, **options), torch.randn(1, 30, 33, 2)
    noisy = torch.view_as_complex(spec.transpose(1, 2).contiguous())
    proto = streaming_model(model)
    # The count of a day's and of a year's frames: nothing gets lost.
    for first in (0, 10**7, 2 * 10**9):
        exact = copy.deepcopy(model).double()
        state = exact.initial_state()
        state.frames = first
        with torch.no_grad():
            estimate, _ = exact.step(noisy.to(torch.complex128), state)
        expected = torch.view_as_real(estimate.transpose(1, 2)).numpy()
        found = run_graph(proto, spec.numpy(), first)
        assert np.abs(found - expected).max() < 1e-5
        if not first:
            # Frames before the stream are not taken for silence.
            other = run_graph(proto, spec.numpy(), 10**7)
            assert np.abs(other - expected).max() > 1e-4


@pytest.mark.parametrize(
    ("name", "place"),
    [("causal", "outside"), ("causal", "inside"), ("short_hops", "outside")],
)
def test_stream_equals_the_whole(folders, tmp_path, name, place):
    path = tmp_path / "stream.onnx"
    export_onnx(folders / name, path, True, place)
    enhancer = OnnxEnhancer(path)
    for length in (1, 32, 33, 200, 1003):
        noisy = noise(length, length)
        expected = enhanced_by_torch(folders / name, noisy)
        found = enhancer.enhance_array(noisy, 16000)
        assert np.abs(found - expected).max() < 1e-5
        stream, other = enhancer.stream(), enhancer.stream()
        for size in (1, 7, 32, 100, length):
            found = []
            for chunk in np.split(noisy, range(size, length, size)):
                found.append(stream.feed(chunk))
                other.feed(chunk[::-1])  # which has states of its own
            found = np.concatenate([*found, stream.flush()])
            assert found.shape == noisy.shape
            assert np.abs(found - expected).max() < 1e-5
    stream.feed(noisy)
    assert np.abs(stream.feed(noisy)[:900] - expected[:900]).max() > 1e-3


def test_latency_is_one_window(graph):
    stream, given = OnnxEnhancer(graph).stream(), 0
    assert stream.latency_ms == 4
    for sample in range(1, 200):
        given += len(stream.feed(noise(1, sample)))
        assert given == max(sample - 32, 0) // 32 * 32


@pytest.mark.usefixtures("proto")
def test_int8_is_near_and_says_how_far(folders, graph, tmp_path):
    rounded = tmp_path / "int8.onnx"
    difference = export_onnx(folders / "causal", rounded, True, int8=True)
    noisy = noise(2000)
    models = OnnxEnhancer(graph), OnnxEnhancer(rounded)
    expected, found = (each.enhance_array(noisy, 16000) for each in models)
    assert 1e-4 < np.abs(found - expected).max() < 2 * difference
    assert np.square(found - expected).mean() < 0.05 * (expected**2).mean()
    stored = onnx.load(rounded).graph
    assert "MatMulInteger" in {node.op_type for node in stored.node}
    # Of 32 bits are weights of every band, the STFT and its inverse, and the
    # blends of three kernels, which ONNX Runtime computes once.
    shapes = {weight.name: sorted(weight.dims) for weight in stored.initializer}
    left = [n.input[1] for n in stored.node if n.op_type == "MatMul"]
    left = [shapes[name] for name in left if name in shapes]
    left = [shape for shape in left if len(shape) < 3]
    assert [64, 66] in left
    assert all(shape in ([64, 66], [3, 8]) for shape in left)


@pytest.mark.parametrize(
    ("size", "perm", "expected"),
    [
        (1, [1, 0, 2, 3], ["Reshape"]),
        (2, [1, 0, 2, 3], ["Transpose", "Reshape"]),
        ("N", [0, 2, 1, 3], ["Transpose", "Unsqueeze"]),  # of any length
        (1, [0, 3, 2, 1], ["Transpose", "Reshape"]),
    ],
)
def test_nodes_that_move_nothing_become_one(size, perm, expected):
    text = (
        '<ir_version: 10, opset_import: ["": 23]> '
        f"graph (float[{size},5,1,4] x) => (y) "
        "{ axes = Constant<value_ints=[0]>() "
        f"moved = Transpose<perm={perm}>(x) y = Unsqueeze(moved, axes) }}"
    )
    model = ir.from_proto(
        onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text))
    )
    rewriter.rewrite(model, onnx_graph.RULES)
    kinds = [node.op_type for node in model.graph]
    assert [kind for kind in kinds if kind != "Constant"] == expected


@pytest.mark.usefixtures("proto")
def test_nothing_is_written_that_differs(folders, tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    path.write_text("old")
    monkeypatch.setattr(onnx_file, "TOLERANCE", 0.0)
    with pytest.raises(ValueError, match="differ by .* expected at most"):
        export_onnx(folders / "causal", path, streaming=True)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("offline", {"streaming": True}, "sees the future"),
        ("short_hops", {"streaming": True}, "--stft outside"),
        ("causal", {"stft": "none"}, "inside, outside"),
        ("statistics", {}, "'token' or 'vector'"),
    ],
)
def test_forms_that_cannot_be(folders, tmp_path, name, options, message):
    with pytest.raises(ValueError, match=message):
        export_onnx(folders / name, tmp_path / "model.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_named(folders, tmp_path, monkeypatch):
    remedies = "pip install onnxruntime", r"dbtransform\[onnx\]"
    for package, remedy in zip(("onnxruntime", "onnx"), remedies, strict=True):
        with monkeypatch.context() as without:
            without.setitem(sys.modules, package, None)
            with pytest.raises(ValueError, match=remedy):
                export_onnx(folders / "causal", tmp_path / "model.onnx")


def test_files_that_are_no_such_graphs(proto, tmp_path):
    path = tmp_path / "model.onnx"
    with pytest.raises(ValueError, match="source is 3, expected"):
        OnnxEnhancer(3)
    for threads in (0, -1, 1.5, "2"):
        with pytest.raises(ValueError, match=f"threads is {threads!r}, exp"):
            OnnxEnhancer(path, threads)
    with pytest.raises(FileNotFoundError, match="export-onnx"):
        OnnxEnhancer(path)
    for content, message in (
        (b"no graph", "cannot load this file"),
        (b"version https://git-lfs.github.com/", "model.onnx: .*git lfs pull"),
        (proto.SerializeToString(), "does not say what it takes"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            OnnxEnhancer(path)


def test_command_line(folders, tmp_path, run):
    path, noisy = tmp_path / "stream.onnx", tmp_path / "noisy.wav"
    signal = speech_like(0.3) + 0.3 * noise_like(0.3)
    write_wav(noisy, np.stack((signal, signal[::-1]), axis=1))
    export = "export-onnx", folders / "causal", path, "--streaming"
    assert "samples differ from PyTorch's by at most" in run(*export).out
    assert "--force" in run(*export, code=1).err
    outputs = [tmp_path / "onnx.wav", tmp_path / "torch.wav"]
    model = "--attenuation-limit", 12, "--threads", 1, "--model"
    for output, source in zip(outputs, (path, folders / "causal"), strict=True):
        run("enhance", noisy, output, *model, source)
    found, expected = (sf.read(output)[0] for output in outputs)
    assert found.shape == expected.shape == (4800, 2)
    assert np.abs(found - expected).max() < 1e-4
    assert np.abs(found - sf.read(noisy)[0]).max() > 1e-3
    outputs[0].unlink()
    for source, option, message in (
        (folders / "causal", ("--backend", "onnx"), "export-onnx"),
        (path, ("--device", "cuda"), "cuda, but --backend onnx computes"),
        (path, ("--precision", "bf16"), "bf16, but --backend onnx computes"),
    ):
        command = "enhance", noisy, outputs[0], *model, source, *option
        assert message in run(*command, code=1).err
    assert not outputs[0].exists()


def test_state_that_does_not_come_back_is_refused(graph, tmp_path):
    proto = onnx.load(graph)
    del proto.graph.output[-1]
    onnx.save(proto, tmp_path / "lost.onnx")
    count = len(proto.graph.input) - 1
    told = f"lost.onnx: .* {count} states in and {count - 1} out"
    with pytest.raises(ValueError, match=told):
        benchmark_onnx.time_streams([tmp_path / "lost.onnx"])


def test_a_first_call_is_not_in_the_mean_of_20(monkeypatch):
    calls = []
    monkeypatch.setattr("time.process_time", lambda: len(calls) ** 2)
    seconds = benchmark_onnx._time_calls(lambda: calls.append(None))
    assert seconds == (21**2 - 1) / 20


def test_benchmark_command(graph, tmp_path, run):
    path = shutil.copy(graph, tmp_path / "copy.onnx")
    options = "--rounds", 2, "--hop", 32
    out = run("benchmark_onnx", graph, path, *options).out
    for line, each in zip(out.splitlines(), (graph, path), strict=True):
        assert line.startswith(f"{each}: median ")
        median, least, factor = (float(line.split()[n]) for n in (2, 5, -1))
        assert factor == pytest.approx(median / 32, abs=1e-4)
        assert 0 < least <= median
    path.write_bytes(b"no graph")
    assert "--streaming" in run("benchmark_onnx", path, code=1).err
    for name in ("--rounds", "--hop"):
        assert (
            f"{name} is 0" in run("benchmark_onnx", path, name, 0, code=1).err
        )
