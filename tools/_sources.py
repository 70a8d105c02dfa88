"""Where a vendored package can come from, in the order in which `vendor.py` asks.

Every source answers the same question, "the bytes of these members of this package", and raises `Unavailable`
where it hasn't got them or can't be reached. None is trusted: `vendor.py` checks each file against the lock.
"""

from __future__ import annotations

import configparser
import html.parser
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.parse
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

from _fetch import Unavailable, get, without_secrets
from _lockfile import Package, matches_integrity
from _report import Percent, ToolError

Members = Mapping[str | None, bytes]

_CLIENT_TIMEOUT = 600  # seconds for `npm pack` or `pip download`


class Source(ABC):
    """One place that may have packages. `name` is for messages and holds no secret."""

    name: str

    @abstractmethod
    def fetch(self, package: Package) -> Members:
        """The bytes of every member that the lock wants of this package."""


class ArchiveSource(Source):
    """A source that hands out whole archives."""

    @abstractmethod
    def archive(self, package: Package) -> bytes:
        """The package's archive, unchecked."""

    def fetch(self, package: Package) -> Members:
        return unpack(self.archive(package), package, self.name)


def unpack(archive: bytes, package: Package, source: str) -> Members:
    """Check an archive against the lock and take the wanted members out of it.

    Raises `ToolError` (`vendor-hash-mismatch`) where the archive is not the locked one.
    """
    if not matches_integrity(archive, package.integrity):
        raise ToolError(
            "vendor-hash-mismatch",
            f"{source} gave an archive of {package.label} that is not the locked one; nothing was kept. "
            "Use another source (--from), or find out why that one has different bytes",
        )
    wanted = {f.member for f in package.files}
    members: dict[str | None, bytes] = {None: archive} if None in wanted else {}
    if package.registry == "npm":
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
            for info in tar:
                inside = info.name.partition("/")[2]  # the first folder's name is the packer's choice
                if info.isfile() and inside in wanted and (stream := tar.extractfile(info)):
                    members[inside] = stream.read()
    else:
        with zipfile.ZipFile(io.BytesIO(archive)) as zipped:
            members |= {name: zipped.read(name) for name in zipped.namelist() if name in wanted}
    return members


class Given(Source):
    """A folder or address that the person names: archives, a CDN's layout, or a copy of `static/vendor/`."""

    def __init__(self, place: str) -> None:
        self.name = without_secrets(place) if "://" in place else place
        base = place if "://" in place else Path(place).expanduser().resolve().as_uri()
        self.base = base.rstrip("/")

    def fetch(self, package: Package) -> Members:
        try:
            return unpack(self._get(package.archive), package, self.name)
        except Unavailable as error:
            if error.down:
                raise
        layouts = (lambda f: f"{package.name}@{package.version}/{f.member}", lambda f: f.to)
        for layout in layouts:
            try:
                return {f.member: self._get(layout(f)) for f in package.files}
            except Unavailable as error:
                missing = error
                if error.down:
                    break
        raise missing

    def _get(self, path: str) -> bytes:
        return get(f"{self.base}/{urllib.parse.quote(path, safe='/@')}")


class NpmRegistry(ArchiveSource):
    """The npm registry that the environment or an `.npmrc` names, a scope's own where there is one."""

    def __init__(self, registry: str, scopes: Mapping[str, str]) -> None:
        self.registry = registry
        self.scopes = scopes
        self.name = f"the configured npm registry ({without_secrets(registry)})"

    def archive(self, package: Package) -> bytes:
        scope, _, bare = package.name.rpartition("/")
        base = self.scopes.get(scope) or self.registry
        if not base:
            raise Unavailable(f"no registry is configured for {package.name}")
        # The tarball's address is the one that every npm registry serves: /<name>/-/<bare name>-<version>.tgz
        url = f"{base.rstrip('/')}/{package.name}/-/{bare}-{package.version}.tgz"
        return _download(url, package.label)


