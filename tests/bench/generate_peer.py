"""Hugging Face's `generate`, with PEFT where an adapter is asked for: a process that inference.py starts."""

import json
import sys
import time
from typing import Any

import peer_process


class Generator:
    """The base model, and a second copy of it with an adapter."""

    def __init__(self, settings: dict[str, Any]) -> None:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(settings["threads"])
        self._torch = torch

        def load() -> Any:
            model = AutoModelForCausalLM.from_pretrained(settings["model"], dtype=getattr(torch, settings["dtype"]))
            # A random model may end whenever it likes; all answers are to be of one length.
            model.generation_config.eos_token_id = None
            model.generation_config.pad_token_id = 0
            return model.eval()

        self._tokenizer = AutoTokenizer.from_pretrained(settings["model"], padding_side="left")
        adapted = PeftModel.from_pretrained(load(), settings["adapter"]).eval()
        adapted.base_model.model.to(getattr(torch, settings["dtype"]))
        self._models = {"base": load(), "one": adapted}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["do"] == "load":
            return self._load(request)
        return self._generate(request)

    def _generate(self, request: dict[str, Any]) -> dict[str, Any]:
        from transformers import StoppingCriteria, StoppingCriteriaList

        times: list[float] = []

        class Clock(StoppingCriteria):
            """Notes when each token is there; stops nothing."""

            def __call__(self, input_ids: Any, _scores: Any, **_named: Any) -> Any:
                times.append(time.perf_counter())
                return input_ids.new_zeros(input_ids.shape[0], dtype=bool)

        began = time.perf_counter()
        encoded = self._tokenizer(request["prompts"], return_tensors="pt", padding=True)
        with self._torch.inference_mode():
            made = self._models[request["column"]].generate(
                input_ids=encoded["input_ids"],
                attention_mask=encoded["attention_mask"],
                max_new_tokens=request["tokens"],
                do_sample=False,
                stopping_criteria=StoppingCriteriaList([Clock()]),
            )
        ended = time.perf_counter()
        rows, columns = made.shape
        tokens = rows * (columns - encoded["input_ids"].shape[1])
        prompt_tokens = int(encoded["attention_mask"].sum())
        return {
            "prompt_tokens": prompt_tokens,
            "tokens": tokens,
            "seconds": ended - began,
            "first_token": times[0] - began,
            "decoding": times[-1] - times[0],
        }

    def _load(self, request: dict[str, Any]) -> dict[str, Any]:
        model = self._models["one"]
        began = time.perf_counter()
        model.load_adapter(request["folder"], "swapped")
        seconds = time.perf_counter() - began
        model.delete_adapter("swapped")
        return {"seconds": seconds}


if __name__ == "__main__":
    peer_process.serve(Generator(json.loads(sys.argv[1])).answer)
