"""The Hugging Face Space of the demo page."""

import re
import runpy

import pytest
from huggingface_hub import RepoCard

from tests.pages import ROOT, text_of

SPACE = ROOT / "recipes/space"


def test_its_front_matter_and_requirements_are_those_of_the_package():
    setup = text_of("setup.py")
    needed, demo = (
        re.findall('"(.+?)"', setup.split(start)[1].split("]")[0])
        for start in ("install_requires=[", '"demo": [')
    )
    comment, *lines = (SPACE / "requirements.txt").read_text().splitlines()
    assert comment[0] == "#" and lines == needed + demo
    card = RepoCard.load(SPACE / "README.md").data.to_dict()
    assert card["sdk"] == "gradio" and (SPACE / card["app_file"]).is_file()
    assert f"gradio>={card['sdk_version']}" in demo


def test_its_page_is_built():
    gradio = pytest.importorskip("gradio")
    demo = runpy.run_path(str(SPACE / "app.py"))["demo"]
    labels = {getattr(block, "label", None) for block in demo.blocks.values()}
    assert isinstance(demo, gradio.Blocks)
    assert {"Noisy", "Enhanced", "Strength"} <= labels
