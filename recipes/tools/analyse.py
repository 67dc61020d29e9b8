"""``analyse.py``: figures of a model, and of what it does."""

import os
from pathlib import Path

import ruamel.yaml
import soxr
import torch

from command import start
from dbtransform_lobes.analysis.graph import MissingPart, band_graph
from dbtransform_lobes.analysis.spectrograms import spectrograms
from dbtransform_lobes.cli.evaluate import named_paths
from dbtransform_lobes.cli.options import LOADING, add_options
from dbtransform_lobes.data.files import (
    check_output_folder,
    replacing_folder,
    write_text,
)
from dbtransform_lobes.export.model_card import configuration_rows
from dbtransform_lobes.inference.backend import check_device
from dbtransform_lobes.inference.bundled import local_folder
from dbtransform_lobes.inference.enhance_model import EnhanceModel
from dbtransform_lobes.inference.source import find_model, hub_config
from dbtransform_lobes.models.waveform import noisy_spectrum
from dbtransform_lobes.plotting import check_plot, save_figure
from dbtransform_lobes.versions import package_versions
from figures.architecture import architecture
from figures.attention import attention_maps
from figures.fusion import fusion_weights
from figures.part import check_same_length, find_part
from figures.report import render_report

HELP = (
    "Draw what a model is, has learned and does with a recording: figures "
    "(PNG and PDF) and a page of them with players (report.html)."
)
EXAMPLES = """\
  analyse.py my_model noisy.wav --output analysis
  analyse.py my_model noisy.wav --output analysis --clean clean.wav \\
      --systems BSRNN=bsrnn_model CMGAN=cmgan_enhanced.wav
  analyse.py my_model noisy.wav --output graph --figures graph
  analyse.py my_model talk.mp3 --output attention \\
      --figures attention --band 8 --seconds 61.5 65.5
"""
# Title and caption of every figure.
FIGURES = {
    "architecture": (
        "Architecture",
        "The network as it was loaded, from the input at the top to the "
        "output, with the parameters of each block, and below its bands.",
    ),
    "graph": (
        "Graph between the bands",
        "Left the bands on an axis of frequency, arcs join neighbours; right "
        "every edge at its lower band and the ratio of the two centre "
        "frequencies. An edge is near p:q if q times the higher over the "
        "lower is within 0.2 of p. How many of all pairs of bands are near a "
        "ratio is what a choice at random would find. Of a graph that "
        "follows the signal it is that of the band embeddings alone.",
    ),
    "fusion": (
        "Fusion weights",
        "Share of the short, middle and long window in every band (marks), "
        "and that at which training began (lines); above them the lengths of "
        "the windows. The prior is a heuristic. Of an adaptive fusion it is "
        "the part that does not follow the signal.",
    ),
    "spectrograms": (
        "Spectrograms",
        "All on one scale; a sine of full scale has 0 dB.",
    ),
    "attention": (
        "Attention",
        "Attention maps of one band for the start of the part, averaged over "
        "the heads; the largest half per cent of the entries is drawn as one "
        "colour. Below lambda of all bands: mean over frames and heads, and "
        "bars from the 10th to the 90th percentile; the band of the maps is "
        "shaded.",
    ),
}
FILES = (
    "report.html",
    *(f"{name}.{suffix}" for name in FIGURES for suffix in ("png", "pdf")),
)
MAP_SECONDS = 4
MAP_HZ = 500  # the band that is shown unless another is asked for


def add_arguments(parser):
    """Add the arguments of this command to its parser."""
    parser.add_argument(
        "model",
        help="model folder, name of a model of the package "
        "(db_transform_small) or of the Hugging Face hub (owner/name)",
    )
    parser.add_argument(
        "audio", help="noisy file of any rate; its channels are averaged"
    )
    parser.add_argument("--output", required=True, help="folder to write")
    parser.add_argument("--clean", help="the recording without noise")
    parser.add_argument(
        "--systems",
        metavar="NAME=FILE_OR_MODEL",
        nargs="+",
        default=[],
        help="to be shown beside: the recording enhanced by another system, "
        "or another model",
    )
    parser.add_argument(
        "--figures",
        nargs="+",
        choices=FIGURES,
        default=list(FIGURES),
        help="figures to draw (default all)",
    )
    parser.add_argument(
        "--band",
        type=int,
        help="band of the attention maps, from 0 (default: the one nearest "
        "to 500 Hz)",
    )
    parser.add_argument(
        "--seconds",
        metavar=("START", "END"),
        nargs=2,
        type=float,
        help="part of the recording, at most 30 s (default: the first 10 s); "
        "attention maps are those of its first 4 s",
    )
    add_options(parser, "--force", *LOADING)


