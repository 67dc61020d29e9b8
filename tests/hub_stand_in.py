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
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse

TOKEN = "hf_stand_in"
COMMIT = "0123456789" * 4
GET = ["GET", "HEAD"]


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

    It is not the hub: it checks the token and keeps what it is sent in
    ``repos``: {name: {"private", "branches", "files", "commits"}}.
    """
    app, models = FastAPI(), "/api/models/{owner}/{name}"

    def repo_of(request):
        """The repository of an address, which must be there."""
        name = "{owner}/{name}".format(**request.path_params)
        if name not in repos:
            headers = {"X-Error-Code": "RepoNotFound"}
            raise HTTPException(404, "Repository not found", headers)
        return repos[name]

    @app.middleware("http")
    async def check_token(request, call_next):
        given = request.headers.get("Authorization") == f"Bearer {TOKEN}"
        if given or request.url.path.endswith("/validate-yaml"):
            return await call_next(request)
        return JSONResponse({"error": "no token"}, 401)

    @app.post("/api/validate-yaml")
    async def validate():
        return {"errors": [], "warnings": []}

    @app.post("/api/repos/create")
    async def create(request: Request):
        given = await request.json()
        name = f"{given.get('organization') or 'owner'}/{given['name']}"
        private = given.get("private") or given.get("visibility") == "private"
        new = {"branches": ["main"], "files": {}, "commits": []}
        status = 409 if name in repos else 200
        repos.setdefault(name, {"private": bool(private), **new})
        address = f"{request.base_url}{name}"
        return JSONResponse({"url": address, "name": name}, status)

    @app.post(models + "/branch/{branch}")
    async def make_branch(request: Request, branch: str):
        branches = repo_of(request)["branches"]
        status = 409 if branch in branches else 200
        branches += [branch] if status == 200 else []
        return JSONResponse({}, status)

    @app.post(models + "/preupload/{branch}")
    async def take_all_within_the_commit(request: Request):
        modes = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
        files = (await request.json())["files"]
        return {"files": [{"path": file["path"], **modes} for file in files]}

    @app.post(models + "/commit/{branch}")
    async def commit(request: Request, branch: str):
        repo, content = repo_of(request), await request.body()
        if branch not in repo["branches"]:
            raise HTTPException(404, "no such branch")
        for line in map(json.loads, content.splitlines()):
            if line["key"] == "file":
                data = base64.b64decode(line["value"]["content"])
                repo["files"][line["value"]["path"]] = data
        repo["commits"].append(branch)
        oid = hashlib.sha1(content).hexdigest()
        url = str(request.url).replace("/api/models", "")
        made = {"success": True, "commitOid": oid, "commitUrl": url}
        return {**made, "hookOutput": ""}

    @app.get(models + "/tree/{branch}")
    async def tree(request: Request):
        return [
            {"type": "file", "path": name, "size": len(data), "oid": COMMIT}
            for name, data in repo_of(request)["files"].items()
        ]

    @app.get(models)
    @app.get(models + "/revision/{branch}")
    async def about(request: Request):
        repo = repo_of(request)
        names = [{"rfilename": name} for name in repo["files"]]
        found = {"id": "owner/name", "sha": COMMIT, "siblings": names}
        return {**found, "private": repo["private"]}

    @app.api_route("/{owner}/{name}/resolve/{branch}/{file}", methods=GET)
    async def send_file(request: Request, file: str):
        data = repo_of(request)["files"].get(file)
        if data is None:
            headers = {"X-Error-Code": "EntryNotFound"}
            raise HTTPException(404, "Entry not found", headers)
        tag = f'"{hashlib.sha256(data).hexdigest()}"'
        return Response(data, headers={"ETag": tag, "X-Repo-Commit": COMMIT})

    return app


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
