"""The Content Security Policy: the least that works, and a reason for every source in it.

A policy is built from *grants*: each names a directive, a source and the feature that needs it, so that what is sent
and what is explained cannot drift apart. The policy of a document is wider by Trusted Types than that of everything
else: a worker takes its policy from its own response, and the engine's thread library starts its threads by
``new Worker(url)`` inside a worker, where it knows no Trusted Types policy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from .errors import ConfigurationError

# Source expressions that a caller may add: scheme, host with optional leading wildcard, optional port and path.
_HOST_SOURCE = re.compile(r"(?:https?|wss?)://(?:\*\.)?[A-Za-z0-9.-]+(?::(?:\d{1,5}|\*))?(?:/[\w./%~-]*)?")
_IPV6_SOURCE = re.compile(r"(?:https?|wss?)://\[[0-9A-Fa-f:.]+\](?::\d{1,5})?(?:/[\w./%~-]*)?")


@dataclass(frozen=True)
class Grant:
    """One source of one directive.

    Attributes:
        directive: the directive's name, such as ``connect-src``.
        source: the source expression, or ``""`` for a directive without one.
        feature: what needs it, in a few words.
        without: what breaks, and how that shows, when it is left out.
    """

    directive: str
    source: str
    feature: str
    without: str


@dataclass(frozen=True)
class Policy:
    """A Content Security Policy as an ordered set of grants."""

    grants: tuple[Grant, ...]

    def __str__(self) -> str:
        return "; ".join(" ".join((name, *sources)) for name, sources in self.directives().items())

    def directives(self) -> dict[str, tuple[str, ...]]:
        """Directive → its sources, both in the order of the grants, each source once."""
        table: dict[str, list[str]] = {}
        for grant in self.grants:
            sources = table.setdefault(grant.directive, [])
            if grant.source and grant.source not in sources:
                sources.append(grant.source)
        return {name: tuple(sources) for name, sources in table.items()}

    def explain(self) -> list[Grant]:
        """Every grant, in the order in which the policy names it."""
        return list(self.grants)


_BASE = (
    Grant(
        "default-src",
        "'none'",
        "everything not named below is refused",
        "other kinds of content could be loaded",
    ),
    Grant("script-src", "'self'", "the page's modules, the workers and Pyodide", "the page stays blank"),
    Grant(
        "script-src",
        "'wasm-unsafe-eval'",
        "compiling WebAssembly: Pyodide and the engine",
        "Pyodide never finishes to boot and the engine fails with a CompileError",
    ),
    Grant(
        "connect-src",
        "'self'",
        "fetching Pyodide, the engine, the Python wheel and the models",
        "Pyodide never finishes to boot: the same picture as without 'wasm-unsafe-eval'",
    ),
    Grant("worker-src", "'self'", "the runtime worker, the engine worker and its threads", "no worker starts"),
    Grant("style-src", "'self'", "the page's style sheets", "the page is unstyled"),
    Grant("img-src", "'self'", "the page's icons", "icons are missing"),
    Grant("font-src", "'self'", "fonts of the page, should a theme bring one", "the system's fonts are used"),
    Grant("manifest-src", "'self'", "the web app manifest", "the page can't be installed"),
    Grant(
        "base-uri",
        "'none'",
        "no <base> can redirect relative URLs",
        "an injected <base> would redirect scripts",
    ),
    Grant("form-action", "'none'", "no form can send data away", "an injected form could post what was typed"),
    Grant(
        "frame-ancestors",
        "'none'",
        "no other page can frame this one",
        "another page could overlay it (clickjacking)",
    ),
)

_TRUSTED_TYPES = (
    Grant(
        "require-trusted-types-for",
        "'script'",
        "strings can't become markup or code by accident",
        "a mistake in rendering a model's output could run script",
    ),
    Grant("trusted-types", "sippet", "the page's own policy: worker URLs", "no worker starts"),
    Grant(
        "trusted-types",
        "dompurify",
        "the sanitizer's policy: a model's Markdown",
        "answers are shown as plain text",
    ),
)


def build_policy(*, document: bool, connect: Iterable[str] = ()) -> Policy:
    """The policy for a page (``document=True``) or for anything else, scripts of workers above all.

    Args:
        document: adds Trusted Types, which only documents enforce here.
        connect: origins that the program may talk to besides its own: gateways, providers, model hosts.

    Raises:
        ConfigurationError: an entry of ``connect`` is not a host source such as ``https://models.example``.
    """
    extra = tuple(
        Grant("connect-src", _checked(source), "configured with this server", "requests to it are blocked")
        for source in connect
    )
    return Policy(_BASE + extra + (_TRUSTED_TYPES if document else ()))


def _checked(source: str) -> str:
    """Refuses anything that could end the directive or widen the policy by a keyword."""
    if _HOST_SOURCE.fullmatch(source) or _IPV6_SOURCE.fullmatch(source):
        return source
    raise ConfigurationError(
        f"{source!r} can't be a source in the Content Security Policy.",
        hint="Write it as scheme://host[:port], for example https://models.example.",
    )
