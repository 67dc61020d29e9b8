"""HyperPyYAML without the power to run code.

Such a file can name any Python object, call it and read any file while it is
loaded. A model folder needs little of that: every node of the file is compared
with a list before anything is built.
"""

import pydoc
import re
from contextlib import contextmanager

import ruamel.yaml
from hyperpyyaml import load_hyperpyyaml, resolve_references
from ruamel.yaml.error import YAMLError

NAMES = (
    "speechbrain.processing.features.STFT",
    "speechbrain.processing.features.ISTFT",
    "speechbrain.utils.parameter_transfer.Pretrainer",
    "torch.hann_window",
    "torch.hamming_window",
    "torch.blackman_window",
)
LAYER = re.compile(r"torch\.nn\.[A-Z]\w*")
LOBE = re.compile(r"(dbtransform_lobes\.models\.[a-z]\w*)\.[A-Za-z]\w*")
PLAIN_TAGS = tuple(
    f"tag:yaml.org,2002:{name}"
    for name in ("map", "seq", "str", "int", "float", "bool", "null", "merge")
)


def load_restricted(
    path, overrides=None, overrides_must_match=True, trust_code=False
):
    """Load a HyperPyYAML file that builds nothing but an enhancer.

    ``overrides`` are changes to it, of keys of it if ``overrides_must_match``;
    ``trust_code`` loads it without restrictions.
    """
    try:
        with open_yaml(path) as file:
            if trust_code:
                return load_hyperpyyaml(file, overrides, overrides_must_match)
            text = file.read()
            _check(path, text, ("!ref", "!copy"))
            stream = resolve_references(text, overrides, overrides_must_match)
            _check(path, stream.getvalue())
            return load_hyperpyyaml(stream)
    except KeyError as error:
        raise ValueError(
            f"{path}: {error.args[0]}; correct the overrides, or give "
            "overrides_must_match=False"
        ) from error
    except (TypeError, AttributeError, ImportError, MemoryError) as error:
        # what objects raise that are given wrong arguments
        raise ValueError(
            f"{path}: what it describes cannot be built ({error}); export or "
            "download it again"
        ) from error


@contextmanager
def open_yaml(path):
    """Open a HyperPyYAML file; what cannot be parsed of it is one line."""
    try:
        with open(path, encoding="utf-8") as file:
            yield file
    except (YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: expected HyperPyYAML ({reason})") from error


def _check(path, text, more_tags=()):
    """Refuse a text with a value that is not on the list."""
    # the loader that HyperPyYAML uses: it must see the same values
    loader, events = ruamel.yaml.Loader(text), []
    while loader.check_event():
        events.append(loader.get_event())
    root = events[min(2, len(events) - 1)]  # after those of text and document
    if not isinstance(root, ruamel.yaml.MappingStartEvent):
        raise ValueError(f"{path}: expected HyperPyYAML with keys and values")
    refused = set()
    for event in events:
        tag = getattr(event, "tag", None)
        if _is_hidden_code(event, tag):
            refused.add(str(event.value))
        elif tag not in (None, "!", *PLAIN_TAGS, *more_tags, "!tuple"):
            refused |= set() if _is_allowed(tag) else {tag}
    if refused:
        raise ValueError(
            f"{path}: asks for {', '.join(sorted(refused))}, expected nothing "
            "but models of this package, layers of torch and SpeechBrain's "
            "STFT, ISTFT and Pretrainer: it could run any code; if you trust "
            "its author, load it with trust_code=True (--trust-code)"
        )


def _is_hidden_code(event, tag):
    """Whether a scalar is a tuple with tags: HyperPyYAML parses it again."""
    return (
        isinstance(event, ruamel.yaml.ScalarEvent)
        and (event.value.startswith("(") or tag == "!tuple")
        and "!" in event.value
    )


def _is_allowed(tag):
    kind, _, name = tag.removeprefix("!").partition(":")
    if kind not in ("new", "name"):
        return False
    if LAYER.fullmatch(name):
        return isinstance(pydoc.locate(name), type)
    if lobe := LOBE.fullmatch(name):
        # What the module defines itself, not what it imports.
        return getattr(pydoc.locate(name), "__module__", None) == lobe[1]
    return name in NAMES
