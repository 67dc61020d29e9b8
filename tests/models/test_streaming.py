"""What a model hears; the state of a stream; chunks of long spectra."""

import copy
from functools import partial

import pytest
import torch
import yaml

from dbtransform_lobes.models import db_transform
from tests.models.tiny import each_causal_form, tiny
from tests.twins import array, assert_twin, close_in_bf16, scramble, spectrum

CHUNKS = (1, 2, 3, 5, 7, 16, [1, 20, 1, 48], [40, 1, 1, 28])
NARROW = {"window": 3, "fusion_windows": [[4, 8, 16], [2, 4, 8], [1, 2, 4]]}
LOOKS_AT_ONE = {"fusion_windows": 3 * [3 * [1]]}


def causal(form="default", **changes):
    """Return a causal model, scrambled."""
    return scramble(tiny(form, causal=True, **changes))


def tensors(state):
    """All tensors of a state, in order."""
    return [part for cache in state.caches or () for part in cache]


def stream(model, spec, sizes):
    """Enhance chunks of these sizes; the state does not grow."""
    state, outs, shapes = model.initial_state(), [], set()
    for chunk in spec.split(sizes, dim=-1):
        out, state = model.step(chunk, state)
        assert out.shape == chunk.shape
        outs.append(out)
        shapes.add(tuple(part.shape for part in tensors(state)))
    assert len(shapes) == 1 and state.frames == spec.shape[-1]
    return torch.cat(outs, dim=-1), state


def changes_of_output(model, spec, frame):
    """How far each output frame moves when one input frame changes."""
    changed = spec.clone()
    changed[..., frame] *= -2
    return (model(changed) - model(spec)).abs()


@each_causal_form
@torch.no_grad()
def test_grown_prefixes_give_the_same(form):
    """A change is heard from its frame on: at once, and in every bin."""
    model, spec = causal(form), spectrum(2, 17, 24)
    whole = model(spec)
    for frames in (1, 2, 3, 5, 6, 7, 8, 13, 23):
        prefix = model(spec[..., :frames])
        assert_twin(prefix, array(whole[..., :frames]))
        moved = changes_of_output(model, spec, frames)[..., frames:]
        assert moved[..., 0].min() > 1e-9
        assert (moved.amax((0, 1))[:3] > 1e-6).all()
    other = scramble(tiny(form))  # not causal: it hears the future
    assert (other(spec[..., :12]) - other(spec)[..., :12]).abs().max() > 1e-3


@torch.no_grad()
def test_a_causal_model_forgets():
    """Two layers of windows, kernels and taps reach a known way back."""
    model = causal(window=3, fusion_windows=((2, 3, 4),) * 3, level=1)
    moved = changes_of_output(model, spectrum(1, 17, 40), 10)
    reach = 2 * (3 + 3) + 2
    heard = moved.amax((0, 1)) > 1e-12
    # The mask hears frames up to 12 back, the filter reads up to 2 back.
    assert heard[10 : 10 + reach - 1].all()
    assert not heard[10 + reach :].any()


@each_causal_form
@torch.no_grad()
def test_streams_equal_the_whole(form):
    model, spec = causal(form), spectrum(2, 17, 16)
    offline, window = array(model(spec)), model.blocks[0].block.window
    for size in (1, 2, 5, 7):
        out, state = stream(model, spec, size)
        afresh = [model(part) for part in spec.split(size, -1)]
        assert_twin(out, offline, array(torch.cat(afresh, -1)))
        assert window in [cache[-1].shape[-2] for cache in state.caches]
    silence = 0 * spec
    assert torch.equal(stream(model, silence, 3)[0], silence)


@pytest.mark.parametrize("form", ["recipe", "vector"])
@pytest.mark.parametrize("sizes", CHUNKS)
@torch.no_grad()
def test_many_frames_in_chunks_equal_the_whole(form, sizes):
    """In double precision; in single, with states of single precision."""
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        model = tiny(form, causal=True, level=30).to(dtype)
        model = scramble(model) if dtype == torch.float64 else model
        spec = spectrum(2, 17, 70, dtype=dtype)
        out, state = stream(model, spec, sizes)
        assert out.dtype == spec.dtype
        assert_twin(out, array(model(spec)), tolerance=tolerance)
        assert (out - spec).abs().max() > 0.01
        for part in tensors(state):
            assert part.dtype == dtype and torch.isfinite(part).all()
            held = part.untyped_storage().nbytes()  # no view of a whole chunk
            assert held == part.numel() * part.element_size()


def test_steps_with_gradients_equal_the_whole():
    model, spec = causal("recipe"), spectrum(1, 17, 12)
    grads = []
    for out in (stream(model, spec, 5)[0], model(spec)):
        model.zero_grad()
        out.abs().square().sum().backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    for chunked, whole in zip(*grads, strict=True):
        assert (chunked - whole).abs().max() <= 1e-9 * whole.abs().max()
        assert chunked.abs().max() > 0


@each_causal_form
@torch.no_grad()
def test_a_step_does_not_change_its_state(form):
    model = tiny(form, causal=True)
    spec = spectrum(2, 17, 30, dtype=torch.float32)

    same = partial(torch.testing.assert_close, rtol=0, atol=0)
    state = model.initial_state()
    for frames in spec.split([20, 10], dim=-1):
        before, frames = copy.deepcopy(tensors(state)), frames.clone()
        first, after = model.step(frames, state)
        second, again = model.step(frames, state)
        same([first, *tensors(after)], [second, *tensors(again)])
        same(tensors(state), before)
        # Nor does it hold on to its input or output.
        kept = copy.deepcopy(tensors(after))
        frames.zero_(), first.zero_()
        same(tensors(after), kept)
        state = after


