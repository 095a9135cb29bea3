#!/usr/bin/env python3
"""Train adapters, have our own engine answer with them, then real vLLM servers behind the same platform, and compare.

Fails at the first thing that is not as it ought to be. fleet.py says which variables it reads.
"""

import concurrent.futures
import json
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import openai

import vllm_requests
from fleet import KEY_VARIABLE, ROOT, Platform, Program, Vllm, say, until
from vllm_requests import Caller

EXAMPLES = ROOT / "examples"
# Adapters in all of PEFT's terms that vLLM reads by itself.
PATTERNED = {"rank": 8, "rank_pattern": {"q_proj": 32, "down_proj": 4}, "alpha_pattern": {"v_proj": 64},
    "use_rslora": True, "layers_to_transform": [1, 2, 3], "learning_rate": 4e-3, "max_steps": 60}
WIDE = {"rank": 128, "target_modules": ["q_proj"], "max_steps": 2}
HEADS = {"target_modules": ["q_proj", "embed_tokens", "lm_head"], "learning_rate": 5e-3, "max_steps": 40}
# What each deployment answers with at first.
SERVED = {"helpdesk": ("support", 1), "contracts": ("support", 2), "heads": ("heads", 1)}
# Two programs add up the same float32 numbers in another order; a greedy answer parts ways at a near tie only.
LARGEST_DIFFERENCE = 2e-3


def prompts(example: str, count: int = 12) -> list[list[dict]]:
    lines = (EXAMPLES / example / "heldout.jsonl").read_text().splitlines()[:count]
    return [json.loads(line)["messages"][:-1] for line in lines]


PROMPTS = {"primer": prompts("customer-support"), "helpdesk": prompts("customer-support"),
    "contracts": prompts("legal-clauses"), "heads": prompts("legal-clauses")}


def record(caller: Caller) -> dict:
    """Greedy answers of all models with their log-probabilities, and how likely given texts are."""
    found = {}
    for model, conversations in PROMPTS.items():
        answers = [caller.chat(model, messages=messages, max_tokens=48, logprobs=True, top_logprobs=2).choices[0]
            for messages in conversations]
        # One at a time: with adapters enabled, vLLM on a CPU dies where a prompt is scored beside another request.
        scored = [caller.complete(model, prompt=messages[-1]["content"], max_tokens=0, echo=True, logprobs=1).choices[0]
            for messages in conversations]
        found[model] = {
            "texts": [answer.message.content for answer in answers],
            "tokens": [[(one.token, one.logprob, one.logprob - one.top_logprobs[1].logprob)
                for one in answer.logprobs.content] for answer in answers],
            "scores": [choice.logprobs.token_logprobs for choice in scored],
        }
    return found


def compare(ours: dict, theirs: dict) -> None:
    for model, one in ours.items():
        other = theirs[model]
        greedy, scores, parted = [], [], 0
        for left, right in zip(one["tokens"], other["tokens"], strict=True):
            for (token, logprob, lead), (found, measured, _) in zip(left, right):
                if token != found:
                    assert lead < LARGEST_DIFFERENCE, f"{model}: {token!r} or {found!r}, though the lead was {lead}"
                    parted += 1
                    break
                greedy.append(abs(logprob - measured))
        for left, right in zip(one["scores"], other["scores"], strict=True):
            assert left[0] is right[0] is None and len(left) == len(right)
            scores += [abs(a - b) for a, b in zip(left[1:], right[1:])]
        same = sum(a == b for a, b in zip(one["texts"], other["texts"]))
        say(f"{model}: {same} of {len(one['texts'])} greedy answers are our engine's, {parted} part at a tie; "
            f"log-probabilities of {len(greedy)} tokens differ by {max(greedy):.1e} at most, those of {len(scores)} "
            f"tokens of given texts by {max(scores):.1e}")
        assert max(greedy + scores) < LARGEST_DIFFERENCE and same + parted == len(one["texts"])


