#!/usr/bin/env python3
"""Turn text and conversations into one shuffled file of `text` lines, conversations written as the chat template does.

A small model that sees few tokens learns more from each when all of them count, the questions as well as the answers.
"""

import argparse
import json
import random


def render(messages: list[dict]) -> str:
    """chat_template.jinja, for messages without anything to leave out."""
    return "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", help="lines with `text` or `messages`")
    parser.add_argument("--out", required=True)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    lines = []
    for file in arguments.files:
        with open(file, encoding="utf-8") as source:
            examples = (json.loads(line) for line in source)
            lines += [example.get("text") or render(example["messages"]) for example in examples]
    random.Random(arguments.seed).shuffle(lines)
    with open(arguments.out, "w", encoding="utf-8") as target:
        for text in lines:
            target.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
