"""Live streams: any blocks, the offline result, PCM through pipes."""

import io
import math
import os
import signal
import subprocess
import sys
from contextlib import suppress
from itertools import accumulate, cycle, takewhile
from unittest.mock import Mock

import numpy as np
import pytest
import soundfile as sf
import torch

from dbtransform_lobes.cli.main import main
from dbtransform_lobes.inference import EnhanceModel, OnnxEnhancer, pcm
from dbtransform_lobes.inference.pcm import decode, encode, enhance_pcm
from dbtransform_lobes.inference.stream_resampler import StreamResampler
from dbtransform_lobes.inference.streaming import StreamingEnhancer
from tests.inference.test_any_audio import mp3
from tests.runs import Mapping, model_of
from tests.signals import noisy_batch

CPU = {"device": "cpu"}
SIZES = [1, 7, 100, 128, 129, 512, 1000, 4001]
CONTAINERS = "WAV RF64 W64 FLAC OGG MP3 AIFF AU CAF NIST VOC".split()


@pytest.fixture(scope="module")
def model(causal_folder):
    return EnhanceModel.from_hparams(causal_folder, run_opts=CPU)


def fed(enhancer, noisy, sizes):
    """Enhance (C, L) in blocks of these sizes, again and again, to the end."""
    cuts = takewhile(lambda cut: cut < noisy.shape[1], accumulate(cycle(sizes)))
    parts = noisy.tensor_split([*cuts], dim=1)
    return torch.cat([*(enhancer.feed(x.T) for x in parts), enhancer.flush()]).T


@pytest.mark.parametrize("sizes", [[n] for n in SIZES[2:]] + [SIZES, [9000]])
def test_blocks_of_any_size_give_the_offline_result(model, sizes):
    noisy = noisy_batch(0.5, 0, 1)
    noisy[1] *= 0.3
    noisy[:, 5000:] *= 0.1
    streamed = fed(StreamingEnhancer(model), noisy, sizes)
    offline = model.enhance_batch(noisy)
    assert streamed.shape == noisy.shape
    scale = noisy.square().mean(-1, keepdim=True).sqrt()
    assert ((streamed - offline).abs() / scale).max() < 1e-5
    assert ((noisy - offline).abs() / scale).amax(-1).min() > 0.1


def test_single_samples_are_out_after_the_latency_and_no_sooner(model):
    """latency_ms after they went in, the worst of them."""
    enhancer = StreamingEnhancer(model)
    assert enhancer.latency_ms == 32.0 and enhancer.hop_length == 128
    noisy, sent, worst, parts = noisy_batch(0.2, 0)[0], 0, 0, []
    for received, sample in enumerate(noisy, 1):
        worst = max(worst, received - sent)
        parts.append(enhancer.feed(sample[None]))
        sent += len(parts[-1])
    assert 1000 * worst / 16000 == enhancer.latency_ms
    one, whole = torch.cat([*parts, enhancer.flush()]), model(noisy[None])[0]
    assert one.shape == noisy.shape and (one - whole).abs().max() < 1e-5


def test_strength_blends_samples_of_the_same_time(model):
    noisy = noisy_batch(0.3, 0)
    full = fed(StreamingEnhancer(model), noisy, [200])
    half = fed(StreamingEnhancer(model, strength=0.5), noisy, [77])
    assert torch.allclose(half, (noisy + full) / 2, atol=1e-5)
    none = fed(StreamingEnhancer(model, strength=0.0), noisy, [77])
    assert torch.equal(none, noisy)
    limited = StreamingEnhancer(model, attenuation_limit_db=20.0)
    expected = 0.1 * noisy + 0.9 * full
    assert torch.allclose(fed(limited, noisy, [500]), expected, atol=1e-5)


def test_reset_flush_and_errors_leave_no_trace(model):
    noisy = noisy_batch(0.2, 0)
    enhancer = StreamingEnhancer(model)
    assert len(enhancer.feed(noisy[:, :0].T)) == len(enhancer.flush()) == 0
    first = fed(enhancer, noisy, [300])
    enhancer.feed(noisy[0, :1000] * 9)
    enhancer.reset()
    parts = [enhancer.feed(noisy[:, :1500].T)]
    bad = noisy[:, 1500:].clone()
    bad[0, 7] = math.nan
    for samples, message in (
        (bad.T, "not finite"),
        (noisy.expand(2, -1).T, "2 channels given, expected 1 as before"),
        (noisy[:0].T, r"shape \(3200, 0\), expected"),
        (noisy, "3200 channels given, expected 1 as before"),
    ):
        with pytest.raises(ValueError, match=message):
            enhancer.feed(samples)
    parts += [enhancer.feed(noisy[:, 1500:].T), enhancer.flush()]
    assert (torch.cat(parts).T - first).abs().max() < 1e-5
    arrays = [enhancer.feed(noisy[0].numpy()), enhancer.flush()]
    assert all(isinstance(each, np.ndarray) for each in arrays)
    assert np.allclose(np.concatenate(arrays), first[0], atol=1e-5)