@pytest.mark.parametrize("form", ["default", "vector", "full"])
@torch.no_grad()
def test_steps_in_bfloat16_come_close(form):
    model = tiny(form, causal=True)
    spec = spectrum(2, 17, 30, dtype=torch.float32)
    out = close_in_bf16(lambda x: stream(model, x, 4)[0], spec)
    assert out.dtype == torch.complex64


def test_a_model_that_is_not_causal_has_no_stream():
    model = tiny()
    with pytest.raises(ValueError, match="make it with causal=True"):
        model.initial_state()
    spec = spectrum(1, 17, 3, dtype=torch.float32)
    with pytest.raises(ValueError, match="causal=True"):
        model.step(spec, tiny(causal=True).initial_state())


OTHERS = """[
num_layers: 1, num_layers: 3, num_heads: 1, num_channels: 16, window: 12,
differential: False, fusion: none, fusion: uniform,
fusion_windows: [[4, 8, 12], [4, 8, 16], [2, 4, 8]],
fusion_windows: [[8, 16, 40], [4, 8, 16], [2, 4, 8]],
band_widths: [1, 1, 2, 2, 3, 8],
{n_fft: 64, band_widths: [1, 2, 4, 4, 6, 8, 8]}]"""


@pytest.mark.parametrize("changes", yaml.safe_load(OTHERS), ids=str)
@torch.no_grad()
def test_a_state_of_another_configuration_is_refused(changes):
    model, other = tiny(causal=True), tiny(causal=True, **changes)
    message = "state .*expected .*initial_state"
    for frames in (1, 40):
        spec = torch.ones(1, other.layout.num_bins, frames).cfloat()
        _, state = other.step(spec, other.initial_state())
        with pytest.raises(ValueError, match=message):
            model.step(torch.ones(1, 17, 2).cfloat(), state)


@pytest.mark.parametrize("streams, given", [(1, 2), (2, 1), (3, 2)])
@torch.no_grad()
def test_a_state_of_other_streams_is_refused(streams, given):
    model = tiny(causal=True)
    others = torch.ones(streams, 17, 2).cfloat()
    _, state = model.step(others, model.initial_state())
    message = f"cache of shapes .*, {streams}, .* other streams"
    with pytest.raises(ValueError, match=message):
        model.step(torch.ones(given, 17, 2).cfloat(), state)


@pytest.mark.parametrize("causal", [False, True])
@each_causal_form
@torch.no_grad()
def test_long_spectra_in_chunks_give_the_same(form, causal, monkeypatch):
    """At once, in chunks of ``forward``, and as an iterable of any chunks."""
    narrow = NARROW if form != "window_of_one" else LOOKS_AT_ONE
    model = scramble(tiny(form, causal, **narrow), scale=0.3)
    noisy = spectrum(2, 17, 50)
    with torch.enable_grad():
        whole = array(model(noisy))  # training takes all frames at once
    parts = torch.cat([model(part) for part in noisy.split(20, dim=-1)], -1)
    for frames in (1, 7, 20, 49, 1000):
        monkeypatch.setattr(db_transform, "CHUNK_FRAMES", frames)
        # Without what the chunks share it would not be the same.
        assert_twin(model(noisy), whole, array(parts))
    chunks = noisy.split([1, 20, 2, 7, 8, 12], dim=-1)
    outs = list(model.stream(iter(chunks)))
    for chunk, out in zip(chunks, outs, strict=True):
        assert chunk.shape == out.shape
    assert_twin(torch.cat(outs, dim=-1), whole)


@pytest.mark.parametrize("causal", [False, True])
@torch.no_grad()
def test_a_stream_asks_for_no_more_than_it_needs(causal):
    """Two layers look 3 + 3 frames ahead each (a kernel of 8: 4 back)."""
    windows = [[4, 8, 8], [2, 4, 8], [1, 2, 4]]
    model, asked = tiny(causal=causal, window=3, fusion_windows=windows), []

    def frames():
        for frame in spectrum(1, 17, 40, dtype=torch.float32).split(1, -1):
            asked.append(frame)
            yield frame

    seen = [len(asked) for _ in model.stream(frames())]
    assert len(seen) == 40
    if causal:
        assert seen == list(range(1, 41))
    else:
        assert seen[:6] == list(range(1 + 2 * (3 + 3), 19))


WHOLE = """[
window: null, norm: group, split_norm: group, fusion: adaptive,
input_conditioned: True, {window: null, lambda_form: statistics}]"""


@pytest.mark.parametrize("changes", yaml.safe_load(WHOLE), ids=str)
@torch.no_grad()
def test_what_depends_on_all_frames_is_not_cut(changes, monkeypatch):
    model, noisy = tiny(**{"window": 3, **changes}), spectrum(1, 17, 60)
    model.double()
    with torch.enable_grad():
        whole = model(noisy).detach()
    monkeypatch.setattr(db_transform, "CHUNK_FRAMES", 10)
    assert (model(noisy) - whole).abs().max() < 1e-12
    with pytest.raises(ValueError, match="give it a window"):
        next(model.stream([noisy]))
