"""What READMEs, the pages of docs/ and the Space say is true of the code."""

import re
import runpy

import numpy as np
import pytest
import soundfile as sf
from huggingface_hub import RepoCard

from dbtransform_lobes import __version__
from dbtransform_lobes.data.levels import mix
from tests import pages
from tests.signals import noise_like, speech_like


@pytest.mark.parametrize("page", pages.PAGES)
def test_programs_take_the_commands_of_a_page_and_its_links_lead(page):
    folder = (pages.ROOT / page).parent if "recipes" in page else pages.ROOT
    given = pages.commands(page)
    assert given or page.startswith("docs")
    for words in given:
        pages.check_command(words, folder)
    for link in re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", pages.text_of(page)):
        assert (pages.ROOT / page).parent.joinpath(link).exists(), link


def test_the_readme_runs_from_top_to_bottom(tmp_path, monkeypatch):
    clone = pages.make_clone(tmp_path)
    monkeypatch.chdir(clone)

    def make_live_stream(words):
        if words[:2] == ["dbtransform", "evaluate"]:
            exec(pages.python("docs/evidence.md"), {})

    pages.run_commands("README.md", clone, before=make_live_stream)
    exec(pages.python("README.md"), {})
    assert (clone / "enhanced.wav").is_file()
    assert (clone / "enhanced_folder/noisy.wav").is_file()
    assert (clone / "analysis/spectrograms.png").is_file()
    assert (clone / "live/a.wav").is_file()
    voicebank = clone / "recipes/Voicebank"
    assert (voicebank / "results/small/test/scores.csv").is_file()
    assert (voicebank / "enhanced.wav").is_file()


def test_install_page_lists_every_extra():
    listed = re.findall(
        r"^\| `([\w-]+)`", pages.text_of("docs/install.md"), re.M
    )
    assert pages.extras() <= set(listed)


def test_citation_is_of_this_version():
    assert f"\nversion: {__version__}\n" in pages.text_of("CITATION.cff")


def test_example_is_made_of_synthetic_signals():
    path = pages.ROOT / "dbtransform_lobes/bundled/example_noisy.flac"
    signal, rate = sf.read(path)
    speech, noise = speech_like(4.0, seed=1), noise_like(4.0, seed=1)
    _, noisy = mix(speech, noise, snr_db=5.0)
    assert rate == 16000
    np.testing.assert_allclose(signal, noisy, atol=1 / 32768)


SPACE = pages.ROOT / "recipes/space"


def test_the_space_asks_for_what_the_package_needs():
    setup = pages.text_of("setup.py")
    needed, demo = (
        re.findall('"(.+?)"', setup.split(start)[1].split("]")[0])
        for start in ("install_requires=[", '"demo": [')
    )
    comment, *lines = (SPACE / "requirements.txt").read_text().splitlines()
    assert comment[0] == "#" and lines == needed + demo
    card = RepoCard.load(SPACE / "README.md").data.to_dict()
    assert card["sdk"] == "gradio" and (SPACE / card["app_file"]).is_file()
    assert f"gradio>={card['sdk_version']}" in demo


def test_the_page_of_the_space_is_built():
    gradio = pytest.importorskip("gradio")
    demo = runpy.run_path(str(SPACE / "app.py"))["demo"]
    labels = {getattr(block, "label", None) for block in demo.blocks.values()}
    assert isinstance(demo, gradio.Blocks)
    assert {"Noisy", "Enhanced", "Strength"} <= labels
