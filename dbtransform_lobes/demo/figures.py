"""Figures of the demo page: spectrograms, and the graph between the bands."""

import numpy as np
import soundfile as sf

from dbtransform_lobes.models.harmonic_graph import HarmonicGraphAttention
from dbtransform_lobes.plotting import COLOURS, tidy

SHOWN_SECONDS = 30
WINDOW_SECONDS = 0.032
RANGE_DB = 80


def spectrograms(noisy, enhanced):
    """Draw the spectrograms of two files on one scale.

    Arguments
    ---------
    noisy, enhanced : str
        Audio files of one sample rate; the first channel of the first 30 s
        is shown.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    levels, times, frequencies = zip(
        *map(spectrogram, (noisy, enhanced)), strict=True
    )
    top = max(levels[0].max(), levels[1].max())
    titles = ("Noisy", "Enhanced")
    for panel, title, level in zip(panels, titles, levels, strict=True):
        image = panel.imshow(
            level,
            origin="lower",
            aspect="auto",
            extent=(0, times[0], 0, frequencies[0] / 1000),
            vmin=top - RANGE_DB,
            vmax=top,
            cmap="magma",
        )
        panel.set_title(title)
        panel.set_xlabel("time in s")
    panels[0].set_ylabel("frequency in kHz")
    figure.colorbar(image, ax=panels, label="level in dB", pad=0.01)
    return figure


def spectrogram(path):
    """Levels of the first channel of a file.

    Arguments
    ---------
    path : str
        An audio file.

    Returns
    -------
    level : numpy.ndarray
        (F, T), in dB; a sine of full scale has 0.
    seconds : float
        That it covers.
    highest : float
        Frequency of its last row, in Hz.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sine = np.sin(np.pi / 4 * np.arange(16000))  # 2 kHz
    ...     sf.write(f"{folder}/a.wav", sine, 16000, "FLOAT")
    ...     level, seconds, highest = spectrogram(f"{folder}/a.wav")
    >>> round(float(level.max())), int(level[:, 9].argmax())  # of 31.25 Hz
    (0, 64)
    """
    with sf.SoundFile(path) as file:
        rate = file.samplerate
        signal = file.read(SHOWN_SECONDS * rate, always_2d=True)[:, 0]
    size = max(2, round(WINDOW_SECONDS * rate))
    signal = np.pad(signal, (0, max(0, size - len(signal))))
    frames = np.lib.stride_tricks.sliding_window_view(signal, size)
    window = np.hanning(size)
    spec = np.fft.rfft(frames[:: size // 2] * window) / (window.sum() / 2)
    level = 20 * np.log10(np.abs(spec.T) + 1e-10)
    return level, len(signal) / rate, rate / 2


def band_graph(model):
    """Draw which bands a DB-Transform joins, on an axis of frequency.

    Arguments
    ---------
    model : DBTransform
        The network.

    Returns
    -------
    matplotlib.figure.Figure
        A panel for each layer; None if the model has learned no graph.
    """
    from matplotlib.figure import Figure

    forms = {
        part.form
        for part in model.modules()
        if isinstance(part, HarmonicGraphAttention)
    }
    if forms != {"learned"}:
        return None
    analysis = model.analyse()
    layers = len(analysis["adjacency"])
    figure = Figure(figsize=(11, 2.6 * layers + 0.5), layout="constrained")
    panels = figure.subplots(layers, 1, squeeze=False)[:, 0]
    for number, panel in enumerate(panels):
        _draw_graph(
            panel,
            model.layout,
            analysis["adjacency"][number].cpu().numpy() > 0.5,
            analysis["harmonic_pairs"][number],
        )
        panel.set_title(f"Layer {number + 1}", loc="left", fontsize="medium")
    panels[-1].set_xlabel("frequency in Hz (logarithmic)")
    _graph_legend(figure)
    return figure


def _draw_graph(panel, layout, joined, harmonics):
    """Bands as bars, edges as arcs over them."""
    from matplotlib.patches import Arc
    from matplotlib.ticker import FuncFormatter

    # The position of a frequency: low bands are many and narrow.
    place = np.log2(np.asarray(layout.edges_hz) + layout.bin_hz)
    centres = (place[:-1] + place[1:]) / 2
    for low, high in zip(place[:-1], place[1:], strict=True):
        panel.axvspan(low + 0.01, high - 0.01, 0, 0.05, color="0.55")
    orders = {frozenset((i, j)): n for i, j, n in harmonics}
    for i, j in np.argwhere(np.triu(joined, 1)):
        order = orders.get(frozenset((int(i), int(j))))
        width = centres[j] - centres[i]
        panel.add_patch(
            Arc(
                ((centres[i] + centres[j]) / 2, 0),
                width,
                2 * width,
                theta2=180,
                color=COLOURS[order - 2] if order else "0.75",
                linewidth=1.6 if order else 0.9,
                zorder=3 if order else 2,
            )
        )
    panel.set_xlim(place[0], place[-1])
    widest = max(centres[j] - centres[i] for i, j in np.argwhere(joined))
    panel.set_ylim(-0.08 * widest, 1.08 * widest)
    tidy(panel)
    panel.grid(False)
    panel.spines["left"].set_visible(False)
    panel.set_yticks([])
    ticks = np.array([0, 125, 250, 500, 1000, 2000, 4000, 8000, 16000])
    panel.set_xticks(
        np.log2(ticks[ticks <= layout.edges_hz[-1]] + layout.bin_hz)
    )
    panel.xaxis.set_major_formatter(
        FuncFormatter(lambda x, _: f"{2**x - layout.bin_hz:.0f}")
    )


def _graph_legend(figure):
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=COLOURS[n - 2], label=f"about {n} times as high")
        for n in range(2, 6)
    ]
    handles.append(Line2D([], [], color="0.75", label="other neighbours"))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=5, frameon=False
    )
