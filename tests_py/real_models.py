"""The real models of the built-in registry that lie in wheels: in the user's cache, fetched where they are missing."""

from __future__ import annotations

from pathlib import Path

import pytest

SMOLLM2 = "smollm2-135m-instruct-q4_1"


def real_model(id: str = SMOLLM2) -> Path:
    """A model's file. In a tab, which has neither the host nor pip, the test is skipped."""
    packaged = pytest.importorskip("sippet_host.packaged", reason="the host fetches models")
    from sippet_host import paths
    from sippet_host.hashcache import HashCache

    cache = paths.cache_dir()
    entry = packaged.packaged_model(packaged.PACKAGED[id], cache, HashCache(cache / "asset-hashes.json"))
    (file,) = entry.files
    return file.path  # type: ignore[no-any-return]
