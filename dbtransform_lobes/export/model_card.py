"""The README.md of a model folder, with SpeechBrain's front matter."""

from pathlib import Path

import ruamel.yaml
from huggingface_hub import EvalResult, ModelCardData
from hyperpyyaml import load_hyperpyyaml, resolve_references

from dbtransform_lobes.data.files import read_record, read_table
from dbtransform_lobes.evaluation.compare import read_means
from dbtransform_lobes.evaluation.tables import markdown_table
from dbtransform_lobes.versions import package_versions

TAGS = ("speech-enhancement", "audio-to-audio", "speechbrain", "dbtransform")
SOURCE_KEYS = ("source", "licence", "files", "hours")
TITLE = """\
---
{front_matter}
---

# {name}

Enhances noisy speech at {sample_rate} Hz. Written by `dbtransform export`.
"""
USAGE = """\
## Use

```python
from dbtransform_lobes.inference import EnhanceModel

model = EnhanceModel.from_hparams("MODEL_FOLDER")
model.enhance_file("noisy.wav", "enhanced.wav")
```

or `dbtransform enhance noisy.wav enhanced.wav --model MODEL_FOLDER`. Other
sample rates are resampled and back; what lies above {top} Hz is not enhanced
but scaled as the top of the band below (or dropped: `--high-band drop`).
"""


def model_card(run_folder, hyperparams, meta, text="", language="en"):
    """Return, as Markdown, what a model is, learned from and scores.

    Files that the ``run_folder`` leads to may be missing. ``hyperparams`` is
    the YAML of the model folder, ``meta`` has the scores and the time of the
    checkpoint, ``text`` is inserted before the training data.
    """
    tree = ruamel.yaml.YAML().load(hyperparams)
    with open(Path(run_folder) / "hyperparams.yaml", encoding="utf-8") as file:
        run = ruamel.yaml.YAML().load(resolve_references(file))
    name = tree["model"].tag.value.rpartition(".")[2]
    rate = tree["sample_rate"]
    valid = {k: v for k, v in meta.items() if isinstance(v, float)}
    saved = valid.pop("unixtime", 0)
    tests = _test_scores(run_folder, saved)
    count = run.get("valid_files") or "all"
    valid = {"validation": (f"{count} files", valid)}
    front_matter = _front_matter(name, language, tests or valid)
    model = load_hyperpyyaml(hyperparams)["model"]
    count = sum(parameter.numel() for parameter in model.parameters())
    rows = [("parameters", f"{count:,}"), *configuration_rows(tree)]
    versions = (f"{name} {v}" for name, v in package_versions().items())
    parts = (
        TITLE.format(front_matter=front_matter, name=name, sample_rate=rate),
        USAGE.format(top=rate // 2),
        text,
        _data(run),
        _scores({**valid, **tests}),
        "## Configuration\n\n" + markdown_table(("key", "value"), rows),
        f"## Versions\n\nExported with {', '.join(versions)}.",
    )
    return "\n".join(part.strip() + "\n" for part in parts if part.strip())


def _test_scores(run_folder, saved):
    """Return the number of files and the mean scores of test sets by name.

    Scores from before the checkpoint was saved are those of another one.
    """
    scores = {}
    for path in sorted(Path(run_folder).glob("test*/scores.json")):
        count, means = read_means(path)
        if count and path.stat().st_mtime >= saved:
            scores[path.parent.name] = f"{count} files scored", means
    return scores


def _front_matter(name, language, scores):
    """Return what the hub reads, with the scores as its model-index."""
    task = {"task_type": "audio-to-audio", "task_name": "Speech enhancement"}
    results = [
        EvalResult(
            **task,
            dataset_name=f"{kind} mixtures, see the card",
            dataset_type="custom",
            dataset_split=kind,
            metric_type=metric,
            metric_value=round(value, 3),
        )
        for kind, (_, means) in scores.items()
        for metric, value in means.items()
    ]
    data = ModelCardData(
        language=language,
        license="apache-2.0",
        library_name="speechbrain",
        pipeline_tag="audio-to-audio",
        tags=list(TAGS),
        metrics=list({each.metric_type: None for each in results}) or None,
        model_name=name,
        eval_results=results or None,
    )
    return data.to_yaml()


def configuration_rows(tree):
    """List what a hyperparams.yaml, not built, says of the model."""
    stft, lengths = tree["compute_stft"], ("win_length", "hop_length")
    rows = [(f"{key} (ms)", stft[key]) for key in lengths if key in stft]
    if window := _name_of(stft.get("window_fn")):
        rows.append(("window_fn", window))
    return rows + list(_flat(tree["model"]))


def _flat(tree, above=""):
    """Yield the pairs of a nested mapping, as ("graph.form", "learned")."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", _name_of(value) or value


def _name_of(value):
    """Return the object that a ``!name:`` without arguments names."""
    tag = getattr(getattr(value, "tag", None), "value", None) or ""
    return tag.removeprefix("!name:")


def _data(run):
    """Return what is known of the training data, without the paths of it."""
    record = read_record(Path(str(run.get("data_folder"))) / "dataset.json")
    splits = dict(record.get("splits", {}))
    if run.get("recordings"):
        splits.pop("train", None)  # these pairs were not trained on
        parts = [
            "Training mixtures were made on the fly from recordings, "
            f"{run.get('steps_per_epoch')} batches of {run.get('batch_size')} "
            f"crops of {run.get('crop_seconds')} s in each of "
            f"{run.get('number_of_epochs')} epochs.",
            _recordings(run["recordings"]),
        ]
    elif record:
        entries = record.get("sources", [])
        rows = ([each.get(key, "?") for key in SOURCE_KEYS] for each in entries)
        parts = ["Mixed from:", _sources_table(rows)]
    else:
        parts = ["The data folder has no `dataset.json` to name its sources."]
    parts += [
        f"Mixtures of `{split}`: {size['files']} files, {size['hours']} hours."
        for split, size in splits.items()
    ]
    return "\n\n".join(["## Training data", *filter(None, parts)])


def _recordings(given):
    """Return a table of the sources in a manifest or a list of them."""
    seconds, given = {}, given if isinstance(given, list) else [given]
    paths = [p for g in given for p in (Path(g), Path(g) / "manifest.csv")]
    manifests = [path for path in paths if path.is_file()]
    rows = (row for each in manifests for row in read_table(each, ["split"]))
    for row in rows:
        if row["split"] == "train":
            key = row.get("source") or "?", row.get("licence") or "?"
            seconds.setdefault(key, []).append(float(row.get("seconds") or 0))
    return _sources_table(
        (*key, len(each), round(sum(each) / 3600, 4) or "?")
        for key, each in sorted(seconds.items())
    )


def _sources_table(rows):
    rows = list(rows)
    return markdown_table(SOURCE_KEYS, rows).rstrip() if rows else ""


def _scores(scores):
    tables = [
        f"{name.capitalize()} ({count}):\n\n"
        + markdown_table(list(means), [map("{:.3f}".format, means.values())])
        for name, (count, means) in scores.items()
        if means
    ]
    return "\n".join(["## Scores\n", *tables]) if tables else ""
