"""The band layout."""

import numpy as np
import pytest

from dbtransform_lobes.models.bands import LAYOUTS, BandLayout
from dbtransform_lobes.models.multi_scale_fusion import band_groups

WIDTHS = [2] + [3] * 10 + [8] * 12 + [16] * 7 + [17]


def test_default_layout_has_31_bands_of_257_bins():
    layout = BandLayout()
    assert list(layout.widths) == WIDTHS
    assert (layout.num_bands, layout.num_bins) == (31, 257)
    assert sum(layout.widths) == 257
    # With 30 of them the top band would be lost.
    assert layout.edges[30] * layout.bin_hz == 7500
    assert layout.edges[31] * layout.bin_hz > 8000


def test_edges_and_centres_by_counting_bins():
    layout = BandLayout()
    bin_of_band = [k for k, w in enumerate(WIDTHS) for _ in range(w)]
    for band in range(31):
        bins = [f for f in range(257) if bin_of_band[f] == band]
        assert layout.edges[band] == bins[0]
        assert layout.edges[band + 1] == bins[-1] + 1
        # centre = (first bin + w_k / 2) x 31.25 Hz
        centre = (bins[0] + len(bins) / 2) * 31.25
        assert layout.centres[band] == centre
        # The mean of the bins is another number: half a bin lower.
        assert centre - np.mean(bins) * 31.25 == 15.625
    assert layout.centres[0] == 31.25


def test_runs_cover_every_band_and_bin_once():
    for layout in (
        BandLayout(),
        BandLayout([2, 2, 3, 3, 2, 2, 3], n_fft=32),
        BandLayout([17], n_fft=32),
    ):
        bands, bins = [], []
        for run in layout.runs:
            own = range(layout.num_bands)[run.bands]
            assert len(own) == run.num_bands > 0
            assert {layout.widths[band] for band in own} == {run.width}
            assert run.bins.start == layout.edges[own[0]]
            bands += own
            bins += range(layout.num_bins)[run.bins]
        assert bands == list(range(layout.num_bands))
        assert bins == list(range(layout.num_bins))
    assert len(BandLayout([2, 2, 3, 3, 2, 2, 3], n_fft=32).runs) == 4
    assert [run.width for run in BandLayout().runs] == [2, 3, 8, 16, 17]


def test_frequency_ranges_hold_6_9_and_16_bands():
    centres = BandLayout().centres
    groups = band_groups(centres)
    members = [list(range(31))[group] for group in groups]
    assert [len(bands) for bands in members] == [6, 9, 16]
    assert sum(members, []) == list(range(31))
    limits = [(0, 500), (500, 2000), (2000, 8001)]
    for bands, (low, high) in zip(members, limits, strict=True):
        assert all(low <= centres[band] < high for band in bands)


def test_a_centre_on_a_limit_belongs_to_the_upper_range():
    assert band_groups([499.9, 500.0, 2000.0]) == [
        slice(0, 1),
        slice(1, 2),
        slice(2, 3),
    ]
    assert band_groups([3000.0]) == [slice(0, 0), slice(0, 0), slice(0, 1)]


def test_centres_follow_sample_rate_and_n_fft():
    widths = [1, 1, 2, 2, 3, 4, 4]
    assert BandLayout(widths, 32, 16000).centres[:3] == (250, 750, 1500)
    assert BandLayout(widths, 32, 8000).centres[:3] == (125, 375, 750)


def test_named_layouts_are_valid():
    for name, widths in LAYOUTS.items():
        n_fft = 2 * (sum(widths) - 1)
        layout = BandLayout(name, n_fft)
        assert layout.widths == BandLayout(list(widths), n_fft).widths


@pytest.mark.parametrize(
    "widths, n_fft, message",
    [
        ("mel", 512, "unknown band layout 'mel', expected .*'bsrnn_16k'"),
        (WIDTHS[:-1], 512, r"sum to 240, expected n_fft // 2 \+ 1 = 257"),
        ("bsrnn_16k", 1024, r"sum to 257, expected n_fft // 2 \+ 1 = 513"),
        ([9, 9], 32, "sum to 18, .* = 17"),
        ([17, 0], 32, "at least 1 bin, given .*17, 0"),
        ([18, -1], 32, "at least 1 bin, given .*18, -1"),
        ([], 32, "at least 1 bin, given"),
    ],
)
def test_impossible_layouts_are_refused(widths, n_fft, message):
    with pytest.raises(ValueError, match=message):
        BandLayout(widths, n_fft)
