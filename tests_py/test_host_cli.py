"""The command line, as a process of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from host_http import ask
from sippet_host import __version__
from sippet_host import cli as commands

TINY = Path(__file__).parent / "models/tiny-chat-f16.gguf"
CheckRun = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Ours, with a cache of its own and no index to fetch a default model from."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SIPPET", "PIP_"))}
    return kept | {
        "SIPPET_CACHE": str(tmp_path / "cache"),
        "PIP_NO_INDEX": "1",
        "PIP_CONFIG_FILE": os.devnull,
        "COLUMNS": "100",
    }


@pytest.fixture
def run(environment: dict[str, str]) -> CheckRun:
    def run(*arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sippet_host", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment | extra)

    return run


class Server:
    """A ``sippet serve`` process that has printed its line."""

    def __init__(self, process: subprocess.Popen[str], line: str) -> None:
        self.process = process
        self.line = line
        match = re.search(r"https?://\S+", line)
        assert match, line
        self.url = match[0]

    def stop(self, number: int = signal.SIGINT) -> tuple[int, str, str]:
        self.process.send_signal(number)
        assert self.process.stdout
        assert self.process.stderr
        out, err = self.process.stdout.read(), self.process.stderr.read()
        return self.process.wait(timeout=20), out, err


@pytest.fixture
def serve(environment: dict[str, str]) -> Iterator[Callable[..., Server]]:
    processes: list[subprocess.Popen[str]] = []

    def serve(*arguments: str, **extra: str) -> Server:
        process = subprocess.Popen(
            [sys.executable, "-m", "sippet_host", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment | extra,
        )
        processes.append(process)
        assert process.stdout
        line = process.stdout.readline()
        if not line:
            raise AssertionError(process.communicate()[1])
        return Server(process, line)

    yield serve
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_serve_prints_one_clickable_line_and_the_models(serve: Callable[..., Server]) -> None:
    server = serve("serve", str(TINY), "--port", "0")
    assert re.fullmatch(r"Sippet: http://127\.0\.0\.1:\d+/ \(isolated: threads work\)\n", server.line)
    assert ask(server.url, "/healthz").json()["models"] == 1
    status, out, err = server.stop()
    assert out == "  tiny-chat-f16, 3.2 MB\n"
    assert (status, err) == (0, "Stopped.\n")


def test_without_a_command_it_serves(serve: Callable[..., Server]) -> None:
    assert ask(serve(str(TINY), "--port", "0").url, "/healthz").status == 200
    assert ask(serve("--port", "0", "--model", str(TINY)).url, "/healthz").status == 200


def test_every_option_can_come_from_the_environment(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve(
        SIPPET_SERVE_PORT="0",
        SIPPET_SERVE_MODEL=f"{TINY}; {TINY.with_name('mmproj-tiny-f16.gguf')}",
        SIPPET_SERVE_NO_ISOLATION="1",
        SIPPET_SERVE_ALLOWED_HOST="a.example b.example",
        SIPPET_SERVE_CONNECT="https://models.example",
    )
    assert "not isolated" in server.line
    listed = ask(server.url, "/models/manifest.json", headers={"Host": "b.example"}).json()["models"]
    assert [model["id"] for model in listed] == ["tiny-chat-f16", "mmproj-tiny-f16"]
    headers = ask(server.url, "/healthz").headers
    assert "Cross-Origin-Embedder-Policy" not in headers
    assert "connect-src 'self' https://models.example;" in headers["Content-Security-Policy"]


def test_a_folder_is_served(serve: Callable[..., Server]) -> None:
    server = serve("--models-dir", str(TINY.parent), "--port", "0", "--coep", "credentialless")
    answer = ask(server.url, "/models/manifest.json")
    assert [model["id"] for model in answer.json()["models"]] == ["tiny-chat-f16"]
    assert answer.headers["Cross-Origin-Embedder-Policy"] == "credentialless"


def test_a_registered_model_is_served_by_its_name(serve: Callable[..., Server], tmp_path: Path) -> None:
    own = tmp_path / "own.json"
    entry = {"id": "mine", "name": "Mine", "files": [{"name": "renamed.gguf"}], "projector": {"name": "eyes.gguf"}}
    own.write_text(json.dumps({"version": 1, "models": [entry]}))
    shutil.copy(TINY, tmp_path / "renamed.gguf")
    server = serve("mine", "--registry", str(own), "--port", "0")
    (model,) = ask(server.url, "/models/manifest.json").json()["models"]
    assert (model["id"], model["name"], model["files"][0]["name"]) == ("mine", "Mine", "renamed.gguf")
    assert ask(server.url, "/models/mine/renamed.gguf").body == TINY.read_bytes()


def test_each_option_has_its_own_variable() -> None:
    options = [parameter for parameter in commands.serve.params if isinstance(parameter, click.Option)]
    context = click.Context(commands.serve, auto_envvar_prefix="SIPPET_SERVE")
    for option in options:
        name = "SIPPET_SERVE_" + max(option.opts, key=len).removeprefix("--").replace("-", "_").upper()
        value = option.resolve_envvar_value(context)
        assert value is None
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(name, "x")
            assert option.resolve_envvar_value(context) == "x", name


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_at_once_with_downloads_open(serve: Callable[..., Server], tmp_path: Path, number: int) -> None:
    big = tmp_path / "models/big.gguf"
    big.parent.mkdir()
    content = TINY.read_bytes()
    with big.open("wb") as file:
        file.write(content)
        file.truncate(len(content) + 100 * 2**20)
    server = serve("--models-dir", str(big.parent), "--port", "0")
    port = int(server.url.rsplit(":", 1)[1].strip("/"))
    clients = []
    for _ in range(3):
        client = socket.create_connection(("127.0.0.1", port), timeout=20)
        client.sendall(f"GET /models/big/big.gguf HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        assert client.recv(100).startswith(b"HTTP/1.1 200")
        clients.append(client)
    started = time.monotonic()
    status, _, err = server.stop(number)
    # Half a second on an idle machine; one that waited for the downloads would never end.
    assert time.monotonic() - started < 15
    assert (status, err) == (0, "Stopped.\n")
    for client in clients:
        client.close()


def test_a_taken_port_is_told_without_a_traceback_and_another_suggested(run: CheckRun) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("serve", str(TINY), "--port", str(port))
    assert result.returncode == 1
    assert f"Error [port_in_use]: Port {port} is in use" in result.stderr
    assert f"--port {port + 1}" in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.fixture
def call(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs the entry point in this process, for commands that end by themselves."""

    def call(*arguments: str) -> tuple[int, str, str]:
        with monkeypatch.context() as patch:
            for name in set(os.environ) - set(environment):
                patch.delenv(name)
            for name, value in environment.items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as end:
                commands.main(arguments)
        captured = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return end.value.code, captured.out, captured.err

    return call


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["serve", "nothing.gguf"], "model_not_found"),
        (["nonsense"], "model_not_found"),
        (["serve", __file__], "invalid_model"),
        (["serve", "--models-dir", "nothing"], "model_not_found"),
        (["serve", "http://127.0.0.1:9/x.gguf"], "download_failed"),
        (["serve"], "download_failed"),
        (["serve", str(TINY), "--tls-cert", "cert.pem"], "configuration"),
        (["serve", "http://127.0.0.1:9/late.gguf", "--tls-cert", "cert.pem"], "configuration"),
        (["serve", str(TINY), "--tls-cert", "no.pem", "--tls-key", "no.pem"], "configuration"),
        (["serve", str(TINY), "--connect", "*"], "configuration"),
        (["serve", "tiny-chat-f16"], "model_not_found"),
        (["serve", "smollm2-135m-instruct-q4_1"], "download_failed"),
        (["serve", "--registry", "nothing.json"], "configuration"),
        (["serve", "--registry", __file__], "invalid_option"),
        (["serve", str(TINY), "--host", "203.0.113.7", "--port", "0"], "configuration"),
        (["serve", str(TINY), "--host", "no.such.host.invalid", "--port", "0"], "configuration"),
        (["serve", str(TINY), "--host", "no..such", "--port", "0"], "configuration"),
        (["serve", str(TINY), "--allowed-host", "http://proxy.example", "--port", "0"], "configuration"),
        (["serve", str(TINY), "--allowed-host", "proxy.example:99999", "--port", "0"], "configuration"),
        (["serve", ""], "model_not_found"),
        (["serve", "~nobody-of-that-name/x.gguf"], "model_not_found"),
        (["serve", "x" * 300 + "-00001-of-00002.gguf"], "model_not_found"),
        (["serve", "\udcff.gguf"], "invalid_model"),
        (["serve", "http://127.0.0.1:9/\u00e4 \u00f6.gguf"], "download_failed"),
        (["serve", "http://127.0.0.1:9/" + "x" * 300 + ".gguf"], "download_failed"),
        (["serve", "http://127.0.0.1:99999/x.gguf"], "download_failed"),
        (["serve", "http://[::1/x.gguf"], "download_failed"),
        (["serve", "http://a..b/x.gguf"], "download_failed"),
        (["serve", "http://127.0.0.1:9/\udcff.gguf"], "download_failed"),
        (["serve", "--models-dir", "x" * 300], "storage"),
        (["serve", "--registry", "x" * 300], "configuration"),
        (["serve", "--registry", "/dev/zero"], "configuration"),
        (["gateway", "/dev/zero"], "configuration"),
        (["chat", "", "-p", "x"], "model_not_found"),
        (["chat", "x" * 300, "-p", "x"], "storage"),
        (["query", "x", "--endpoint", ""], "invalid_option"),
        (["query", "x", "-m", "~nobody-of-that-name/x.gguf"], "model_not_found"),
        (["embed", "x", "-m", str(TINY.parent)], "model_not_found"),
        (["bench", "x" * 300], "model_not_found"),
        (["bench", str(TINY), "--threads", "9" * 5000], "configuration"),
    ],
)
def test_a_failure_exits_with_1_and_one_coded_line(
    call: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: str
) -> None:
    monkeypatch.setattr("sippet_host.fetch.time.sleep", lambda _: None)
    status, out, err = call(*arguments)
    assert status == 1
    assert f"Error [{code}]: " in err.splitlines()[-1]
    assert out == ""


