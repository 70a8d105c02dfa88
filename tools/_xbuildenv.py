"""A cross-build environment for pyodide-build, laid out from the vendored Pyodide files, with no network.

pyodide-build asks a folder (`PYODIDE_ROOT`) for three things: the variables of `Makefile.envs`, the target's
sysconfig data, and the distribution's lock. The real one is a large download with a compiler's headers; a pure
Python project needs none of that, and the sysconfig data is inside the standard library's archive.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from _files import write_atomic

_SYSCONFIG = "_sysconfigdata__emscripten_wasm32-emscripten"

# pyodide-build reads the variables by running `make .output_vars`, whose recipe prints its environment.
_MAKEFILE = """\
export PYVERSION = {python}
export PYMAJOR = {major}
export PYMINOR = {minor}
export PYMICRO = {micro}
export PYODIDE_VERSION = {pyodide}
export PYODIDE_ABI_VERSION = {abi}
export PYODIDE_EMSCRIPTEN_VERSION = {emscripten}
export PLATFORM_TRIPLET = wasm32-emscripten
export SYSCONFIG_NAME = {sysconfig}
export CPYTHONINSTALL = $(PYODIDE_ROOT)/cpython/installs/python-{python}
export TARGETINSTALLDIR = $(CPYTHONINSTALL)
export SYSCONFIGDATA_DIR = $(CPYTHONINSTALL)/sysconfigdata/
export PYTHONINCLUDE = $(CPYTHONINSTALL)/include/python{major}.{minor}
export SKIP_EMSCRIPTEN_VERSION_CHECK = 1
export CFLAGS_BASE = -O2
export CXXFLAGS_BASE = -O2
export LDFLAGS_BASE = -O2

.PHONY: .output_vars
.output_vars:
\t@env
"""


def lay_out(pyodide: Path, root: Path) -> None:
    """Write the environment for the Pyodide in `pyodide` (vendored files) into the folder `root`."""
    lock = (pyodide / "pyodide-lock.json").read_bytes()
    info = json.loads(lock)["info"]
    version = json.loads((pyodide / "package.json").read_bytes())["version"]
    major, minor, micro = info["python"].split(".")
    makefile = _MAKEFILE.format(
        python=info["python"],
        major=major,
        minor=minor,
        micro=micro,
        pyodide=version,
        abi=info["abi_version"],
        emscripten=info["platform"].removeprefix("emscripten_").replace("_", "."),
        sysconfig=_SYSCONFIG,
    )
    with zipfile.ZipFile(pyodide / "python_stdlib.zip") as library:
        sysconfig = library.read(f"{_SYSCONFIG}.py")
    install = root / "cpython" / "installs" / f"python-{info['python']}"
    (install / "include" / f"python{major}.{minor}").mkdir(parents=True, exist_ok=True)
    write_atomic(install / "sysconfigdata" / f"{_SYSCONFIG}.py", sysconfig)
    write_atomic(root / "dist" / "pyodide-lock.json", lock)
    write_atomic(root / "Makefile.envs", makefile.encode())
