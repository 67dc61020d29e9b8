from dbtransform_lobes.inference import EnhanceModel  # noqa: F401
