"""The static tree: which files are served, under which version, in which encodings.

A request is looked up in a table of the files found beforehand, so that no path of a request ever reaches the file
system: there is nothing to traverse. The version is a hash of all contents and a part of the URL, hence a cached asset
can't be older than the page that names it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from aiohttp import web

from .errors import AssetVersionGone, InstallationIncomplete, NotFound
from .files import send_file
from .hashcache import Fingerprint, HashCache
from .mime import INCOMPRESSIBLE, content_type
from .precompress import Precompressor, decompress_brotli

IMMUTABLE = "public, max-age=31536000, immutable"
REVALIDATE = "no-cache"

_NOT_SERVED = frozenset({"templates", "__pycache__", "node_modules"})
_SUFFIX = {"br": "-br", "gzip": "-gz"}


@dataclass(frozen=True)
class Asset:
    """A file of the static tree.

    Attributes:
        url_path: its path below the version, with forward slashes.
        path: the file; with ``packed`` its Brotli-compressed form, and the plain one is made when it is needed.
        packed: the tree holds the compressed form only.
        sha256: hash of the file's bytes, as they lie on disk.
        fingerprint: the version of the file that has this hash.
    """

    url_path: str
    path: Path
    packed: bool
    sha256: str
    fingerprint: Fingerprint


@dataclass(frozen=True)
class AssetTree:
    """All assets at one moment, and the version that names them."""

    version: str
    assets: Mapping[str, Asset]


class AssetStore:
    """Keeps the table of the static tree up to date and answers requests from it.

    Args:
        root: the static folder.
        cache: the folder for hashes and compressed variants.
    """

    def __init__(self, root: Path, cache: Path) -> None:
        self._root = root.resolve()
        self._hashes = HashCache(cache / "asset-hashes.json")
        self._plain = cache / "unpacked"
        self._lock = threading.Lock()
        self.precompressor = Precompressor(cache / "precompressed")
        self.tree = self._scan()

    def start(self) -> None:
        """Begins to make compressed variants in the background."""
        self.precompressor.start(
            (asset.path, asset.sha256)
            for asset in self.tree.assets.values()
            if not asset.packed and PurePosixPath(asset.url_path).suffix not in INCOMPRESSIBLE
        )

    def stop(self) -> None:
        """Ends the background work."""
        self.precompressor.stop()

    def refresh(self) -> AssetTree:
        """Looks for changed files (a walk without reading what is unchanged) and returns the table."""
        with self._lock:
            before, self.tree = self.tree, self._scan()
            if self.tree.version != before.version:
                self.start()
            return self.tree

    async def respond(self, request: web.Request, url_path: str, version: str | None) -> web.StreamResponse:
        """Answers a GET or HEAD for an asset.

        Args:
            url_path: the path below the root.
            version: the version in the URL; None for the URL without one, which is revalidated at each use.

        Raises:
            NotFound: there is no such asset.
            AssetVersionGone: there is, or was, but not in this version.
        """
        # In a thread: it looks at the disk, and may have to read changed files or to decompress.
        asset, path, encoding = await asyncio.to_thread(self._choose, request, url_path, version)

        def etag(opened: Fingerprint) -> str:
            if path == asset.path and opened != asset.fingerprint:
                raise AssetVersionGone("A file of the page has changed on the server.")
            return asset.sha256[:32] + _SUFFIX.get(encoding or "", "")

        headers = {"Cache-Control": REVALIDATE if version is None else IMMUTABLE, "Vary": "Accept-Encoding"}
        if encoding:
            headers["Content-Encoding"] = encoding
        return await send_file(
            request,
            path,
            content_type=content_type(asset.url_path),
            etag=etag,
            headers=headers,
            ranges=encoding is None,
        )

    def _choose(self, request: web.Request, url_path: str, version: str | None) -> tuple[Asset, Path, str | None]:
        """The asset, the file to send and its Content-Encoding. A range is always of the plain bytes."""
        asset = self._find(url_path, version)
        if "Range" not in request.headers or request.method != "GET":
            for encoding in accepted_encodings(request.headers.getall("Accept-Encoding", [])):
                if asset.packed and encoding == "br":
                    return asset, asset.path, "br"
                if not asset.packed and (variant := self.precompressor.find(asset.sha256, encoding)):
                    return asset, variant, encoding
        return asset, self._unpacked(asset) if asset.packed else asset.path, None

    def _find(self, url_path: str, version: str | None) -> Asset:
        """The asset as the table has it, after making sure that the table is right about it."""
        tree = self.tree
        for attempt in range(2):
            if version is not None and version != tree.version:
                raise AssetVersionGone("The page is older than the files of this server.")
            asset = tree.assets.get(url_path)
            if asset is None:
                break
            try:
                if Fingerprint.of(asset.path.lstat()) == asset.fingerprint:
                    return asset
            except OSError:
                pass  # removed: the new table will not have it
            if attempt == 0:
                tree = self.refresh()
        raise NotFound(f"There is no asset {url_path[:100]!r}.")

    def _unpacked(self, asset: Asset) -> Path:
        target = self._plain / asset.sha256
        if not target.exists():
            try:
                decompress_brotli(asset.path, target)
            except ValueError:
                raise InstallationIncomplete(
                    f"{asset.url_path} is damaged.", hint="Install sippet-host again."
                ) from None
        return target

    def _scan(self) -> AssetTree:
        files = dict(self._walk(self._root, PurePosixPath()))
        assets: dict[str, Asset] = {}
        for url_path, path in files.items():
            packed = url_path.endswith(".br")
            if packed:
                url_path = url_path.removesuffix(".br")
                if url_path in files:
                    continue
            try:
                sha256, fingerprint = self._hashes.sha256(path)
            except OSError:
                continue  # removed or unreadable since it was listed: the same as not being there
            assets[url_path] = Asset(url_path, path, packed, sha256, fingerprint)
        self._hashes.save()
        total = hashlib.sha256()
        for url_path in sorted(assets):
            total.update(f"{url_path}\0{assets[url_path].sha256}\n".encode("utf-8", "surrogateescape"))
        return AssetTree(total.hexdigest()[:16], assets)

    def _walk(self, folder: Path, prefix: PurePosixPath) -> Iterator[tuple[str, Path]]:
        """Regular files below a folder. Hidden ones, templates and links are not served."""
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            return
        for entry in entries:
            if entry.name.startswith(".") or entry.name in _NOT_SERVED:
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(Path(entry.path), prefix / entry.name)
            elif entry.is_file(follow_symlinks=False):
                yield str(prefix / entry.name), Path(entry.path)


def accepted_encodings(values: list[str]) -> list[str]:
    """Of ``br`` and ``gzip`` those that an Accept-Encoding header allows, best first (RFC 9110, 12.5.3)."""
    weights: dict[str, float] = {}
    for item in ",".join(values).split(","):
        coding, _, parameters = item.partition(";")
        name, _, value = parameters.partition("=")
        try:
            weight = float(value) if name.strip().lower() == "q" else 1.0
        except ValueError:
            weight = 0.0
        weights[coding.strip().lower()] = weight
    any_other = weights.get("*", 0.0)
    offered = {
        "br": weights.get("br", any_other),
        "gzip": max(weights.get("gzip", 0.0), weights.get("x-gzip", 0.0))
        if {"gzip", "x-gzip"} & weights.keys()
        else any_other,
    }
    # Identity is preferred only where it is given more weight than a coding.
    floor = weights.get("identity", 0.0)
    return sorted(
        (name for name, weight in offered.items() if weight > 0 and weight >= floor),
        key=lambda n: -offered[n],
    )
