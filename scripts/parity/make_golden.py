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
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    get_cosine_schedule_with_warmup,
)

VOCABULARY = 288
SEQUENCE_LENGTHS = (5, 17, 40)
ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
STEPS = 30
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
QWEN3_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] | trim + '<|im_end|>\\n' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>\\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\\n\\n' %}"
    "{% set loop_messages = messages[1:] %}{% else %}{% set first = '' %}{% set loop_messages = messages %}{% endif %}"
    "{% for message in loop_messages %}"
    "{% if message['role'] == 'assistant' %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\\n' + (first if loop.first else '') + message['content'] | trim + '<end_of_turn>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
PHI_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
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
    # Whether config.json is written as transformers before version 5 did, as most models on the hub still have it.
    older_config: bool = True


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
        older_config=False,
    ),
    Family(
        name="qwen3",
        seed=44,
        config=Qwen3Config(
            **SIZES,
            num_key_value_heads=2,
            head_dim=16,
            rms_norm_eps=1e-6,
            attention_bias=True,
            tie_word_embeddings=False,
            rope_parameters=dict(rope_type="default", rope_theta=1000000.0),
        ),
        special_tokens=["<|endoftext|>", "<|im_end|>", "<|im_start|>"],
        bos=None,
        eos="<|im_end|>",
        template=QWEN3_TEMPLATE,
        # Keys fit the end of a module's name; the most special ones come first in the order of their letters.
        lora=dict(
            r=4,
            lora_alpha=8,
            target_modules=ALL_LINEAR,
            rank_pattern={r"layers\.0\.mlp\.down_proj": 2, "q_proj": 8},
            alpha_pattern={r"[kv]_proj": 3, r"layers\.1\.self_attn\.o_proj": 20.5},
        ),
        older_config=False,
    ),
    Family(
        name="gemma2",
        seed=55,
        # Caps so low that they bend the scores; a window shorter than the examples on every second layer.
        config=Gemma2Config(
            **(SIZES | dict(num_hidden_layers=3)),
            num_key_value_heads=2,
            head_dim=12,
            rms_norm_eps=1e-6,
            query_pre_attn_scalar=20,
            attn_logit_softcapping=6.0,
            final_logit_softcapping=8.0,
            sliding_window=10,
            rope_parameters=dict(rope_type="default", rope_theta=10000.0),
        ),
        special_tokens=["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"],
        bos="<bos>",
        eos="<eos>",
        template=GEMMA_TEMPLATE,
        lora=dict(r=6, lora_alpha=12, target_modules=r"model\.layers\.\d+\.(self_attn\.[qvo]_proj|mlp\.(gate|down)_proj)"),
        older_config=False,
    ),
    Family(
        name="gemma3",
        seed=66,
        config=Gemma3TextConfig(
            **(SIZES | dict(num_hidden_layers=3)),
            num_key_value_heads=1,
            head_dim=16,
            rms_norm_eps=1e-6,
            query_pre_attn_scalar=24,
            sliding_window=9,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            rope_parameters=dict(
                full_attention=dict(rope_type="linear", rope_theta=1000000.0, factor=2.0),
                sliding_attention=dict(rope_type="default", rope_theta=10000.0),
            ),
        ),
        special_tokens=["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"],
        bos="<bos>",
        eos="<eos>",
        template=GEMMA_TEMPLATE,
        lora=dict(r=4, lora_alpha=8, target_modules=["q_proj", "k_proj", "mlp.up_proj"], layers_to_transform=[0, 2]),
    ),
    Family(
        name="phi3",
        seed=77,
        # 6 of a head's 8 dimensions are rotated; some sequences are longer than the original 24 positions, some are not.
        config=Phi3Config(
            **SIZES,
            num_key_value_heads=2,
            rms_norm_eps=1e-5,
            tie_word_embeddings=False,
            sliding_window=30,
            original_max_position_embeddings=24,
            rope_parameters=dict(
                rope_type="longrope",
                rope_theta=10000.0,
                partial_rotary_factor=0.75,
                short_factor=[1.0, 1.1, 1.3],
                long_factor=[1.5, 2.5, 4.0],
            ),
        ),
        special_tokens=["<|endoftext|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"],
        bos=None,
        eos="<|end|>",
        template=PHI_TEMPLATE,
        # An embedding's B begins normal, so that its full scale would make the run chaotic: rounding alone would part curves.
        lora=dict(
            r=5,
            lora_alpha=5,
            alpha_pattern={"embed_tokens": 0.25},
            target_modules=["qkv_proj", "gate_up_proj", "o_proj", "lm_head", "embed_tokens"],
        ),
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
                middle = 0 if family.name.startswith("gemma") else 1
                parameter.copy_(middle + 0.4 * (torch.rand_like(parameter) - 0.5))
            elif name.endswith(("q_proj.weight", "k_proj.weight")):
                parameter.mul_(2)
            elif name.endswith("qkv_proj.weight"):
                values = family.config.num_key_value_heads * family.config.hidden_size // family.config.num_attention_heads
                parameter[:-values].mul_(2)
            elif name.endswith(".bias"):
                parameter.copy_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if family.older_config:
        write_older_config(folder / "config.json")
    return load_base(folder)


def write_older_config(path: Path) -> None:
    """As transformers before version 5 wrote it."""
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    if "full_attention" in rope:
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    for field in ("rope_theta", "partial_rotary_factor"):
        if field in rope:
            config[field] = rope.pop(field)
    if rope["rope_type"] == "longrope":
        rope.pop("original_max_position_embeddings", None)
    config["rope_scaling"] = rope if rope["rope_type"] != "default" else None
    config["torch_dtype"] = config.pop("dtype")
    write_json(path, config)


def load_base(folder: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


def lora_config(family: Family) -> LoraConfig:
    return LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, bias="none", **family.lora)


def save_adapter(model: PeftModel, folder: Path, base: str, base_weights: bool) -> None:
    """`base_weights`: beside an adapter of the embedding or the head, as PEFT does where it is not told."""
    model.save_pretrained(folder, save_embedding_layers="auto" if base_weights else False)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = base
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()
    write_json(path, dict(sorted(config.items())))


def fill_adapter(model: PeftModel, seed: int) -> None:
    """Gives B values, so that the adapter acts."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "lora_embedding_A" in name:
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
    """30 steps of PEFT from `init-adapter`, in file order: 4 examples a step, 5 steps an epoch."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
    chats = conversations()
    with open(folder / "train.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(chat, ensure_ascii=False) + "\n" for chat in chats)
    examples = [tokenize(tokenizer, chat["messages"]) for chat in chats]
    write_json(folder / "examples.json", examples, indent=None)
    torch.manual_seed(family.seed + 1)
    model = get_peft_model(load_base(base), lora_config(family))
    save_adapter(model, folder / "init-adapter", "base", False)
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
            gradients = {name.replace(".default", ""): p.grad.clone() for name, p in leaves.items()}
            save_file(gradients, folder / "first-gradient.safetensors")
        norm = torch.nn.utils.clip_grad_norm_(leaves.values(), MAX_GRAD_NORM).item()
        rate = schedule.get_last_lr()[0]
        optimizer.step()
        schedule.step()
        tokens = sum(len(example["input_ids"]) for example in batch)
        lines.append(
            {"step": step + 1, "loss": total, "lr": rate, "grad_norm": norm, "tokens": tokens, "supervised_tokens": supervised}
        )
    save_adapter(model, folder / "final-adapter", "base", False)
    with torch.no_grad():
        model.eval()
        supervised = sum(label != -100 for example in examples for label in example["labels"][1:])
        final = sum(summed_loss(model, example).item() for example in examples) / supervised
    hyperparameters = {
        "steps": STEPS,
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
    save_adapter(tuned, folder / "adapter", "base", True)
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
