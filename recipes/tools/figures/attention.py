"""Figure of the attention maps of one band, and of lambda for all bands."""

import numpy as np

from dbtransform_lobes.analysis.graph import parts_of
from dbtransform_lobes.models import differential_attention
from dbtransform_lobes.plotting import style, tidy
from figures.fusion import band_axis

TITLES = ("$A_1$", "$A_2$", r"$A_1 - \lambda A_2$")
# Entries above this share of all are drawn as the largest.
SHARE = 99.5


def attention_maps(model, spec, hertz, frame_seconds):
    """Draw A1, A2 and A1 - lambda A2 of a band, and lambda of all bands.

    The complex spectrum is (1, F, T); the band is the one nearest to a
    frequency. There is a row for each layer, of means over the heads, and a
    last one for lambda.
    """
    from matplotlib.figure import Figure

    kind = differential_attention.DifferentialBandAttention
    parts = parts_of(model, kind, "differential attention")
    centres = np.array(model.layout.centres)
    band = int(np.abs(centres - hertz).argmin())
    plain = any(part.num_maps != 2 for part in parts)
    analysis = model.analyse(spec, band)
    maps = analysis["maps"][:, :, 0].mean(2).cpu().numpy()  # (layers, 3, T, T)
    # A plain attention has one map: its layers stand beside each other.
    shape = (1, len(maps)) if plain else (len(maps), 3)
    height = 2.9 * shape[0]
    figure = Figure(figsize=(10, height + 2.8), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=(height, 2.8))
    grid = upper.subplots(*shape, squeeze=False, sharex=True, sharey=True)
    end = spec.shape[-1] * frame_seconds
    for number, row in enumerate(grid.T if plain else grid):
        _draw_layer(upper, row, maps[number][: len(row)], (0, end, end, 0))
        row[0].set_ylabel(f"layer {number + 1}\nquery: time in s")
    for panel in grid[-1]:
        panel.set_xlabel("key: time in s")
    name = f"Band {band} of centre {centres[band]:.0f} Hz, mean of the heads"
    upper.suptitle(name)
    panel = lower.subplots()
    panel.axvspan(band - 0.5, band + 0.5, color="0.9", zorder=0)
    _draw_lambda(panel, analysis["lambda"], model.layout)
    return figure


def _draw_layer(figure, row, maps, extent):
    """Draw maps of a layer, the last with a scale of its own."""
    for number, (panel, each) in enumerate(zip(row, maps, strict=True)):
        signed = number == 2
        top = np.percentile(np.abs(each if signed else maps[:2]), SHARE)
        look = {"vmin": -top if signed else 0, "vmax": max(top, 1e-12)}
        # Brighter is more, in print as well.
        look |= {"cmap": "cividis", "interpolation": "nearest"}
        image = panel.imshow(each, extent=extent, **look)
        panel.set_title(TITLES[number] if len(maps) == 3 else "$A$")
        extend = "both" if signed else "max"
        figure.colorbar(image, ax=panel, extend=extend, shrink=0.85)


def _draw_lambda(panel, lambdas, layout):
    """Draw the mean of lambda, and where eight tenths of its values lie."""
    for number, values in enumerate(lambdas):
        values = values.detach().float().cpu().numpy()
        values = values.reshape(len(values), -1)
        values = np.broadcast_to(values, (layout.num_bands, values.shape[1]))
        low, high = np.percentile(values, (10, 90), axis=1)
        mean = values.mean(1)
        panel.errorbar(
            np.arange(len(mean)) + 0.2 * (number - (len(lambdas) - 1) / 2),
            mean,
            yerr=np.clip((mean - low, high - mean), 0, None),
            **style(number),
            markersize=4,
            linewidth=1,
            label=f"layer {number + 1}",
        )
    tidy(panel)
    band_axis(panel, layout)
    panel.set_ylabel(r"$\lambda$")
    panel.legend(ncols=len(lambdas), frameon=False, fontsize="small")