class PypiIndex(ArchiveSource):
    """The Python package index that the environment or pip's configuration names (PEP 503, PEP 691)."""

    def __init__(self, index: str) -> None:
        self.index = index.rstrip("/")
        self.name = f"the configured Python index ({without_secrets(self.index)})"

    def archive(self, package: Package) -> bytes:
        project = f"{self.index}/{re.sub(r'[-_.]+', '-', package.name).lower()}/"
        page = get(project, accept="application/vnd.pypi.simple.v1+json, text/html;q=0.5")
        for link in _links(page):
            absolute = urllib.parse.urljoin(without_secrets(project), link.partition("#")[0])
            if urllib.parse.unquote(absolute.rpartition("/")[2]) == package.archive:
                return _download(self._signed(absolute), package.label)
        raise Unavailable(f"{self.name} has no file {package.archive}")

    def _signed(self, url: str) -> str:
        """Give the index's user name and password to a file on the index's own host, and to no other."""
        index, file = urllib.parse.urlsplit(self.index), urllib.parse.urlsplit(url)
        own = index.netloc.rpartition("@")[2] == file.netloc
        return urllib.parse.urlunsplit(file._replace(netloc=index.netloc)) if own else url


class Cdn(Source):
    """The public content delivery network that the lock names; it serves single files."""

    def __init__(self, templates: Mapping[str, str]) -> None:
        self.templates = templates
        self.name = "the public CDN"

    def fetch(self, package: Package) -> Members:
        template = self.templates.get(package.registry)
        if template is None:
            raise Unavailable(f"the lock names no CDN for {package.registry} packages")
        members: dict[str | None, bytes] = {}
        for file in package.files:
            url = template.format(name=package.name, version=package.version, path=file.member)
            members[file.member] = _download(url, f"{package.name} {file.member}")
        return members


class NpmClient(ArchiveSource):
    """`npm pack`, where npm is installed: it brings its own configuration, proxies and credentials."""

    def __init__(self) -> None:
        self.name = "the npm client"

    def archive(self, package: Package) -> bytes:
        npm = shutil.which("npm")
        if npm is None:
            raise Unavailable("npm is not installed", down=True)
        command = [npm, "pack", f"{package.name}@{package.version}", "--ignore-scripts", "--loglevel=error"]
        # npm's own default waits for minutes where there is no network; its cache will do, since we check hashes.
        command += ["--prefer-offline", "--fetch-retries=1", "--fetch-retry-mintimeout=1000"]
        command += ["--fetch-retry-maxtimeout=2000"]
        return _by_client(command, "--pack-destination", package, self.name)


class PipClient(ArchiveSource):
    """`pip download`, with whichever pip is at hand: the repository's environment's or this one's."""

    def __init__(self, pythons: tuple[str, ...]) -> None:
        self.pythons = pythons
        self.name = "pip"

    def archive(self, package: Package) -> bytes:
        reason = "no interpreter here has pip"
        for python in self.pythons:
            pip = [python, "-m", "pip"]
            if subprocess.run([*pip, "--version"], capture_output=True, check=False).returncode:
                continue
            command = [*pip, "download", "--quiet", "--no-deps", "--only-binary=:all:"]
            # The wheel is for Pyodide's Python, which may be newer than the one that runs this.
            command += ["--python-version=3.14", "--disable-pip-version-check", "--no-input", "--retries=1"]
            command += [f"{package.name}=={package.version}"]
            try:
                return _by_client(command, "--dest", package, self.name)
            except Unavailable as error:
                reason = str(error)
        raise Unavailable(reason)