def run(args):
    """Write the folder, whole or not at all; return the exit code."""
    systems = named_paths("systems", args.systems, "NAME=FILE_OR_MODEL")
    target = Path(args.output).absolute()
    part = _check(args, systems, target)
    run_opts = {"device": args.device}
    loading = {"run_opts": run_opts, "trust_code": args.trust_code}
    source, config = args.model, hub_config(args.revision)
    folder = find_model(source, fetch_config=config)
    model = EnhanceModel.from_hparams(str(folder), **loading)
    band = _choose_band(model.mods.model, args.band)
    signals = {"Noisy": part.read(args.audio)}
    signals |= _enhance(model, systems, signals["Noisy"], part, loading)
    if args.clean is not None:
        signals["Clean"] = part.read(args.clean)
    figures = list(dict.fromkeys(args.figures))
    drawn, left_out = _draw(model, signals, part, band, figures)
    with replacing_folder(target) as temporary:
        pictures = []
        for name, figure in drawn.items():
            for suffix in ("png", "pdf"):
                save_figure(figure, temporary / f"{name}.{suffix}")
            data = (temporary / f"{name}.png").read_bytes()
            pictures.append((*FIGURES[name], data))
        page = render_report(
            folder.name if os.path.isdir(source) else source,
            _notes(args.audio, part, figures),
            signals,
            part.sample_rate,
            pictures,
            [(FIGURES[name][0], reason) for name, reason in left_out.items()],
            _tables(model, folder),
        )
        write_text(temporary / "report.html", page)
    for name, reason in left_out.items():
        print(f"left out: {name}: {reason}")
    print(f"{Path(args.output, 'report.html')} written")
    return 0


def _check(args, systems, target):
    """Return the part; refuse what cannot be, before weights are loaded."""
    check_plot("figure.png")
    check_device(args.device)
    check_output_folder(target, FILES, "an analysis", args.force)
    part = find_part(args.audio, args.seconds)
    if args.clean is not None:
        check_same_length(args.clean, part)
    for name, given in systems.items():
        if name in ("", "Noisy", "Clean"):
            raise ValueError(
                f"a system is named {name!r}, which is taken; give it another "
                "name"
            )
        if os.path.isfile(given):
            check_same_length(given, part)
        else:
            local_folder(given)
    return part


def _choose_band(network, band):
    """Return the band of the maps, None for a network without bands."""
    if not hasattr(network, "layout"):
        return None
    bands, centres = range(network.layout.num_bands), network.layout.centres
    if band is None:
        return min(bands, key=lambda k: abs(centres[k] - MAP_HZ))
    if band not in bands:
        raise ValueError(f"band is {band}, expected 0 to {bands[-1]}")
    return band


def _enhance(model, systems, noisy, part, loading):
    """Return signals of the systems and of the model, by their names."""
    name = type(model.mods.model).__name__
    name = {"DBTransform": "DB-Transform"}.get(name, name)
    if name in systems:
        raise ValueError(
            f"a system is named {name}, as the model is; give it another name"
        )
    signals = {}
    for system, given in systems.items():
        if os.path.isfile(given):
            signals[system] = part.read(given)
        else:
            other = EnhanceModel.from_hparams(given, **loading)
            signals[system] = other.enhance_array(noisy, part.sample_rate)
    return signals | {name: model.enhance_array(noisy, part.sample_rate)}


def _draw(model, signals, part, band, figures):
    """Return figures by name, and the reasons of those left out."""
    network, stft = model.mods.model, model.hparams.compute_stft
    hop = stft.hop_length / stft.sample_rate
    draw = {
        "architecture": lambda: architecture(network, stft),
        "graph": lambda: band_graph(network),
        "fusion": lambda: fusion_weights(network),
        "spectrograms": lambda: spectrograms(
            signals, part.sample_rate, part.start
        ),
        "attention": lambda: attention_maps(
            network,
            _start_of(model, signals["Noisy"], part),
            band,
            hop,
            part.start,
        ),
    }
    drawn, left_out = {}, {}
    for name in figures:
        try:
            drawn[name] = draw[name]()
        except MissingPart as error:
            left_out[name] = str(error)
    return drawn, left_out


def _start_of(model, noisy, part):
    """Return the spectrum (1, F, T) of the first 4 s."""
    rate = model.hparams.sample_rate
    if part.sample_rate != rate:
        noisy = soxr.resample(noisy, part.sample_rate, rate)
    noisy = torch.from_numpy(noisy)[None].to(model.device)
    start = noisy[:, : MAP_SECONDS * rate]
    with torch.inference_mode():
        return noisy_spectrum(model.hparams.compute_stft, start)


def _notes(audio, part, figures):
    """Return what the reader has to know of the recording."""
    note = (
        f"{Path(audio).name}: seconds {part.start:g} to {part.stop:g} of "
        f"{part.total:.4g}, at {part.sample_rate} Hz"
    )
    if part.channels > 1:
        note += f", the mean of {part.channels} channels"
    notes = [f"{note}. The models were given this part alone."]
    span = part.stop - part.start
    if "attention" in figures and span > MAP_SECONDS:
        notes.append(
            f"The attention maps are those of the first {MAP_SECONDS} s of "
            "it: they grow with the square of the time."
        )
    return notes


def _tables(model, folder):
    """Return the configuration of the model, and versions."""
    count = sum(parameter.numel() for parameter in model.parameters())
    rows = [
        ("class", type(model.mods.model).__name__),
        ("parameters", f"{count:,}"),
        ("sample rate (Hz)", model.hparams.sample_rate),
    ]
    text = (folder / "hyperparams.yaml").read_text(encoding="utf-8")
    tree = ruamel.yaml.YAML().load(text)
    if all(isinstance(tree.get(k), dict) for k in ("model", "compute_stft")):
        rows += configuration_rows(tree)
    versions = list(package_versions().items())
    return [("Configuration", rows), ("Versions", versions)]


if __name__ == "__main__":
    start(__file__)