@pytest.mark.parametrize(
    "arguments",
    [["serve", "--nonsense"], ["--port", "x"], ["serve", "--port", "70000"], ["serve", "--coep", "none"]],
)
def test_a_wrong_option_exits_with_2_and_names_it(
    call: Callable[..., tuple[int, str, str]], arguments: list[str]
) -> None:
    status, _, err = call(*arguments)
    assert status == 2
    assert next(word for word in arguments if word.startswith("--")) in err


@pytest.mark.parametrize("command", [["serve", str(TINY)], ["models", "list"], ["query", "x"]])
def test_a_cache_folder_that_can_t_be_is_told(
    call: Callable[..., tuple[int, str, str]], environment: dict[str, str], command: list[str]
) -> None:
    environment["SIPPET_CACHE"] = "~nobody-of-that-name/cache"
    status, _, err = call(*command)
    assert (status, err.splitlines()[-1][:22]) == (1, "Error [configuration]:")


def test_version_and_help(call: Callable[..., tuple[int, str, str]]) -> None:
    assert call("--version") == (0, f"sippet, version {__version__}\n", "")
    assert "serve" in call("--help")[1]


@pytest.mark.parametrize("command", [[], ["serve"], ["chat"], ["query"], ["embed"], ["gateway"], ["models"]])
def test_the_readme_shows_the_help_of_each_command(
    call: Callable[..., tuple[int, str, str]], command: list[str]
) -> None:
    words = " ".join(["sippet", *command, "--help"])
    readme = (Path(__file__).parent.parent / "host/README.md").read_text()
    assert f"```text\n$ {words}\n{call(*command, '--help')[1]}```" in readme


