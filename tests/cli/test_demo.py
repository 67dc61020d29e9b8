"""The demo page, the whole of it in a browser."""

import importlib.util
import os
import shutil
import signal
import sys

import numpy as np
import pytest
import soundfile as sf

from dbtransform_lobes.inference import EnhanceModel
from tests.hub_stand_in import free_port, served
from tests.signals import noise_like, speech_like

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def test_mistakes(monkeypatch, run):
    told = run("demo", "--port", 0, code=1).err
    assert "--port is 0, expected 1 to 65535" in told
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install 'dbtransform[demo]'" in run("demo", code=1).err


@pytest.fixture(scope="module")
def address(model_folder, tmp_path_factory):
    """The page, served by the command; Ctrl-C must end it without error."""
    pytest.importorskip("gradio")
    pytest.importorskip("playwright")
    if CHROMIUM is None:
        pytest.skip("chromium, a package of the system, is not installed")
    cache, port = tmp_path_factory.mktemp("cache"), free_port()
    command = [sys.executable, "-m", "dbtransform_lobes.cli.main", "demo"]
    command += ["--model", str(model_folder), "--port", str(port)]
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(cache)}
    with served(command, port, cache, env=environment) as process:
        yield f"http://127.0.0.1:{port}"
        process.send_signal(signal.SIGINT)
        process.wait(30)  # by 0, else ``served`` fails


@pytest.fixture
def page(address):
    """The page in headless Chromium with a microphone that beeps."""
    from playwright.sync_api import sync_playwright

    fake = "--use-fake-{}-for-media-stream"
    arguments = ["--no-sandbox", fake.format("ui"), fake.format("device")]
    with sync_playwright() as playwright:
        chromium = playwright.chromium
        browser = chromium.launch(executable_path=CHROMIUM, args=arguments)
        page = browser.new_page()
        page.requested = []
        page.on("request", lambda request: page.requested.append(request.url))
        page.goto(address)
        page.wait_for_selector("#graph img")
        yield page
        browser.close()
    here = (address, "data:", "blob:")
    assert page.requested
    assert all(url.startswith(here) for url in page.requested)


def enhance(page):
    """Press the button; return the result, another than before."""
    link = page.locator("#enhanced a[download]")
    before = link.get_attribute("href") if link.count() else None
    page.get_by_role("button", name="Enhance", exact=True).click()
    page.wait_for_selector("#spectrograms img")
    while not link.count() or link.get_attribute("href") == before:
        page.wait_for_timeout(100)
    with page.expect_download() as download:
        page.locator("#enhanced [aria-label=Download]").click()
    return download.value


def test_upload_run_play_download(page, model_folder, tmp_path):
    noisy = speech_like(1.0) + noise_like(1.0)
    path = tmp_path / "talk.flac"
    sf.write(path, np.stack((noisy, 0.5 * noisy), 1), 22050, "PCM_24")
    page.set_input_files("#noisy input[type=file]", path)
    page.locator("#noisy [aria-label=Play]").wait_for()
    download = enhance(page)
    assert download.suggested_filename == "talk_enhanced.flac"
    model = EnhanceModel.from_hparams(model_folder, run_opts={"device": "cpu"})
    expected = model.enhance_file(path).numpy()
    written, rate = sf.read(download.path())
    assert rate == 22050 and sf.info(download.path()).subtype == "PCM_24"
    np.testing.assert_allclose(written, expected, atol=1e-5)
    assert np.abs(written - sf.read(path)[0]).max() > 1e-2
    for player in ("#noisy", "#enhanced"):
        page.locator(f"{player} [aria-label=Play]").click()
        # it plays, and has ended when it can be played again
        page.locator(f"{player} [aria-label=Pause]").wait_for()
        page.locator(f"{player} [aria-label=Play]").wait_for()
    page.locator("input[type=number]").fill("0")
    page.keyboard.press("Tab")
    untouched = sf.read(enhance(page).path())[0]
    np.testing.assert_allclose(untouched, sf.read(path)[0], atol=1e-6)


def test_example_recording_and_errors(page, tmp_path):
    button = page.get_by_role("button", name="Enhance", exact=True)
    button.click()
    page.get_by_text("Upload or record a signal first.").wait_for()
    page.get_by_text("example_noisy.flac").click()
    page.locator("#noisy [aria-label=Play]").wait_for()
    download = enhance(page)
    assert download.suggested_filename == "example_noisy_enhanced.flac"
    assert sf.info(download.path()).frames == 4 * 16000
    # another input: the result of the last one is gone
    page.locator("#noisy [aria-label=Clear]").click()
    page.locator("#spectrograms img").wait_for(state="detached")
    page.locator("#noisy [aria-label='Record audio']").click()
    recorder = page.locator("#noisy")
    recorder.get_by_role("button", name="Record", exact=True).click()
    page.wait_for_timeout(1500)
    recorder.get_by_role("button", name="Stop", exact=True).click()
    page.locator("#noisy [aria-label=Play]").wait_for()
    assert 0.5 < sf.info(enhance(page).path()).duration < 5
    page.locator("#noisy [aria-label=Clear]").click()
    nan = tmp_path / "nan.wav"
    sf.write(nan, [0.1, np.nan], 16000, "FLOAT")
    page.locator("#noisy [aria-label='Upload file']").click()
    page.set_input_files("#noisy input[type=file]", nan)
    page.locator("#noisy [aria-label=Clear]").wait_for()
    button.click()
    shown = page.get_by_text("nan.wav: samples are not finite")
    shown.wait_for()
    assert str(tmp_path) not in shown.inner_text()
