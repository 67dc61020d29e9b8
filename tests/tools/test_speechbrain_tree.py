"""In SpeechBrain's source tree the project passes SpeechBrain's checks."""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from functools import partial
from pathlib import Path
from subprocess import PIPE, STDOUT

import pytest

from command import run_tool
from speechbrain_tree import LOBES, ROOT, TASKS, TESTS
from tests.signals import rows_of

TREE = os.environ.get("SPEECHBRAIN_TREE")
needs_tree = pytest.mark.skipif(
    not TREE, reason="SPEECHBRAIN_TREE names no folder of its sources"
)
# What it requires itself.
OF_SPEECHBRAIN = set(
    "huggingface_hub hyperpyyaml numpy scipy soundfile speechbrain torch "
    "torchaudio tqdm".split()
)
SCRIPTS = [f"recipes/{c}/{t}/DBTransform/train.py" for c, t in TASKS.items()]


def without_docstring(path):
    """Return what SpeechBrain's check finds undocumented in a file.

    It takes no first line that has "..." in it.
    """
    return [
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        or (isinstance(node, ast.FunctionDef) and node.name[0] != "_")
        if "..." in (ast.get_docstring(node) or "...").splitlines()[0]
    ]


def passes(*command, **options):
    """Run a command, which succeeds; return what it wrote."""
    done = subprocess.run(
        command, stdout=PIPE, stderr=STDOUT, text=True, **options
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_files_rows_and_imports_of_a_stand_in(tmp_path, run, monkeypatch):
    told = run("speechbrain_tree", tmp_path, code=1).err
    assert "is not a source tree of SpeechBrain" in told
    (tmp_path / "speechbrain/lobes/models").mkdir(parents=True)
    with monkeypatch.context() as without:
        without.setattr(importlib.util, "find_spec", lambda name: None)
        told = run("speechbrain_tree", tmp_path, code=1).err
        assert "pip install ruff" in told and not (tmp_path / "tests").exists()
    (tmp_path / "tests/recipes").mkdir(parents=True)
    (tmp_path / ".dict-speechbrain.txt").write_text("vie\n")
    # SpeechBrain takes no newer syntax than that of this version.
    (tmp_path / "ruff.toml").write_text('target-version = "py38"')
    for corpus in TASKS:
        name = f"tests/recipes/{corpus}.csv"
        columns = (ROOT / name).read_text().splitlines()[0] + ",test_download"
        other = re.sub("[^,]+", "other", columns)
        (tmp_path / name).write_text(f"{columns}\n{other}\n")
    for _ in range(2):  # the second time changes nothing
        run("speechbrain_tree", tmp_path)
    for corpus, script in zip(TASKS, SCRIPTS, strict=True):
        first, ours = rows_of(tmp_path / f"tests/recipes/{corpus}.csv")
        assert set(first.values()) == {"other"}
        assert ours["Script_file"] == script and ours["test_download"] == "None"
        assert (tmp_path / script).is_file()
        assert (tmp_path / ours["Hparam_file"]).is_file()
    assert (tmp_path / TESTS / "models/test_graph.py").is_file()
    text = (tmp_path / LOBES / "models/db_transform.py").read_text()
    assert "\nAuthors\n * DB-Transform" in text
    imported = set()
    for path in tmp_path.rglob("*.*"):
        if path.suffix in (".py", ".yaml"):
            text = path.read_text()
            assert not re.search("dbtransform_lobes[./ ]", text)
        if path.suffix == ".py" and LOBES in str(path):
            assert not without_docstring(path)
            found = re.findall(r"^(?:from|import) (\w+)", text, re.M)
            imported |= set(found) - sys.stdlib_module_names
    required = (tmp_path / SCRIPTS[0]).with_name("extra_requirements.txt")
    listed = re.findall(r"^\w+", required.read_text(), re.M)
    assert imported - OF_SPEECHBRAIN <= set(listed)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of SpeechBrain's sources with the project in it."""
    tree = tmp_path_factory.mktemp("sources") / "speechbrain"
    ignored = shutil.ignore_patterns(".git")
    shutil.copytree(TREE, tree, symlinks=True, ignore=ignored)
    assert run_tool("speechbrain_tree", [str(tree)]) == 0
    return tree


@pytest.fixture(scope="module")
def python(tree, tmp_path_factory):
    """A function that runs Python with the SpeechBrain of the tree.

    Its runner of recipes sets PYTHONPATH, so the tree is in the site.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = folder / "lib" / version / "site-packages" / "tree.pth"
    site.write_text(f"{tree}\n{sysconfig.get_path('purelib')}\n")
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(tree)}
    return partial(passes, folder / "bin/python", cwd=tree, env=environment)


@needs_tree
@pytest.mark.parametrize(
    "tests", [["tests/consistency"], ["--doctest-modules", LOBES], [TESTS]]
)
def test_pytest_of_the_tree(tests, python):
    assert " passed" in python("-m", "pytest", "-q", *tests)


@needs_tree
@pytest.mark.parametrize("check", ["load_yaml_test", "run_recipe_tests"])
def test_recipes_of_the_tree(check, python):
    chosen = f"filters_fields=['Script_file'], filters=[{SCRIPTS}]"
    python(
        "-c",
        f"from tests.utils.recipe_tests import {check} as check\n"
        f"assert check({chosen})",
    )


@needs_tree
@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("ruff", ["check"]),
        ("ruff", ["format", "--check"]),
        ("yamllint", ["--no-warnings"]),
        ("codespell_lib", ["--ignore-words=.dict-speechbrain.txt"]),
    ],
)
def test_linters_of_the_tree(module, arguments, tree):
    pytest.importorskip(module)
    folders = [LOBES, TESTS, *(str(Path(s).parent) for s in SCRIPTS)]
    command = sys.executable, "-m", module, *arguments, *folders
    assert "error" not in passes(*command, cwd=tree).lower()
