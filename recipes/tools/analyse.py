"""Draw what a model is, has learned and does with a recording.

OUTPUT gets the figures (PNG and PDF) and a page of them with players
(report.html). Shown are the first 10 s of the recording.

examples:
  analyse.py my_model noisy.wav --output analysis
  analyse.py my_model noisy.wav --output analysis --clean clean.wav \\
      --systems BSRNN=bsrnn_model CMGAN=cmgan_enhanced.wav
  analyse.py my_model noisy.wav --output graph --figures graph
"""

import base64
import io
import os
from functools import partial
from pathlib import Path

import numpy as np
import ruamel.yaml
import soundfile as sf
import soxr
import torch

from command import start
from dbtransform_lobes.analysis.graph import MissingPart, band_graph
from dbtransform_lobes.analysis.spectrograms import spectrograms
from dbtransform_lobes.cli.evaluate import named_paths
from dbtransform_lobes.cli.options import LOADING, add_options
from dbtransform_lobes.data import files
from dbtransform_lobes.data.audio import audio_info, read_audio
from dbtransform_lobes.export.model_card import configuration_rows
from dbtransform_lobes.inference.backend import check_device
from dbtransform_lobes.inference.bundled import local_folder
from dbtransform_lobes.inference.enhance_model import EnhanceModel
from dbtransform_lobes.inference.signal_path import check_sample_rate
from dbtransform_lobes.inference.source import find_model, hub_config
from dbtransform_lobes.models.waveform import noisy_spectrum
from dbtransform_lobes.plotting import check_plot, save_figure
from dbtransform_lobes.versions import package_versions
from figures.architecture import architecture
from figures.attention import attention_maps
from figures.fusion import fusion_weights

FIGURES = ("architecture", "graph", "fusion", "spectrograms", "attention")
FILES = ["report.html"]
FILES += [f"{name}.{suffix}" for name in FIGURES for suffix in ("png", "pdf")]
TEMPLATE = Path(__file__).with_name("figures") / "report.html"
SECONDS, MAP_SECONDS, MAP_HZ = 10, 4, 500
# Files of one recording may differ by what a codec adds.
TOLERANCE_SECONDS = 0.1


def add_arguments(parser):
    """Add the arguments of this command to its parser."""
    add = parser.add_argument
    names = "of the package (db_transform_small) or the hub (owner/name)"
    add("model", help=f"model folder, or a name {names}")
    add("audio", help="noisy file of any rate; its channels are averaged")
    add("--output", required=True, help="folder to write")
    add("--clean", help="the recording without noise")
    several = {"nargs": "+", "metavar": "NAME=FILE_OR_MODEL", "default": []}
    systems = "the recording enhanced by another system, or another model"
    add("--systems", **several, help=f"to be shown beside: {systems}")
    several = {"nargs": "+", "choices": FIGURES, "default": list(FIGURES)}
    add("--figures", **several, help="figures to draw (default all)")
    add_options(parser, "--force", *LOADING)


def run(args):
    """Write the folder, whole or not at all; return the exit code."""
    systems = named_paths("systems", args.systems, "NAME=FILE_OR_MODEL")
    target, source = Path(args.output).absolute(), args.model
    info = _check(args, systems, target)
    folder = find_model(source, fetch_config=hub_config(args.revision))
    loading = {"run_opts": {"device": args.device}}
    loading["trust_code"] = args.trust_code
    model = EnhanceModel.from_hparams(str(folder), **loading)
    signals = _signals(args, model, systems, loading, info.samplerate)
    drawn, left_out = _draw(args.figures, model, signals, info.samplerate)
    with files.replacing_folder(target) as temporary:
        for name, figure in drawn.items():
            for suffix in ("png", "pdf"):
                save_figure(figure, temporary / f"{name}.{suffix}")
        page = render_report(
            folder.name if os.path.isdir(source) else source,
            _note(args.audio, info),
            signals,
            info.samplerate,
            [temporary / f"{name}.png" for name in drawn],
            left_out,
            _tables(model, folder),
        )
        files.write_text(temporary / "report.html", page)
    for name, reason in left_out.items():
        print(f"left out: {name}: {reason}")
    print(f"{Path(args.output, 'report.html')} written")
    return 0


