#!/usr/bin/env python3
"""Compare an adapter folder in mistral.rs (the `mistralrs` wheel) with the same folder in peft.

    check_mistralrs.py BASE ADAPTER

Both answer a few conversations with the likeliest tokens, in float32; the log-probabilities of the answers must be equal
within 1e-3, and those of the base model must be others.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

# Its cache of keys and values is float16 on the CPU otherwise, which alone costs 3e-3.
os.environ["MISTRALRS_CPU_KV_F32"] = "1"

import mistralrs
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

TOLERANCE = 1e-3
TOKENS = 8
ARCHITECTURES = {"llama": "Llama", "mistral": "Mistral", "phi3": "Phi3", "qwen2": "Qwen2", "qwen3": "Qwen3", "gemma2": "Gemma2"}
# Settings that mistral.rs 0.9.5 leaves out in silence; here they are left out on both sides.
IGNORED = {"qwen2": {"rope_scaling": None}, "qwen3": {"attention_bias": False},
    "phi3": {"rope_scaling": None, "sliding_window": None}}
QUESTIONS = ["What is the cat in?", "Where is the dog?", "Say one word."]


def ours(model: torch.nn.Module, tokenizer, question: str) -> list[float]:
    messages = [{"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    logprobs = []
    with torch.no_grad():
        for _ in range(TOKENS):
            scores = model(input_ids=torch.tensor([tokens])).logits[0, -1].double().log_softmax(-1)
            tokens.append(int(scores.argmax()))
            logprobs.append(scores.max().item())
    return logprobs


def theirs(runner, question: str, adapter: str | None) -> list[float]:
    request = mistralrs.ChatCompletionRequest(
        messages=[{"role": "user", "content": question}], model="default", max_tokens=TOKENS, temperature=0.0,
        logprobs=True, ignore_eos=True, adapter=adapter)
    answer = runner.send_chat_completion_request(request)
    return [token.logprob for token in answer.choices[0].logprobs.content]


def comparable(base: str, work: str) -> str:
    """The model with the fields for rope of before transformers 5, and without `IGNORED`."""
    config = json.loads((Path(base) / "config.json").read_text())
    rope = config.pop("rope_parameters", None)
    if rope:
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    config |= IGNORED.get(config["model_type"], {})
    for file in Path(base).iterdir():
        (Path(work) / file.name).symlink_to(file.resolve())
    (Path(work) / "config.json").unlink()
    (Path(work) / "config.json").write_text(json.dumps(config))
    return work


def main() -> None:
    work = tempfile.TemporaryDirectory()
    base, folder = comparable(sys.argv[1], work.name), sys.argv[2]
    tokenizer = AutoTokenizer.from_pretrained(base)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    bare = [ours(plain, tokenizer, question) for question in QUESTIONS]
    adapted = PeftModel.from_pretrained(plain, folder).eval()
    wanted = [ours(adapted, tokenizer, question) for question in QUESTIONS]
    which = mistralrs.Which.Lora(model_id=base, adapters=[mistralrs.LoraAdapter("one", folder)],
        arch=getattr(mistralrs.Architecture, ARCHITECTURES[plain.config.model_type]), dtype=mistralrs.ModelDType.F32)
    runner = mistralrs.Runner(which=which, max_seqs=1, prefix_cache_n=0, no_paged_attn=True)
    found = [theirs(runner, question, "one") for question in QUESTIONS]
    difference = lambda one, other: max(abs(a - b) for x, y in zip(one, other) for a, b in zip(x, y))
    worst, effect = difference(found, wanted), difference(bare, wanted)
    print(f"mistral.rs against peft: {worst:.2e} (allowed {TOLERANCE:.0e}); the adapter changes {effect:.2e}")
    if not worst <= TOLERANCE or effect <= 10 * TOLERANCE:
        sys.exit("they are not equal")


main()