def _by_client(command: list[str], destination_option: str, package: Package, name: str) -> bytes:
    """Run a package client in a scratch folder and return the archive that it leaves there."""
    with tempfile.TemporaryDirectory(prefix="sippet-vendor-") as folder:
        try:
            done = subprocess.run(
                [*command, destination_option, folder],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_CLIENT_TIMEOUT,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unavailable(f"{name} failed: {error}", down=True) from error
        archive = Path(folder) / package.archive
        if done.returncode or not archive.is_file():
            errors = [line for line in done.stderr.splitlines() if re.search(r"\berr(or)?\b", line, re.I)]
            said = " ".join(errors[:2]) or f"exit code {done.returncode}"
            raise Unavailable(f"{name} could not get {package.label}: {said}")
        return archive.read_bytes()


def _download(url: str, label: str) -> bytes:
    percent = Percent(label)
    try:
        return get(url, progress=percent.update)
    finally:
        percent.clear()


class _Anchors(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value for key, value in attrs if tag == "a" and key == "href" and value]


def _links(page: bytes) -> list[str]:
    """The file links of a project page, in PEP 691's JSON or PEP 503's HTML."""
    text = page.decode("utf-8", "replace")
    try:
        return [f["url"] for f in json.loads(text)["files"]]
    except (ValueError, KeyError, TypeError):
        anchors = _Anchors()
        anchors.feed(text)
        return anchors.links


def npm_registries(environ: Mapping[str, str], files: tuple[Path, ...]) -> tuple[str, dict[str, str]]:
    """The default registry (or "") and the scopes' registries, as npm would read them.

    `files` are `.npmrc` files, the strongest first; the environment is stronger than all.
    """
    default, scopes = "", {}
    for path in reversed(files):
        for key, value in _npmrc(path, environ).items():
            if key == "registry":
                default = value
            elif key.startswith("@") and key.endswith(":registry"):
                scopes[key.removesuffix(":registry")] = value
    for key, value in environ.items():
        if key.lower() == "npm_config_registry" and value:
            default = value
    return default, scopes


def _npmrc(path: Path, environ: Mapping[str, str]) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        key, equals, value = line.partition("=")
        if equals and not key.lstrip().startswith(("#", ";")):
            value = re.sub(r"\$\{(\w+)\}", lambda m: environ.get(m[1], m[0]), value.strip().strip("\"'"))
            found[key.strip()] = value
    return found


def pypi_index(environ: Mapping[str, str], files: tuple[Path, ...]) -> str:
    """The index that pip would use, or "" where none is set. `files`: pip.conf files, the strongest first."""
    if index := environ.get("PIP_INDEX_URL"):
        return index
    for path in files:
        parser = configparser.RawConfigParser(strict=False)
        try:
            parser.read(path, encoding="utf-8")
        except (OSError, configparser.Error, UnicodeDecodeError):
            continue
        for section in ("download", "global"):
            if index := parser.get(section, "index-url", fallback=""):
                return index
    return ""


def default_sources(
    given: str | None, cdn: Mapping[str, str], root: Path, environ: Mapping[str, str] | None = None
) -> dict[str, list[Source]]:
    """The sources for each registry kind, in the order in which they are asked."""
    environ = os.environ if environ is None else environ
    given_first: list[Source] = [Given(given)] if given else []
    npmrc = Path(environ.get("npm_config_userconfig") or Path.home() / ".npmrc")
    registry, scopes = npm_registries(environ, (root / ".npmrc", npmrc))
    registries: list[Source] = [NpmRegistry(registry, scopes)] if registry or scopes else []
    index = pypi_index(environ, _pip_files(environ))
    indexes: list[Source] = [PypiIndex(index)] if index else []
    venv = root / ".venv" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    pythons = (str(venv), sys.executable) if venv.exists() else (sys.executable,)
    public = Cdn(cdn)
    return {
        "npm": [*given_first, *registries, public, NpmClient()],
        "pypi": [*given_first, *indexes, public, PipClient(pythons)],
    }


def _pip_files(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Where pip looks for its configuration on this system, the strongest first."""
    home = Path.home()
    named = [Path(environ["PIP_CONFIG_FILE"])] if environ.get("PIP_CONFIG_FILE") else []
    if sys.platform == "win32":
        return (*named, Path(sys.prefix) / "pip.ini", Path(environ.get("APPDATA", "")) / "pip" / "pip.ini")
    mac = [home / "Library/Application Support/pip/pip.conf"] if sys.platform == "darwin" else []
    system = [Path("/etc/pip.conf"), Path("/etc/xdg/pip/pip.conf")]
    return (
        *named,
        Path(sys.prefix) / "pip.conf",
        *mac,
        Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / "pip.conf",
        home / ".pip" / "pip.conf",
        *system,
    )
