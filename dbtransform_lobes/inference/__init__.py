"""Enhancing with trained weights; imported only when asked for."""

__all__ = ["EnhanceModel"]


def __getattr__(name):
    """Import ``EnhanceModel``, and with it torch, on first use."""
    if name == "EnhanceModel":
        from dbtransform_lobes.inference.enhance_model import EnhanceModel

        return EnhanceModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
