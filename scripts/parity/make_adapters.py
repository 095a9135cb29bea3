#!/usr/bin/env python3
"""Write adapter folders with peft itself, as people would import them.

    make_adapters.py GOLDEN OUT

GOLDEN     the folder of golden families, whose base models are used
OUT        gets a folder for each case; crates/api/tests/golden/adapters is what it wrote

Nothing is trained, but no `B` is zero.
"""

import json
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

QUERIES = {"target_modules": ["q_proj"]}
OUTSIDE = {"target_modules": ["q_proj", "embed_tokens", "lm_head"]}
# Family, fields of LoraConfig; those that `import` refuses stand below. Embeddings of `llama` are tied.
CASES = {
    "all-linear": ("llama", {"target_modules": "all-linear"}),
    "rslora": ("llama", {"target_modules": ["q_proj", "v_proj"], "use_rslora": True}),
    "patterns": ("llama", {"target_modules": ["q_proj", "k_proj", "down_proj"], "rank_pattern": {"down_proj": 3},
        "alpha_pattern": {"k_proj": 3}}),
    "tied-head": ("llama", {"target_modules": ["q_proj", "lm_head"]}),
    "embedding-and-head": ("mistral", OUTSIDE),
    "kept-embeddings": ("mistral", QUERIES),
    "dora": ("llama", {**QUERIES, "use_dora": True}),
    "bias": ("llama", {**QUERIES, "bias": "all"}),
    "modules-to-save": ("llama", {**QUERIES, "modules_to_save": ["lm_head"]}),
    "trained-embedding": ("mistral", OUTSIDE),
    "rounded-embedding": ("mistral", OUTSIDE),
    "grown-vocabulary": ("mistral", QUERIES),
}
KEEPS_EMBEDDINGS = {"kept-embeddings", "grown-vocabulary"}


def make(golden: Path, out: Path, case: str) -> None:
    family, fields = CASES[case]
    torch.manual_seed(7)
    dtype = torch.bfloat16 if case == "rounded-embedding" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(golden / family / "base", dtype=dtype)
    if case == "grown-vocabulary":
        model.resize_token_embeddings(model.config.vocab_size + 8, mean_resizing=False)
    lora = LoraConfig(r=2, lora_alpha=5, task_type="CAUSAL_LM", init_lora_weights=False, **fields)
    adapted = get_peft_model(model, lora)
    if case == "trained-embedding":
        with torch.no_grad():
            adapted.get_input_embeddings().weight[0, 0] += 1
    adapted.save_pretrained(out / case, save_embedding_layers=True if case in KEEPS_EMBEDDINGS else "auto")
    (out / case / "README.md").unlink()
    # Sets have no order, and a path of some machine says nothing.
    path = out / case / "adapter_config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = family
    config["target_modules"].sort()
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def main() -> None:
    golden, out = Path(sys.argv[1]), Path(sys.argv[2])
    for case in CASES:
        make(golden, out, case)


main()
