#!/usr/bin/env python3
"""Ask a platform through the official `openai` package, as its users do. Fails at the first answer that is not OpenAI's.

TUNESMITH_API_URL, TUNESMITH_API_KEY   the platform, which serves the base models `primer` and `caller`
"""

import asyncio
import json
import os

import openai

URL = os.environ["TUNESMITH_API_URL"] + "/v1"
KEY = os.environ["TUNESMITH_API_KEY"]
MODEL = "primer"
# The same weights with a chat template that knows tools.
CALLER = "caller"
MESSAGES = [{"role": "user", "content": "Name a colour."}]
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}, "count": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["colour", "count"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {
        "name": "order_status",
        "description": "Where an order is",
        "parameters": {"type": "object", "properties": {"order": {"enum": ["A1", "B2"]}}, "required": ["order"],
            "additionalProperties": False},
    },
}

client = openai.OpenAI(base_url=URL, api_key=KEY, max_retries=0, timeout=120)


def ask(**options):
    return client.chat.completions.create(**{"model": MODEL, "messages": MESSAGES, "max_tokens": 12, **options})


def fails(kind: type[openai.APIStatusError], status: int, call) -> openai.APIStatusError:
    try:
        call()
    except openai.APIStatusError as error:
        assert type(error) is kind, f"{type(error).__name__}, not {kind.__name__}: {error}"
        assert error.status_code == status and error.request_id and error.type and error.code, repr(error)
        return error
    raise AssertionError(f"answered where {kind.__name__} was expected")


def check_models() -> None:
    assert MODEL in [model.id for model in client.models.list()]
    model = client.models.retrieve(MODEL)
    assert (model.id, model.object) == (MODEL, "model") and model.created > 0 and model.owned_by


def check_chat() -> None:
    answer = ask(temperature=0)
    choice = answer.choices[0]
    assert answer.object == "chat.completion" and answer.model == MODEL and answer.id and answer.created
    assert choice.message.role == "assistant" and choice.message.content and choice.message.tool_calls is None
    assert choice.finish_reason in ("stop", "length") and answer._request_id
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens and 0 < usage.completion_tokens <= 12
    assert usage.prompt_tokens_details.cached_tokens >= 0
    # The name of today for the same limit.
    again = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_completion_tokens=12, temperature=0)
    assert again.choices[0].message.content == choice.message.content
    parts = [{"role": "user", "content": [{"type": "text", "text": MESSAGES[0]["content"]}]}]
    assert ask(messages=parts, temperature=0).choices[0].message.content == choice.message.content


def check_stream() -> None:
    whole = ask(temperature=0)
    chunks = list(ask(temperature=0, stream=True, stream_options={"include_usage": True}))
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1 and {chunk.model for chunk in chunks} == {MODEL}
    last, before = chunks[-1], chunks[:-1]
    assert last.choices == [] and all(chunk.usage is None for chunk in before)
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (
        whole.usage.prompt_tokens, whole.usage.completion_tokens)
    assert before[0].choices[0].delta.role == "assistant"
    text = "".join(choice.delta.content or "" for chunk in before for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    assert before[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert all(chunk.usage is None for chunk in ask(stream=True))
    # The package's own accumulation of a stream.
    with client.chat.completions.stream(model=MODEL, messages=MESSAGES, max_tokens=12, temperature=0) as stream:
        assert stream.get_final_completion().choices[0].message.content == text


def check_sampling() -> None:
    one, two = (ask(seed=5, temperature=1.5, n=2) for _ in range(2))
    texts = [choice.message.content for choice in one.choices]
    assert [choice.index for choice in one.choices] == [0, 1]
    assert texts == [choice.message.content for choice in two.choices] and texts[0] != texts[1]
    long = {"temperature": 0, "max_tokens": 24, "extra_body": {"ignore_eos": True}}
    whole = ask(**long).choices[0].message.content
    stop = whole[4:6]
    stopped = ask(**long, stop=stop).choices[0]
    assert stopped.message.content == whole[: whole.index(stop)] and stopped.finish_reason == "stop"
    # A bias of 100 on a token leaves no other.
    biased = client.completions.create(model=MODEL, prompt="a", max_tokens=3, logit_bias={"70": 100}, logprobs=0)
    assert len(set(biased.choices[0].logprobs.tokens)) == 1


def check_logprobs() -> None:
    content = ask(temperature=0, logprobs=True, top_logprobs=3, max_tokens=4).choices[0].logprobs.content
    for token in content:
        assert len(token.top_logprobs) == 3 and token.logprob <= 0 and isinstance(token.bytes, list)
        assert token.token == token.top_logprobs[0].token
    answer = client.completions.create(model=MODEL, prompt="The cat", max_tokens=4, temperature=0, logprobs=2)
    found = answer.choices[0].logprobs
    lengths = {len(found.tokens), len(found.token_logprobs), len(found.top_logprobs), len(found.text_offset)}
    assert answer.object == "text_completion" and lengths == {answer.usage.completion_tokens}
    assert found.text_offset[0] == 0 and "".join(found.tokens) == answer.choices[0].text
    echoed = client.completions.create(model=MODEL, prompt="The cat", max_tokens=4, temperature=0, echo=True)
    assert echoed.choices[0].text == "The cat" + answer.choices[0].text
    # How likely a text is, token by token, as evaluation harnesses ask for it.
    options = {"max_tokens": 0, "echo": True, "logprobs": 1}
    scored = client.completions.create(model=MODEL, prompt=echoed.choices[0].text, **options).choices[0].logprobs
    assert scored.token_logprobs[0] is None and scored.top_logprobs[0] is None
    assert scored.token_logprobs[-4:] == found.token_logprobs and scored.tokens[-4:] == found.tokens
    chunks = list(client.completions.create(model=MODEL, prompt=["a", "b"], max_tokens=3, stream=True))
    assert {choice.index for chunk in chunks for choice in chunk.choices} == {0, 1}


def check_structure() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA}}
    found = json.loads(ask(response_format=form, max_tokens=200, temperature=0).choices[0].message.content)
    assert found["colour"] in ("red", "green") and 1 <= found["count"] <= 9 and len(found) == 2
    text = ask(response_format={"type": "json_object"}, max_tokens=200, temperature=0).choices[0]
    assert text.finish_reason == "length" or isinstance(json.loads(text.message.content), dict)


