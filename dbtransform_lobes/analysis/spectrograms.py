"""Figure of the spectrograms of several signals on one scale."""

import numpy as np

from dbtransform_lobes.plotting import new_figure

WINDOW_SECONDS = 0.032
RANGE_DB = 80
COLUMNS = 3  # panels beside each other; more signals make more rows


def spectrograms(signals, sample_rate):
    """Draw the spectrograms of signals on one scale, a panel each.

    The signals are samples (L,) by title, of one rate in Hz. Returns a
    ``matplotlib.figure.Figure``.
    """
    columns = min(len(signals), COLUMNS)
    rows = -(-len(signals) // columns)
    size, shared = (11, 3.2 * rows + 0.4), {"sharex": True, "sharey": True}
    figure, grid = new_figure(size, rows, columns, **shared)
    levels = {n: _spectrogram(x, sample_rate) for n, x in signals.items()}
    top = max(level.max() for level in levels.values())
    panels = list(grid.flat)
    for panel in panels[len(signals) :]:
        panel.set_visible(False)
    for number, (name, level) in enumerate(levels.items()):
        seconds = len(signals[name]) / sample_rate
        extent = 0, seconds, 0, sample_rate / 2000
        look = {"vmin": top - RANGE_DB, "vmax": top, "cmap": "magma"}
        look |= {"origin": "lower", "aspect": "auto", "extent": extent}
        image = panels[number].imshow(level, **look)
        panels[number].set_title(name)
        if number + columns >= len(signals):
            panels[number].set_xlabel("time in s")
            panels[number].tick_params(labelbottom=True)
    for row in grid:
        row[0].set_ylabel("frequency in kHz")
    figure.colorbar(image, ax=grid, label="level in dB", pad=0.01)
    return figure


def _spectrogram(signal, sample_rate):
    """Return levels (F, T) in dB of a signal (L,); a full-scale sine has 0."""
    size = max(2, round(WINDOW_SECONDS * sample_rate))
    signal = np.pad(signal, (0, max(0, size - len(signal))))
    frames = np.lib.stride_tricks.sliding_window_view(signal, size)
    window = np.hanning(size)
    spec = np.fft.rfft(frames[:: size // 2] * window) / (window.sum() / 2)
    return 20 * np.log10(np.abs(spec.T) + 1e-10)
