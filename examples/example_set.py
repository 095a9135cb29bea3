"""What the four generators share: made-up names, and writing the files of one example folder."""

import json
from pathlib import Path

FIRST_NAMES = """Ada Agnes Aisha Alan Amara Amir Ana Anders Anita Anton Astrid Ben Bruno Carla Cedric Chen Clara Colin
Dana David Diego Dora Edwin Elena Elias Emma Erik Esther Farid Felix Fiona Frank Gina Grace Hana Harold Helen Hugo Ida
Igor Ines Irene Ivan Jack Jane Jasper Jonas Julia Kai Karen Karl Kofi Laura Leo Lina Lucas Lucy Malik Maria Marta Max
Mia Milan Mona Nadia Neil Nina Noah Nora Olga Omar Oscar Paula Peter Petra Priya Ravi Rita Robin Rosa Ruth Sam Sara
Simon Sofia Stella Tara Theo Tina Tom Uma Vera Victor Wendy Yara Yusuf Zoe""".split()

LAST_NAMES = """Abbott Adler Almeida Baker Bauer Becker Bell Bennett Berg Blake Bloom Brandt Brook Burns Carter Castro
Chan Clark Cole Cook Costa Cruz Dale Davis Dean Diaz Dixon Duarte Dunn Ellis Evans Fischer Flores Ford Foster Fox
Franco Frost Fuller Garcia Gibson Grant Gray Green Hale Hall Harper Hart Hayes Hill Holm Hoffman Hunt Iyer Jensen
Jordan Kaur Keller Kelly Khan King Klein Knight Kumar Lane Larsen Lee Lind Lopez Lund Marsh Martin Mason Mehta Meyer
Mills Moore Morris Moss Murphy Nash Nolan Novak Okafor Olsen Ortiz Owen Palmer Park Patel Pena Perry Petrov Porter
Price Quinn Ramos Reed Reyes Rice Roberts Rose Ross Rowe Ryan Santos Sato Schmidt Shah Shaw Silva Singh Sousa Stone
Tanaka Taylor Torres Turner Vance Vega Wade Walker Walsh Ward Weber West White Wolf Wood Wright Young Zimmer""".split()


def split_names(names: list[str], every: int = 4) -> tuple[list[str], list[str]]:
    """Two lists without a common name: every fourth is for the held-out part alone."""
    return [n for i, n in enumerate(names) if i % every], names[::every]


def collect(make, count: int, taken: set) -> list[dict]:
    """Calls `make()` -> (key, line) until `count` lines have a key that is not in `taken`; adds their keys to it."""
    lines = []
    while len(lines) < count:
        key, line = make()
        if key not in taken:
            taken.add(key)
            lines.append(line)
    return lines


def conversation(system: str, user: str, answer: str, require: list[str] | None = None) -> dict:
    """One line of a file."""
    roles = zip(("system", "user", "assistant"), (system, user, answer))
    line = {"messages": [{"role": role, "content": content} for role, content in roles]}
    if require:
        assert all(phrase in answer.replace("\n", " ") for phrase in require), (require, answer)
        line["require"] = require
    return line


def write(folder: Path, task: dict, train: list[dict], heldout: list[dict]) -> None:
    """Writes train.jsonl, heldout.jsonl and task.json; only held-out lines keep `require`."""
    prompts = {json.dumps(line["messages"][:-1]) for line in train}
    assert not any(json.dumps(line["messages"][:-1]) in prompts for line in heldout)
    train = [{"messages": line["messages"]} for line in train]
    for name, lines in (("train.jsonl", train), ("heldout.jsonl", heldout)):
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "task.json").write_text(json.dumps(task, indent=2) + "\n", encoding="utf-8")
