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
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

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


class StandIn(BaseHTTPRequestHandler):
    """A stand-in for the hub: a push, and downloads that want a token.

    It is not the hub: it checks the token and keeps what it is sent in the
    server's ``repos``: {name: {"private", "branches", "files", "commits"}}.
    """

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, content=None, status=200, **headers):
        body = json.dumps(content if content is not None else {}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def allowed(self):
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self.answer({"error": "no token"}, 401)
        return False

    def repo(self):
        """Repository of /api/models/OWNER/NAME/... or /OWNER/NAME.git/..."""
        parts = self.path.removeprefix("/api/models/").strip("/").split("/")
        name = f"{parts[0]}/{parts[1].removesuffix('.git')}"
        return self.server.repos.get(name)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        if not self.allowed():
            return
        repo, path = self.repo(), self.path.split("?")[0]
        if repo is None:
            header = {"X_Error_Code": "RepoNotFound"}
            self.answer({"error": "Repository not found"}, 404, **header)
        elif "/resolve/" in path:
            self.send_file(repo["files"].get(path.rpartition("/")[2]))
        elif "/tree/" in path:
            sizes = {name: len(data) for name, data in repo["files"].items()}
            self.answer(
                [
                    {"type": "file", "path": name, "size": n, "oid": COMMIT}
                    for name, n in sizes.items()
                ]
            )
        else:
            names = [{"rfilename": name} for name in repo["files"]]
            about = {"id": "owner/name", "sha": COMMIT, "siblings": names}
            self.answer({**about, "private": repo["private"]})

    def send_file(self, data):
        if data is None:
            header = {"X_Error_Code": "EntryNotFound"}
            self.answer({"error": "Entry not found"}, 404, **header)
            return
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def do_POST(self):
        content = self.body()
        if "/validate-yaml" in self.path:
            self.answer({"errors": [], "warnings": []})
        elif self.allowed():
            action = next(name for name in ACTIONS if name in self.path)
            ACTIONS[action](self, content)

    def create(self, content):
        given = json.loads(content)
        name = f"{given.get('organization') or 'owner'}/{given['name']}"
        new = name not in self.server.repos
        if new:
            self.server.repos[name] = {
                "private": bool(given.get("private"))
                or given.get("visibility") == "private",
                "branches": ["main"],
                "files": {},
                "commits": [],
            }
        address = f"{self.server.address}/{name}"
        self.answer({"url": address, "name": name}, 200 if new else 409)

    def branch(self, content):
        branch = self.path.rpartition("/")[2]
        new = branch not in self.repo()["branches"]
        if new:
            self.repo()["branches"].append(branch)
        self.answer({}, 200 if new else 409)

    def preupload(self, content):
        """Take all files within the commit, large ones as well."""
        modes = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
        files = json.loads(content)["files"]
        self.answer({"files": [{"path": f["path"], **modes} for f in files]})

    def commit(self, content):
        repo, lines = self.repo(), content.decode().splitlines()
        branch = self.path.split("?")[0].rpartition("/")[2]
        if branch not in repo["branches"]:
            self.answer({"error": "no such branch"}, 404)
            return
        for line in map(json.loads, lines):
            value = line["value"]
            if line["key"] == "file":
                data = base64.b64decode(value["content"])
                repo["files"][value["path"]] = data
        repo["commits"].append(branch)
        oid = hashlib.sha1(content).hexdigest()
        url = f"{self.server.address}{self.path.split('/api/models')[-1]}"
        made = {"success": True, "commitOid": oid, "commitUrl": url}
        self.answer({**made, "hookOutput": ""})


ACTIONS = {
    "/repos/create": StandIn.create,
    "/branch/": StandIn.branch,
    "/preupload/": StandIn.preupload,
    "/commit/": StandIn.commit,
}


@contextlib.contextmanager
def stand_in():
    """Run the stand-in; yields the server with address and repos."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    server.address = f"http://127.0.0.1:{server.server_port}"
    server.repos = {}
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
