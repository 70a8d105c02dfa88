"""``sippet gateway`` in a process of its own, on a free port of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def gateway_process(folder: Path, config: str, keys: Mapping[str, str]) -> Iterator[str]:
    """Runs it; gives its address.

    Args:
        folder: where its configuration is written.
        config: the configuration, as TOML.
        keys: variables of its environment that hold keys.
    """
    file = folder / "gateway.toml"
    file.write_text(config)
    command = [sys.executable, "-m", "sippet_host", "gateway", str(file), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **keys}) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("Gateway: http://127.0.0.1:"), line
        try:
            yield line.split()[1].removesuffix("/v1")
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