def test_a_model_that_sees_the_future_is_refused(identity):
    with pytest.raises(ValueError, match="trained with causal: True"):
        StreamingEnhancer(identity)
    with pytest.raises(ValueError, match="or enhance whole files"):
        StreamingEnhancer(EnhanceModel.from_hparams(run_opts=CPU))
    with pytest.raises(ValueError, match="is str, expected an EnhanceModel"):
        StreamingEnhancer("db_transform_streaming")


@pytest.mark.parametrize("dtype", ["s16", "s32", "f32"])
def test_pcm_there_and_back(dtype):
    signal = np.array([[0.5, -0.25, 0.0], [0.125, -1.0, 1 - 2**-15]])
    data = encode(signal, dtype)
    assert np.array_equal(decode(data, dtype, 2), signal)
    loud = decode(encode(3 * signal, dtype), dtype, 2)
    if dtype == "f32":
        assert np.array_equal(loud, 3 * signal)
    else:
        assert np.allclose(loud, (3 * signal).clip(-1, 1), atol=1e-4)


def pipe(model, data, rate=16000, channels=1, dtype="f32", most=10**9):
    """Bytes through enhance_pcm; reads return at most so many of them."""
    source, out = io.BytesIO(data), bytearray()
    enhancer = StreamingEnhancer(model, sample_rate=rate)
    report = enhance_pcm(
        enhancer,
        lambda size: source.read(min(size, most)),
        out.extend,
        channels,
        dtype,
    )
    return bytes(out), report


def test_pcm_is_enhanced_whatever_a_read_gives(model):
    noisy = noisy_batch(0.3, 0, 1)
    expected = fed(StreamingEnhancer(model), noisy, [128])
    for most in (10**9, 1001, 3):
        data = encode(noisy.numpy(), "f32")
        out, report = pipe(model, data, channels=2, most=most)
        assert np.allclose(decode(out, "f32", 2), expected, atol=1e-6)
    assert report.samples == 4800 and report.blocks == 38
    assert report.latency == 0.032 and report.repaired == report.lost == 0
    assert 0 < report.worst <= report.seconds
    assert 0 <= report.underruns <= report.blocks


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_other_rates_keep_length_and_time(rate):
    """Of a tone that the model leaves as it is."""

    through = Mapping(None)
    through.causal, through.initial_state = True, int
    through.step = lambda frames, state: (frames, state)
    time = np.arange(rate) / rate
    tone = 0.5 * np.sin(2 * np.pi * 440 * time)[None]
    through = model_of(through)
    out, report = pipe(through, encode(tone, "s16"), rate, 1, "s16")
    enhanced = decode(out, "s16", 1)
    assert enhanced.shape == tone.shape
    assert np.abs(enhanced - tone)[:, 500:-500].max() < 2e-3
    latency = StreamingEnhancer(through, sample_rate=rate).latency_ms / 1000
    assert latency == 0.032 + 2 * 64 / min(rate, 16000)
    assert abs(report.latency - latency) < 1.5 * 0.016  # that of a block


