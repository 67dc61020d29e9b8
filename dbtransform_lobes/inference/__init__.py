"""Enhancing with trained weights; imported only when asked for.

::

  engines          enhance_model (PyTorch), onnx_model (ONNX Runtime);
                   enhancer and streaming, which both have; backend chooses
  models           bundled (by name), source (of the hub), restricted_yaml and
                   weights (read without running code)
  signals          signal_path: blocks, segments, high_band, strength
  files and pipes  audio_file: mpeg, tags; many files: corpus, batch; pcm
"""

import importlib

_MODULES = {
    "EnhanceModel": "enhance_model",
    "OnnxEnhancer": "onnx_model",
    "StreamingEnhancer": "streaming",
}
__all__ = list(_MODULES)


def __getattr__(name):
    """Import a class, and what it needs, on first use."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    return getattr(module, name)
