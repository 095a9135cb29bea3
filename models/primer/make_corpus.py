#!/usr/bin/env python3
"""Writes one shard of the corpus of the bundled base model: text-I.jsonl and chat-I.jsonl, the same bytes for a seed."""

import argparse
import json
import sys
import time
from itertools import accumulate
from pathlib import Path

from corpus import chat, prose, wordnet
from corpus.words import Words


def chooser(words: Words, writers):
    """A function that returns the writers by their shares."""
    names, shares = [writer for writer, _ in writers], list(accumulate(share for _, share in writers))
    return lambda: words.rng.choices(names, cum_weights=shares)[0]


def write_text(words: Words, path: Path, size: int) -> int:
    """Documents as `{"text": …}` lines up to `size` bytes. Returns the bytes written."""
    draw, written = chooser(words, prose.WRITERS), 0
    with path.open("w", encoding="utf-8") as file:
        while written < size:
            line = json.dumps({"text": draw()(words)}, ensure_ascii=False) + "\n"
            written += len(line)
            file.write(line)
    return written


def write_chat(words: Words, path: Path, size: int) -> int:
    """Conversations as `{"messages": […]}` lines up to `size` bytes, one plain text among eight, so that it is not forgotten."""
    draw, draw_text, written = chooser(words, chat.WRITERS), chooser(words, prose.WRITERS), 0
    with path.open("w", encoding="utf-8") as file:
        while written < size:
            if words.chance(0.125):
                line = {"text": draw_text()(words)}
            else:
                line = {"messages": chat.conversation(words, draw())}
            encoded = json.dumps(line, ensure_ascii=False) + "\n"
            written += len(encoded)
            file.write(encoded)
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wordnet", type=Path, required=True, help="the folder with data.noun and index.noun")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--text-mb", type=float, default=80, help="over all shards (default 80)")
    parser.add_argument("--chat-mb", type=float, default=60, help="over all shards (default 60)")
    parser.add_argument("--shard", default="1/1", help="I/N: the Ith of N (default 1/1)")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    index, count = map(int, arguments.shard.split("/"))
    if not 1 <= index <= count:
        parser.error(f"--shard {arguments.shard}: the first number must be from 1 to the second")
    arguments.out.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    lexicon = wordnet.read(arguments.wordnet)
    for kind, write, size in (("text", write_text, arguments.text_mb), ("chat", write_chat, arguments.chat_mb)):
        words = Words(lexicon, f"{arguments.seed}/{kind}/{index}/{count}")
        path = arguments.out / f"{kind}-{index:02}.jsonl"
        written = write(words, path, int(size * 1e6 / count))
        print(f"{path}: {written / 1e6:.1f} MB after {time.monotonic() - start:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
