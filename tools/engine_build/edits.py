"""Our changes to the pinned sources: exact search-and-replace edits, each with its reason, that fail loudly.

The file is a list of blocks:

    ### path/inside/the/source
    # why
    <<<<<<<
    text that occurs exactly once
    =======
    its replacement
    >>>>>>>
"""

from __future__ import annotations

import re
from pathlib import Path

_BLOCK = re.compile(
    r"^### (?P<path>\S+)\n(?P<why>(?:# [^\n]*\n)+)<<<<<<<\n(?P<old>.*?\n)=======\n(?P<new>.*?)>>>>>>>\n",
    re.DOTALL | re.MULTILINE,
)


class EditError(RuntimeError):
    """An edit no longer matches its source exactly once."""


def parse_edits(text: str) -> list[tuple[str, str, str]]:
    """Return (path, old text, new text) for every block; text that belongs to no block is an error."""
    blocks = list(_BLOCK.finditer(text))
    rest = _BLOCK.sub("", text).strip()
    if rest:
        raise EditError(f"not an edit block: {rest[:80]!r}")
    return [(m["path"], m["old"], m["new"]) for m in blocks]


def apply_edits(edits_file: Path, root: Path) -> None:
    """Apply every edit below `root`; each old text must occur exactly once."""
    for path, old, new in parse_edits(edits_file.read_text(encoding="utf-8")):
        target = root / path
        text = target.read_text(encoding="utf-8")
        count = text.count(old)
        if count != 1:
            raise EditError(f"{path}: the text to replace occurs {count} times: {old[:80]!r}")
        target.write_text(text.replace(old, new), encoding="utf-8")
