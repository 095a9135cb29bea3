"""Seeded chat data with the lengths of real instruction data: many short examples, a long tail."""

import hashlib
import json
import random
from dataclasses import dataclass
from pathlib import Path

from vocabulary import words

MEAN_TOKENS = 120
LONGEST = 1024
# Of log-length; the tail of a lognormal with it and the mean above reaches 1,024 at about one example in 300.
_SPREAD = 0.9
_WORDS = words(800)


@dataclass(frozen=True)
class Statistics:
    """What the tokenized examples are like; counts are those of the tokenizer, not estimates."""

    examples: int
    tokens: int
    supervised: int
    squared_lengths: int
    longest: int

    @staticmethod
    def of(counts: list[tuple[int, int]]) -> "Statistics":
        """`counts`: tokens and supervised tokens of each example."""
        return Statistics(
            examples=len(counts),
            tokens=sum(tokens for tokens, _ in counts),
            supervised=sum(supervised for _, supervised in counts),
            squared_lengths=sum(tokens * tokens for tokens, _ in counts),
            longest=max(tokens for tokens, _ in counts),
        )

    @property
    def supervised_share(self) -> float:
        return self.supervised / self.tokens

    @property
    def attended_length(self) -> float:
        """Length of the document that a token finds itself in, in the mean over tokens: sum of squares by sum."""
        return self.squared_lengths / self.tokens


def make_dataset(folder: Path, examples: int, seed: int = 0, longest: int = LONGEST) -> Path:
    """Writes `examples` conversations as JSONL unless they are there, and returns the file."""
    source = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]
    place = folder / f"chat-{examples}-{longest}-{seed}-{source}.jsonl"
    if place.exists():
        return place
    folder.mkdir(parents=True, exist_ok=True)
    generator = random.Random(seed)
    aside = place.with_suffix(".partial")
    with open(aside, "w", encoding="utf-8") as file:
        for _ in range(examples):
            file.write(json.dumps({"messages": _conversation(generator, longest)}) + "\n")
    aside.rename(place)
    return place


# Tokens of a message besides its words: start, the pieces of the role's name, newline, end, newline.
_FRAME = {"user": 7, "assistant": 11}


def example_counts(data: Path) -> list[tuple[int, int]]:
    """Tokens and supervised tokens of each example, without a tokenizer: each word is one token in our vocabularies.

    An assistant's words and the end of its turn are supervised. Both sides are checked against these numbers.
    """
    counts = []
    for line in data.read_text(encoding="utf-8").splitlines():
        tokens = supervised = 0
        for message in json.loads(line)["messages"]:
            words_said = message["content"].count(" ")
            tokens += words_said + _FRAME[message["role"]]
            supervised += words_said + 1 if message["role"] == "assistant" else 0
        counts.append((tokens, supervised))
    return counts


def _conversation(generator: random.Random, longest: int) -> list[dict[str, str]]:
    """One to three turns; user and assistant speak about the same amount."""
    # exp(mu + sigma^2 / 2) is the mean of a lognormal; the cut at `longest` takes little from it.
    location = MEAN_TOKENS / 2.718281828 ** (_SPREAD**2 / 2)
    length = min(longest, max(24, round(location * generator.lognormvariate(0.0, _SPREAD))))
    turns = min(generator.choice([1, 1, 1, 2, 3]), max(1, length // 40))
    messages = []
    for _ in range(turns):
        # 18 tokens of a turn are not words.
        said = max(2, length // turns - 20)
        asked = max(1, round(said * generator.uniform(0.25, 0.6)))
        messages.append({"role": "user", "content": _text(generator, asked)})
        messages.append({"role": "assistant", "content": _text(generator, max(1, said - asked))})
    return messages


def _text(generator: random.Random, count: int) -> str:
    return "".join(" " + word for word in generator.choices(_WORDS, k=count))
