"""What SpeechBrain's foreign_class makes of this folder."""

try:
    from dbtransform_lobes.inference import EnhanceModel
except ModuleNotFoundError as error:
    raise ImportError(
        f"{error}; the model needs its package: pip install dbtransform"
    ) from error

__all__ = ["EnhanceModel"]
