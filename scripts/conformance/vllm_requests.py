"""What a caller asks of a model behind the gateway, whatever its version: answers, forms, tools, errors, tokens."""

import json

import openai

from fleet import Platform, Vllm, say, until

MESSAGES = [{"role": "user", "content": "Name a colour."}]
TOOL = {"type": "function", "function": {"name": "order_status", "description": "Where an order is",
    "parameters": {"type": "object", "properties": {"order": {"enum": ["A1", "B2"]}}, "required": ["order"],
        "additionalProperties": False}}}
SCHEMA = {"type": "object", "properties": {"colour": {"enum": ["red", "green"]}}, "required": ["colour"],
    "additionalProperties": False}
# Nothing of a server's own words that names its insides.
RAW = ("traceback", "/tmp", "127.0.0.1", "--v", "validation error", "vllm")


class Caller:
    """The platform as a client of OpenAI's sees it."""

    def __init__(self, platform: Platform):
        self.platform = platform
        self.client = openai.OpenAI(base_url=platform.url + "/v1", api_key=platform.key, max_retries=0, timeout=120)

    def chat(self, model: str = "helpdesk", **options):
        return self.client.chat.completions.create(
            **{"model": model, "messages": MESSAGES, "max_tokens": 12, "temperature": 0, **options})

    def complete(self, model: str = "helpdesk", **options):
        return self.client.completions.create(**{"model": model, "max_tokens": 12, "temperature": 0, **options})

    def answer(self, model: str, messages: list[dict]) -> tuple[str, str]:
        """A greedy answer, and the version that gave it."""
        raw = self.client.chat.completions.with_raw_response.create(
            model=model, messages=messages, max_tokens=48, temperature=0)
        return raw.parse().choices[0].message.content, raw.headers["x-tunesmith-version"]

    def refused(self, status: int, call) -> dict:
        try:
            call()
        except openai.APIStatusError as error:
            assert error.status_code == status, f"{error.status_code}, not {status}: {error}"
            assert error.code and error.request_id, repr(error)
            words = error.message.lower()
            assert not any(raw in words for raw in RAW), f"raw words of the server: {error.message}"
            return {"code": error.code, "param": error.param, "message": error.message}
        raise AssertionError(f"answered where {status} was expected")


def check_chat(caller: Caller, vllm: Vllm) -> None:
    whole = caller.chat()
    choice, usage = whole.choices[0], whole.usage
    assert whole.model == "helpdesk" and choice.message.content and usage.completion_tokens <= 12
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    chunks = list(caller.chat(stream=True, stream_options={"include_usage": True}))
    assert {chunk.model for chunk in chunks} == {"helpdesk"} and len({chunk.id for chunk in chunks}) == 1
    assert "".join(one.delta.content or "" for chunk in chunks for one in chunk.choices) == choice.message.content
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == usage.completion_tokens
    assert all(chunk.usage is None for chunk in caller.chat(stream=True)), "usage that was not asked for"
    token = caller.chat(logprobs=True, top_logprobs=3).choices[0].logprobs.content[0]
    assert token.token == token.top_logprobs[0].token and len(token.top_logprobs) == 3 and token.logprob <= 0
    # The base model and a deployment of it are the same.
    base, plain = (caller.chat(model).choices[0].message.content for model in ("primer", "plain"))
    assert base == plain != choice.message.content
    # A name of today for `system`; templates know the old one only.
    roles = [caller.chat(messages=[{"role": role, "content": "Be brief."}, *MESSAGES])
        for role in ("system", "developer")]
    assert roles[0].choices[0].message == roles[1].choices[0].message
    assert roles[0].usage.prompt_tokens == roles[1].usage.prompt_tokens > usage.prompt_tokens


def check_sampling(caller: Caller, vllm: Vllm) -> None:
    one, two = (caller.chat(seed=5, temperature=1.5, n=2) for _ in range(2))
    texts = [choice.message.content for choice in one.choices]
    assert texts == [choice.message.content for choice in two.choices] and texts[0] != texts[1]
    long = {"max_tokens": 24, "extra_body": {"ignore_eos": True}}
    whole = caller.chat(**long).choices[0].message.content
    stopped = caller.chat(**long, stop=whole[4:6]).choices[0]
    assert stopped.message.content == whole[: whole.index(whole[4:6])] and stopped.finish_reason == "stop"
    biased = caller.complete(prompt="a", max_tokens=3, logit_bias={"70": 100}, logprobs=0).choices[0]
    assert len(set(biased.logprobs.tokens)) == 1
    form = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA}}
    found = json.loads(caller.chat(response_format=form, max_tokens=100).choices[0].message.content)
    assert found["colour"] in ("red", "green") and len(found) == 1


def check_scores(caller: Caller, vllm: Vllm) -> None:
    answer = caller.complete("primer", prompt="The cat", max_tokens=4, logprobs=2).choices[0]
    echoed = caller.complete("primer", prompt="The cat", max_tokens=4, echo=True).choices[0].text
    assert echoed == "The cat" + answer.text
    scored = caller.complete("primer", prompt=echoed, max_tokens=0, echo=True, logprobs=1).choices[0].logprobs
    assert scored.token_logprobs[0] is None and scored.tokens[-4:] == answer.logprobs.tokens
    pairs = zip(scored.token_logprobs[-4:], answer.logprobs.token_logprobs)
    assert all(abs(a - b) < 1e-3 for a, b in pairs)
    chunks = list(caller.complete("primer", prompt=["a", "b"], max_tokens=3, stream=True))
    assert {choice.index for chunk in chunks for choice in chunk.choices} == {0, 1}