def prepare(platform: Platform, work: Path) -> dict:
    """Base models, datasets, adapters and deployments, while our own engine serves them, and its answers."""
    # The bundled template knows no tools.
    folder = work / "caller"
    folder.mkdir()
    primer = ROOT / "models" / "primer"
    for file in [*primer.glob("*.json"), primer / "model.safetensors"]:
        shutil.copy(file, folder)
    shutil.copy(ROOT / "scripts/parity/templates/qwen2.5.jinja", folder / "chat_template.jinja")
    # vLLM does by itself what a model prefers here.
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0], "repetition_penalty": 3.0}))
    platform.run("base-models", "register", folder, "--name", "caller")
    for name, example in (("support", "customer-support"), ("legal", "legal-clauses")):
        platform.run("datasets", "upload", EXAMPLES / example / "train.jsonl", "--name", name)
    platform.wait_for_jobs([
        platform.train("primer", "support", "support", learning_rate=5e-3, max_steps=60),
        platform.train("primer", "legal", "heads", **HEADS),
        platform.train("primer", "legal", "wide", **WIDE),
        platform.train("caller", "legal", "broad", **WIDE),
        platform.train("caller", "support", "brief", learning_rate=5e-3, max_steps=20)])
    platform.wait_for_jobs([platform.train("primer", "legal", "support", **PATTERNED)])
    for name, (adapter, version) in SERVED.items():
        platform.run("deployments", "create", name, "--base", "primer", "--adapter", adapter, "--version", version)
    platform.run("deployments", "create", "plain", "--base", "primer")
    return record(Caller(platform))


def check_split(caller: Caller, expected: dict[str, dict]) -> None:
    """Both halves of a split answer, each with its own adapter's words, also in one batch."""
    platform = caller.platform
    platform.run("deployments", "split", "helpdesk", "support@1=50", "support@2=50")
    asked = PROMPTS["helpdesk"] * 5
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda messages: caller.answer("helpdesk", messages), asked))
    counts = Counter(version for _, version in answers)
    mixed = sum(text != expected[version][str(messages)] for messages, (text, version) in zip(asked, answers))
    say(f"split in halves: {dict(counts)}; {mixed} answers are not those of their version")
    assert set(counts) == {"support@1", "support@2"} and min(counts.values()) >= 15 and mixed == 0


def check_promotion(caller: Caller, expected: dict[str, dict]) -> None:
    """Versions change under load, and no request fails or gets another version's words."""
    platform, ended = caller.platform, threading.Event()

    def ask() -> list[tuple[str, str, float]]:
        found = []
        while not ended.is_set():
            messages = PROMPTS["helpdesk"][len(found) % 12]
            began = time.monotonic()
            text, version = caller.answer("helpdesk", messages)
            assert text == expected[version][str(messages)], f"not the answer of {version}: {text}"
            found.append((text, version, time.monotonic() - began))
        return found

    def promote(adapter: str) -> None:
        platform.run("deployments", "promote", "helpdesk", "--adapter", adapter, "--version", 1)
        time.sleep(1)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        callers = [pool.submit(ask) for _ in range(4)]
        try:
            for adapter in ("heads", "support") * 2:
                promote(adapter)
            began = time.monotonic()
            platform.run("deployments", "rollback", "helpdesk")
            back = time.monotonic() - began
            promote("support")
        finally:
            ended.set()
        answers = [answer for one in callers for answer in one.result()]
    counts, slowest = Counter(version for _, version, _ in answers), max(seconds for _, _, seconds in answers)
    say(f"six changes under load: {len(answers)} answers, none failed, {dict(counts)}; the slowest took "
        f"{slowest:.2f} s, the rollback {back:.2f} s")
    assert len(counts) == 2


def check_refused(caller: Caller, vllm: Vllm) -> None:
    """Adapters that the servers cannot hold are refused by what the platform was told, or by what vLLM says."""
    platform = caller.platform
    wide = {"base_model": "primer", "adapter": "wide"}
    for path, body in (("/v1/jobs", {**wide, "dataset": "legal", "hyperparameters": WIDE}),
        ("/v1/deployments", {**wide, "name": "wide"})):
        status, answer = platform.call("POST", path, body)
        assert (status, answer["error"]["code"]) == (400, "adapter_not_servable"), answer
    # Of the servers of `caller` the platform knows no limit.
    began = time.monotonic()
    status, answer = platform.call("POST", "/v1/deployments",
        {"name": "broad", "base_model": "caller", "adapter": "broad"})
    assert status == 201, answer
    revision = platform.settled("broad")
    say(f"a rank of 128 after {time.monotonic() - began:.1f} s: {revision['reason']}")
    assert revision["status"] == "failed" and "rank 128 is greater" in revision["reason"]
    assert vllm.adapters() == [] and time.monotonic() - began < 15


