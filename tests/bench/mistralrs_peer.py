"""The `mistralrs` wheel: a process that inference.py starts."""

import json
import sys
import time
from typing import Any

import peer_process

_ALIAS = "one"


class Runner:
    """The base model, or the base model with adapters."""

    def __init__(self, settings: dict[str, Any]) -> None:
        import mistralrs

        self._library = mistralrs
        dtype = {"float32": mistralrs.ModelDType.F32, "bfloat16": mistralrs.ModelDType.BF16}[settings["dtype"]]
        common = {"model_id": settings["model"], "arch": mistralrs.Architecture.Llama, "dtype": dtype}
        if settings["adapter"]:
            adapters = [mistralrs.LoraAdapter(_ALIAS, settings["adapter"])]
            which = mistralrs.Which.Lora(adapters=adapters, **common)
            self._adapter = _ALIAS
        else:
            which = mistralrs.Which.Plain(**common)
            self._adapter = None
        # Prompts never repeat, so the prefix cache would only take memory.
        self._runner = mistralrs.Runner(which=which, max_seqs=16, prefix_cache_n=0, no_paged_attn=True)
        # A text instead of messages is put into the template all the same; prompts are cut by what that adds.
        self._added = 0
        self._added = self._generate({"prompts": ["baba bebe"], "tokens": 1})["prompt_tokens"] - 2

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["do"] == "load":
            return self._load(request)
        return self._generate(request)

    def _generate(self, request: dict[str, Any]) -> dict[str, Any]:
        words = request["prompts"][0].split(" ")
        prompt = " ".join(words[: len(words) - self._added])
        asked = self._library.ChatCompletionRequest(
            messages=prompt,
            model="default",
            max_tokens=request["tokens"],
            temperature=0.0,
            ignore_eos=True,
            stream=True,
            adapter=self._adapter,
        )
        began = time.perf_counter()
        times: list[float] = []
        usage = None
        for chunk in self._runner.send_chat_completion_request(asked):
            times.append(time.perf_counter())
            usage = chunk.usage or usage
        ended = time.perf_counter()
        return {
            "prompt_tokens": usage.prompt_tokens if usage else None,
            "tokens": usage.completion_tokens if usage else len(times),
            "seconds": ended - began,
            "first_token": times[0] - began,
            "decoding": times[-1] - times[0],
        }

    def _load(self, request: dict[str, Any]) -> dict[str, Any]:
        began = time.perf_counter()
        self._runner.load_lora_adapter("swapped", request["folder"])
        seconds = time.perf_counter() - began
        self._runner.unload_lora_adapter("swapped")
        return {"seconds": seconds}


if __name__ == "__main__":
    peer_process.serve(Runner(json.loads(sys.argv[1])).answer)
