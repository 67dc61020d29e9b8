"""An HTML page of figures, players and tables that needs nothing else."""

import base64
import io

import soundfile as sf

# The policy forbids the browser to load anything that is not in the page.
TEMPLATE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; media-src data:;
 style-src 'unsafe-inline'">
<title>Analysis of {{ name }}</title>
<style>
body { font-family: system-ui, sans-serif; line-height: 1.4;
 max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
img { max-width: 100%; }
figure { margin: 1.5rem 0; }
figcaption { color: #333; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { text-align: left; vertical-align: top; padding: 0.2rem 1rem 0.2rem 0;
 border-bottom: 1px solid #ccc; overflow-wrap: anywhere; }
audio { display: block; width: 24rem; max-width: 100%; }
</style>
</head>
<body>
<h1>Analysis of {{ name }}</h1>
{% for note in notes %}<p>{{ note }}</p>
{% endfor %}
<h2>Listen</h2>
<table>
{% for title, data in players %}<tr><th scope="row">{{ title }}</th>
<td><audio controls aria-label="{{ title }}" src="{{ data }}"></audio></td></tr>
{% endfor %}</table>
{% for title, caption, data in pictures %}
<h2>{{ title }}</h2>
<figure><img alt="{{ title }}: {{ caption }}" src="{{ data }}">
<figcaption>{{ caption }}</figcaption></figure>
{% endfor %}
{% if left_out %}<h2>Left out</h2>
<ul>
{% for title, reason in left_out %}<li>{{ title }}: {{ reason }}.</li>
{% endfor %}</ul>
{% endif %}
{% for title, rows in tables %}
<h2>{{ title }}</h2>
<table>
{% for key, value in rows %}<tr><th scope="row">{{ key }}</th>
<td>{{ value }}</td></tr>
{% endfor %}</table>
{% endfor %}
</body>
</html>
"""


def render_report(
    name, notes, signals, sample_rate, pictures, left_out, tables
):
    """Return the page, HTML with all audio and figures; all is escaped.

    ``signals`` are samples (L,) by title, ``pictures`` title, caption and PNG,
    ``tables`` titles and rows of two cells.
    """
    from jinja2 import Environment, StrictUndefined

    players = []
    for title, signal in signals.items():
        file, signal = io.BytesIO(), signal.clip(-1, 1)
        sf.write(file, signal, sample_rate, "PCM_16", format="WAV")
        players.append((title, _data_uri("audio/wav", file.getvalue())))
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    return environment.from_string(TEMPLATE).render(
        name=name,
        notes=notes,
        players=players,
        pictures=[(*p, _data_uri("image/png", data)) for *p, data in pictures],
        left_out=left_out,
        tables=tables,
    )


def _data_uri(kind, data):
    """Return an address that holds bytes of a media type."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