def check_unloading(caller: Caller, vllm: Vllm) -> None:
    """What no deployment names any more is unloaded; in the quiet meanwhile the server is never thought to be gone."""
    platform = caller.platform
    before, silent = set(vllm.adapters()), platform.silences(vllm)
    assert len(before) == 3, before
    for name in ("contracts", "heads"):
        assert platform.http.delete(f"/v1/deployments/{name}").is_success
    began = time.monotonic()
    until("an adapter is unloaded", lambda: set(vllm.adapters()) < before, 180, 1)
    say(f"unneeded after {time.monotonic() - began:.0f} s: {sorted(before - set(vllm.adapters()))}")
    assert platform.silences(vllm) == silent, "a server that is well was thought to be gone"


def check_deaths(caller: Caller, vllm: Vllm, expected: dict[str, dict]) -> None:
    """A server that dies breaks what runs, in our words; one that comes back gets its adapters again."""
    stream = caller.chat(stream=True, max_tokens=900, extra_body={"ignore_eos": True})
    next(iter(stream))
    vllm.kill()
    try:
        list(stream)
        raise AssertionError("a stream of a server that was killed ended well")
    except openai.APIError as error:
        assert error.code == "upstream_error" and "127.0.0.1" not in error.message, repr(error)
    began = time.monotonic()
    found = caller.refused(503, lambda: caller.chat())
    say(f"without a server: {found['code']} after {time.monotonic() - began:.1f} s")
    vllm.start()
    began = time.monotonic()
    until("the adapters are back", lambda: answers(caller, "helpdesk"), 60)
    say(f"killed and started anew: after {time.monotonic() - began:.1f} s it has {sorted(vllm.adapters())} again")
    for messages in PROMPTS["helpdesk"]:
        text, version = caller.answer("helpdesk", messages)
        assert text == expected[version][str(messages)]
    vllm.stop()
    caller.refused(503, lambda: caller.chat())


def check_all(work: Path) -> None:
    platform = Platform(work).start()
    ours = prepare(platform, work)
    models = platform.call("GET", "/v1/base-models")[1]["data"]
    caller_id = next(model["id"] for model in models if model["name"] == "caller")
    platform.stop()
    vllm = Vllm(work, ROOT / "models" / "primer", "primer", "--generation-config", "vllm").start()
    tooled = Vllm(work, work / "caller", "caller", "--enable-auto-tool-choice", "--tool-call-parser", "hermes")
    platform.start(f"primer={vllm.url},max_rank=64,max_adapters=32,api_key_env={KEY_VARIABLE}",
        f"{caller_id}={tooled.url},api_key_env={KEY_VARIABLE}")
    caller = Caller(platform)
    for name in SERVED:
        until(f"{name} answers", lambda name=name: answers(caller, name), 60)
    say(f"golden answers agree: {sorted(vllm.adapters())}")
    compare(ours, record(caller))
    expected = {f"{adapter}@{version}": {str(asked): caller.answer(name, asked)[0] for asked in PROMPTS["helpdesk"]}
        for name, (adapter, version) in SERVED.items()}
    for check in vllm_requests.ALL:
        check(caller, vllm)
        say(check.__name__.removeprefix("check_"))
    check_promotion(caller, expected)
    check_split(caller, expected)
    platform.run("deployments", "promote", "helpdesk", "--adapter", "support", "--version", 1)
    check_unloading(caller, vllm)
    check_deaths(caller, vllm, expected)
    tooled.start()
    until("`caller` answers", lambda: answers(caller, "caller"), 60)
    check_refused(caller, tooled)
    platform.run("deployments", "create", "brief", "--base", "caller", "--adapter", "brief")
    say(f"golden answers agree, whatever penalty the model prefers: {tooled.adapters()}")
    vllm_requests.check_tools(caller, "brief")


def answers(caller: Caller, model: str) -> bool:
    try:
        return bool(caller.chat(model).choices)
    except openai.APIStatusError as error:
        assert error.status_code == 503, repr(error)
        return False


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    work = Path(tempfile.mkdtemp(prefix="tunesmith-vllm-"))
    try:
        check_all(work)
    except BaseException:
        Program.end_all()
        say(f"the programs' logs are in {work}")
        raise
    Program.end_all()
    shutil.rmtree(work)
    say("all agree")


if __name__ == "__main__":
    main()
