"""The band layout."""

import numpy as np
import pytest

from dbtransform_lobes.models.bands import LAYOUTS, BandLayout
from tests.models.tiny import WIDTHS

FULL = [2] + [3] * 10 + [8] * 12 + [16] * 7 + [17]


def test_default_layout_by_counting_bins():
    layout = BandLayout()
    assert list(layout.widths) == FULL
    assert (layout.num_bands, layout.num_bins) == (31, 257)
    # With 30 of them the top band would be lost.
    assert layout.edges[30] * layout.bin_hz == 7500
    assert layout.edges[31] * layout.bin_hz > 8000
    bin_of_band = [k for k, w in enumerate(FULL) for _ in range(w)]
    for band in range(31):
        bins = [f for f in range(257) if bin_of_band[f] == band]
        assert layout.edges[band] == bins[0]
        assert layout.edges[band + 1] == bins[-1] + 1
        assert layout.edges_hz[band] == bins[0] * 31.25
        # centre = (first bin + w_k / 2) x 31.25 Hz
        centre = (bins[0] + len(bins) / 2) * 31.25
        assert layout.centres[band] == centre
        # The mean of the bins is another number: half a bin lower.
        assert centre - np.mean(bins) * 31.25 == 15.625


@pytest.mark.parametrize(
    "layout, widths",
    [
        (BandLayout(), [2, 3, 8, 16, 17]),
        (BandLayout([2, 2, 3, 3, 2, 2, 3], n_fft=32), [2, 3, 2, 3]),
        (BandLayout([17], n_fft=32), [17]),
    ],
)
def test_runs_cover_every_band_and_bin_once(layout, widths):
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
    assert [run.width for run in layout.runs] == widths


def test_centres_follow_sample_rate_and_n_fft():
    assert BandLayout(WIDTHS, 32, 16000).centres[:3] == (250, 750, 1500)
    assert BandLayout(WIDTHS, 32, 8000).centres[:3] == (125, 375, 750)


def test_named_layouts_are_valid():
    for name, widths in LAYOUTS.items():
        n_fft = 2 * (sum(widths) - 1)
        layout = BandLayout(name, n_fft)
        assert layout.widths == BandLayout(list(widths), n_fft).widths
