#!/usr/bin/env python3
"""The same through litellm, as a provider that speaks OpenAI's protocol.

TUNESMITH_API_URL, TUNESMITH_API_KEY   the platform, which serves the base models `primer` and `caller`
"""

import asyncio
import json
import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm

litellm.suppress_debug_info = True
MESSAGES = [{"role": "user", "content": "Name a colour."}]
PLACE = {"api_base": os.environ["TUNESMITH_API_URL"] + "/v1", "api_key": os.environ["TUNESMITH_API_KEY"]}
TOOL = {
    "type": "function",
    "function": {"name": "order_status", "parameters": {"type": "object", "properties": {"order": {"enum": ["A1", "B2"]}},
        "required": ["order"], "additionalProperties": False}},
}


def options(**changed):
    return {"model": "openai/primer", "messages": MESSAGES, "max_tokens": 12, "temperature": 0, "num_retries": 0, **PLACE,
        **changed}


def check_chat() -> None:
    whole = litellm.completion(**options())
    assert whole.choices[0].message.content and whole.usage.total_tokens > whole.usage.completion_tokens > 0
    chunks = list(litellm.completion(**options(stream=True, stream_options={"include_usage": True})))
    joined = litellm.stream_chunk_builder(chunks, messages=MESSAGES)
    assert joined.choices[0].message.content == whole.choices[0].message.content
    assert joined.usage.completion_tokens == whole.usage.completion_tokens
    text = litellm.text_completion(model="text-completion-openai/primer", prompt="The cat", max_tokens=4, **PLACE)
    assert text.choices[0].text


def check_structure() -> None:
    schema = {"type": "object", "properties": {"colour": {"enum": ["red", "green"]}}, "required": ["colour"],
        "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}
    answer = litellm.completion(**options(response_format=form, max_tokens=200))
    assert json.loads(answer.choices[0].message.content)["colour"] in ("red", "green")
    call = litellm.completion(**options(model="openai/caller", tools=[TOOL], tool_choice="required", max_tokens=80))
    call = call.choices[0].message.tool_calls[0].function
    assert call.name == "order_status" and json.loads(call.arguments)["order"] in ("A1", "B2")


def check_errors() -> None:
    for kind, changed in (
        (litellm.AuthenticationError, {"api_key": "tsk_wrong"}),
        (litellm.NotFoundError, {"model": "openai/nobody"}),
        (litellm.BadRequestError, {"temperature": 9}),
        (litellm.ContextWindowExceededError, {"messages": [{"role": "user", "content": "word " * 20_000}]}),
    ):
        try:
            litellm.completion(**options(**changed))
        except litellm.exceptions.APIError as error:
            raise AssertionError(f"{error!r}, not {kind.__name__}") from error
        except Exception as error:
            assert type(error) is kind, f"{error!r}, not {kind.__name__}"
        else:
            raise AssertionError(f"answered where {kind.__name__} was expected")


async def check_async() -> None:
    stream = await litellm.acompletion(**options(stream=True))
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == litellm.completion(**options()).choices[0].message.content


def main() -> None:
    for check in (check_chat, check_structure, check_errors):
        check()
        print(f"litellm: {check.__name__.removeprefix('check_')}")
    asyncio.run(check_async())
    print("litellm: async")


main()
