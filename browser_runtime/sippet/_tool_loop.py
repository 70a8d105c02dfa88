"""The loop of :meth:`SippClient.run_tools`: answer, call what the answer asks for, answer again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .results import TextResult, TokenBatch, ToolsResult, Usage
from .runs import TextRun
from .tools import Toolbox


async def run(
    answer: Callable[..., TextRun],
    messages: list[dict[str, Any]],
    toolbox: Toolbox,
    max_steps: int,
    tool_choice: Any,
    on_tokens: Callable[[TokenBatch], Any] | None,
    on_step: Callable[[Mapping[str, Any]], Any] | None,
) -> ToolsResult:
    """Run the loop.

    Args:
        answer: starts a chat run with the conversation so far.
        messages: the conversation.
        toolbox: the functions.
        max_steps: most answers of the model.
        tool_choice: for the first step; later ones are free, or a forced call would never end.
        on_tokens: called with each batch of text.
        on_step: called with each message that is added.
    """
    conversation = list(messages)
    steps: list[TextResult] = []

    def add(message: dict[str, Any]) -> None:
        conversation.append(message)
        if on_step:
            on_step(message)

    while True:
        result = await _one(answer, conversation, toolbox, tool_choice if not steps else None, on_tokens)
        steps.append(result)
        message: dict[str, Any] = {"role": "assistant", "content": result.text}
        calls = result.tool_calls
        if calls:
            message["tool_calls"] = calls
        add(message)
        if not calls or result.finish_reason != "tool_calls" or len(steps) == max_steps:
            return _result(conversation, steps)
        for call in calls:
            function = call["function"]
            content = await toolbox.call(function["name"], function["arguments"])
            add({"role": "tool", "tool_call_id": call["id"], "name": function["name"], "content": content})


async def _one(
    answer: Callable[..., TextRun],
    conversation: list[dict[str, Any]],
    toolbox: Toolbox,
    tool_choice: Any,
    on_tokens: Callable[[TokenBatch], Any] | None,
) -> TextResult:
    choice = {} if tool_choice is None else {"tool_choice": tool_choice}
    step = answer(conversation, tools=toolbox.schemas, emit_tokens=on_tokens is not None, **choice)
    try:
        if on_tokens:
            async for batch in step.tokens:
                on_tokens(batch)
        return await step
    finally:
        step.cancel("the tool loop ended")  # does nothing where the step is complete


def _result(conversation: list[dict[str, Any]], steps: list[TextResult]) -> ToolsResult:
    last = steps[-1]
    usage = Usage(
        prompt_tokens=sum(step.usage.prompt_tokens for step in steps),
        cached_tokens=sum(step.usage.cached_tokens for step in steps),
        completion_tokens=sum(step.usage.completion_tokens for step in steps),
    )
    return ToolsResult(last.text, last.finish_reason, conversation, steps, usage, last.endpoint)
