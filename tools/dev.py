#!/usr/bin/env python3
"""Sippet's commands, and the steps that they are made of.

    python3 tools/dev.py serve [ARGUMENTS]   serve the chat page (arguments go to `sippet serve`)
    python3 tools/dev.py test [ARGUMENTS]    lint, types and all tests; with arguments, just `pytest ARGUMENTS`
    python3 tools/dev.py bench [ARGUMENTS]   measure engines against each other (arguments go to `sippet bench`)
    python3 tools/dev.py check               lint and types alone
    python3 tools/dev.py setup               all set-up that `test` needs, without running anything
    python3 tools/dev.py vendor              fetch the browser's third-party files alone

Each does its own set-up first, in seconds where it was done before. Only Python 3.11 or newer with venv is needed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence

if sys.version_info < (3, 11):  # noqa: UP036 - people do run this with an older one
    sys.exit(
        "error [setup-old-python]: Sippet needs Python 3.11 or newer, this is "
        f"{sys.version.split()[0]}; run this with a newer one, for example python3.11 tools/dev.py"
    )

import _browsers
import _test_needs
import _venv
import build_wheel
import vendor
from _files import ROOT
from _report import Steps, ToolError, run


def _set_up(purpose: str, more_steps: int = 0) -> Steps:
    """Environment, third-party files, runtime: what every command stands on."""
    steps = Steps(3 + more_steps)
    with steps.step("Python environment (.venv)"):
        _venv.ensure(purpose)
    with steps.step("Third-party browser files (static/vendor)"):
        vendor.ensure(os.environ.get("SIPPET_VENDOR_FROM"))
    with steps.step("Python runtime for the browser (static/runtime)"):
        build_wheel.ensure()
    return steps


def _replace(program: str, arguments: Sequence[str]) -> int:
    """Become another program of the environment, so that Ctrl-C and the exit code are its own."""
    path = str(_venv.program(program))
    sys.stdout.flush()
    if sys.platform == "win32":  # where exec returns to the shell at once
        return subprocess.call([path, *arguments])
    os.execv(path, [path, *arguments])


def _serve(arguments: list[str]) -> int:
    _set_up("serve")
    return _replace("sippet", ["serve", *arguments])


def _test(arguments: list[str]) -> int:
    steps = _set_up("test", 1 if arguments else 3)
    with steps.step("Browsers for the tests"):
        os.environ.update(_browsers.ensure())
    os.chdir(ROOT)
    if arguments:
        return _replace("pytest", arguments)
    with steps.step("Compilers, engines and a GPU that single tests need"):
        _test_needs.for_tests()
    with steps.step("Lint and types"):
        _run_checks()
    # Files in their own order, so that no worker goes back from tests_browser to tests_py: Playwright's synchronous
    # interface leaves its event loop running in the thread, where `asyncio.run` then refuses to start another.
    workers = ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"] if (os.cpu_count() or 1) > 1 else []
    # Where nobody watches, the output must tell which test a run was at.
    return _replace("pytest", [*workers, *(["-v"] if os.environ.get("CI") else [])])


def _bench(arguments: list[str]) -> int:
    steps = _set_up("test", 2)
    with steps.step("Other engines, to compare with"):
        _test_needs.engines()
    with steps.step("Browsers"):
        os.environ.update(_browsers.ensure())
    return _replace("sippet", ["bench", *arguments])


def _check(arguments: list[str]) -> int:
    _no_arguments("check", arguments)
    steps = Steps(2)
    with steps.step("Python environment (.venv)"):
        _venv.ensure("test")
    with steps.step("Lint and types"):
        _run_checks()
    return 0


def _run_checks() -> None:
    tools = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "tools").glob("*.py"))]
    for program, arguments in (("ruff", ["check", "--quiet", "."]), ("mypy", []), ("mypy", tools)):
        done = subprocess.run(
            [str(_venv.program(program)), *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ToolError(
                "check-failed", f"{program} found something; the tests were not run.\n{done.stdout}{done.stderr}"
            )


def _setup(arguments: list[str]) -> int:
    _no_arguments("setup", arguments)
    steps = _set_up("test", 2)
    with steps.step("Browsers for the tests"):
        _browsers.ensure()
    with steps.step("Compilers, engines and a GPU that single tests need"):
        _test_needs.for_tests()
    return 0


def _vendor(arguments: list[str]) -> int:
    _no_arguments("vendor", arguments)
    with Steps(1).step("Third-party browser files (static/vendor)"):
        vendor.ensure(os.environ.get("SIPPET_VENDOR_FROM"))
    return 0


def _no_arguments(command: str, arguments: list[str]) -> None:
    if arguments:
        raise ToolError("usage", f"`{command}` takes no arguments, but got {' '.join(arguments)}")


_COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "serve": _serve,
    "test": _test,
    "bench": _bench,
    "check": _check,
    "setup": _setup,
    "vendor": _vendor,
}


def main(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if arguments else 2
    command = _COMMANDS.get(arguments[0])
    if command is None:
        print(f"error [usage]: no command {arguments[0]!r}; there are {', '.join(_COMMANDS)}", file=sys.stderr)
        return 2
    return run(lambda: command(arguments[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
