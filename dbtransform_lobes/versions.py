"""Versions that are saved beside every result."""

import importlib.metadata
import platform

from dbtransform_lobes import __version__

PACKAGES = (
    "speechbrain torch torchaudio numpy scipy soundfile soxr onnxruntime pesq "
    "pystoi"
).split()


def package_versions():
    """Return versions of this package, of Python and of what results need."""
    found = {n: installed_version(n) or "not installed" for n in PACKAGES}
    python = platform.python_version()
    return {"dbtransform_lobes": __version__, "python": python, **found}


def installed_version(name):
    """Return the version of a package, None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