def check_tools() -> None:
    named = {"type": "function", "function": {"name": "order_status"}}
    for choice in ("required", named):
        options = {"model": CALLER, "tools": [TOOL], "tool_choice": choice, "max_tokens": 80, "temperature": 0}
        answer = ask(**options).choices[0]
        call = answer.message.tool_calls[0]
        assert call.type == "function" and call.id and call.function.name == "order_status"
        assert json.loads(call.function.arguments)["order"] in ("A1", "B2")
        # The package's own accumulation of the calls in a stream, which wants ids and indices where OpenAI has them.
        with client.chat.completions.stream(messages=MESSAGES, **options) as stream:
            streamed = stream.get_final_completion().choices[0]
        assert streamed.message.tool_calls[0].function.arguments == call.function.arguments
        assert streamed.finish_reason == answer.finish_reason
    history = [*MESSAGES, {"role": "assistant", "content": None, "tool_calls": [call.model_dump()]},
        {"role": "tool", "tool_call_id": call.id, "content": "It is on its way."}]
    assert ask(model=CALLER, messages=history, tools=[TOOL], tool_choice="none").choices[0].message.tool_calls is None
    # A template without tools would drop them in silence.
    assert fails(openai.BadRequestError, 400, lambda: ask(tools=[TOOL])).param == "tools"


def check_errors() -> None:
    stranger = openai.OpenAI(base_url=URL, api_key="tsk_wrong", max_retries=0)
    fails(openai.AuthenticationError, 401, lambda: stranger.models.list())
    fails(openai.AuthenticationError, 401,
        lambda: stranger.chat.completions.create(model=MODEL, messages=MESSAGES))
    assert fails(openai.NotFoundError, 404, lambda: ask(model="nobody")).param == "model"
    fails(openai.NotFoundError, 404, lambda: client.models.retrieve("nobody"))
    assert fails(openai.BadRequestError, 400, lambda: ask(temperature=9)).param == "temperature"
    fails(openai.BadRequestError, 400, lambda: ask(messages=[]))
    long = [{"role": "user", "content": "word " * 20_000}]
    assert fails(openai.BadRequestError, 400, lambda: ask(messages=long)).code == "context_length_exceeded"
    # Errors in front of a stream are errors too, not broken streams.
    fails(openai.BadRequestError, 400, lambda: ask(temperature=9, stream=True))
    given = ask(extra_headers={"x-request-id": "mine-1"})
    assert given._request_id == "mine-1"


async def check_async() -> None:
    async with openai.AsyncOpenAI(base_url=URL, api_key=KEY, max_retries=0, timeout=120) as caller:
        def begin(**options):
            return caller.chat.completions.create(model=MODEL, messages=MESSAGES, **options)

        # Leaves in mid-stream, again and again: what was left would fill the engine's four places soon.
        for _ in range(12):
            stream = await begin(max_tokens=300, stream=True, extra_body={"ignore_eos": True})
            async for _ in stream:
                break
            await stream.close()
        answer = await begin(max_tokens=4)
        assert answer.usage.completion_tokens > 0
        # More than run and wait.
        burst = [begin(max_tokens=200, extra_body={"ignore_eos": True}) for _ in range(24)]
        answers = await asyncio.gather(*burst, return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, Exception)]
        assert refused and len(refused) < len(answers), f"{len(refused)} of {len(answers)} were refused"
        for error in refused:
            assert type(error) is openai.RateLimitError and error.status_code == 429, repr(error)
            assert error.response.headers["retry-after"], "the package waits as long as this header says"
    # With the package's own retries everybody is answered.
    async with openai.AsyncOpenAI(base_url=URL, api_key=KEY, max_retries=10, timeout=120) as patient:
        calls = [patient.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=50) for _ in range(12)]
        assert all(answer.choices for answer in await asyncio.gather(*calls))


def main() -> None:
    for check in (check_models, check_chat, check_stream, check_sampling, check_logprobs, check_structure, check_tools,
        check_errors):
        check()
        print(f"openai: {check.__name__.removeprefix('check_')}")
    asyncio.run(check_async())
    print("openai: async, leaving, too many")


main()
