"""Enhancing with trained weights; imported only when asked for."""

__all__ = ["EnhanceModel", "StreamingEnhancer"]


def __getattr__(name):
    """Import a class, and with it torch, on first use."""
    if name == "EnhanceModel":
        from dbtransform_lobes.inference.enhance_model import EnhanceModel

        return EnhanceModel
    if name == "StreamingEnhancer":
        from dbtransform_lobes.inference.streaming import StreamingEnhancer

        return StreamingEnhancer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