@pytest.mark.parametrize("rates", [(48000, 16000), (16000, 44100), (8, 3)])
def test_stream_resampler_equals_its_literal_twin(rates):
    up, down = rates[1] // math.gcd(*rates), rates[0] // math.gcd(*rates)
    wide, (x,) = max(up, down), noisy_batch(0.02, 0).numpy()
    literal = np.zeros(-(-len(x) * up // down))
    for m, n in np.ndindex(len(literal), len(x)):
        t = m * down - n * up
        if abs(t) <= 64 * wide:
            window = np.i0(8 * math.sqrt(1 - (t / wide / 64) ** 2)) / np.i0(8)
            sinc = np.sinc(0.96 * t / wide)
            literal[m] += 0.96 * up / wide * sinc * window * x[n]
    for sizes in ([], [1, 200, 201], range(1, len(x), 37)):
        stage = StreamResampler(*rates, 1)
        parts = np.split(x[None], sizes, axis=-1)
        parts = [stage.push(part, part is parts[-1]) for part in parts]
        found = np.concatenate(parts, axis=-1)[0]
        assert found.shape == literal.shape
        assert np.allclose(found, literal, atol=1e-6)


@pytest.mark.parametrize("rate", [24000, 44100, 48000])
def test_stream_resampler_keeps_the_band_and_has_no_aliases(rate):
    for hertz, lowest, highest in [(7300, 0.999, 1.001), (8200, 0, 1e-4)]:
        tone = np.sin(2 * np.pi * hertz * np.arange(rate) / rate)
        out = StreamResampler(rate, 16000, 1).push(tone[None], last=True)
        gain = np.std(out[0, 1000:-1000]) / np.std(tone)
        assert lowest <= gain <= highest, (hertz, gain)


def test_what_is_no_number_or_no_whole_sample_is_reported(model):
    noisy = noisy_batch(0.1, 0).numpy()
    broken = noisy.copy()
    broken[0, 5:9] = [math.nan, math.inf, -math.inf, math.nan]
    out, report = pipe(model, encode(broken, "f32") + b"xy")
    assert report.repaired == 4 and report.lost == 2
    noisy[0, 5:9] = 0
    assert out == pipe(model, encode(noisy, "f32"))[0]
    out, report = pipe(model, b"")
    assert out == b"" and report.blocks == 0


def test_a_slow_block_is_an_underrun(model, monkeypatch):
    clock = iter(range(10**6))  # every look at the clock is a second later
    monkeypatch.setattr(pcm.time, "perf_counter", clock.__next__)
    _, report = pipe(model, encode(noisy_batch(0.1, 0).numpy(), "f32"))
    assert report.underruns == report.blocks == 13


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, None])
def test_command_ends_with_a_signal_or_a_closed_pipe(number):
    data = encode(noisy_batch(1.0, 0).numpy(), "s16")
    with subprocess.Popen(
        [sys.executable, "-m", "dbtransform_lobes.cli.main", "stream"],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        try:
            process.stdin.write(data)
            out = process.stdout.read(100)  # it has begun
            if number:
                process.send_signal(number)
                out += process.stdout.read()
            process.stdout.close()
            with suppress(BrokenPipeError):
                for _ in range(0 if number else 100):
                    process.stdin.write(bytes(4096))
            errors = process.stderr.read()
            assert process.wait() == 0 and b"underruns" in errors
        finally:
            process.kill()
    assert b"Traceback" not in errors and b"interrupted" not in errors
    if number:  # it keeps what it has
        assert 0 < len(out) <= len(data) and len(out) % 2 == 0
        seconds = float(errors.split(b" s in")[0].split()[-1])
        assert abs(seconds - len(out) / 32000) < 0.01  # as much as was read


@pytest.fixture
def stream(tmp_path, monkeypatch, capfdbinary):
    """Run the command on these bytes; return what it wrote, as bytes."""

    def run(data, *options, code=0):
        path = tmp_path / "stdin"
        path.write_bytes(data)
        with open(path, "rb") as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            assert main(["stream", *map(str, options)]) == code
        return capfdbinary.readouterr()

    return run


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rate", "10"], "the sample rate is 10 Hz, expected 2000"),
        (["--channels", "0"], "--channels is 0, expected 1 to"),
        (["--device", "abacus"], "device 'abacus' cannot be used"),
        (["--model", "db_transform_small"], "causal: True"),
    ],
)
def test_bad_options(causal_folder, options, message, stream):
    told = stream(b"", "--model", causal_folder, *options, code=1).err
    assert message in told.decode()


def test_terminals_and_closed_streams_are_refused(run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    assert "would come from a closed stream" in run("stream", code=1).err
    monkeypatch.setattr(sys, "stdin", Mock(isatty=lambda: True))
    assert "come from the terminal" in run("stream", code=1).err


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_file_in_place_of_samples_is_named(container, stream, tmp_path):
    file = io.BytesIO()
    sf.write(file, np.zeros(4000), 16000, format=container)
    out, err = stream(file.getvalue(), code=1)
    assert out == b"" and b"expected raw samples" in err
    if container == "MP3":
        data = mp3(tmp_path / "a.mp3", np.zeros(4000), header=False)
        assert b"begins as an audio file" in stream(data, code=1).err


@pytest.mark.parametrize(
    ("dtype", "channels", "bundled"),
    [("s16", 1, True), ("f32", 2, True), ("f32", 2, False)],
)
def test_command_enhances_its_input(
    causal_folder, model, stream, dtype, channels, bundled
):
    """By default by the bundled graph."""
    data = encode(noisy_batch(1.0, *range(channels)).numpy(), dtype)
    options = ["--dtype", dtype, "--channels", channels]
    if bundled:
        model = OnnxEnhancer("db_transform_streaming", threads=1)
    else:
        options += ["--model", causal_folder]
    out, errors = stream(data, *options)
    expected, _ = pipe(model, data, channels=channels, dtype=dtype)
    # Up to rounding: blocks of other sizes are computed otherwise.
    out, expected = (decode(x, dtype, channels) for x in (out, expected))
    assert out.shape == (channels, 16000)
    assert np.abs(out - expected).max() <= 1.01 / 2**15
    assert (np.abs(out).max(-1) > 100 / 2**15).all()
    blocks = b"1.00 s in 63 blocks" if bundled else b"1.00 s in 125 blocks"
    assert blocks in errors and b"underruns " in errors
