"""Versions that are saved beside every result."""

import importlib.metadata
import platform

from dbtransform_lobes import __version__

PACKAGES = (
    "speechbrain",
    "torch",
    "torchaudio",
    "numpy",
    "scipy",
    "soundfile",
    "soxr",
    "onnxruntime",
    "pesq",
    "pystoi",
)


def package_versions():
    """Versions of this package, of Python and of what results depend on.

    Returns
    -------
    dict
        Name to version.

    Example
    -------
    >>> sorted(package_versions())[:2]
    ['dbtransform_lobes', 'numpy']
    """
    return {
        "dbtransform_lobes": __version__,
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
