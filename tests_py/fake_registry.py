"""Package registries for tests: real HTTP servers on loopback that serve what a test puts into them."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from _lockfile import DerivedFile, Lock, LockedFile, Package


class Registry:
    """Serves `files` (path to bytes); keeps the paths and headers that were asked for."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.asked: list[str] = []
        self.authorizations: list[str | None] = []
        self.cut_short = 0  # how many of the next answers break off in the middle


@contextmanager
def serving() -> Iterator[Registry]:
    """Run a registry on a free port of 127.0.0.1."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.replace("%40", "@")
            registry.asked.append(path)
            registry.authorizations.append(self.headers["Authorization"])
            if target := registry.redirects.get(path):
                self.send_response(302)
                self.send_header("Location", target)
                self.end_headers()
                return
            body = registry.files.get(path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.send_header("Content-Type", "text/html" if path.endswith("/") else "application/octet-stream")
            self.end_headers()
            if registry.cut_short and body:
                registry.cut_short -= 1
                body = body[: len(body) // 2]
            self.wfile.write(body or b"")

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    registry = Registry(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def locked(member: str | None, to: str, data: bytes) -> LockedFile:
    """The lock's entry for these bytes."""
    return LockedFile(member, to, hashlib.sha256(data).hexdigest(), len(data))


def integrity(data: bytes, algorithm: str = "sha512") -> str:
    """The subresource-integrity string of these bytes."""
    return f"{algorithm}-{base64.b64encode(hashlib.new(algorithm, data).digest()).decode()}"


def tarball(members: dict[str, bytes]) -> bytes:
    """An npm package's archive."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return packed.getvalue()


def wheel(project: str, version: str, files: dict[str, bytes]) -> bytes:
    """A wheel that pip accepts, with these files and the metadata that the format wants."""
    info = f"{project}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n".encode()
    kind = b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    everything = {**files, f"{info}/METADATA": metadata, f"{info}/WHEEL": kind}
    rows = [f"{name},," for name in everything]
    everything[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,"]).encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, data in everything.items():
            zipped.writestr(name, data)
    return packed.getvalue()


WLLAMA_JS = b'var Module=typeof Module!="undefined"?Module:{};Module.ready=WebAssembly;'
ENGINE = {"src/wllama.js": WLLAMA_JS, "LICENCE": b"the licence"}
TEXT = {"lib/text.js": b"export const text = 1;\n", "LICENSE": b"another licence"}
TOOL = {"tool/__init__.py": b"answer = 42\n", "tool-2.0.dist-info/licenses/LICENSE": b"a third licence"}


class World:
    """Three small packages (two of npm, one of PyPI), their lock, and ways to publish them."""

    def __init__(self) -> None:
        from _derive import derive

        self.engine = tarball(ENGINE)
        self.text = tarball(TEXT)
        self.tool = wheel("tool", "2.0", TOOL)
        module = derive("module", WLLAMA_JS)
        made = DerivedFile(
            "engine/wllama.js", "module", "engine/wllama.mjs", hashlib.sha256(module).hexdigest(), len(module)
        )
        licence = "tool-2.0.dist-info/licenses/LICENSE"
        self.packages = (
            Package(
                "npm",
                "@scope/engine",
                "1.2.3",
                "MIT",
                integrity(self.engine),
                "an engine",
                (
                    locked("src/wllama.js", "engine/wllama.js", WLLAMA_JS),
                    locked("LICENCE", "engine/LICENSE", ENGINE["LICENCE"]),
                ),
                (made,),
            ),
            Package(
                "npm",
                "text",
                "4.5.6",
                "MIT",
                integrity(self.text),
                "text",
                (
                    locked("lib/text.js", "text/text.js", TEXT["lib/text.js"]),
                    locked("LICENSE", "text/LICENSE", TEXT["LICENSE"]),
                ),
            ),
            Package(
                "pypi",
                "tool",
                "2.0",
                "MPL-2.0",
                integrity(self.tool, "sha256"),
                "a tool",
                (
                    locked(None, "tool/tool-2.0-py3-none-any.whl", self.tool),
                    locked(licence, "tool/LICENSE", TOOL[licence]),
                ),
            ),
        )
        self.lock = Lock(self.packages, {})
        self.expected = {
            "engine/wllama.js": WLLAMA_JS,
            "engine/wllama.mjs": module,
            "engine/LICENSE": ENGINE["LICENCE"],
            "text/text.js": TEXT["lib/text.js"],
            "text/LICENSE": TEXT["LICENSE"],
            "tool/tool-2.0-py3-none-any.whl": self.tool,
            "tool/LICENSE": TOOL[licence],
        }

    @property
    def archives(self) -> dict[str, bytes]:
        """Each archive under the name that its client gives it."""
        return {
            "scope-engine-1.2.3.tgz": self.engine,
            "text-4.5.6.tgz": self.text,
            "tool-2.0-py3-none-any.whl": self.tool,
        }

    def put_npm(self, registry: Registry) -> None:
        """Publish the npm packages in an npm registry."""
        for name, version, archive in (("@scope/engine", "1.2.3", self.engine), ("text", "4.5.6", self.text)):
            path = f"/{name}/-/{name.rpartition('/')[2]}-{version}.tgz"
            registry.files[path] = archive
            dist = {"tarball": registry.url + path, "integrity": integrity(archive)}
            document = {
                "name": name,
                "dist-tags": {"latest": version},
                "versions": {version: {"name": name, "version": version, "dist": dist}},
            }
            registry.files["/" + name.replace("/", "%2f")] = json.dumps(document).encode()

    def put_pypi(self, registry: Registry) -> None:
        """Publish the wheel in a Python index (HTML, as PEP 503 has it)."""
        name = "tool-2.0-py3-none-any.whl"
        page = f'<!DOCTYPE html><html><body><a href="../../files/{name}#sha256=00">{name}</a></body></html>'
        digest = hashlib.sha256(self.tool).hexdigest()
        registry.files["/simple/tool/"] = page.replace("sha256=00", f"sha256={digest}").encode()
        registry.files[f"/files/{name}"] = self.tool

    def put_cdn(self, registry: Registry) -> str:
        """Publish the npm packages' single files, and return the address template."""
        for name, version, members in (("@scope/engine", "1.2.3", ENGINE), ("text", "4.5.6", TEXT)):
            registry.files |= {f"/npm/{name}@{version}/{path}": data for path, data in members.items()}
        return registry.url + "/npm/{name}@{version}/{path}"


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder that isn't the set-up's own (stamps, locks)."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }
