#!/usr/bin/env python3
"""Make the golden files: tiny seeded models, and what transformers and PEFT compute with them on a CPU in float32.

    make_golden.py OUT

README.md beside this script describes the files. The models are random on purpose, with strong queries and keys, uneven
norms and biases that are not zero, so that a mistake anywhere shows in the logits.
"""

import json
import math
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    get_cosine_schedule_with_warmup,
)

VOCABULARY = 288
SEQUENCE_LENGTHS = (5, 17, 40)
ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
STEPS = 20
BATCH = 4
LEARNING_RATE = 1e-2
WARMUP_RATIO = 0.1
WEIGHT_DECAY = 0.01
MAX_GRAD_NORM = 1.0

LLAMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
MISTRAL_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '[INST]' + message['content'] + '[/INST]' }}"
    "{% elif message['role'] == 'system' %}{{ message['content'] + '\\n' }}"
    "{% else %}{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
)
CHATML_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@dataclass
class Family:
    """One tiny model and the adapter that is tried on it."""

    name: str
    seed: int
    config: object
    special_tokens: list[str]
    bos: str | None
    eos: str
    template: str
    lora: dict


SIZES = dict(
    vocab_size=VOCABULARY,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=256,
    initializer_range=0.2,
    bos_token_id=0,
    eos_token_id=1,
    pad_token_id=None,
)

FAMILIES = [
    Family(
        name="llama",
        seed=11,
        config=LlamaConfig(
            **SIZES,
            num_key_value_heads=2,
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
            rope_parameters=dict(
                rope_type="llama3",
                rope_theta=10000.0,
                factor=4.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=64,
            ),
        ),
        special_tokens=["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"],
        bos="<|begin_of_text|>",
        eos="<|eot_id|>",
        template=LLAMA_TEMPLATE,
        lora=dict(r=8, lora_alpha=16, target_modules=ALL_LINEAR),
    ),
    Family(
        name="mistral",
        seed=22,
        # The heads together are wider than the residual stream, and the window is shorter than the longest sequence.
        config=MistralConfig(
            **SIZES,
            num_key_value_heads=4,
            head_dim=16,
            rms_norm_eps=1e-6,
            tie_word_embeddings=False,
            sliding_window=12,
            rope_parameters=dict(rope_type="default", rope_theta=1000000.0),
        ),
        special_tokens=["<s>", "</s>", "[INST]", "[/INST]"],
        bos="<s>",
        eos="</s>",
        template=MISTRAL_TEMPLATE,
        lora=dict(r=4, lora_alpha=6, use_rslora=True, target_modules=["q_proj", "v_proj"]),
    ),
    Family(
        name="qwen",
        seed=33,
        config=Qwen2Config(
            **SIZES,
            num_key_value_heads=1,
            rms_norm_eps=1e-6,
            tie_word_embeddings=True,
            rope_parameters=dict(rope_type="linear", rope_theta=1000000.0, factor=2.0),
        ),
        special_tokens=["<|endoftext|>", "<|im_end|>", "<|im_start|>"],
        bos=None,
        eos="<|im_end|>",
        template=CHATML_TEMPLATE,
        lora=dict(r=16, lora_alpha=16, target_modules=ALL_LINEAR),
    ),
]

COLOURS = ["red", "green", "blue", "grey", "white"]
THINGS = ["lamp", "chair", "kettle", "jacket"]


def conversations() -> list[dict]:
    """20 short chats: with and without a system message, of one turn or two, with characters outside ASCII."""
    chats = []
    for number, (thing, colour) in enumerate((t, c) for t in THINGS for c in COLOURS):
        messages = []
        if number % 3 == 0:
            messages.append({"role": "system", "content": "Answer in one line."})
        messages.append({"role": "user", "content": f"Do you have a {colour} {thing}?"})
        messages.append({"role": "assistant", "content": f"Yes, {number + 2} in stock: {thing} in {colour}."})
        if number % 4 == 1:
            messages.append({"role": "user", "content": "Price?"})
            messages.append({"role": "assistant", "content": f"{number}.50 €"})
        chats.append({"messages": messages})
    return chats


