"""The demo page: a signal in, players, spectrograms and the band graph out.

Nothing is loaded from elsewhere and nothing is reported: system fonts, no
analytics, no public link.
"""

import os
import tempfile
from pathlib import Path

from dbtransform_lobes.analysis.graph import MissingPart, band_graph
from dbtransform_lobes.analysis.spectrograms import spectrograms
from dbtransform_lobes.data.audio import AUDIO_SUFFIXES, audio_info, read_audio
from dbtransform_lobes.inference.batch import enhance_pair
from dbtransform_lobes.inference.bundled import BUNDLED

EXAMPLE = BUNDLED / "example_noisy.flac"
MAX_FILE_SIZE = "200mb"
SHOWN_SECONDS = 30  # of the spectrograms
# Uploads and results are removed after an hour.
CACHE_SECONDS = 3600
INTRODUCTION = """\
# DB-Transform

Upload or record noisy speech, or take the example, and enhance it. Sample
rate, channels, length and level are kept. The signal does not leave the
machine that runs this page.
"""
ABOUT_GRAPH = """\
## What the model has learned

Which bands look at each other: every band has chosen its neighbours in
training. Bars are the bands, arcs the edges of the graph; coloured ones join
bands whose frequencies are near a simple ratio, as the harmonics of a voice
are. Last the fixed graph, which joins bands by that alone.
"""


def build_app(model):
    """Make the page of an EnhanceModel, a ``gradio.Blocks``."""
    # Read when Gradio is imported.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio as gr

    with gr.Blocks(
        title="DB-Transform",
        analytics_enabled=False,
        delete_cache=(CACHE_SECONDS, CACHE_SECONDS),
    ) as app:
        gr.Markdown(INTRODUCTION)
        with gr.Row():
            noisy = gr.Audio(
                label="Noisy",
                type="filepath",
                sources=["upload", "microphone"],
                buttons=["download"],  # "share" would send it away
                elem_id="noisy",
            )
            enhanced = gr.Audio(
                label="Enhanced",
                type="filepath",
                interactive=False,
                buttons=["download"],
                elem_id="enhanced",
            )
        if EXAMPLE.is_file():
            gr.Examples([[str(EXAMPLE)]], [noisy], cache_examples=False)
        about = "0 leaves the noisy signal, 1 is the whole enhancement"
        steps = {"value": 1, "step": 0.05}
        strength = gr.Slider(0, 1, **steps, label="Strength", info=about)
        button = gr.Button("Enhance", variant="primary")
        picture = gr.Plot(show_label=False, elem_id="spectrograms")
        try:
            figure = band_graph(model.mods.model)
            gr.Markdown(ABOUT_GRAPH)
            gr.Plot(figure, show_label=False, elem_id="graph")
        except MissingPart:
            pass
        button.click(
            lambda path, share: _enhance(model, path, share, enhanced),
            [noisy, strength],
            [enhanced, picture],
            api_name="enhance",
        )
        # What is shown shall be that of this input.
        noisy.change(
            lambda: (None, None), None, [enhanced, picture], api_name=False
        )
    return app


def launch(app, host="127.0.0.1", port=7860):
    """Serve the page until Ctrl-C; OSError if the port is taken."""
    import gradio as gr

    app.launch(
        server_name=host,
        server_port=port,
        share=False,
        ssr_mode=False,
        quiet=True,
        max_file_size=MAX_FILE_SIZE,
        footer_links=[],
        theme=gr.themes.Default(
            font=["system-ui", "sans-serif"], font_mono=["monospace"]
        ),
    )


def _enhance(model, path, strength, player):
    """Path of the result, in the cache of its player, and the figure."""
    import gradio as gr

    if path is None:
        raise gr.Error("Upload or record a signal first.")
    path = Path(path)
    known = path.suffix.lower() in AUDIO_SUFFIXES
    name = f"{path.stem}_enhanced{path.suffix if known else '.wav'}"
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, name)
        options = {"strength": strength}
        _, reason, notes = enhance_pair(model, (path, output), options)
        # Where the file lies on this machine is nobody's business.
        notes = [note.replace(str(path), path.name) for note in notes]
        if reason is not None:
            raise gr.Error(reason.replace(str(path), path.name))
        for note in notes:
            gr.Warning(note)
        rate = audio_info(path).samplerate
        shown = {"frames": SHOWN_SECONDS * rate, "sample_rate": rate}
        signals = {
            name: read_audio(file, **shown)  # channels averaged
            for name, file in (("Noisy", path), ("Enhanced", output))
        }
        figure = spectrograms(signals, rate)
        cached = gr.processing_utils.save_file_to_cache(
            output, player.GRADIO_CACHE
        )
    return cached, figure
