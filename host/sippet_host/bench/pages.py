"""The engines that run in a page, and how each is asked. Their other half is ``static/js/bench/``.

Every engine is opened as its makers' defaults have it, but for the size of the context and one request at a time.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote

from sippet.engines import _glue

from .cases import Prompt
from .native import completion_request
from .subjects import Job, Session, Subject
from .weights import Weights

if TYPE_CHECKING:
    from .browser import Browsers

WLLAMA = "3.8.1"
"""The version of wllama that comes with Sippet; its protocol is `sippet.engines._glue`'s."""
OLD_WLLAMA = "2.4.0"
TRANSFORMERS = "4.3.1"

PEERS = "peers"
ONNX = "onnx"
_FETCH_PEERS = "A checkout fetches it: python3 tools/dev.py bench"


class PageSubject(Subject):
    """An engine in a page."""

    needs_browser = True
    driver: ClassVar[str]

    async def open(self, job: Job, browsers: Browsers | None) -> Session:
        from .browser import BrowserSession

        assert browsers is not None
        options = {
            "driver": self.driver,
            "threads": job.threads,
            "context": job.context,
            "model": {"url": f"/models/{job.weights.sha256}/{quote(job.weights.path.name)}", "name": "model.gguf"},
            **self._options(job),
        }
        return await BrowserSession.open(browsers, options, self._encode, job)

    def _options(self, job: Job) -> dict[str, Any]:
        """What the driver in the page needs besides."""
        return {}

    @abstractmethod
    def _encode(self, prompt: Prompt, tokens: int) -> Any:
        """A completion, as the driver in the page takes it."""


class SippetBuild(PageSubject):
    """One of Sippet's own builds of llama.cpp."""

    engine = "sippet"
    driver = "sippet"

    def __init__(self, threading: str, simd: str) -> None:
        self.variant = f"{threading}-{simd}"
        self._threaded = threading == "pthread"

    def missing(self, weights: Weights) -> str | None:
        return None

    def computes_with(self, threads: int) -> bool:
        return threads >= 1 if self._threaded else threads == 1

    def _options(self, job: Job) -> dict[str, Any]:
        return {"build": f"sippet-{self.variant}"}

    def _encode(self, prompt: Prompt, tokens: int) -> str:
        return json.dumps(completion_request(prompt.tokens, tokens))


class Wllama(PageSubject):
    """wllama as it comes with Sippet: its WebAssembly module, without its JavaScript class, which is no faster.

    Its requests take texts only.
    """

    engine = "wllama"
    variant = WLLAMA
    driver = "wllama"

    def missing(self, weights: Weights) -> str | None:
        return None

    def _options(self, job: Job) -> dict[str, Any]:
        load = {
            "model_paths": ["/models/model.gguf"],
            "n_ctx_auto": False,
            "use_mmap": False,
            "use_mlock": False,
            "n_gpu_layers": 0,
            "n_ctx": job.context,
            "n_threads": job.threads,
            "n_parallel": 1,
            "jinja": True,
            "log_level": 2,
        }
        return wllama_line(load)

    def _encode(self, prompt: Prompt, tokens: int) -> list[int]:
        return wllama_completion(completion_request(prompt.text, tokens))


def wllama_line(load: Mapping[str, Any]) -> dict[str, Any]:
    """What a page needs in order to talk to wllama's module: its frames, and where in them it writes and reads.

    Args:
        load: the fields of the request that loads the model.
    """
    return {
        "load": list(_glue.encode("load_req", load)),
        "poll": list(_glue.encode("gres_req", {"req_id": 0})),
        "requestIdAt": _glue.field_offset("cmpl_res", "req_id"),
        "pollIdAt": _glue.field_offset("gres_req", "req_id"),
        "moreAt": _glue.field_offset("gres_res", "has_more"),
        "emptyAt": _glue.field_offset("gres_res", "data_json"),
    }


def wllama_completion(body: Mapping[str, object]) -> list[int]:
    """The frame of a completion in llama-server's JSON."""
    return list(_glue.encode("cmpl_req", {"is_chat": False, "data_json": json.dumps(body), "files": []}))


class _Peer(PageSubject):
    """An engine that Sippet doesn't come with: its package must be in the folder of peers."""

    folder: ClassVar[str]

    def __init__(self, peers: Path) -> None:
        self._peers = peers

    def missing(self, weights: Weights) -> str | None:
        if (self._peers / self.folder).is_dir():
            return None
        return f"its package is not in {self._peers}. {_FETCH_PEERS}"

    def _options(self, job: Job) -> dict[str, Any]:
        return {"base": f"/{PEERS}/{self.folder}/"}

    def _encode(self, prompt: Prompt, tokens: int) -> dict[str, Any]:
        return {"prompt": prompt.tokens, "tokens": tokens}


class OldWllama(_Peer):
    """wllama's last version with llama.cpp's plain interface, through its own class."""

    engine = "wllama"
    variant = OLD_WLLAMA
    driver = "wllama2"
    folder = f"wllama-{OLD_WLLAMA}"


class Transformers(_Peer):
    """transformers.js on ONNX Runtime's WebAssembly. It runs ONNX files only, which must hold the same weights.

    Args:
        peers: the folder of packages.
        onnx: a folder with one folder for each model, named like the GGUF file and laid out as transformers.js wants.
    """

    engine = "transformers.js"
    variant = TRANSFORMERS
    driver = "transformers"
    folder = f"transformers-{TRANSFORMERS}"

    def __init__(self, peers: Path, onnx: Path) -> None:
        super().__init__(peers)
        self._onnx = onnx

    def missing(self, weights: Weights) -> str | None:
        if not (self._onnx / weights.name / "config.json").is_file():
            return f"no ONNX weights: it runs ONNX files only, and there are none of this model in {self._onnx}"
        return super().missing(weights)

    def _options(self, job: Job) -> dict[str, Any]:
        return {**super()._options(job), "weights": {"base": f"/{ONNX}/", "name": job.weights.name}}
