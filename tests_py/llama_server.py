"""A real llama.cpp server in a process of its own, on a free port of this machine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MODELS = Path(__file__).parent / "models"
TINY = MODELS / "tiny-chat-f16.gguf"

_PROGRAM = """
import json, sys, xllamacpp
wanted = json.loads(sys.argv[1])
params = xllamacpp.CommonParams()
params.model.path = wanted.pop("model")
params.mmproj.path = wanted.pop("projector", "")
if pooling := wanted.pop("pooling", None):
    params.pooling_type = getattr(xllamacpp.llama_pooling_type, f"LLAMA_POOLING_TYPE_{pooling}")
for name, value in {"n_ctx": 1024, "warmup": False, "ui": False, "verbosity": 0, "n_parallel": 2, **wanted}.items():
    setattr(params, name, value)
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


@contextmanager
def llama_server(model: Path = TINY, **params: object) -> Iterator[str]:
    """Runs it; gives its address.

    Args:
        model: the model's file.
        params: fields of the server's parameters; ``pooling`` is ``MEAN`` and so on, ``projector`` a file.
    """
    import json

    command = [sys.executable, "-c", _PROGRAM, json.dumps({"model": str(model), **params})]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        try:
            address = process.stdout.readline().strip()
            assert address.startswith("http://127.0.0.1:"), "the server did not start"
            yield address
        finally:
            process.kill()
