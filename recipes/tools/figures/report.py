"""An HTML page of figures, players and tables that needs nothing else."""

import base64
import io
from pathlib import Path

import soundfile as sf

TEMPLATE = Path(__file__).with_name("report.html")


def render_report(name, note, signals, sample_rate, pictures, left_out, tables):
    """Return the page, HTML with all audio and figures; all is escaped.

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
