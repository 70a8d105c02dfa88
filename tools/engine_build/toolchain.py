"""Compiler, linker and flags: Debian's clang-22 and wasm-ld-22 over the libc and libc++ sources of ziglang."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

CLANG = "clang-22"
LINKER = "wasm-ld-22"
ARCHIVER = "llvm-ar-22"
RESOURCE_INCLUDE = Path("/usr/lib/llvm-22/lib/clang/22/include")

# One set of objects serves the single-thread and the pthread build: atomic instructions are valid on unshared memory,
# and wasm-ld lowers thread-local storage to plain data when the memory isn't shared.
TARGET = ["--target=wasm32-wasip1", "-matomics", "-mbulk-memory", "-msimd128", "-mnontrapping-fptoint", "-msign-ext"]
RELAXED = ["-mrelaxed-simd"]
# The legacy encoding of exceptions runs in every browser that has wasm exceptions; the newer one not yet.
EXCEPTIONS = ["-fwasm-exceptions", "-mllvm", "-wasm-use-legacy-eh=true"]
WASI = [
    "-D_GNU_SOURCE",
    "-D_WASI_EMULATED_SIGNAL",
    "-D_WASI_EMULATED_MMAN",
    "-D_WASI_EMULATED_PROCESS_CLOCKS",
    "-D_WASI_EMULATED_GETPID",
]
COMMON = ["-DNDEBUG", "-w", "-ffunction-sections", "-fdata-sections", "-fno-ident", "-fvisibility=hidden", "-pthread"]


class ToolchainError(RuntimeError):
    """A compiler or linker that the build needs isn't installed."""


@dataclass(frozen=True)
class Toolchain:
    """Paths of the unpacked ziglang library tree, the engine folder of this repository and the build folder."""

    zig_lib: Path
    engine: Path
    build: Path

    def require(self) -> None:
        """Raise ToolchainError, naming what to install, unless every tool is there."""
        missing = [tool for tool in (CLANG, LINKER, ARCHIVER) if shutil.which(tool) is None]
        if missing or not RESOURCE_INCLUDE.is_dir():
            raise ToolchainError(
                f"the engine build needs {', '.join(missing) or 'the headers of clang 22'}: "
                "apt-get install -y --no-install-recommends clang-22 lld-22 llvm-22"
            )

    def versions(self) -> dict[str, str]:
        """First line of each tool's --version."""
        lines = {}
        for tool in (CLANG, LINKER):
            out = subprocess.run([tool, "--version"], check=True, capture_output=True, text=True).stdout
            lines[tool] = out.splitlines()[0]
        return lines

    def prefix_maps(self, llama: Path) -> list[str]:
        """Keep this machine's paths out of the objects, so that every machine builds the same bytes."""
        pairs = {self.zig_lib: "zig", llama: "llama", self.engine: "engine", self.build: "build"}
        return [f"-ffile-prefix-map={path}={name}" for path, name in pairs.items()]

    def c_flags(self) -> list[str]:
        """Flags of a C file, without its optimisation level."""
        includes = [
            RESOURCE_INCLUDE,
            self.zig_lib / "libc/include/wasm-wasi-musl",
            self.zig_lib / "libc/include/generic-musl",
        ]
        return [*TARGET, "-nostdinc", *_system(includes), *WASI, *COMMON, "-std=gnu11"]

    def cxx_flags(self, standard: str = "gnu++17") -> list[str]:
        """Flags of a C++ file, without its optimisation level."""
        includes = [
            self.zig_lib / "libcxx/include",
            self.zig_lib / "libcxxabi/include",
            RESOURCE_INCLUDE,
            self.zig_lib / "libc/include/wasm-wasi-musl",
            self.zig_lib / "libc/include/generic-musl",
        ]
        site = ["-include", str(self.engine / "include/libcxx_config_site.h")]
        head = [*TARGET, "-nostdinc", "-nostdinc++", *site, *_system(includes)]
        return [*head, *WASI, *COMMON, *EXCEPTIONS, f"-std={standard}"]

    def libc_archives(self, zig: Path) -> list[Path]:
        """Build wasi-libc, the parts of libc that ziglang wrote anew, and compiler-rt; about 40 s the first time."""
        out = self.build / "libc"
        names = ("libc.a", "libzigc.a", "libcompiler_rt.a")
        if all((out / name).exists() for name in names):
            return [out / name for name in names]
        zig.chmod(0o755)
        cache = self.build / "zig-cache"
        shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir(parents=True)
        probe = cache / "probe.c"
        probe.write_text("int main(void) { return 0; }\n", encoding="utf-8")
        cpu = "generic+simd128+bulk_memory+nontrapping_fptoint+sign_ext+atomics"
        command = [
            str(zig),
            "cc",
            "-target",
            "wasm32-wasi",
            f"-mcpu={cpu}",
            "-O2",
            str(probe),
            "-o",
            str(cache / "probe.wasm"),
        ]
        env = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": str(cache / "global"), "ZIG_LOCAL_CACHE_DIR": str(cache / "local")}
        subprocess.run(command, check=True, env=env)
        out.mkdir(parents=True, exist_ok=True)
        for name in names:
            (found,) = cache.rglob(name)
            shutil.copy(found, out / name)
        shutil.rmtree(cache)
        return [out / name for name in names]


def _system(paths: list[Path]) -> list[str]:
    return [flag for path in paths for flag in ("-isystem", str(path))]
