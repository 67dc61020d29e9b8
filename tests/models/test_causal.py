"""The causal model: what it hears, its state, and streams in chunks."""

import copy

import pytest
import torch

from tests.composition import composed
from tests.twins import array, assert_twin, randn, scramble

TINY = {
    "n_fft": 32,
    "band_widths": [1, 1, 2, 2, 3, 4, 4],
    "num_channels": 8,
    "num_layers": 2,
    "num_heads": 2,
    "num_neighbours": 2,
    "window": 6,
    "causal": True,
}
FORMS = {
    "token": {},
    "recipe": {"fusion_activation": True, "feed_forward": 2},
    "vector": {"lambda_form": "vector"},
    "per_band": {"band_weights": "per_band", "feed_forward": 1},
    "plain": {"differential": False},
    "no_rope": {"rope": False},
    "uniform": {"fusion": "uniform"},
    "full": {"separable": False},
    "no_fusion": {"fusion": "none"},
    "fixed": {"graph": "fixed"},
    "dense": {"graph": "dense"},
    "no_graph": {"graph": "none"},
    "bare": {"fusion": "none", "graph": "none", "num_layers": 1},
    "post": {"norm_order": "post"},
    "magnitude": {"magnitude": True},
    "level": {
        "level": 4,
        "detrend": torch.hann_window,
        "decoder_activation": "silu",
    },
    "window_of_one": {"window": 1, "num_layers": 3},
}
CHUNKS = (1, 2, 3, 5, 7, 16)
each_form = pytest.mark.parametrize("form", list(FORMS))


def tiny(form="token", **changes):
    torch.manual_seed(0)
    return composed(**{**TINY, **FORMS[form], **changes})


def spectrum(*shape, seed=0, dtype=torch.float64):
    """A random complex spectrum whose frames differ in level."""
    parts = [randn(*shape, seed=seed + i, dtype=dtype) for i in range(2)]
    return torch.complex(*parts) * (1 + torch.arange(shape[-1]) % 3)


def tensors(state):
    """All tensors of a state, in order."""
    return [part for cache in state.caches or () for part in cache]


def stream(model, spec, sizes, state=None):
    """Enhance chunks of these sizes, one after the other."""
    if state is None:
        state = model.initial_state()
    outs = []
    for chunk in spec.split(sizes, dim=-1):
        out, state = model.step(chunk, state)
        assert out.shape == chunk.shape
        outs.append(out)
    return torch.cat(outs, dim=-1), state


@each_form
@torch.no_grad()
def test_grown_prefixes_give_the_same(form):
    model = scramble(tiny(form))
    spec = spectrum(2, 17, 20)
    whole = model(spec)
    for frames in (1, 2, 3, 5, 6, 7, 8, 13, 19):
        prefix = model(spec[..., :frames])
        assert_twin(prefix, array(whole[..., :frames]))


def changes_of_output(model, spec, frame):
    """How far each output frame moves when one input frame changes."""
    changed = spec.clone()
    changed[..., frame] *= -2
    return (model(changed) - model(spec)).abs()


@each_form
@torch.no_grad()
def test_a_change_is_heard_from_its_frame_on(form):
    model = scramble(tiny(form))
    spec = spectrum(2, 17, 24)
    for frame in (0, 1, 6, 12, 13, 23):
        moved = changes_of_output(model, spec, frame)
        assert (moved[..., :frame] < 1e-12).all()
        assert moved[..., frame].min() > 1e-9  # in every bin
        after = moved[..., frame:].amax((0, 1))
        assert (after[:3] > 1e-6).all()


@torch.no_grad()
def test_a_model_that_is_not_causal_hears_the_future():
    """What the two tests above would find."""
    model = scramble(tiny(causal=False))
    spec = spectrum(2, 17, 24)
    assert changes_of_output(model, spec, 12)[..., :12].max() > 1e-3
    prefix = model(spec[..., :12])
    assert (prefix - model(spec)[..., :12]).abs().max() > 1e-3


@torch.no_grad()
def test_a_causal_model_forgets():
    """Two layers of windows, kernels and taps reach a known way back."""
    windows = ((2, 3, 4),) * 3
    model = scramble(tiny(window=3, fusion_windows=windows, level=1))
    moved = changes_of_output(model, spectrum(1, 17, 40), 10)
    reach = 2 * (3 + 3) + 2
    heard = moved.amax((0, 1)) > 1e-12
    # The mask hears frames up to 12 back, the filter reads up to 2 back.
    assert heard[10 : 10 + reach - 1].all()
    assert not heard[10 + reach :].any()


