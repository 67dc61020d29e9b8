"""Band layouts: how the F bins of a spectrum are cut into K bands.

Source: Band-Split RNN (Luo & Yu, 2023, arXiv:2209.15174), section III-A, with
the 31 bands of the DB-Transform design.
"""

from dataclasses import dataclass
from itertools import accumulate, groupby

LAYOUTS = {
    # 16 kHz, n_fft 512
    "bsrnn_16k": (2,) + (3,) * 10 + (8,) * 12 + (16,) * 7 + (17,),
}


@dataclass(frozen=True)
class Run:
    """Neighbouring bands of one width, in bins, computed as one batch."""

    width: int
    bands: slice
    bins: slice

    @property
    def num_bands(self):
        """Bands in the run."""
        return self.bands.stop - self.bands.start


class BandLayout:
    """The widths of the bands and what follows from them.

    A ValueError tells of an unknown name, of a width that is not positive and
    of a wrong sum.

    Arguments
    ---------
    widths : str | sequence of int
        A name of ``LAYOUTS`` or the width of every band in bins.
    n_fft : int
        FFT length; the widths must sum to ``n_fft // 2 + 1``.
    sample_rate : int
        In Hz; gives the centre frequencies.

    Example
    -------
    >>> layout = BandLayout("bsrnn_16k", n_fft=512, sample_rate=16000)
    >>> layout.num_bands, layout.num_bins, len(layout.runs)
    (31, 257, 5)
    >>> layout.centres[:2]  # Hz
    (31.25, 109.375)
    """

    def __init__(self, widths="bsrnn_16k", n_fft=512, sample_rate=16000):
        if isinstance(widths, str):
            if widths not in LAYOUTS:
                raise ValueError(
                    f"unknown band layout {widths!r}, expected one of "
                    f"{sorted(LAYOUTS)} or a list of widths in bins"
                )
            widths = LAYOUTS[widths]
        self.widths = tuple(int(width) for width in widths)
        self.num_bins = n_fft // 2 + 1
        if min(self.widths, default=0) < 1:
            raise ValueError(
                f"every band needs at least 1 bin, given {self.widths}"
            )
        if sum(self.widths) != self.num_bins:
            raise ValueError(
                f"band_widths sum to {sum(self.widths)}, expected "
                f"n_fft // 2 + 1 = {self.num_bins}"
            )
        self.num_bands = len(self.widths)
        self.bin_hz = sample_rate / n_fft
        self.edges = tuple(accumulate(self.widths, initial=0))
        self.runs = self._runs()

    def _runs(self):
        runs, first = [], 0
        for width, group in groupby(self.widths):
            last = first + len(list(group))
            bins = slice(self.edges[first], self.edges[last])
            runs.append(Run(width, slice(first, last), bins))
            first = last
        return tuple(runs)

    @property
    def edges_hz(self):
        """The K + 1 edges of the bands in Hz."""
        return tuple(edge * self.bin_hz for edge in self.edges)

    @property
    def centres(self):
        """Centre frequency of every band in Hz: (first bin + w_k / 2)."""
        return tuple(
            (first + width / 2) * self.bin_hz
            for first, width in zip(self.edges, self.widths, strict=False)
        )
