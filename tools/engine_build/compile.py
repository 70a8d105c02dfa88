"""Compiles many files with few processes and skips what is up to date, judged by flags and depfiles."""

from __future__ import annotations

import hashlib
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .toolchain import CLANG


class CompileError(RuntimeError):
    """A file did not compile; the message holds the compiler's first lines."""


@dataclass(frozen=True)
class Unit:
    """One object file: its source, its whole command line after the compiler's name, and where it goes."""

    source: Path
    flags: tuple[str, ...]
    output: Path

    def command(self) -> list[str]:
        """The compiler call that makes the object and its depfile."""
        dep = ["-MD", "-MF", str(self.output.with_suffix(".d"))]
        return [CLANG, *self.flags, *dep, "-c", str(self.source), "-o", str(self.output)]

    def is_current(self) -> bool:
        """True when the object was made by these flags and no file that it read has changed since."""
        flags, dep = self.output.with_suffix(".flags"), self.output.with_suffix(".d")
        if not (self.output.exists() and flags.exists() and dep.exists()):
            return False
        if flags.read_text(encoding="utf-8") != self._flag_digest():
            return False
        made = self.output.stat().st_mtime_ns
        words = dep.read_text(encoding="utf-8").replace("\\\n", " ").split()[1:]
        return all(Path(word).exists() and Path(word).stat().st_mtime_ns <= made for word in words)

    def build(self) -> None:
        """Compile; raises CompileError."""
        self.output.parent.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(self.command(), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            self.output.unlink(missing_ok=True)
            raise CompileError(f"{self.source}:\n{done.stderr[:3000]}")
        self.output.with_suffix(".flags").write_text(self._flag_digest(), encoding="utf-8")

    def _flag_digest(self) -> str:
        return hashlib.sha256("\0".join(self.flags).encode()).hexdigest()


def compile_all(units: list[Unit], jobs: int) -> int:
    """Compile what isn't current with `jobs` processes; returns how many files were compiled."""
    stale = [unit for unit in units if not unit.is_current()]
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        failures = [failure for failure in pool.map(_try_build, stale) if failure]
    if failures:
        raise CompileError("\n".join(failures))
    return len(stale)


def _try_build(unit: Unit) -> str | None:
    try:
        unit.build()
    except CompileError as error:
        return str(error)
    return None
