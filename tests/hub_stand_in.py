"""Servers for tests: olah on loopback, and a stand-in for what it lacks.

olah is a real server of the hub's download protocol, but takes no uploads and
asks for no token. The stand-in, within the client of huggingface_hub, does
both, as far as the tests need it.
"""

import base64
import contextlib
import hashlib
import json
import shutil
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from httpx2 import Client, MockTransport, Response
from huggingface_hub import set_client_factory
from huggingface_hub.utils._http import default_client_factory

TOKEN = "hf_stand_in"
COMMIT = "0123456789" * 4
BESIDE = Path(sys.executable).with_name("olah-cli")
OLAH = shutil.which(BESIDE) or shutil.which("olah-cli")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def served(command, port, folder, **options):
    """Run a server of a port, its log in a folder; yields the process."""
    log = Path(folder, "server.log")
    with open(log, "wb") as file:
        output = {"stdout": file, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(command, **output, **options)
    try:
        end = time.monotonic() + 60
        while not _listens(port):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        yield process
        assert process.poll() in (None, 0), log.read_text()
    finally:
        process.terminate()
        process.wait(timeout=20)


@contextlib.contextmanager
def olah(folder, mirrors):
    """Serve ``mirrors``/models/OWNER/NAME; yields the address."""
    config, port = folder / "olah.toml", free_port()
    config.write_text(
        f'[basic]\nhost = "127.0.0.1"\nport = {port}\n'
        f'repos-path = "{folder / "repos"}"\n'
        f'mirrors-path = ["{mirrors}"]\n'
        "[accessibility]\noffline = true\n"
    )
    command = [OLAH, "-c", str(config), "--log-path", str(folder / "log")]
    with served(command, port, folder, cwd=folder):
        yield f"http://127.0.0.1:{port}"


def answer(repos, request):
    """Answer for the hub: a push, and downloads that want a token.

    It keeps what it is sent: {name: {"private", "branches", "files", ...}}.
    """
    given = request.headers.get("Authorization") == f"Bearer {TOKEN}"
    body, repo = request.read(), None
    match request.url.path.removeprefix("/").removeprefix("api/").split("/"):
        case ["validate-yaml"]:
            return Response(200, json={"errors": [], "warnings": []})
        case _ if not given:
            return Response(401, json={"error": "no token"})
        case ["repos", "create"]:
            return create(repos, json.loads(body), request.url)
        case ["models", owner, name, *action] | [owner, name, *action]:
            repo = repos.get(f"{owner}/{name}")
    match action if repo else None:
        case ["branch", branch]:
            status = 409 if branch in repo["branches"] else 200
            repo["branches"] += [branch] if status == 200 else []
            return Response(status, json={})
        case ["preupload", _]:  # takes all within the commit
            modes = {"uploadMode": "regular", "shouldIgnore": False}
            files = [file["path"] for file in json.loads(body)["files"]]
            files = [{"path": name, **modes} for name in files]
            return Response(200, json={"files": files})
        case ["commit", branch] if branch in repo["branches"]:
            return commit(repo, branch, body, str(request.url))
        case ["tree", _]:
            file, files = {"type": "file", "oid": COMMIT}, repo["files"].items()
            files = [{**file, "path": n, "size": len(d)} for n, d in files]
            return Response(200, json=files)
        case ["resolve", _, file] if file in repo["files"]:
            data = repo["files"][file]
            tag = f'"{hashlib.sha256(data).hexdigest()}"'
            headers = {"ETag": tag, "X-Repo-Commit": COMMIT}
            return Response(200, content=data, headers=headers)
        case [] | ["revision", _]:
            names = [{"rfilename": name} for name in repo["files"]]
            found = {"id": "owner/name", "sha": COMMIT, "siblings": names}
            return Response(200, json={**found, "private": repo["private"]})
    headers = {"X-Error-Code": f"{'Entry' if repo else 'Repo'}NotFound"}
    return Response(404, headers=headers)


def create(repos, given, address):
    """Make a repository, unless it is there."""
    name = f"{given.get('organization') or 'owner'}/{given['name']}"
    private = given.get("private") or given.get("visibility") == "private"
    new = {"branches": ["main"], "files": {}, "commits": []}
    status = 409 if name in repos else 200
    repos.setdefault(name, {"private": bool(private), **new})
    url = str(address.join(f"/{name}"))
    return Response(status, json={"url": url, "name": name})


def commit(repo, branch, body, address):
    """Keep the files of a commit."""
    for line in map(json.loads, body.splitlines()):
        if line["key"] == "file":
            data = base64.b64decode(line["value"]["content"])
            repo["files"][line["value"]["path"]] = data
    repo["commits"].append(branch)
    oid = hashlib.sha1(body).hexdigest()
    url = address.replace("/api/models", "")
    return Response(200, json={"commitOid": oid, "commitUrl": url})


@contextlib.contextmanager
def stand_in():
    """Have the stand-in answer this process; yields its repositories."""
    repos = {}
    transport = MockTransport(partial(answer, repos))
    set_client_factory(lambda: Client(transport=transport))
    try:
        yield repos
    finally:
        set_client_factory(default_client_factory)
