"""A prompt that is too long, told in words alone: not every engine and server has a code for it."""

from __future__ import annotations

import re

_WORDS = re.compile(
    r"maximum context length|maximum model length|max_model_len|prompt is too long|input is too long"
    r"|too large to process|exceeds? (?:the )?(?:available |maximum |model'?s? )*context",
    re.IGNORECASE,
)
"""Of OpenAI and vLLM (the first three), Anthropic, and llama.cpp."""


def is_overflow(message: str) -> bool:
    """Whether an error's message says that the prompt is longer than the context.

    Args:
        message: what the engine or server said.
    """
    return _WORDS.search(message) is not None
