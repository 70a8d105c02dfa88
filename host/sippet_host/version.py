"""The version, as the distribution declares it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("sippet-host")
except PackageNotFoundError:  # run from a checkout that was not installed
    __version__ = "0+unknown"