@pytest.mark.parametrize("size", [1, 5])
@each_form
@torch.no_grad()
def test_chunks_equal_the_whole(form, size):
    model = scramble(tiny(form))
    spec = spectrum(2, 17, 16)
    offline = model(spec)
    out, _ = stream(model, spec, size)
    afresh = torch.cat([model(part) for part in spec.split(size, -1)], -1)
    assert_twin(out, array(offline), array(afresh))


@pytest.mark.parametrize("size", CHUNKS)
@torch.no_grad()
def test_many_frames_in_chunks_equal_the_whole(size):
    model = scramble(tiny("recipe", num_layers=1))
    spec = spectrum(2, 17, 300)
    offline = array(model(spec))
    out, state = stream(model, spec, size)
    assert_twin(out, offline, array(spec))
    assert all(torch.isfinite(torch.abs(part)).all() for part in tensors(state))


@pytest.mark.parametrize("form", ["recipe", "vector"])
@pytest.mark.parametrize("size", CHUNKS)
@torch.no_grad()
def test_chunks_equal_the_whole_in_single_precision(form, size):
    model = tiny(form)
    spec = spectrum(3, 17, 40, dtype=torch.float32)
    offline = model(spec)
    out, state = stream(model, spec, size)
    assert out.dtype == torch.complex64
    assert (out - offline).abs().max() < 1e-5
    assert (offline - spec).abs().max() > 0.01
    assert {part.dtype for part in tensors(state)} == {torch.float32}


@pytest.mark.parametrize("batch", [1, 2, 5])
@torch.no_grad()
def test_streams_side_by_side_do_not_hear_each_other(batch):
    model = scramble(tiny("recipe"))
    spec = spectrum(batch, 17, 21)
    spec[0] *= 100
    together, _ = stream(model, spec, [3, 1, 7, 10])
    for item in range(batch):
        alone, _ = stream(model, spec[item : item + 1], 5)
        assert_twin(together[item : item + 1], array(alone))


@torch.no_grad()
def test_chunks_of_any_sizes_mixed_equal_the_whole():
    model = scramble(tiny("recipe"))
    spec = spectrum(2, 17, 100)
    offline = array(model(spec))
    for sizes in ([1, 50, 1, 48], [40, 1, 1, 58], [5, 6, 7, 12, 13, 57], [100]):
        assert_twin(stream(model, spec, sizes)[0], offline)


def test_steps_with_gradients_equal_the_whole():
    model = scramble(tiny("recipe"))
    spec = spectrum(1, 17, 12)
    out, _ = stream(model, spec, 5)
    assert_twin(out, array(model(spec)))
    out.abs().square().sum().backward()
    chunked = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model(spec).abs().square().sum().backward()
    for grad, parameter in zip(chunked, model.parameters(), strict=True):
        error = (grad - parameter.grad).abs().max()
        assert error <= 1e-9 * parameter.grad.abs().max()
        assert grad.abs().max() > 0


@pytest.mark.parametrize("size", [2, 7])
@each_form
@torch.no_grad()
def test_a_state_does_not_grow(form, size):
    model = tiny(form)
    state = model.initial_state()
    sizes = []
    for chunk in spectrum(2, 17, 28, dtype=torch.float32).split(size, -1):
        _, state = model.step(chunk, state)
        sizes.append([part.shape for part in tensors(state)])
    assert all(shapes == sizes[0] for shapes in sizes)
    window = model.blocks[0].block.window
    assert window in [cache[-1].shape[-2] for cache in state.caches]
    assert state.frames == 28


@torch.no_grad()
def test_a_state_holds_no_more_memory_than_it_shows():
    model = tiny()
    chunk = spectrum(1, 17, 200, dtype=torch.float32)
    _, state = model.step(chunk, model.initial_state())
    for part in tensors(state):
        held = part.untyped_storage().nbytes()
        assert held == part.numel() * part.element_size()


@each_form
@torch.no_grad()
def test_a_step_does_not_change_its_state(form):
    model = tiny(form)
    spec = spectrum(2, 17, 30, dtype=torch.float32)
    for past in (0, 20):
        state = model.initial_state()
        if past:
            _, state = model.step(spec[..., :past], state)
        before = copy.deepcopy(tensors(state))
        frames = spec[..., past : past + 3].clone()
        first, after = model.step(frames, state)
        second, again = model.step(frames, state)
        assert torch.equal(first, second)
        for a, b in zip(tensors(after), tensors(again), strict=True):
            assert torch.equal(a, b)
        for a, b in zip(tensors(state), before, strict=True):
            assert torch.equal(a, b)
        # Nor does it hold on to its input or output.
        kept = copy.deepcopy(tensors(after))
        frames.zero_(), first.zero_()
        for a, b in zip(tensors(after), kept, strict=True):
            assert torch.equal(a, b)


