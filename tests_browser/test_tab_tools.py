"""A tool is called by a model that was never made for these tests."""

from __future__ import annotations

import json

import pytest
from tab import SMOLLM2, Tab

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Name of the city."},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}


@pytest.mark.slow
def test_a_real_model_calls_a_tool_with_arguments_of_its_schema(tab: Tab) -> None:
    result = tab.run(
        """const client = new sippet.SippClient({wasmThreading: "single-thread", engine: "sippet"});
           await client.add("it", {source: argument.source, runtime: {context: {nCtx: 1024}}});
           const talk = [{role: "user", content: "What is the weather in Paris, in celsius?"}];
           const result = await client.chat(talk, {
             tools: [argument.tool], toolChoice: "required", temperature: 0, maxTokens: 80,
           });
           await client.close();
           return result;""",
        {"source": SMOLLM2, "tool": WEATHER},
    )
    assert result["finishReason"] == "tool_calls", result["text"]
    (call,) = result["toolCalls"]
    assert call["id"]
    assert call["function"]["name"] == "get_weather"
    arguments = json.loads(call["function"]["arguments"])
    assert arguments.keys() == {"city", "unit"}
    assert "Paris" in arguments["city"]
    assert arguments["unit"] == "celsius"