def test_listening_on_other_addresses_is_warned_of(serve: Callable[..., Server]) -> None:
    server = serve(str(TINY), "--host", "0.0.0.0", "--port", "0")
    assert server.url.startswith("http://127.0.0.1:")
    _, _, err = server.stop()
    assert "Warning: listening on 0.0.0.0" in err
    assert "--tls-cert" in err


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the test's certificate is made by openssl")
def test_with_a_certificate_it_serves_https(serve: Callable[..., Server], tmp_path: Path) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    server = serve(
        str(TINY), "--port", "0", "--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem")
    )
    assert server.url.startswith("https://")
    context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    url = server.url + "models/tiny-chat-f16/tiny-chat-f16.gguf"
    with urllib.request.urlopen(url, context=context, timeout=20) as response:
        assert response.read() == TINY.read_bytes()
    request = urllib.request.Request(url, headers={"Range": "bytes=1000-1999"})
    with urllib.request.urlopen(request, context=context, timeout=20) as response:
        assert (response.status, response.read()) == (206, TINY.read_bytes()[1000:2000])


def test_progress_is_plain_lines_without_a_terminal(run: CheckRun) -> None:
    result = run("serve", "--port", "0")
    assert "\x1b" not in result.stderr
    assert "\r" not in result.stderr
    assert json.dumps(result.stderr).count("Fetching SmolLM2 135M Instruct (92.9 MB)") == 1


def test_ctrl_c_while_python_still_imports_ends_without_a_traceback() -> None:
    code = """
import sys, types
late = types.ModuleType("sippet_host.cli")
def interrupted(name):
    raise KeyboardInterrupt
late.__getattr__ = interrupted
sys.modules["sippet_host.cli"] = late
from sippet_host.__main__ import run
run()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "")