@torch.no_grad()
def test_a_state_can_be_kept_and_taken_up_later():
    model = scramble(tiny("recipe"))
    spec = spectrum(1, 17, 30)
    offline = array(model(spec))
    _, kept = stream(model, spec[..., :11], 4)
    kept = copy.deepcopy(kept)
    for size in (1, 8, 19):
        out, _ = stream(model, spec[..., 11:], size, kept)
        assert_twin(out, offline[..., 11:])


@pytest.mark.parametrize("form", ["token", "vector", "full"])
@torch.no_grad()
def test_steps_in_bfloat16_come_close(form):
    model = tiny(form)
    spec = spectrum(2, 17, 30, dtype=torch.float32)
    exact = model(spec)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, _ = stream(model, spec, 4)
    assert out.dtype == torch.complex64
    error = (out - exact).abs().square().mean()
    assert 0 < error < 0.05**2 * exact.abs().square().mean()


@each_form
@torch.no_grad()
def test_silence_stays_silent(form):
    model = tiny(form)
    spec = torch.zeros(1, 17, 20, dtype=torch.complex64)
    assert torch.equal(stream(model, spec, 3)[0], spec)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"split_norm": "group"}, r"band_split.norms.0, .* do; give"),
        ({"norm": "group"}, "blocks.0.norm, .* mask_decoder.norm do; give"),
        ({"lambda_form": "statistics"}, "set window to null and causal"),
        (
            {"lambda_form": "statistics", "window": None},
            "set window to null and causal to False",
        ),
        ({"window": None}, "a causal model needs a window, given null"),
        ({"fusion": "adaptive"}, "'adaptive' looks at all frames"),
        (
            {"input_conditioned": True},
            "blocks.2.block, blocks.5.block do; give",
        ),
    ],
)
def test_what_sees_the_future_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


def test_a_model_that_is_not_causal_has_no_stream():
    model = tiny(causal=False)
    with pytest.raises(ValueError, match="make it with causal=True"):
        model.initial_state()
    spec = spectrum(1, 17, 3, dtype=torch.float32)
    with pytest.raises(ValueError, match="causal=True"):
        model.step(spec, tiny().initial_state())


OTHERS = [
    {"num_layers": 1},
    {"num_layers": 3},
    {"num_heads": 1},
    {"num_channels": 16},
    {"differential": False},
    {"fusion": "none"},
    {"fusion_windows": ((4, 8, 12), (4, 8, 16), (2, 4, 8))},
    {"fusion_windows": ((8, 16, 40), (4, 8, 16), (2, 4, 8))},
    {"fusion": "uniform"},
    {"band_widths": [1, 1, 2, 2, 3, 8]},
    {"n_fft": 64, "band_widths": [1, 2, 4, 4, 6, 8, 8]},
    {"window": 12},
]


@pytest.mark.parametrize("changes", OTHERS)
@torch.no_grad()
def test_a_state_of_another_configuration_is_refused(changes):
    model, other = tiny(), tiny(**changes)
    bins = other.layout.num_bins
    for frames in (1, 40):
        spec = spectrum(1, bins, frames, dtype=torch.float32)
        _, state = other.step(spec, other.initial_state())
        with pytest.raises(
            ValueError, match="state .*expected .*initial_state"
        ):
            model.step(spectrum(1, 17, 2, dtype=torch.float32), state)


@pytest.mark.parametrize("streams, given", [(1, 2), (2, 1), (3, 2)])
@torch.no_grad()
def test_a_state_of_other_streams_is_refused(streams, given):
    model = tiny()
    others = spectrum(streams, 17, 2, dtype=torch.float32)
    _, state = model.step(others, model.initial_state())
    spec = spectrum(given, 17, 2, dtype=torch.float32)
    message = f"cache of shapes .*, {streams}, .* other streams"
    with pytest.raises(ValueError, match=message):
        model.step(spec, state)


@pytest.mark.parametrize(
    "spec, message",
    [
        (torch.zeros(1, 17, 4), "torch.float32, expected a complex"),
        (torch.zeros(1, 17, 0).cfloat(), "at least 1 frame"),
        (torch.zeros(1, 16, 4).cfloat(), "17 bins"),
        (torch.zeros(17, 4).cfloat(), "17 bins"),
    ],
)
def test_bad_frames_are_refused(spec, message):
    model = tiny()
    with pytest.raises(ValueError, match=message):
        model.step(spec, model.initial_state())
