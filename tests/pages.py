"""What stands on the pages of the documentation, to be tried by the tests."""

import os
import re
import shlex
import shutil
from pathlib import Path

import command
from dbtransform_lobes.cli.main import build_parser, main
from tests.signals import noise_like, speech_like, write_wav
from tests.training_runs import ROOT, run_script, scored_here

PAGES = [
    "README.md",
    *(f"recipes/{name}/README.md" for name in ("Voicebank", "DNS", "TIMIT")),
    *sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md")),
]
RENDEZVOUS = ("--rdzv_id", "--rdzv_backend", "--rdzv_endpoint")
LAUNCH = {"--standalone", "--nnodes", "--nproc_per_node", *RENDEZVOUS}
OTHER_PROGRAMS = (
    "cd hf sox arecord aplay pytest sphinx-build for done export".split()
)
OWN_SCRIPTS = ("my_corpus_prepare.py",)  # stand on a page themselves
# With these takes seconds what a page makes or trains in hours.
TINY_DATA = "--hours=0.002 --valid_hours=0.001 --test_hours=0.001".split()
TINY_TRAINING = (
    "--device=cpu --noprogressbar --num_workers=0 --number_of_epochs=1 "
    "--steps_per_epoch=2 --batch_size=2 --crop_seconds=0.5 --valid_files=1"
).split()


def text_of(page):
    """Return a page with its continued lines joined."""
    return (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")


def commands(page):
    """Return the words of each command of the indented lines of a page."""
    text = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.M | re.S)
    lines = re.findall(r"^    (\S.*)$", text, re.M)
    lines = [re.sub(r" [<>] \S+", "", line) for line in lines]
    parts = [part for line in lines for part in re.split(r"&&|\||;", line)]
    parts = [re.sub(r"^\s*do\b", "", part) for part in parts]
    return [shlex.split(part) for part in parts if part.strip()]


def files(page):
    """Map the path above a fenced block, in backticks, to the block."""
    found = re.findall(
        r"^`([^`\n]+)`:\n\n```\w+\n(.*?)^```$", text_of(page), re.M | re.S
    )
    return dict(found)


def python(page):
    """Return the fenced Python that is no file, as one program."""
    blocks = re.findall(r"(?<!`:\n\n)```python\n(.*?)```", text_of(page), re.S)
    return "".join(blocks)


def make_clone(folder):
    """Copy recipes and YAML; add data of the names that the pages use."""
    for name in ("recipes", "hparams"):
        ignored = shutil.ignore_patterns("results", "__pycache__")
        shutil.copytree(ROOT / name, folder / name, True, ignored)
    (folder / "dbtransform_lobes").symlink_to(ROOT / "dbtransform_lobes")
    for number, split in enumerate(("train", "valid", "test")):
        clean, noise = speech_like(1.0, number), noise_like(1.0, number)
        for kind, signal in (("clean", clean), ("noisy", clean + noise)):
            write_wav(folder / f"MY_CORPUS/{split}/{kind}/a.wav", signal)
    rows = ["path,kind,speaker,split"]
    for number, split in enumerate(("train", "valid", "test") * 4):
        speech = f"speech/{split}/{number}/a.wav"
        noise = f"noise/{split}/{number}.wav"
        write_wav(folder / "DATA" / speech, speech_like(1.5, number))
        write_wav(folder / "DATA" / noise, noise_like(1.5, number))
        rows.append(f"{speech},speech,{number},{split}")
        rows.append(f"{noise},noise,{number},{split}")
    (folder / "DATA/manifest.csv").write_text("\n".join(rows))
    (folder / "DATA/test_mixtures.csv").write_text(
        "id,speech,noise,noise_offset_s,snr_db\n"
        "a,speech/test/2/a.wav,noise/test/2.wav,0.1,5\n"
    )
    (folder / "RECORDINGS").symlink_to("DATA")
    for place in ("", "recipes/Voicebank", "noisy_folder"):
        noisy = speech_like(0.5) + noise_like(0.5)
        write_wav(folder / place / "noisy.wav", noisy)
    return folder


def run_commands(page, clone, before=None):
    """Run the commands of a page in a clone, one after the other.

    Words such as DIR stand for folders of the clone; data sets and trainings
    are cut short. ``before`` is called with the words of each command.
    """
    for words in commands(page):
        words = [
            re.sub(r"\b(DIR|DATA|RECORDINGS|MY_CORPUS)\b", rf"{clone}/\1", word)
            for word in words
        ]
        if before is not None:
            before(words)
        program, *arguments = words
        if program == "cd":
            os.chdir(arguments[0])
        elif program == "dbtransform":
            tiny = TINY_DATA if "--hours" in arguments else []
            assert main([*arguments, *tiny]) == 0, words
        elif program == "python" and "tools/" in arguments[0]:
            name = Path(arguments[0]).stem
            assert command.run_tool(name, arguments[1:]) == 0, words
        elif program == "python":
            given = [flag.split("=")[0] for flag in arguments]
            tiny = [
                flag
                for flag in TINY_TRAINING
                if given[0] == "train.py" and flag.split("=")[0] not in given
            ]
            script = Path(arguments[0]).absolute()
            with scored_here():
                run_script([*arguments[1:], *tiny], script)


def check_command(words, folder):
    """Assert that what a command names is there and takes it.

    ``folder`` is where its relative paths start.
    """
    program, *arguments = words
    if program == "dbtransform":
        assert build_parser().parse_args(arguments).command == arguments[0]
    elif program in ("python", "torchrun"):
        start = next(i for i, c in enumerate(words) if c.endswith(".py"))
        launch = {flag.split("=")[0] for flag in words[1:start]}
        assert launch <= (LAUNCH if program == "torchrun" else set())
        script, *arguments = words[start:]
        if Path(script).name == "train.py":
            check_training(folder, script, *arguments)
        elif Path(script).name not in OWN_SCRIPTS:
            assert (folder / script).is_file()
            command.build_parser(Path(script).stem).parse_args(arguments)
    elif program == "pip":
        asked = {e for c in arguments for e in re.findall(r"[\w-]+(?=[],])", c)}
        assert asked <= extras()
    else:
        assert program in OTHER_PROGRAMS, words


def check_training(folder, script, hparams, *flags):
    """Assert that recipe and YAML are there and have the keys of the flags."""
    if folder == ROOT:  # the page went there by cd
        folder = ROOT / "recipes/Voicebank"
    assert (folder / script).is_file()
    keys = (folder / hparams).read_text(encoding="utf-8")
    for flag in flags:
        name = flag.removeprefix("--").split("=")[0]
        assert re.search(rf"^{name}:", keys, flags=re.M), flag


def extras():
    """Return the names of the extras of setup.py."""
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    listed = setup.split("extras_require={")[1].split("entry_points")[0]
    return set(re.findall(r'^        "(\S+)": ', listed, flags=re.M))
