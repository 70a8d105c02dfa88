"""A lock between processes, so that two of them don't download the same model twice or into each other."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
else:
    import fcntl

    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@contextmanager
def file_lock(path: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Holds an exclusive lock on a file while the block runs. The system frees it should the process die.

    Args:
        path: the lock file; made where it is missing, and never removed (removing it would let two holders in).
        on_wait: called once when another process holds the lock.

    Raises:
        OSError: the lock file can't be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        waiting = False
        while not _try_lock(file.fileno()):
            if not waiting:
                waiting = True
                on_wait()
            time.sleep(0.1)
        yield