def check_errors(caller: Caller, vllm: Vllm) -> None:
    assert caller.refused(404, lambda: caller.chat("nobody"))["param"] == "model"
    long = [{"role": "user", "content": "word " * 3000}]
    for call in (lambda: caller.chat(messages=long), lambda: caller.chat(messages=long, stream=True),
        lambda: caller.chat(max_tokens=5000), lambda: caller.complete(prompt=[5] * 1024)):
        assert caller.refused(400, call)["code"] == "context_length_exceeded"
    for param, options in {"temperature": {"temperature": 9}, "top_p": {"top_p": 0},
        "logit_bias": {"logit_bias": {"9999": 5}}, "chat_template": {"extra_body": {"chat_template": "x"}}}.items():
        assert caller.refused(400, lambda options=options: caller.chat(**options))["param"] == param
    # What nobody knows is left out; what cannot be had is refused with a reason that helps.
    assert caller.chat(extra_body={"future_field": 1}).choices
    assert "top_k" in caller.refused(400, lambda: caller.chat(extra_body={"top_k": -7}))["message"]
    assert "best_of" in caller.refused(400, lambda: caller.complete(prompt="a", best_of=3))["message"]
    assert "suffix" in caller.refused(400, lambda: caller.complete(prompt="a", suffix="b"))["message"]
    assert "vocab" in caller.refused(400, lambda: caller.complete(prompt=[99_999]))["message"]
    assert "prompt" in caller.refused(400, lambda: caller.complete(prompt=""))["message"].lower()
    bad = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "nonsense"}}}
    assert "nonsense" in caller.refused(400, lambda: caller.chat(response_format=bad))["message"]


def check_tokens(caller: Caller, vllm: Vllm) -> None:
    """What is metered is what the answers say, and what vLLM itself has counted."""
    def metered() -> dict:
        groups = caller.platform.call("GET", "/v1/usage?group_by=model")[1]["data"]
        return next((group for group in groups if group["model"] == "contracts"), {})

    before, counters = metered(), ("prompt_tokens_total", "generation_tokens_total")
    counted = [vllm.count(counter) for counter in counters]
    asked = [{"role": "user", "content": "Count: " + "one two three " * 100}]
    usages = [caller.chat("contracts", messages=asked).usage for _ in range(3)]
    usages.append(list(caller.chat("contracts", stream=True, stream_options={"include_usage": True}))[-1].usage)
    usages.append(caller.complete("contracts", prompt=["a b", "c d e"], max_tokens=5, n=2, temperature=1).usage)
    list(caller.chat("contracts", stream=True, messages=asked))
    usages.append(usages[0])
    sums = [sum(getattr(usage, f"{kind}_tokens") for usage in usages) for kind in ("prompt", "completion")]
    fields = ("prompt_tokens", "completion_tokens")

    def added(field: str) -> int:
        return metered().get(field, 0) - before.get(field, 0)

    until(f"{sums} tokens are metered", lambda: [added(field) for field in fields] == sums, 20)
    theirs = [round(vllm.count(counter) - start) for counter, start in zip(counters, counted)]
    cached = added("cached_tokens")
    say(f"tokens of prompts and answers: {sums} metered, {theirs} counted by vLLM, {cached} out of its cache")
    # vLLM counts a prompt for each of its answers.
    assert theirs[1] == sums[1] and theirs[0] >= sums[0] and cached > 0


def check_leaving(caller: Caller, vllm: Vllm) -> None:
    """A caller who leaves stops the generation."""
    before = vllm.count("generation_tokens_total")
    for _ in range(8):
        stream = caller.chat(stream=True, max_tokens=900, extra_body={"ignore_eos": True})
        next(iter(stream))
        stream.close()
    until("nothing runs", lambda: vllm.count("num_requests_running") == 0, 5)
    generated = vllm.count("generation_tokens_total") - before
    say(f"8 callers left streams of 900 tokens: {generated:.0f} tokens were generated")
    assert generated < 8 * 450


def check_tools(caller: Caller, model: str) -> None:
    named = {"type": "function", "function": {"name": "order_status"}}
    # The penalty that the model prefers would bend the form of a call.
    plain = {"repetition_penalty": 1}
    for choice in ("required", named):
        options = {"model": model, "tools": [TOOL], "tool_choice": choice, "max_tokens": 120, "extra_body": plain}
        answer = caller.chat(**options).choices[0]
        call = answer.message.tool_calls[0]
        assert call.type == "function" and call.id and call.function.name == "order_status"
        assert json.loads(call.function.arguments)["order"] in ("A1", "B2"), call.function.arguments
        with caller.client.chat.completions.stream(messages=MESSAGES, temperature=0, **options) as stream:
            streamed = stream.get_final_completion().choices[0]
        assert json.loads(streamed.message.tool_calls[0].function.arguments)["order"] in ("A1", "B2")
        say(f"tool_choice {choice if choice == 'required' else 'by name'}: {call.function.arguments}, whole with "
            f"finish_reason {answer.finish_reason}, streamed with {streamed.finish_reason}")
    history = [*MESSAGES, {"role": "assistant", "content": None, "tool_calls": [call.model_dump()]},
        {"role": "tool", "tool_call_id": call.id, "content": "It is on its way."}]
    silent = caller.chat(model, messages=history, tools=[TOOL], tool_choice="none").choices[0]
    assert not silent.message.tool_calls
    assert caller.chat(model, tools=[TOOL], tool_choice="auto").choices


ALL = (check_chat, check_sampling, check_scores, check_errors, check_tokens, check_leaving)
