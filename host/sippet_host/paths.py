"""Where the host finds its own files and keeps what it downloads."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from .errors import ConfigurationError, InstallationIncomplete, NoSuchModel, reason_of

_PACKAGE = Path(__file__).resolve().parent
_LARGEST_DOCUMENT = 64 << 20


def static_dir() -> Path:
    """The folder of the page and its assets: inside the installed package, else the checkout's ``static/``.

    Raises:
        InstallationIncomplete: neither exists.
    """
    for candidate in (_PACKAGE / "static", _PACKAGE.parent.parent / "static"):
        if candidate.is_dir():
            return candidate
    raise InstallationIncomplete(
        "The page's files are missing from this installation.", hint="Install sippet-host again."
    )


def read_document(path: Path, hint: str = "Check the path.") -> bytes:
    """A file of settings as a whole. It may be a pipe; what never ends is given up at 64 MiB.

    Raises:
        ConfigurationError: it can't be read, or is too large to be one.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_DOCUMENT + 1)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} can't be read: {reason_of(error)}.", hint=hint) from error
    if len(data) > _LARGEST_DOCUMENT:
        raise ConfigurationError(f"{path} can't be read: it is larger than 64 MiB.", hint=hint)
    return data


def named_path(text: str) -> Path:
    """The path of a model that a person wrote: ``~`` is their home.

    Raises:
        NoSuchModel: it names no file, or somebody's home who isn't known.
    """
    path = Path(text)
    try:
        path = path.expanduser()
    except RuntimeError as error:
        raise NoSuchModel(f"{text} can't be found: {error}", hint="Write the path in full.") from error
    if not path.name or path.name == "..":
        raise NoSuchModel(f"{text or 'The empty path'} is not a file.", hint="Name a .gguf file.")
    return path


def cache_dir() -> Path:
    """The folder for downloads and precomputed files: ``$SIPPET_CACHE``, else the user's cache folder's ``sippet``.

    The folder may not exist yet. The XDG base directory specification applies on Linux; macOS and Windows have their
    own customs.

    Raises:
        ConfigurationError: there is no such place.
    """
    try:
        return _cache_dir()
    except RuntimeError as error:
        raise ConfigurationError(f"There is no cache folder: {error}", hint="Set SIPPET_CACHE to a folder.") from error


def _cache_dir() -> Path:
    if chosen := os.environ.get("SIPPET_CACHE"):
        return Path(chosen).expanduser().absolute()
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg) / "sippet"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "sippet"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "sippet"
    return Path.home() / ".cache" / "sippet"
