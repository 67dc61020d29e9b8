"""Servers on loopback for tests: olah, and a stand-in for what it lacks.

olah is a real server of the hub's download protocol, but takes no uploads and
asks for no token. The stand-in does both, as far as the tests need it.
"""

import base64
import contextlib
import hashlib
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

TOKEN = "hf_stand_in"
COMMIT = "0123456789" * 4


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def olah_command():
    """Path of olah-cli, None if it is not installed."""
    beside = Path(sys.executable).with_name("olah-cli")
    return str(beside) if beside.exists() else shutil.which("olah-cli")


@contextlib.contextmanager
def olah(folder, mirrors):
    """Serve ``mirrors``/models/OWNER/NAME; yields the address."""
    port = free_port()
    config = folder / "olah.toml"
    config.write_text(
        f'[basic]\nhost = "127.0.0.1"\nport = {port}\n'
        f'repos-path = "{folder / "repos"}"\n'
        f'mirrors-path = ["{mirrors}"]\n'
        "[accessibility]\noffline = true\n"
    )
    log = open(folder / "olah.log", "wb")
    process = subprocess.Popen(
        [olah_command(), "-c", str(config), "--log-path", str(folder / "log")],
        cwd=folder,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        _wait_for(port, process, folder / "olah.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=20)
        log.close()


def _wait_for(port, process, log):
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        time.sleep(0.05)
    raise AssertionError(f"olah does not listen: {log.read_text()}")


def hub(repos):
    """Make the app of the stand-in: a push, and downloads that want a token.

    It keeps what it is sent: {name: {"private", "branches", "files", ...}}.
    """
    app = FastAPI()

    @app.api_route("/{path:path}", methods=["GET", "HEAD", "POST"])
    async def answer(request: Request, path: str):
        given = request.headers.get("Authorization") == f"Bearer {TOKEN}"
        body, repo = await request.body(), None
        match path.removeprefix("api/").split("/"):
            case ["validate-yaml"]:
                return {"errors": [], "warnings": []}
            case _ if not given:
                return JSONResponse({"error": "no token"}, 401)
            case ["repos", "create"]:
                return create(repos, json.loads(body), request.base_url)
            case ["models", owner, name, *action] | [owner, name, *action]:
                repo = repos.get(f"{owner}/{name}")
        match action if repo else None:
            case ["branch", branch]:
                status = 409 if branch in repo["branches"] else 200
                repo["branches"] += [branch] if status == 200 else []
                return JSONResponse({}, status)
            case ["preupload", _]:  # takes all within the commit
                modes = {"uploadMode": "regular", "shouldIgnore": False}
                files = [file["path"] for file in json.loads(body)["files"]]
                return {"files": [{"path": name, **modes} for name in files]}
            case ["commit", branch] if branch in repo["branches"]:
                return commit(repo, branch, body, str(request.url))
            case ["tree", _]:
                files = repo["files"].items()
                file = {"type": "file", "oid": COMMIT}
                return [{**file, "path": n, "size": len(d)} for n, d in files]
            case ["resolve", _, file] if file in repo["files"]:
                data = repo["files"][file]
                tag = f'"{hashlib.sha256(data).hexdigest()}"'
                headers = {"ETag": tag, "X-Repo-Commit": COMMIT}
                return Response(data, headers=headers)
            case [] | ["revision", _]:
                names = [{"rfilename": name} for name in repo["files"]]
                found = {"id": "owner/name", "sha": COMMIT, "siblings": names}
                return {**found, "private": repo["private"]}
        headers = {"X-Error-Code": f"{'Entry' if repo else 'Repo'}NotFound"}
        return Response(status_code=404, headers=headers)

    return app


def create(repos, given, address):
    """Make a repository, unless it is there."""
    name = f"{given.get('organization') or 'owner'}/{given['name']}"
    private = given.get("private") or given.get("visibility") == "private"
    new = {"branches": ["main"], "files": {}, "commits": []}
    status = 409 if name in repos else 200
    repos.setdefault(name, {"private": bool(private), **new})
    return JSONResponse({"url": f"{address}{name}", "name": name}, status)


def commit(repo, branch, body, address):
    """Keep the files of a commit."""
    for line in map(json.loads, body.splitlines()):
        if line["key"] == "file":
            data = base64.b64decode(line["value"]["content"])
            repo["files"][line["value"]["path"]] = data
    repo["commits"].append(branch)
    oid = hashlib.sha1(body).hexdigest()
    url = address.replace("/api/models", "")
    return {"commitOid": oid, "commitUrl": url}


@contextlib.contextmanager
def stand_in():
    """Run the stand-in; yields its address and its repositories."""
    repos, port = {}, free_port()
    config = uvicorn.Config(hub(repos), port=port, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}", repos
    finally:
        server.should_exit = True
        thread.join()