def _check(args, systems, target):
    """Refuse what cannot be, before weights are loaded; return the format."""
    check_plot("figure.png")
    check_device(args.device)
    files.check_output_folder(target, FILES, "an analysis", args.force)
    info = audio_info(args.audio)
    check_sample_rate(info.samplerate)
    paths = [] if args.clean is None else [args.clean]
    for name, given in systems.items():
        if name in ("", "Noisy", "Clean"):
            raise ValueError(
                f"a system is named {name!r}, which is taken; give it another "
                "name"
            )
        if os.path.isfile(given):
            paths.append(given)
        else:
            local_folder(given)
    for path in paths:
        seconds = info.frames / info.samplerate
        other = audio_info(path)
        found = other.frames / other.samplerate
        if abs(found - seconds) > TOLERANCE_SECONDS:
            raise ValueError(
                f"{path}: lasts {found:g} s, expected the {seconds:g} s of the "
                "noisy file; give the file of the same recording"
            )
    return info


def _signals(args, model, systems, loading, rate):
    """Return samples (L,) of the recording and of all systems, by name."""

    def read(path):
        return read_audio(path, 0, SECONDS * rate, rate).astype(np.float32)

    name = type(model.mods.model).__name__
    name = {"DBTransform": "DB-Transform"}.get(name, name)
    if name in systems:
        raise ValueError(
            f"a system is named {name}, as the model is; give it another name"
        )
    signals = {"Noisy": read(args.audio)}
    for system, given in systems.items():
        if os.path.isfile(given):
            signals[system] = read(given)
        else:
            other = EnhanceModel.from_hparams(given, **loading)
            signals[system] = other.enhance_array(signals["Noisy"], rate)
    signals[name] = model.enhance_array(signals["Noisy"], rate)
    if args.clean is not None:
        signals["Clean"] = read(args.clean)
    return signals


def _draw(names, model, signals, rate):
    """Return figures by name, and the reasons of those left out."""
    network, stft = model.mods.model, model.hparams.compute_stft
    start = _start_of(model, signals["Noisy"], rate)
    hop = stft.hop_length / stft.sample_rate
    draw = {
        "architecture": partial(architecture, network, stft),
        "graph": partial(band_graph, network),
        "fusion": partial(fusion_weights, network),
        "spectrograms": partial(spectrograms, signals, rate),
        "attention": partial(attention_maps, network, start, MAP_HZ, hop),
    }
    drawn, left_out = {}, {}
    for name in dict.fromkeys(names):
        try:
            drawn[name] = draw[name]()
        except MissingPart as error:
            left_out[name] = str(error)
    return drawn, left_out


def _start_of(model, noisy, rate):
    """Return the spectrum (1, F, T) of the first 4 s."""
    noisy = soxr.resample(noisy, rate, model.hparams.sample_rate)
    start = torch.from_numpy(noisy)[None].to(model.device)
    start = start[:, : MAP_SECONDS * model.hparams.sample_rate]
    with torch.inference_mode():
        return noisy_spectrum(model.hparams.compute_stft, start)


def _note(audio, info):
    """Return what the reader has to know of the recording."""
    total = info.frames / info.samplerate
    note = f"{Path(audio).name}: the first {min(SECONDS, total):.4g} s of "
    note += f"{total:.4g}, at {info.samplerate} Hz"
    if info.channels > 1:
        note += f", the mean of {info.channels} channels"
    return f"{note}. The models were given this part alone."


def _tables(model, folder):
    """Return the configuration of the model, and versions."""
    rows = [
        ("class", model.description["class"]),
        ("parameters", f"{model.description['parameters']:,}"),
        ("sample rate (Hz)", model.hparams.sample_rate),
    ]
    text = (folder / "hyperparams.yaml").read_text(encoding="utf-8")
    tree = ruamel.yaml.YAML().load(text)
    if all(isinstance(tree.get(k), dict) for k in ("model", "compute_stft")):
        rows += configuration_rows(tree)
    return {"Configuration": rows, "Versions": package_versions().items()}


def render_report(name, note, signals, sample_rate, pictures, left_out, tables):
    """Return an HTML page that needs nothing else; all text is escaped.

    ``signals`` are samples (L,) by title, ``pictures`` paths of PNGs named as
    figures, ``left_out`` reasons by figure, ``tables`` rows of two cells by
    title.
    """
    from jinja2 import Environment, StrictUndefined

    players = []
    for title, signal in signals.items():
        file, signal = io.BytesIO(), signal.clip(-1, 1)
        sf.write(file, signal, sample_rate, "PCM_16", format="WAV")
        players.append((title, _encoded(file.getvalue())))
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    return environment.from_string(TEMPLATE.read_text("utf-8")).render(
        name=name,
        note=note,
        players=players,
        pictures=[(p.stem, _encoded(p.read_bytes())) for p in pictures],
        left_out=left_out,
        tables=tables,
    )


def _encoded(data):
    return base64.b64encode(data).decode("ascii")


if __name__ == "__main__":
    start(__file__)
