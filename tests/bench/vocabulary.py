"""A synthetic byte-level BPE vocabulary of any size, and the words that are one token in it.

It is built, not learnt: syllables are merged from letters, stems from two syllables, words from a space and a stem. So
the number of tokens of a text is known when it is written, for each size of vocabulary.
"""

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] == 'assistant' -%}
{{- '<|im_start|>assistant\\n' -}}{%- generation -%}{{- message['content'] + '<|im_end|>' -}}{%- endgeneration -%}{{- '\\n' -}}
{%- else -%}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""
_SPACE = "Ġ"
_SYLLABLES = [consonant + vowel for consonant, vowel in product("bcdfghjklmnpqrstvwxz", "aeiou")]


def words(count: int) -> list[str]:
    """The first `count` words that are one token, with a space before them, in a vocabulary of `2 * count + 400`."""
    stems = [first + second for first, second in product(_SYLLABLES, repeat=2)]
    return stems[:count]


def write_tokenizer(folder: Path, size: int) -> None:
    """Writes tokenizer.json, tokenizer_config.json and chat_template.jinja with `size` entries."""
    byte_tokens = _byte_tokens()
    merges = _merges(size - len(SPECIAL_TOKENS) - len(byte_tokens))
    entries = SPECIAL_TOKENS + byte_tokens + [left + right for left, right in merges]
    assert len(set(entries)) == size, "each entry of the vocabulary must be its own"
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": token} | plain for i, token in enumerate(SPECIAL_TOKENS)],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {entry: i for i, entry in enumerate(entries)},
            "merges": [list(pair) for pair in merges],
        },
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": SPECIAL_TOKENS[2],
        "pad_token": SPECIAL_TOKENS[0],
        "unk_token": None,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 4096,
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def _byte_tokens() -> list[str]:
    """The characters that stand for the 256 bytes in GPT-2's BPE: printable ones themselves, others from 256 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = (byte for byte in range(256) if byte not in set(printable))
    characters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    return [characters[byte] for byte in range(256)]


def _merges(count: int) -> list[tuple[str, str]]:
    """The first `count` of: the names of the roles, syllables, and then each stem, and the space with it, in turn."""
    merges: list[tuple[str, str]] = []
    for pair in _all_merges(count):
        if len(merges) == count:
            break
        merges.append(pair)
    return merges


def _all_merges(count: int) -> Iterator[tuple[str, str]]:
    yield from ((syllable[0], syllable[1]) for syllable in _SYLLABLES)
    stems = list(product(_SYLLABLES, repeat=2))
    for first, second in stems:
        yield first, second
        yield _SPACE, first + second
    # Large vocabularies are filled with longer words, which the texts do not use.
    for (first, second), third in product(stems, _SYLLABLES):
        yield _SPACE + first + second, third
