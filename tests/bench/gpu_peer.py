"""PEFT on transformers in a plain loop, in a process of its own: `gpu_peer.py REQUEST.json`.

One JSON line per step goes to stdout, so that what was measured is known when the time is over. Every optimizer step
takes the same number of examples as ours does, in as few passes as fit into memory.
"""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from attention import FLASH, PADDED, VARLEN, register_varlen
from process import cpu_seconds, peak_bytes
from run import WARM_UP_STEPS, Mark

IGNORED = -100


@dataclass(frozen=True)
class Way:
    """How a step of so many examples is cut; fewer passes are faster and need more memory."""

    passes: int
    checkpointing: bool


# From the fastest on; the first that fits is taken.
WAYS = [Way(1, False), Way(2, False), Way(4, False), Way(8, False), Way(1, True), Way(4, True)]


@dataclass(frozen=True)
class Example:
    """Token ids, and labels with what does not count at `IGNORED`."""

    tokens: list[int]
    labels: list[int]


def read_examples(model: str, data: str, longest: int) -> list[Example]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    examples = []
    for line in Path(data).read_text().splitlines():
        messages = json.loads(line)["messages"]
        row = tokenizer.apply_chat_template(messages, return_assistant_tokens_mask=True, return_dict=True)
        tokens, mask = row["input_ids"][:longest], row["assistant_masks"][:longest]
        examples.append(Example(tokens, [token if marked else IGNORED for token, marked in zip(tokens, mask)]))
    return examples


def packed(examples: list[Example], device: str) -> dict[str, Any]:
    """All examples in one row, with their boundaries."""
    lengths = torch.tensor([0] + [len(example.tokens) for example in examples])
    edges = lengths.cumsum(0).to(device, torch.int32)
    longest = int(lengths.max())
    positions = [place for example in examples for place in range(len(example.tokens))]
    # The first label of a document would be predicted from the end of the one before.
    labels = [label for example in examples for label in [IGNORED, *example.labels[1:]]]
    return {
        "input_ids": torch.tensor([[token for example in examples for token in example.tokens]], device=device),
        "labels": torch.tensor([labels], device=device),
        "position_ids": torch.tensor([positions], device=device),
        "cu_seq_lens_q": edges,
        "cu_seq_lens_k": edges,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def padded(examples: list[Example], device: str) -> dict[str, Any]:
    """One row per example, padded at the right."""
    width = max(len(example.tokens) for example in examples)
    tokens = [example.tokens + [0] * (width - len(example.tokens)) for example in examples]
    labels = [example.labels + [IGNORED] * (width - len(example.labels)) for example in examples]
    return {"input_ids": torch.tensor(tokens, device=device), "labels": torch.tensor(labels, device=device)}


class Loop:
    """Model, adapter and optimizer."""

    def __init__(self, request: dict, attention: str) -> None:
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        if attention == VARLEN:
            register_varlen()
        self.device = request["device"]
        self.attention = attention
        torch.manual_seed(0)
        options = {"dtype": getattr(torch, request["dtype"]), "attn_implementation": attention}
        model = AutoModelForCausalLM.from_pretrained(request["model"], **options).to(self.device)
        model.config.use_cache = False
        lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
        self.model = get_peft_model(model, lora).train()
        trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        fused = self.device.startswith("cuda")
        self.optimizer = torch.optim.AdamW(trained, lr=request["learning_rate"], weight_decay=0.0, fused=fused)

    def set_checkpointing(self, on: bool) -> None:
        if on:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        else:
            self.model.gradient_checkpointing_disable()

    def step(self, examples: list[Example], passes: int) -> None:
        """Examples of similar length share a pass, so that a padded pass has little padding."""
        supervised = sum(label != IGNORED for example in examples for label in example.labels)
        if self.attention == PADDED:
            examples = sorted(examples, key=lambda example: len(example.tokens))
        size = -(-len(examples) // passes)
        collate = padded if self.attention == PADDED else packed
        for begin in range(0, len(examples), size):
            batch = collate(examples[begin : begin + size], self.device)
            self.model(**batch, num_items_in_batch=supervised).loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()


def fitting_way(loop: Loop, examples: list[Example]) -> Way:
    """The first way in which a step fits into memory, found by trying."""
    for way in WAYS:
        try:
            loop.set_checkpointing(way.checkpointing)
            loop.step(examples, way.passes)
            return way
        except torch.OutOfMemoryError:
            pass
        # Outside of the handler, whose exception holds the tensors of the failed step.
        loop.optimizer.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
    raise torch.OutOfMemoryError("no way of training fits into this card's memory")


def batches(examples: list[Example], size: int) -> Iterator[list[Example]]:
    while True:
        for begin in range(0, len(examples) - size + 1, size):
            yield examples[begin : begin + size]


def load(request: dict) -> Loop:
    """With the best attention that works here."""
    failed = "no attention was named"
    for attention in request["attention"]:
        try:
            loop = Loop(request, attention)
            # A short step shows whether the kernel runs on this card.
            loop.step([Example([1, 2, 3, 4], [IGNORED, 2, 3, 4])] * 2, 1)
            return loop
        except (ImportError, RuntimeError, ValueError, AssertionError) as error:
            # Only the text is kept: the exception itself would hold the tensors of the failed step.
            failed = f"{attention} does not work here: {error}"[:300]
            print(json.dumps({"note": failed}), flush=True)
        loop = None  # type: ignore[assignment]
        if request["device"].startswith("cuda"):
            torch.cuda.empty_cache()
    raise RuntimeError(failed)


def main() -> None:
    request = json.loads(Path(sys.argv[1]).read_text())
    if request["threads"]:
        torch.set_num_threads(request["threads"])
    examples = read_examples(request["model"], request["data"], request["longest"])
    loop = load(request)
    source = batches(examples, request["batch"])
    # The step with the longest examples decides whether a way fits.
    longest = max((examples[i : i + request["batch"]] for i in range(0, len(examples), request["batch"])), key=_tokens)
    way = fitting_way(loop, longest)
    kind = {FLASH: "flash_attn, packed", VARLEN: "PyTorch's flash kernel, packed", PADDED: "sdpa, padded"}
    print(json.dumps({"way": asdict(way), "attention": kind[loop.attention]}), flush=True)
    begin, steps = time.perf_counter(), 0
    while steps <= WARM_UP_STEPS or time.perf_counter() - begin < request["seconds"]:
        step = next(source)
        loop.step(step, way.passes)
        supervised = sum(label != IGNORED for example in step for label in example.labels)
        steps += 1
        begin = time.perf_counter() if steps == WARM_UP_STEPS else begin
        mark = Mark(time.perf_counter(), cpu_seconds(), _tokens(step), supervised)
        print(json.dumps({"mark": asdict(mark), "peak_bytes": peak_bytes()}), flush=True)


def _tokens(examples: list[Example]) -> int:
    return sum(len(example.tokens) for example in examples)


if __name__ == "__main__":
    main()
