"""Prompts of known lengths, no two alike, so that no prefix cache answers for the model."""

import itertools
import random
from collections.abc import Sequence

from vocabulary import words

# As many as the smallest vocabulary, of 2,048 entries, has.
_WORDS = words(800)


class Prompts:
    """Seeded texts in which each word is one token; the tokenizer of `vocabulary.py` gives as many tokens as words."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def one(self, length: int) -> str:
        return " ".join(self._random.choices(_WORDS, k=length))

    def several(self, lengths: Sequence[int]) -> list[str]:
        return [self.one(length) for length in lengths]


def spread(mean: int, count: int) -> list[int]:
    """`count` lengths from half of `mean` to one and a half of it, evenly: a batch of them must be padded."""
    if count == 1:
        return [mean]
    return [round(mean / 2 + mean * place / (count - 1)) for place in range(count)]


def evenly(names: Sequence[str], seed: int) -> "itertools.cycle[str]":
    """Each name as often as any other, in a seeded order."""
    order = list(names)
    random.Random(seed).shuffle(order)
    return itertools.cycle(order)


def zipf(names: Sequence[str], count: int, seed: int) -> list[str]:
    """`count` names, the n-th of them in proportion to 1/n."""
    weights = [1 / place for place in range(1, len(names) + 1)]
    return random.Random(seed).choices(list(names), weights, k=count)
