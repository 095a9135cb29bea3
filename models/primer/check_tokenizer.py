#!/usr/bin/env python3
"""Checks that the special tokens of a model folder have the ids that config.json and generation_config.json name."""

import json
import sys
from pathlib import Path

WANTED = {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}


def main() -> None:
    folder = Path(sys.argv[1])
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    found = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    size = len(tokenizer["model"]["vocab"] | found)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if {name: found.get(name) for name in WANTED} != WANTED:
        sys.exit(f"{folder}/tokenizer.json: the special tokens must be {WANTED}; they are {found}")
    if size > config["vocab_size"]:
        sys.exit(f"{folder}: the tokenizer has {size} tokens, more than vocab_size {config['vocab_size']}")


if __name__ == "__main__":
    main()
