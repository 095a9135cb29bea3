"""Reads WordNet's database files: words by part of speech and subject, their use counts, glosses and examples."""

import re
from dataclasses import dataclass, field
from pathlib import Path

# Numbers of WordNet's lexicographer files, by the subject that we call them.
NOUN_SUBJECTS = {
    "act": 4, "animal": 5, "artifact": 6, "quality": 7, "body": 8, "idea": 9, "communication": 10, "event": 11,
    "feeling": 12, "food": 13, "group": 14, "place": 15, "nature": 17, "person": 18, "plant": 20, "money": 21,
    "process": 22, "amount": 23, "state": 26, "substance": 27, "time": 28,
}
WORD = re.compile("[a-z]+")
FILES = {"n": "noun", "v": "verb", "a": "adj", "r": "adv"}
TYPES = {"1": "n", "2": "v", "3": "a", "4": "r", "5": "a"}


@dataclass
class Sense:
    """One meaning of some words."""

    pos: str
    file: int
    words: list[str]
    gloss: str
    examples: list[str]
    frames: set[int]


@dataclass
class Lexicon:
    """What the writers draw from. Lists of words run from the most used to the least used."""

    senses: list[Sense]
    nouns: dict[str, list[str]] = field(default_factory=dict)
    verbs: dict[str, list[str]] = field(default_factory=dict)
    adjectives: list[str] = field(default_factory=list)
    adverbs: list[str] = field(default_factory=list)
    gloss_of: dict[tuple[str, str], str] = field(default_factory=dict)


def read_counts(folder: Path) -> dict[tuple[str, str], int]:
    """How often a (part of speech, word) was met in WordNet's tagged texts."""
    counts: dict[tuple[str, str], int] = {}
    for line in (folder / "cntlist.rev").read_text(encoding="utf-8").splitlines():
        key, _, count = line.split()
        word, rest = key.split("%")
        at = (TYPES[rest[0]], word)
        counts[at] = counts.get(at, 0) + int(count)
    return counts


def split_gloss(text: str) -> tuple[str, list[str]]:
    """The definition, and the quoted example sentences behind it."""
    parts = text.strip().split('"')
    gloss = parts[0].strip().rstrip(";").strip()
    examples = [part.strip() for part in parts[1::2] if len(part) > 8]
    return gloss, examples


def parse(line: str) -> Sense:
    data, _, text = line.partition(" | ")
    columns = data.split()
    count = int(columns[3], 16)
    words = [columns[4 + 2 * i].split("(")[0].replace("_", " ") for i in range(count)]
    at = 4 + 2 * count
    pointers = int(columns[at])
    at += 1 + 4 * pointers
    frames = set()
    if columns[2] == "v" and at < len(columns):
        frames = {int(columns[at + 2 + 3 * i]) for i in range(int(columns[at]))}
    gloss, examples = split_gloss(text)
    return Sense("a" if columns[2] == "s" else columns[2], int(columns[1]), words, gloss, examples, frames)


def read(folder: Path) -> Lexicon:
    """Reads `data.*`, `index.*` and `cntlist.rev` of a WordNet 3.0 `dict` folder."""
    lexicon, first = Lexicon([]), {}
    for pos, name in FILES.items():
        at_offset = {}
        for line in (folder / f"data.{name}").read_text(encoding="utf-8").splitlines():
            if not line.startswith("  "):
                at_offset[line[:8]] = sense = parse(line)
                if UNKIND.isdisjoint(WORD.findall(line.lower())):
                    lexicon.senses.append(sense)
                else:
                    del at_offset[line[:8]]
        for line in (folder / f"index.{name}").read_text(encoding="utf-8").splitlines():
            if not line.startswith("  "):
                columns = line.split()
                if sense := at_offset.get(columns[-int(columns[2])]):
                    first[pos, columns[0]] = sense
    fill(lexicon, first, read_counts(folder))
    return lexicon


def usable(word: str) -> bool:
    return word.isalpha() and word.islower() and 2 < len(word) < 14


# Words, and the glosses and examples with them, that stay out of the corpus.
UNKIND = set("""bastard bitch slut whore nigger faggot fuck shit cunt prick wop kike chink spic dago honky darky coon
cripple retard moron idiot imbecile slave rape rapist nazi gook wetback jap injun squaw lesbian homosexual sex penis
vagina intercourse prostitute tart hooker pimp murder murderer corpse suicide pervert porn negro negress mulatto
naked nude whip torture""".split())


def fill(lexicon: Lexicon, first: dict[tuple[str, str], Sense], counts: dict[tuple[str, str], int]) -> None:
    """Sorts the words into lists, the most used first. A word counts for its first sense alone."""
    subject_of = {number: name for name, number in NOUN_SUBJECTS.items()}
    open_subjects = ("animal", "food", "artifact", "plant", "person")  # also words that the tagged texts lack
    frames: dict[str, set[int]] = {}
    common = {word for sense in lexicon.senses for word in sense.words if usable(word)}  # proper names are lower case in the index
    for sense in lexicon.senses:
        if sense.pos == "v":
            for word in sense.words:
                frames.setdefault(word, set()).update(sense.frames)
    for at in sorted(first, key=lambda at: (-counts.get(at, 0), at)):
        (pos, word), sense, known = at, first[at], counts.get(at, 0) > 0
        if word not in common:
            continue
        lexicon.gloss_of[at] = sense.gloss
        subject = subject_of.get(sense.file)
        if pos == "n" and subject and (known or subject in open_subjects):
            lexicon.nouns.setdefault(subject, []).append(word)
        elif pos == "v" and known:
            for name, wanted in (("transitive", {8, 11}), ("intransitive", {2})):
                if frames.get(word, set()) & wanted:
                    lexicon.verbs.setdefault(name, []).append(word)
        elif pos == "a" and known:
            lexicon.adjectives.append(word)
        elif pos == "r" and known and word.endswith("ly"):
            lexicon.adverbs.append(word)
