"""What cannot be is refused at construction: expected, given, remedy."""

from functools import partial

import pytest

from dbtransform_lobes.models.band_linear import BandNorm
from dbtransform_lobes.models.band_split import BandSplit
from dbtransform_lobes.models.bands import BandLayout
from dbtransform_lobes.models.bsrnn import ResidualLSTM
from dbtransform_lobes.models.level import RunningLevel
from dbtransform_lobes.models.mask_decoder import MaskDecoder
from tests.models import tiny as parts
from tests.models.tiny import BASELINES, LAYOUT, block, tiny

attention = partial(block, parts.attention)
fusion = partial(block, parts.fusion)
graph = partial(block, parts.graph)
norm = partial(BandNorm, 4)
split = partial(BandSplit, LAYOUT, 4)
decoder = partial(MaskDecoder, LAYOUT, 4)
model = partial(tiny, "default")
causal = partial(tiny, causal=True)
bsrnn, cmgan = BASELINES["sequential"], BASELINES["cmgan"]
lstm = partial(ResidualLSTM, 4, axis="time")
layout, level = BandLayout, RunningLevel

STATISTICS = {"lambda_form": "statistics"}
LOW, MIDDLE, HIGH = (8, 16, 32), (4, 8, 16), (2, 4, 8)
CASES = [
    (attention, {"num_heads": 3}, "num_channels is 8, .* 2 num_heads = 6"),
    (attention, {"num_heads": 4}, "even head size, .* = 1"),
    (attention, {"num_heads": 0}, "num_heads is 0, expected at least 1"),
    (attention, {"lambda_form": "vectors"}, "'vectors', expected one of"),
    (attention, {"causal": True}, "causal model needs a window, given null"),
    (attention, {**STATISTICS, "causal": True}, "describes whole maps"),
    (attention, {**STATISTICS, "window": 9}, "whole maps: set window to null"),
    (attention, {"window": 0}, "window is 0, expected at least 1 or null"),
    (attention, {"band_weights": "own"}, "'own', expected one of shared, per"),
    (fusion, {"form": "learned"}, "fusion is 'learned', expected one of"),
    (fusion, {"form": "adaptive", "causal": True}, "all frames: use 'static'"),
    (fusion, {"windows": (LOW, MIDDLE)}, "expected three positive kernel"),
    (fusion, {"windows": ((8, 16), MIDDLE, HIGH)}, "three positive kernel"),
    (fusion, {"windows": (LOW, MIDDLE, (0, 4, 8))}, "three positive kernel"),
    (graph, {"num_heads": 3}, "num_channels is 8, .* num_heads = 3"),
    (graph, {"num_neighbours": 7}, "num_neighbours is 7, expected 1 to 6"),
    (graph, {"num_neighbours": 0}, "num_neighbours is 0, expected 1 to 6"),
    (graph, {"embedding_size": 7}, "embedding size is 7, expected an even"),
    (graph, {"form": "none"}, "graph is 'none', expected one of"),
    (graph, {"form": "dense", "input_conditioned": True}, "'dense' has no n"),
    (level, {"back": -1}, "level is -1, expected the frames to look back"),
    (level, {"back": None}, "level is None, expected the frames to look back"),
    (norm, {"kind": "batch"}, "'batch', expected one of group, frame"),
    (split, {"norm": "frame"}, "'frame', expected one of none, group"),
    (split, {"compression": 0.0}, "compression is 0.0, expected 0 < "),
    (split, {"compression": 1.5}, "compression is 1.5, expected 0 < "),
    (decoder, {"expansion": 0}, "expansion is 0, expected at least"),
    (decoder, {"expansion": 0.01}, "expansion is 0.01, expected at least"),
    (decoder, {"activation": "relu"}, "'relu', expected one of tanh, silu"),
    (layout, {"widths": "mel"}, "layout 'mel', expected .*'bsrnn_16k'"),
    (layout, {"widths": layout().widths[:-1]}, "sum to 240, .* // 2 .* = 257"),
    (layout, {"widths": [17, 0], "n_fft": 32}, "1 bin, given .*17, 0"),
    (layout, {"widths": [], "n_fft": 32}, "at least 1 bin, given"),
    (model, {"num_layers": 0}, "num_layers is 0, expected at least 1"),
    (model, {"norm_order": "middle"}, "'middle', expected one of pre, post"),
    (model, {"feed_forward": -1}, "expansion is -1, expected at least"),
    (causal, {"split_norm": "group"}, r"band_split.norms.0, .* do; give"),
    (causal, {"norm": "group"}, r"blocks.0.norm, .* mask_decoder.norm do; gi"),
    (causal, {"input_conditioned": True}, "blocks.2.block, blocks.5.block do"),
    (bsrnn, {"num_layers": 0}, "num_layers is 0, expected at least 1"),
    (bsrnn, {"num_channels": 0}, "num_channels is 0, expected at least 1"),
    (bsrnn, {"order": "random"}, "'random', expected one of sequential, in"),
    (bsrnn, {"decoder_expansion": 0}, "expansion is 0, expected"),
    (lstm, {"axis": "frames"}, "'frames', expected one of time, bands"),
    (cmgan, {"n_fft": 402}, "n_fft is 402, expected a multiple of 4"),
    (cmgan, {"n_fft": 0}, "n_fft is 0, expected a multiple of 4"),
    (cmgan, {"num_channels": 0}, "num_channels is 0, expected at least 1"),
    (cmgan, {"num_blocks": 0}, "num_blocks is 0, expected at least 1"),
    (cmgan, {"num_heads": 3}, "num_channels is 4, expected a multiple of"),
    (cmgan, {"num_heads": 0}, "num_heads is 0, expected at least 1"),
    (cmgan, {"kernel_size": 4}, "kernel_size is 4, expected an odd number"),
    (cmgan, {"compression": 0}, "compression is 0, expected 0 < "),
]


@pytest.mark.parametrize("make, arguments, message", CASES)
def test_what_cannot_be_is_refused(make, arguments, message):
    make()
    with pytest.raises(ValueError, match=message):
        make(**arguments)
