"""Which image projector lies beside a model, by llama.cpp's habit of calling it ``mmproj``."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from sippet.errors import SippError
from sippet.models.manifest import shard_stem
from sippet.models.pairing import check_projector

from .errors import HostError
from .facts import read_file_header
from .hashcache import Fingerprint, HashCache
from .models import ModelEntry, ModelFile, load_file

_IS_PROJECTOR = re.compile(r"(^|[-_.])mmproj(?=[-_.])", re.IGNORECASE)
_QUANTIZATION = re.compile(r"(^|[-_.])(i?q\d(_([0-9klms]|xs|xxs|xl|nl))*|mxfp4|b?f16|f32)(?=$|[-_.])", re.IGNORECASE)


def projector_beside(model: ModelEntry, hashes: HashCache | None = None) -> ModelFile | None:
    """The projector in a model's folder that belongs to it: the one with its name but for ``mmproj`` and quantisations,
    the smallest where there are several, or the only one beside the only model. Its header must fit the model's.

    Args:
        model: its first file tells the folder.
        hashes: as in `sippet_host.models.load_file`.
    """
    path = model.files[0].path
    try:
        beside = sorted(_files_in(path.parent, projectors=True), key=lambda file: file.stat().st_size)
        candidates = [file for file in beside if _base(file.name) == _base(path.name)]
        if not candidates and len(beside) == 1:
            models = {shard_stem(file.name) for file in _files_in(path.parent, projectors=False)}
            candidates = beside if len(models) == 1 else []
        for candidate in candidates:
            file = load_file(candidate, hashes)
            if _are_a_pair(path, model.files[0].fingerprint, file.path, file.fingerprint):
                return file
    except (HostError, OSError):
        pass  # without one it is served as well
    return None


def _files_in(folder: Path, *, projectors: bool) -> list[Path]:
    """What a folder itself has of projectors or of others, by their names; nothing hidden, and no links out of it. The
    names are looked at first: it is asked for each model whenever the models are listed."""
    return [
        file
        for file in folder.glob("*.gguf")
        if bool(_IS_PROJECTOR.search(file.name)) == projectors
        and not file.name.startswith(".")
        and file.resolve().parent == folder
    ]


def _base(name: str) -> str:
    """A file's name without what tells a projector from its model, or one quantisation from another."""
    stem = _IS_PROJECTOR.sub("", f"{shard_stem(name)}.")
    return _QUANTIZATION.sub("", stem.rstrip(".")).strip("-_.").lower()


@lru_cache(maxsize=1024)
def _are_a_pair(model: Path, _: Fingerprint, projector: Path, __: Fingerprint) -> bool:
    """Remembered for these versions of both: the files are looked at whenever the models are listed."""
    try:
        check_projector(read_file_header(projector), read_file_header(model))
    except SippError:
        return False
    return True
