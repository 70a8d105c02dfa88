"""Which files make the engine, in which groups, and with which optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .compile import Unit
from .toolchain import RELAXED, Toolchain

SIMD_LEVELS = ("simd128", "relaxed")
THREADINGS = ("single", "pthread")

# Size matters for code that runs once a request or less; kernels and what runs once a token are tuned for speed.
COLD, WARM, HOT = ["-Oz"], ["-O2"], ["-O3"]

_WARM_LLAMA = {
    "llama-sampler",
    "llama-vocab",
    "llama-batch",
    "llama-context",
    "llama-graph",
    "llama-kv-cache",
    "unicode",
}
_WARM_LLAMA |= {"llama-kv-cache-iswa", "llama-grammar"}
_WARM_COMMON = {"sampling"}
# What a browser can't do, or what the engine never calls: consoles, downloads, child processes, command lines.
_NO_COMMON = {
    "arg",
    "console",
    "download",
    "hf-cache",
    "log",
    "preset",
    "subproc",
    "llguidance",
    "imatrix-loader",
    "debug",
}
_NO_LLAMA = {"llama-quant", "llama-model-saver"}
_SERVER = ("server-chat", "server-task", "server-common", "server-decision", "server-schema")
_MTMD = ("mtmd", "mtmd-audio", "mtmd-image", "mtmd-helper", "mtmd-helper-gen", "clip")
_GGML_BASE = (
    "ggml.c",
    "ggml.cpp",
    "ggml-alloc.c",
    "ggml-backend.cpp",
    "ggml-backend-reg.cpp",
    "ggml-backend-meta.cpp",
    "ggml-opt.cpp",
    "ggml-threading.cpp",
    "ggml-quants.c",
    "gguf.cpp",
)
_GGML_CPU = (
    "ggml-cpu.c",
    "ggml-cpu.cpp",
    "quants.c",
    "traits.cpp",
    "binary-ops.cpp",
    "unary-ops.cpp",
    "vec.cpp",
    "ops.cpp",
    "arch/wasm/quants.c",
    "tiled/tiled.cpp",
    "tiled/tiled-kernel.cpp",
)

_CXX_NOT_BUILT = {"support", "filesystem/int128_builtins", "pstl", "experimental"}
_CXXABI = (
    "abort_message",
    "cxa_aux_runtime",
    "cxa_default_handlers",
    "cxa_demangle",
    "cxa_exception",
    "cxa_exception_storage",
    "cxa_guard",
    "cxa_handlers",
    "cxa_personality",
    "cxa_vector",
    "cxa_virtual",
    "fallback_malloc",
    "private_typeinfo",
    "stdlib_exception",
    "stdlib_new_delete",
    "stdlib_stdexcept",
    "stdlib_typeinfo",
)
_CXX = (
    "algorithm",
    "any",
    "atomic",
    "barrier",
    "bind",
    "call_once",
    "charconv",
    "chrono",
    "condition_variable",
    "condition_variable_destructor",
    "error_category",
    "exception",
    "expected",
    "functional",
    "future",
    "hash",
    "ios",
    "ios.instantiations",
    "iostream",
    "locale",
    "memory",
    "memory_resource",
    "mutex",
    "mutex_destructor",
    "new_handler",
    "new_helpers",
    "optional",
    "ostream",
    "print",
    "random",
    "random_shuffle",
    "regex",
    "shared_mutex",
    "stdexcept",
    "string",
    "strstream",
    "system_error",
    "thread",
    "typeinfo",
    "valarray",
    "variant",
    "vector",
    "verbose_abort",
    "fstream",
    "filesystem/directory_entry",
    "filesystem/directory_iterator",
    "filesystem/filesystem_clock",
    "filesystem/filesystem_error",
    "filesystem/operations",
    "filesystem/path",
    "ryu/d2fixed",
    "ryu/d2s",
    "ryu/f2s",
)


@dataclass(frozen=True)
class Plan:
    """Every object of the engine; `kernels` maps a SIMD level to the objects that differ between levels."""

    shared: list[Unit]
    libcxx: list[Unit]
    kernels: dict[str, list[Unit]]


def make_plan(tools: Toolchain, llama: Path) -> Plan:
    """List the objects for the sources unpacked at `llama`."""
    maker = _UnitMaker(tools, llama)
    return Plan(
        shared=[*maker.ggml_base(), *maker.llama_core(), *maker.common(), *maker.server(), *maker.glue()],
        libcxx=maker.libcxx(),
        kernels={level: maker.kernels(level) for level in SIMD_LEVELS},
    )


class _UnitMaker:
    def __init__(self, tools: Toolchain, llama: Path) -> None:
        self.tools, self.llama, self.objects = tools, llama, tools.build / "objects"
        maps = tools.prefix_maps(llama)
        engine = tools.engine
        ggml = [llama / "ggml/include", llama / "ggml/src"]
        folders = {
            "ggml": [engine / "include", *ggml],
            "kernels": [engine / "include", engine / "kernels", *ggml, llama / "ggml/src/ggml-cpu"],
            "llama": [engine / "include", *ggml, llama / "include", llama / "src"],
            # several folders have a "common.h" and a "unicode.h": each group sees its own only
            "server": [
                engine / "include",
                llama / "common",
                llama / "include",
                llama / "ggml/include",
                llama / "vendor",
                llama / "tools/mtmd",
                llama / "tools/server",
                llama,
            ],
        }
        self.includes = {group: [f"-I{folder}" for folder in paths] for group, paths in folders.items()}
        defines = ["-DGGML_USE_CPU", "-DGGML_SCHED_MAX_COPIES=1"]
        self.c = [*tools.c_flags(), *maps, *defines]
        self.cxx = [*tools.cxx_flags(), *maps, *defines]
        self.kernel_cxx = [*tools.cxx_flags("gnu++20"), *maps, *defines]

    def unit(self, group: str, source: Path, level: list[str], extra: list[str] | None = None) -> Unit:
        ours = source.is_relative_to(self.tools.engine / "kernels")
        flags = self.c if source.suffix in {".c", ".S"} else self.kernel_cxx if ours else self.cxx
        includes = self.includes.get(group.split("-")[0], self.includes["server"])
        root = self.llama if source.is_relative_to(self.llama) else self.tools.engine
        name = str(source.relative_to(root)).replace("/", "_") + ".o"
        return Unit(source, (*flags, *includes, *level, *(extra or [])), self.objects / group / name)

    def ggml_base(self) -> list[Unit]:
        folder = self.llama / "ggml/src"
        return [self.unit("ggml", folder / name, WARM) for name in _GGML_BASE]

    def llama_core(self) -> list[Unit]:
        core = [p for p in sorted((self.llama / "src").glob("*.cpp")) if p.stem not in _NO_LLAMA]
        models = sorted((self.llama / "src/models").glob("*.cpp"))
        units = [self.unit("llama", p, WARM if p.stem in _WARM_LLAMA else COLD) for p in core]
        return [*units, *(self.unit("llama", p, COLD) for p in models)]

    def common(self) -> list[Unit]:
        folder = self.llama / "common"
        files = [p for p in sorted(folder.glob("*.cpp")) if p.stem not in _NO_COMMON]
        files += [*sorted((folder / "jinja").glob("*.cpp")), *sorted((folder / "parsers").glob("*.cpp"))]
        return [self.unit("common", p, WARM if p.stem in _WARM_COMMON else COLD) for p in files]

    def server(self) -> list[Unit]:
        server = [self.llama / f"tools/server/{name}.cpp" for name in _SERVER]
        folder = self.llama / "tools/mtmd"
        mtmd = [*(folder / f"{name}.cpp" for name in _MTMD), *sorted((folder / "models").glob("*.cpp"))]
        vendor = [self.llama / "vendor/hash/hash.cpp", self.llama / "vendor/hash/sha256/sha256.c"]
        extra = ["-DMA_NO_THREADING", "-include", str(self.tools.engine / "include/absent_posix.h")]
        units = [self.unit("server", p, COLD, extra) for p in [*server, *mtmd]]
        return [*units, *(self.unit("vendor", p, COLD, [f"-I{self.llama / 'vendor/hash'}"]) for p in vendor)]

    def glue(self) -> list[Unit]:
        engine = self.tools.engine
        runtime = sorted(p for p in (engine / "runtime").iterdir() if p.suffix in {".c", ".cpp", ".S"})
        glue = [self.unit("glue", p, COLD) for p in sorted((engine / "glue").glob("*.cpp"))]
        return [*(self.unit("glue", p, WARM) for p in runtime), *glue]

    def kernels(self, level: str) -> list[Unit]:
        extra = RELAXED if level == "relaxed" else []
        folder = self.llama / "ggml/src/ggml-cpu"
        files = [*(folder / name for name in _GGML_CPU), *sorted((self.tools.engine / "kernels").glob("*.cpp"))]
        # ggml-cpu.c asks llamafile_sgemm() first where there is one: kernels/float_matmul.cpp
        hook = {"ggml-cpu.c": ["-DGGML_USE_LLAMAFILE"]}
        return [self.unit(f"kernels-{level}", p, HOT, [*extra, *hook.get(p.name, [])]) for p in files]

    def libcxx(self) -> list[Unit]:
        lib = self.tools.zig_lib
        defines = [
            "-D_LIBCPP_BUILDING_LIBRARY",
            "-D_LIBCXXABI_BUILDING_LIBRARY",
            "-DLIBCXX_BUILDING_LIBCXXABI",
            "-D_LIBCPP_DISABLE_NEW_DELETE_DEFINITIONS_",
            f"-I{lib / 'libcxx/src'}",
            f"-I{lib / 'libcxxabi/src'}",
            f"-I{lib / 'libcxxabi/include'}",
            f"-I{lib / 'libcxx/libc'}",
            f"-I{lib / 'libcxx'}",
        ]
        maps = self.tools.prefix_maps(self.llama)
        cxx = (*self.tools.cxx_flags("gnu++23"), *maps, *defines, *COLD)
        shim = ("-include", str(self.tools.engine / "include/copy_file_range.h"))
        units = []
        for folder, names in (("libcxx", _CXX), ("libcxxabi", _CXXABI)):
            for name in names:
                extra = shim if name == "filesystem/operations" else ()
                output = self.objects / folder / (name.replace("/", "_") + ".o")
                units.append(Unit(lib / folder / f"src/{name}.cpp", (*cxx, *extra), output))
        unwind = [
            *self.tools.c_flags(),
            *maps,
            "-fwasm-exceptions",
            "-mllvm",
            "-wasm-use-legacy-eh=true",
            "-fdeclspec",
            "-D_LIBUNWIND_HIDE_SYMBOLS",
            f"-I{lib / 'libunwind/include'}",
            f"-I{lib / 'libunwind/src'}",
            *COLD,
        ]
        units.append(Unit(lib / "libunwind/src/Unwind-wasm.c", tuple(unwind), self.objects / "libunwind/Unwind-wasm.o"))
        return units
