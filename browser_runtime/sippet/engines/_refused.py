"""What llama.cpp found wrong while it read a request or a template, as an error that names the option."""

from __future__ import annotations

import re

from ..errors import InvalidModel, InvalidOption, SippError

_SIGNS = (("schema", "json_schema"), ("grammar", "grammar"), ("messages", "messages"), ("content[]", "messages"))
_ERROR = re.compile(r"\berror: (?!std::exception)(.+)", re.IGNORECASE)
_FIELD = re.compile(r"Field '(\w+)'")


def refused(reason: str) -> InvalidOption:
    """The error; its ``option`` is ``request`` where the reason tells no more.

    Args:
        reason: what llama.cpp said.
    """
    field = _FIELD.search(reason)
    option = field[1] if field else next((name for sign, name in _SIGNS if sign in reason.lower()), "request")
    hint = "Change the request." if option == "request" else f"Change {option}."
    return InvalidOption(option, f"The engine refused the request: {reason.rstrip('.')}.", hint=hint)


def not_loaded(failure: InvalidModel, template: str | None) -> SippError:
    """Why a model was not loaded: the chat template that was given with it, where the engine says so.

    Args:
        failure: with the engine's log in its details.
        template: the one that was given.
    """
    log = failure.details.get("log") or ()
    if not template or not any("chat template parsing error" in line for line in log):
        return failure
    reasons = [found[1].strip().rstrip(".:") for line in log if (found := _ERROR.search(line))]
    return InvalidOption(
        "chat_template",
        f"The engine can't use context.chat_template: {reasons[-1] if reasons else 'it is no Jinja template'}.",
        hint="Mend it, or leave it out to use the model's own.",
        log=log,
    )