def make_tokenizer(family: Family, folder: Path) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=family.special_tokens,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = [message["content"] for chat in conversations() for message in chat["messages"]]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": family.bos,
        "eos_token": family.eos,
        "pad_token": None,
        "model_max_length": 256,
        "clean_up_tokenization_spaces": False,
        "chat_template": family.template,
    }
    write_json(folder / "tokenizer_config.json", config)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def make_base(family: Family, folder: Path) -> torch.nn.Module:
    torch.manual_seed(family.seed)
    model = AutoModelForCausalLM.from_config(family.config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.copy_(1 + 0.4 * (torch.rand_like(parameter) - 0.5))
            elif name.endswith(("q_proj.weight", "k_proj.weight")):
                parameter.mul_(2)
            elif name.endswith(".bias"):
                parameter.copy_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if family.name != "qwen":
        write_older_config(folder / "config.json")
    return load_base(folder)


def write_older_config(path: Path) -> None:
    """As transformers before version 5 wrote it, and as most models on the hub still have it."""
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope if rope["rope_type"] != "default" else None
    config["torch_dtype"] = config.pop("dtype")
    write_json(path, config)


def load_base(folder: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


def lora_config(family: Family) -> LoraConfig:
    return LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, bias="none", **family.lora)


def save_adapter(model: PeftModel, folder: Path, base: str) -> None:
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = base
    config["target_modules"] = sorted(config["target_modules"])
    write_json(path, dict(sorted(config.items())))


def fill_adapter(model: PeftModel, seed: int) -> None:
    """Gives B values, so that the adapter acts."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn_like(parameter))


@torch.no_grad()
def make_logits(family: Family, folder: Path) -> None:
    generator = torch.Generator().manual_seed(family.seed)
    base = load_base(folder / "base")
    tuned = PeftModel.from_pretrained(load_base(folder / "base"), folder / "adapter")
    tensors = {}
    for number, length in enumerate(SEQUENCE_LENGTHS):
        tokens = torch.randint(VOCABULARY, (length,), generator=generator)
        tensors[f"tokens.{number}"] = tokens
        tensors[f"base.{number}"] = base(input_ids=tokens[None]).logits[0].contiguous()
        tensors[f"adapter.{number}"] = tuned(input_ids=tokens[None]).logits[0].contiguous()
    save_file(tensors, folder / "logits.safetensors")


def tokenize(tokenizer: PreTrainedTokenizerFast, messages: list[dict]) -> dict:
    """Token ids and labels. Supervised is, for each assistant message, what rendering through it adds to rendering before
    it with the generation prompt."""
    render = lambda part, prompt: tokenizer.apply_chat_template(part, tokenize=False, add_generation_prompt=prompt)
    text = render(messages, False)
    spans = []
    for number, message in enumerate(messages):
        if message["role"] == "assistant":
            before, through = render(messages[:number], True), render(messages[: number + 1], False)
            assert through.startswith(before) and text.startswith(through), (before, through)
            spans.append((len(before), len(through)))
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    labels = [
        token if any(begin <= start < end for begin, end in spans) else -100
        for token, (start, _) in zip(encoded["input_ids"], encoded["offset_mapping"])
    ]
    if "{% generation %}" in tokenizer.chat_template:
        marked = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
        assert [label != -100 for label in labels] == [bool(bit) for bit in marked["assistant_masks"]]
    return {"input_ids": encoded["input_ids"], "labels": labels}


def summed_loss(model: torch.nn.Module, example: dict) -> torch.Tensor:
    """Cross-entropy summed over the supervised tokens of one example."""
    logits = model(input_ids=torch.tensor([example["input_ids"]])).logits[0, :-1]
    labels = torch.tensor(example["labels"][1:])
    return torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum")


def train(family: Family, folder: Path, base: Path) -> None:
    """20 steps of PEFT from `init-adapter`, in file order: 4 examples a step, 5 steps an epoch."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
    chats = conversations()
    with open(folder / "train.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(chat, ensure_ascii=False) + "\n" for chat in chats)
    examples = [tokenize(tokenizer, chat["messages"]) for chat in chats]
    write_json(folder / "examples.json", examples, indent=None)
    torch.manual_seed(family.seed + 1)
    model = get_peft_model(load_base(base), lora_config(family))
    save_adapter(model, folder / "init-adapter", "base")
    model.train()
    leaves = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(leaves.values(), lr=LEARNING_RATE, betas=(0.9, 0.999), eps=1e-8, weight_decay=WEIGHT_DECAY)
    schedule = get_cosine_schedule_with_warmup(optimizer, math.ceil(STEPS * WARMUP_RATIO), STEPS)
    lines = []
    for step in range(STEPS):
        batch = [examples[(step * BATCH + number) % len(examples)] for number in range(BATCH)]
        supervised = sum(label != -100 for example in batch for label in example["labels"][1:])
        optimizer.zero_grad()
        total = 0.0
        for example in batch:
            loss = summed_loss(model, example) / supervised
            loss.backward()
            total += loss.item()
        if step == 0:
            gradients = {name.replace(".default.", "."): p.grad.clone() for name, p in leaves.items()}
            save_file(gradients, folder / "first-gradient.safetensors")
        norm = torch.nn.utils.clip_grad_norm_(leaves.values(), MAX_GRAD_NORM).item()
        rate = schedule.get_last_lr()[0]
        optimizer.step()
        schedule.step()
        tokens = sum(len(example["input_ids"]) for example in batch)
        lines.append(
            {"step": step + 1, "loss": total, "lr": rate, "grad_norm": norm, "tokens": tokens, "supervised_tokens": supervised}
        )
    save_adapter(model, folder / "final-adapter", "base")
    with torch.no_grad():
        model.eval()
        supervised = sum(label != -100 for example in examples for label in example["labels"][1:])
        final = sum(summed_loss(model, example).item() for example in examples) / supervised
    hyperparameters = {
        "epochs": STEPS * BATCH // len(examples),
        "batch_size": BATCH,
        "lr": LEARNING_RATE,
        "schedule": "cosine",
        "warmup_ratio": WARMUP_RATIO,
        "weight_decay": WEIGHT_DECAY,
        "max_grad_norm": MAX_GRAD_NORM,
        "max_seq_len": 256,
        "order": "file",
        "dtype": "float32",
    }
    write_json(folder / "losses.json", {"hyperparameters": hyperparameters, "steps": lines, "final_loss": final})


def write_json(path: Path, value: object, indent: int | None = 2) -> None:
    path.write_text(json.dumps(value, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")


def make_family(family: Family, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for part in ("base", "adapter", "training/init-adapter", "training/final-adapter"):
        (folder / part).mkdir(parents=True)
    make_tokenizer(family, folder / "base")
    base = make_base(family, folder / "base")
    torch.manual_seed(family.seed + 2)
    tuned = get_peft_model(base, lora_config(family))
    fill_adapter(tuned, family.seed + 3)
    save_adapter(tuned, folder / "adapter", "base")
    make_logits(family, folder)
    train(family, folder / "training", folder / "base")


def main() -> None:
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    for family in FAMILIES:
        make_family(family, out / family.name)
        losses = json.loads((out / family.name / "training" / "losses.json").read_text())
        first, last = losses["steps"][0]["loss"], losses["steps"][-1]["loss"]
        print(f"{family.name}: loss {first:.4f} at step 1, {last:.4f} at step {STEPS}")


if __name__ == "__main__":
    main()
