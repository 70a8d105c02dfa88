"""The two commands' set-up: it does all that is needed, once, and heals what was left broken."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import _browsers
import _venv
import pytest
from _files import ROOT
from _report import ToolError
from fake_registry import serving
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

DEV = ROOT / "tools" / "dev.py"

# A build backend of a few lines, so that an editable install needs nothing from a package index.
BACKEND = """
import zipfile
from pathlib import Path

def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    name = Path("NAME").read_text()
    info = f"{name}-1.dist-info"
    files = {
        f"{name}.pth": str(Path.cwd()),
        f"{info}/METADATA": f"Metadata-Version: 2.1\\nName: {name}\\nVersion: 1\\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\\nGenerator: t\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\\n" for path in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(Path(wheel_directory) / f"{name}-1-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
    return f"{name}-1-py3-none-any.whl"

def build_wheel(*arguments):
    raise NotImplementedError
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A small repository: the real tools, two trivial projects, and nothing to download."""
    root = tmp_path / "repository"
    (root / "tools").mkdir(parents=True)
    for path in (ROOT / "tools").glob("*.py"):
        shutil.copy(path, root / "tools")
    for purpose in ("serve", "test"):
        (root / "tools" / f"requirements-{purpose}.txt").write_text("# nothing\n")
    for folder, name in ((root, "outer"), (root / "browser_runtime", "inner")):
        folder.mkdir(exist_ok=True)
        (folder / "NAME").write_text(name)
        (folder / "backend.py").write_text(BACKEND)
        (folder / f"{name}_module.py").write_text("")
        (folder / "pyproject.toml").write_text(
            '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
            f'[project]\nname = "{name}"\nversion = "1"\n'
        )
    return root


def in_repository(root: Path, code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run code with the repository's tools importable, and no package index within reach."""
    environment = {
        **os.environ,
        "SIPPET_CACHE": str(root.parent / "cache"),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PYTHONPATH": str(root / "tools"),
        **variables,
    }
    command = [sys.executable, "-c", f"import sys, _report, _venv\n{code}"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def set_up(root: Path, purpose: str = "serve", **variables: str) -> subprocess.CompletedProcess[str]:
    """One run of the environment step; its last line says whether anything was done."""
    code = f"sys.exit(_report.run(lambda: print(_venv.ensure({purpose!r})) or 0))"
    return in_repository(root, code, **variables)


def imports(root: Path, module: str) -> bool:
    python = root / _venv.program("python").relative_to(ROOT)
    return subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False).returncode == 0


@pytest.mark.slow
def test_the_environment_is_made_once_completed_when_needed_and_survives_a_lost_network(repository: Path) -> None:
    first = set_up(repository)
    assert first.returncode == 0, first.stdout + first.stderr
    assert first.stdout.splitlines()[-1] == "True"
    assert imports(repository, "outer_module, inner_module")

    second = set_up(repository)
    assert second.stdout.splitlines() == ["False"], "a second run has nothing to say and to do"

    more = set_up(repository, "test")
    assert "requirements-test.txt" in more.stdout
    assert "making .venv" not in more.stdout
    assert set_up(repository, "test").stdout.splitlines() == ["False"]
    assert set_up(repository, "serve").stdout.splitlines() == ["False"], "`test` includes what `serve` needs"

    with serving() as gone:
        pass
    requirements = repository / "tools/requirements-serve.txt"
    requirements.write_text("aiohttp==3.14.5\n")
    dead = {"PIP_INDEX_URL": f"{gone.url}/simple", "PIP_NO_INDEX": "0", "PIP_RETRIES": "0"}
    offline = set_up(repository, **dead)
    assert offline.returncode == 1
    assert "error [setup-pip-failed]" in offline.stderr
    assert "PIP_INDEX_URL" in offline.stderr

    requirements.write_text("# nothing again\n")
    healed = set_up(repository)
    assert healed.stdout.splitlines()[-1] == "True", healed.stderr
    assert imports(repository, "outer_module, inner_module")


@pytest.mark.slow
def test_an_environment_without_pip_or_of_unknown_origin_is_made_anew(repository: Path) -> None:
    # What an interrupted `python -m venv` leaves: an interpreter, but no pip and no stamp.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(repository / ".venv")], check=True)
    (repository / ".venv/left-over").touch()
    done = set_up(repository)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "making .venv" in done.stdout
    assert not (repository / ".venv/left-over").exists()
    assert imports(repository, "outer_module")


def test_a_python_without_ensurepip_names_the_package_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    monkeypatch.setattr(_venv, "_STAMP", tmp_path / "stamp.json")
    monkeypatch.setattr(_venv, "_BIN", tmp_path / "bin")
    with pytest.raises(ToolError, match=rf"apt-get install python3\.{sys.version_info.minor}-venv") as caught:
        _venv.ensure("serve")
    assert caught.value.code == "setup-no-venv"


def pins(name: str) -> dict[str, Version]:
    """The pinned version of each project in one requirements file (without those that it includes)."""
    lines = (ROOT / "tools" / name).read_text().splitlines()
    requirements = [Requirement(line.partition("#")[0]) for line in lines if line[:1] not in ("#", "-")]
    return {canonicalize_name(r.name): Version(str(r.specifier).removeprefix("==")) for r in requirements}


def test_the_pins_cover_all_that_the_projects_ask_for() -> None:
    host = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    package = tomllib.loads((ROOT / "browser_runtime" / "pyproject.toml").read_text())["project"]
    serve = pins("requirements-serve.txt")
    test = serve | pins("requirements-test.txt")
    extras = [
        r for project in (host, package) for group in project.get("optional-dependencies", {}).values() for r in group
    ]
    asked = [(serve, r) for r in host["dependencies"] + package["dependencies"]] + [(test, r) for r in extras]
    for pinned, text in asked:
        requirement = Requirement(text)
        if requirement.name not in ("sippet", "sippet-host"):
            assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), text


# Browsers


def program(path: Path, exit_code: int = 0) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\nexit {exit_code}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without browsers, apt-get and Playwright; returns its PATH's only folder."""
    if sys.platform != "linux":
        pytest.skip("the stand-ins are shell scripts")
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("SIPPET_CHROMIUM", raising=False)
    monkeypatch.delenv("SIPPET_FIREFOX", raising=False)
    monkeypatch.setattr(_browsers, "_FOUND", tmp_path / "found.json")
    monkeypatch.setattr(_venv, "_BIN", tmp_path / "no-venv")
    return folder


def test_an_installed_browser_is_found_and_remembered(bare: Path) -> None:
    expected = {
        "SIPPET_CHROMIUM": program(bare / "chromium"),
        "SIPPET_FIREFOX": program(bare / "firefox-esr"),
    }
    assert _browsers.ensure() == expected
    expected["SIPPET_CHROMIUM"] = str(shutil.move(bare / "chromium", bare / "google-chrome"))
    assert _browsers.ensure() == expected, "one that has gone is looked for anew"


def test_a_browser_that_does_not_start_is_passed_over(bare: Path) -> None:
    program(bare / "chromium", exit_code=127)
    works = program(bare / "google-chrome")
    assert _browsers.ensure() == {"SIPPET_CHROMIUM": works}


def test_the_persons_own_choice_of_browser_is_kept(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(bare / "chromium")
    own = program(bare.parent / "own/chrome")
    monkeypatch.setenv("SIPPET_CHROMIUM", own)
    assert _browsers.ensure()["SIPPET_CHROMIUM"] == own


def test_the_distributions_package_is_the_last_resort(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apt = bare / "apt-get"
    program(apt)
    apt.write_text(
        '#!/bin/sh\nfor last; do :; done\n[ "$last" = chromium ] || exit 100\n'
        f'printf "#!/bin/sh\\nexit 0\\n" > {bare}/chromium\n/bin/chmod 755 {bare}/chromium\n'
    )
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert _browsers.ensure() == {"SIPPET_CHROMIUM": str(bare / "chromium")}


def test_without_any_browser_the_error_says_how_to_get_one(bare: Path) -> None:
    with pytest.raises(ToolError, match="SIPPET_CHROMIUM") as caught:
        _browsers.ensure()
    assert caught.value.code == "test-no-browser"


# The command line


def dev(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(DEV), *arguments], capture_output=True, text=True, check=False)


def test_help_lists_the_commands_and_changes_nothing() -> None:
    done = dev("--help")
    assert done.returncode == 0
    for command in ("serve", "test", "bench", "check", "setup", "vendor"):
        assert f"tools/dev.py {command}" in done.stdout


def test_an_unknown_command_is_a_usage_error() -> None:
    done = dev("sevre")
    assert done.returncode == 2
    assert "error [usage]: no command 'sevre'" in done.stderr


def test_an_argument_too_many_is_named() -> None:
    done = dev("setup", "--fast")
    assert done.returncode == 1
    assert "--fast" in done.stderr


def test_an_older_python_gets_a_sentence_instead_of_a_traceback() -> None:
    code = f"import sys, runpy; sys.version_info = (3, 9, 1); runpy.run_path({str(DEV)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error [setup-old-python]")
    assert "Traceback" not in done.stderr


def test_continuous_integration_runs_the_test_command() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "python3 tools/dev.py test" in script.read_text()
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
