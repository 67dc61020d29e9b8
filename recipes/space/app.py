"""The demo page as a Hugging Face Space, which runs this file."""

from dbtransform_lobes.demo import build_app, launch
from dbtransform_lobes.inference import EnhanceModel

MODEL = "db_transform_small"  # or "owner/name" of the hub

demo = build_app(EnhanceModel.from_hparams(MODEL))
if __name__ == "__main__":
    launch(demo, host="0.0.0.0")
