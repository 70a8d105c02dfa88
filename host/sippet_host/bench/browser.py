"""Engines in a page: one browser with a new profile for each session, so that none meets what another left."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sippet.errors import EngineError

from ..errors import BenchUnavailable
from .cases import Prompt
from .subjects import Job, Session, Timings, peak_memory_of

if TYPE_CHECKING:
    from playwright.async_api import BrowserContext, Page, Playwright

BROWSERS = ("chromium", "firefox")

Encode = Callable[[Prompt, int], Any]

_PROGRAMS = {"chromium": ("chromium", "chromium-browser", "google-chrome"), "firefox": ("firefox-esr",)}
_LOAD_SECONDS = 300
_COMPLETE_SECONDS = 1200
_OPEN = "async ([script, options]) => (await import(script)).open(options)"
_COMPLETE = "async ([script, request]) => (await import(script)).complete(request)"


class Browsers:
    """Starts browsers on the measured page.

    Args:
        playwright: Playwright's driver.
        kind: ``chromium`` or ``firefox``.
        url: the page.
        script: the path of the page's module.
    """

    def __init__(self, playwright: Playwright, kind: str, url: str, script: str) -> None:
        self._type = getattr(playwright, kind)
        self._kind = kind
        self._url = url
        self.script = script
        self.version = ""

    async def start(self, profile: str) -> BrowserContext:
        """A browser with this profile.

        Raises:
            BenchUnavailable: it can't be started.
        """
        from playwright.async_api import Error

        program = os.environ.get(f"SIPPET_{self._kind.upper()}") or next(
            filter(None, map(shutil.which, _PROGRAMS[self._kind])), None
        )
        # A distribution's Firefox speaks WebDriver BiDi only; Playwright's own build has a protocol of its own.
        channel = "moz-firefox" if program and self._kind == "firefox" else None
        try:
            context: BrowserContext = await self._type.launch_persistent_context(
                profile, executable_path=program, channel=channel
            )
        except Error as error:
            raise BenchUnavailable(
                f"{self._kind.capitalize()} could not be started: {_first_line(error)}",
                hint=f"Install it (playwright install {self._kind}), or name its program in "
                f"SIPPET_{self._kind.upper()}.",
            ) from error
        if context.browser is not None:
            self.version = context.browser.version
        return context

    async def page(self, context: BrowserContext) -> Page:
        """The measured page in that browser, with nothing loaded yet."""
        page = await context.new_page()
        await page.goto(self._url)
        return page


@asynccontextmanager
async def browsers(kind: str, url: str, script: str) -> AsyncIterator[Browsers]:
    """Playwright, while the block runs.

    Raises:
        BenchUnavailable: it isn't installed, or the browser can't be started.
    """
    try:
        from playwright.async_api import async_playwright
    except ImportError as error:
        raise BenchUnavailable(
            "Engines in a browser are driven by Playwright, which is not installed.",
            hint="Install it with: pip install 'sippet-host[bench]'. Or measure --engines native alone.",
        ) from error
    async with async_playwright() as playwright:
        found = Browsers(playwright, kind, url, script)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
            await (await found.start(profile)).close()  # says at once what is wrong with the browser
        yield found


class BrowserSession(Session):
    """An engine in a page of a browser of its own."""

    def __init__(self, context: BrowserContext, profile: str, script: str, encode: Encode) -> None:
        self._context = context
        self._profile = profile
        self._script = script
        self._encode = encode
        self._page: Page | None = None

    @classmethod
    async def open(cls, found: Browsers, options: Mapping[str, Any], encode: Encode, job: Job) -> BrowserSession:
        """Opens an engine in a new profile; a second time, in a new page, for a warm load.

        Args:
            options: for ``open()`` of ``static/js/bench/page.mjs``.
            encode: puts a prompt and a number of tokens into the engine's own form, for ``complete()`` there.
        """
        profile = tempfile.mkdtemp(prefix="sippet-bench-")
        try:
            session = cls(await found.start(profile), profile, found.script, encode)
        except BaseException:
            shutil.rmtree(profile, ignore_errors=True)
            raise
        try:
            session.cold_ms = await session._load(await found.page(session._context), options)
            if job.warm:
                assert session._page is not None
                await session._page.close()
                session.warm_ms = await session._load(await found.page(session._context), options)
        except BaseException:
            await session.close()
            raise
        return session

    async def _load(self, page: Page, options: Mapping[str, Any]) -> float:
        self._page = page
        opened = await self._evaluate(_OPEN, options, _LOAD_SECONDS)
        if opened["threads"] != options["threads"]:
            raise EngineError(f"It runs on {opened['threads']} threads instead of {options['threads']}.")
        return float(opened["ms"])

    async def complete(self, prompt: Prompt, tokens: int) -> Timings:
        timings = await self._evaluate(_COMPLETE, self._encode(prompt, tokens), _COMPLETE_SECONDS)
        return Timings.of(timings, len(prompt), tokens)

    async def _evaluate(self, function: str, argument: Any, seconds: float) -> Any:
        from playwright.async_api import Error

        assert self._page is not None
        try:
            return await asyncio.wait_for(self._page.evaluate(function, [self._script, argument]), seconds)
        except Error as error:
            raise EngineError(_first_line(error).removeprefix("Page.evaluate: ")) from error
        except TimeoutError:
            raise EngineError(f"It did not answer within {seconds:.0f} s.") from None

    def peak_memory(self) -> float | None:
        return max(filter(None, map(peak_memory_of, _page_processes(self._profile))), default=None)

    async def close(self) -> None:
        from playwright.async_api import Error

        with suppress(Error):  # a browser that crashed is closed already
            await self._context.close()
        shutil.rmtree(self._profile, ignore_errors=True)


def _page_processes(profile: str) -> list[str]:
    """The processes of a profile's browser that hold pages: Chromium's ``renderer``, Firefox's ``tab``."""
    parents: dict[str, str] = {}
    commands: dict[str, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            commands[folder.name] = (folder / "cmdline").read_text(errors="replace").replace("\0", " ")
            parents[folder.name] = (folder / "stat").read_text().rpartition(")")[2].split()[1]
    family = {pid for pid, command in commands.items() if profile in command}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return [pid for pid in family if {"--type=renderer", "tab"} & set(commands[pid].split())]


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300]
