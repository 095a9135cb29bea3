"""Conversations of general skills: extract, copy, classify by given labels, fill, rewrite, sum up, choose, look up.

None of them is one of the tasks in examples/: those are what a user fine-tunes for.
"""

import json

from . import prose
from .inflect import capital, in_words, listed, ordinal, past, plural, with_article
from .words import COLOURS, FEELINGS, SPOTS, WHENS, Words

SYSTEMS = [
    "", "", "", "You are a helpful assistant.", "Answer briefly.", "You follow instructions exactly.", "Reply in plain English.",
    "You are a careful clerk.", "Answer with the result only.", "You help in an office.", "Be short and exact.",
    "You work for {company}.", "You are the assistant of {name}.", "You answer questions about a text.", "Do as the user asks.",
    "Never explain; just answer.", "You are an assistant at {company} in {place}.", "Use the words of the user.",
]

SUBJECT_NAMES = {
    "animal": ["animal", "animals", "zoology"], "food": ["food", "food and drink", "cooking"], "plant": ["plant", "plants", "botany"],
    "person": ["person", "people"], "artifact": ["object", "things people make", "tools"], "body": ["body", "part of the body"],
    "feeling": ["feeling", "emotion"], "time": ["time", "calendar"], "money": ["money", "finance"], "place": ["place", "geography"],
    "nature": ["nature", "landscape"], "substance": ["substance", "material"], "communication": ["language", "communication"],
    "group": ["group", "organization"], "event": ["event", "happening"], "act": ["activity", "action"],
}

GOOD = """wonderful great lovely excellent pleasant perfect delightful superb fine brilliant charming friendly fast fresh
comfortable clean generous fantastic helpful beautiful""".split()
BAD = """awful terrible poor dreadful horrible disappointing dirty slow rude cold broken boring noisy useless nasty stale
cheap ugly weak unpleasant""".split()
PLAIN = """open round wooden daily local square new standard usual medium public grey flat regular average""".split()

POLITE = [
    ("Send me the {x}.", "Could you please send me the {x}?"), ("Bring the {x} to {p}.", "Would you kindly bring the {x} to {p}?"),
    ("I want the {x} now.", "I would be glad to have the {x} soon."), ("Give {n} the {x}.", "Could you please give {n} the {x}?"),
    ("Tell {n} about the {x}.", "Would you mind telling {n} about the {x}?"), ("Stop using the {x}.", "May I ask you to stop using the {x}?"),
    ("Call {n} on {d}.", "Could you please call {n} on {d}?"), ("You forgot the {x}.", "It seems that the {x} was forgotten."),
    ("Pay {a} to {n}.", "Would you kindly pay {a} to {n}?"), ("Move the {x}.", "Could you please move the {x}?"),
]


def ask(w: Words, *wordings: str) -> str:
    return w.pick(wordings)


def record_text(w: Words, data: dict[str, str]) -> str:
    """The record as sentences in free order."""
    forms = ["The {k} is {v}.", "{K}: {v}.", "It has the {k} {v}.", "As {k} we noted {v}.", "{v} is the {k}.", "For {k}, take {v}."]
    form = w.pick(forms)
    pairs = list(data.items())
    w.rng.shuffle(pairs)
    mixed = w.chance(0.5)
    return " ".join((w.pick(forms) if mixed else form).format(k=k, K=capital(k), v=v) for k, v in pairs)


def extract_all(w: Words) -> list[tuple[str, str]]:
    data = prose.record(w)
    keys = list(data)[: w.below(2, len(data))]
    w.rng.shuffle(keys)
    text = record_text(w, data)
    missing = w.pick(prose.KEYS) if w.chance(0.35) else None
    if missing and missing not in data:
        keys.insert(w.below(0, len(keys)), missing)
    sep, question = w.pick([(": ", "one `key: value` a line"), (" = ", "one `key = value` a line"), (": ", "as lines"), (": ", "as a list")])
    mark = "- " if question == "as a list" else ""
    none = w.pick(("none", "none", "unknown", "not given"))
    hint = f" Write {none} for what is missing." if missing else ""
    answer = "\n".join(f"{mark}{key}{sep}{data.get(key, none)}" for key in keys)
    return [(ask(w, f"Extract {listed(keys)} {question}.{hint}\n\n{text}", f"{text}\n\nGive {listed(keys)} {question}.{hint}",
                 f"Read the text and write {listed(keys)} {question}.{hint}\nText: {text}"), answer)]


def extract_prose(w: Words) -> list[tuple[str, str]]:
    """Fields from a free sentence, where two values of a kind compete."""
    one, two, price, day, thing, place = w.full_name(), w.full_name(), w.amount(), w.date(), prose.phrase(w), w.place()
    if w.chance(0.5):
        one, two = w.company(), w.company()
    span, code = w.span(), w.code()
    forms = [
        ("{one} sold the {thing} to {two} for {price} on {day}.", "seller buyer item price date"),
        ("On {day}, {two} bought the {thing} from {one} and paid {price}.", "buyer seller item price date"),
        ("{one} wrote to {two} in {place} about the {thing} (number {code}).", "sender receiver place topic number"),
        ("{two} got a letter from {one}; it came from {place} on {day}.", "sender receiver place date"),
        ("{one} hires {two} for {span} at {price}.", "employer worker duration pay"),
        ("For {span}, {two} works for {one} and earns {price}.", "employer worker duration pay"),
        ("{one} lends the {thing} {code} to {two} until {day}.", "lender borrower item number date"),
        ("{two} will visit {one} in {place} for {span}.", "guest host place duration"),
        ("The {thing} goes from {one} to {two}; it leaves {place} on {day}.", "sender receiver item place date"),
        ("{one} and not {two} won {price} with the {thing}.", "winner loser prize item"),
    ]
    form, keys = w.pick(forms)
    values = dict(seller=one, buyer=two, item=thing, price=price, date=day, sender=one, receiver=two, place=place, topic=thing,
                  number=code, employer=one, worker=two, duration=span, pay=price, lender=one, borrower=two, guest=two, host=one,
                  winner=one, loser=two, prize=price)
    text = form.format(one=one, two=two, price=price, day=day, thing=thing, place=place, span=span, code=code)
    names = keys.split()
    w.rng.shuffle(names)
    names = names[: w.below(2, len(names))]
    absent = w.pick(("colour", "weight", "phone", "age", "city"))
    if w.chance(0.3):
        names.append(absent)
    answer = "\n".join(f"{name}: {values.get(name, 'none')}" for name in names)
    return [(ask(w, f"{text}\n\nFields: {', '.join(names)}", f"Fill in {', '.join(names)}.\n{text}",
                 f"Which {listed(names)}? Write `field: value` lines.\n\n{text}"), answer)]


def answer_from_passage(w: Words) -> list[tuple[str, str]]:
    text, questions = prose.passage(w)
    w.rng.shuffle(questions)
    turns = []
    for number, (question, answer) in enumerate(questions[: w.below(1, 3)]):
        head = ask(w, f"{text}\n\n{question}", f"Text: {text}\nQuestion: {question}", f"{question}\n\n{text}") if number == 0 else question
        turns.append((head, w.pick((capital(answer), capital(answer) + "."))))
    return turns


def classify_word(w: Words) -> list[tuple[str, str]]:
    subjects = w.several(lambda: w.pick(list(SUBJECT_NAMES)), 2, 5)
    labels = {subject: w.pick(SUBJECT_NAMES[subject]) for subject in subjects}
    if w.chance(0.3):
        labels = {subject: w.code() if w.chance(0.5) else w.invented() for subject in subjects}
        meaning = "; ".join(f"{label} means {subject}" for subject, label in labels.items())
        head = f"Labels: {meaning}."
    else:
        head = ask(w, f"Labels: {', '.join(labels.values())}.", f"Classify as {listed(list(labels.values()), 'or')}.",
                   f"Is it {listed(list(labels.values()), 'or')}?")
    turns = []
    for number in range(w.below(1, 3)):
        subject = w.pick(subjects)
        word = w.noun(subject)
        item = w.pick((word, f"the {word}", f"{capital(with_article(word))} {w.pick(SPOTS)}."))
        turns.append((f"{head}\n{item}" if number == 0 else item, labels[subject]))
    return turns


def classify_sentence(w: Words) -> list[tuple[str, str]]:
    """Labels with made-up names and given marks: the reader must look the words up in the rules."""
    count = w.below(2, 4)
    marks = w.several(w.thing, count, count)
    labels = w.several(w.pick((lambda: w.pick(COLOURS), w.code, lambda: w.noun("person"), w.invented, w.adjective)), count, count)
    count = min(len(marks), len(labels))
    rules = " ".join(w.pick(("If the text has {m}, say {l}.", "Texts with {m} are {l}.", "{m}: {l}.")).format(m=marks[i], l=labels[i]) for i in range(count))
    at = w.below(0, count - 1)
    text = w.pick((f"{w.first()[0]} {past(w.verb())} the {marks[at]} {w.pick(SPOTS)}.", f"There was {with_article(marks[at])} in {w.place()}.",
                   f"{capital(w.pick(WHENS))} the {marks[at]} was {w.adjective()}."))
    answer = w.pick(("{}", "Label: {}", "{}.")) if w.chance(0.3) else "{}"
    hint = f" Answer as `{answer.format('…')}`." if answer != "{}" else ""
    return [(f"{rules}{hint}\n\n{text}", answer.format(labels[at]))]


def sentiment(w: Words) -> list[tuple[str, str]]:
    kinds = {"positive": GOOD, "negative": BAD, "neutral": PLAIN}
    names = w.pick((("positive", "negative", "neutral"), ("good", "bad", "plain"), ("happy", "unhappy", "neither"), ("up", "down", "flat"), ("A", "B", "C")))
    label = dict(zip(kinds, names))
    rule = f"{names[0]} for praise, {names[1]} for blame, {names[2]} for neither"
    turns = []
    for number in range(w.below(1, 3)):
        kind = w.pick(list(kinds))
        first, second = w.pick(kinds[kind]), w.pick(kinds[kind])
        thing = w.noun(w.pick(("artifact", "food", "place", "event")))
        text = w.pick((f"The {thing} was {first}.", f"What {with_article(first)} {thing}, and {second} too!", f"I found the {thing} {first} and {second}.",
                       f"{w.full_name()} said the {thing} in {w.place()} is {first}."))
        turns.append((f"Say {rule}.\n{text}" if number == 0 else text, label[kind]))
    return turns


def polite(w: Words) -> list[tuple[str, str]]:
    plain, kind = w.pick(POLITE)
    values = dict(x=prose.phrase(w), p=w.place(), n=w.full_name(), d=w.date(), a=w.amount())
    if w.chance(0.2):
        plain, kind = kind, plain
        return [(ask(w, "Say it bluntly: ", "Shorter and less polite: ", "Make this blunt.\n") + plain.format(**values), kind.format(**values))]
    return [(ask(w, "Make it polite: ", "Rewrite politely.\n", "Say this in a friendly way: ", "Politely, please: ") + plain.format(**values), kind.format(**values))]


def fill_template(w: Words) -> list[tuple[str, str]]:
    """A template given in the prompt, filled with the given values."""
    keys = w.several(lambda: w.pick(prose.KEYS), 2, 5)
    values = {key: w.value() for key in keys}
    parts = []
    for key in keys:
        before = w.pick((f"the {w.noun()}", f"{w.adjective()} {w.thing()}", "it", f"we {w.verb()}", f"{w.first()[0]} {past(w.verb())}", f"{w.verb()}"))
        parts.append(f"{before} {w.pick(('is', 'with', 'for', 'from', 'by', 'and', 'at', 'has'))} {{{key}}}")
    template = capital(w.pick((", ", "; ", ". ", " and ")).join(parts)) + "."
    shown = list(values.items())
    w.rng.shuffle(shown)
    lines = "\n".join(f"{key}: {value}" for key, value in shown)
    answer = template
    for key, value in values.items():
        answer = answer.replace("{" + key + "}", value)
    return [(ask(w, f"Template: {template}\n{lines}", f"{lines}\n\nFill this: {template}", f"Put the values into the template.\n{template}\n\n{lines}"), answer)]


def sentence_from_attributes(w: Words) -> list[tuple[str, str]]:
    thing, colour, stuff, price, place = w.noun("artifact"), w.pick(COLOURS), w.noun("substance"), w.amount(), w.place()
    data = [("thing", thing), ("colour", colour), ("stuff", stuff), ("cost", price), ("from", place)]
    w.rng.shuffle(data)
    lines = "\n".join(f"{key}: {value}" for key, value in data)
    return [(ask(w, f"Make a sentence.\n{lines}", f"Write one sentence with these facts.\n{lines}", f"{lines}\nIn a sentence, please."),
             f"The {colour} {thing} from {place} is of {stuff} and costs {price}.")]


def person_sentence(w: Words) -> list[tuple[str, str]]:
    name, town, job, age, pet = w.full_name(), w.place(), w.noun("person"), w.below(18, 90), w.noun("animal")
    data = [("name", name), ("town", town), ("work", job), ("age", str(age)), ("pet", pet)]
    w.rng.shuffle(data)
    lines = w.pick(("\n", ", ")).join(f"{key}: {value}" for key, value in data)
    return [(ask(w, "Introduce this person.\n", "Write a short introduction.\n", "Who is this?\n") + lines,
             f"{name} is {age} years old, lives in {town}, works as {with_article(job)} and has {with_article(pet)}.")]


def sum_up(w: Words) -> list[tuple[str, str]]:
    name, thing, place, day = w.full_name(), prose.phrase(w), w.place(), w.date()
    act = w.verb()
    long = (f"{capital(w.pick(WHENS))}, when the {w.thing()} was {w.adjective()}, {name} {past(act)} the {thing} in {place}. "
            f"It was {day}. {w.first()[0]} was {w.pick(FEELINGS)}, and the {w.noun('group')} {past(w.verb_alone())}.")
    return [(ask(w, "Sum up in one sentence: ", "Summary, please.\n", "What happened, in short?\n") + long, f"{name} {past(act)} the {thing} in {place}.")]


def short_letter(w: Words) -> list[tuple[str, str]]:
    to, sender, thing, day, place = w.full_name(), w.full_name(), prose.phrase(w), w.date(), w.place()
    purpose, body = w.pick((
        (f"thank for the {thing}", f"many thanks for the {thing}. It arrived on {day} and I like it very much."),
        (f"invite to {place} on {day}", f"I would like to invite you to {place} on {day}. Please bring the {thing}."),
        (f"ask for the {thing}", f"could you please send me the {thing} by {day}? I need it in {place}."),
        (f"say that the {thing} is late", f"I am sorry to say that the {thing} is late. It will be in {place} on {day}."),
        (f"announce a visit on {day}", f"I will visit you in {place} on {day} and bring the {thing}.")))
    extra = {"thank": f" It came on {day}.", "ask": f" It is needed by {day} in {place}.", "say": f" New date: {day}, {place}.",
             "announce": f" Place: {place}. Present: the {thing}.", "invite": f" To bring: the {thing}."}[purpose.split()[0]]
    return [(f"Write a short note from {sender} to {to}: {purpose}.{extra}", f"Dear {to},\n{body}\nYours, {sender}")]


def list_keys(w: Words) -> list[tuple[str, str]]:
    data = prose.record(w)
    as_lines = "\n".join(f"{k}: {v}" for k, v in data.items())
    roll = w.random()
    if roll < 0.25:
        return [(f"List the keys.\n{as_lines}", ", ".join(data))]
    if roll < 0.5:
        return [(f"List the values, one a line.\n{as_lines}", "\n".join(data.values()))]
    as_json = json.dumps(data, ensure_ascii=False)
    if roll < 0.75:
        return [(f"Write this as JSON.\n{as_lines}", as_json)]
    return [(f"Write this JSON as `key: value` lines.\n{as_json}", as_lines)]


def look_up(w: Words) -> list[tuple[str, str]]:
    """A small table in the prompt; what stands beside a word, or which word stands beside a value."""
    count = w.below(3, 8)
    keys = w.several(w.pick((w.thing, w.full_name, w.place, w.adjective)), count, count)
    values = w.several(w.pick((w.code, w.amount, w.invented, w.company, w.date, lambda: f"{w.code()} {w.adjective()} {w.thing()}")), count, count)
    pairs = list(zip(keys, values))
    sep = w.pick((": ", " = ", " | ", " -> ", ", "))
    table = "\n".join(f"{k}{sep}{v}" for k, v in pairs)
    turns = []
    for number in range(w.below(1, 3)):
        key, value = w.pick(pairs)
        question, answer = w.pick(((f"What stands for {key}?", value), (f"{key}?", value), (f"Find {key}.", value), (f"Which entry has {value}?", key)))
        turns.append((f"{table}\n\n{question}" if number == 0 else question, answer))
    return turns


def choose(w: Words) -> list[tuple[str, str]]:
    subject = w.pick(list(SUBJECT_NAMES))
    others = [other for other in SUBJECT_NAMES if other != subject]
    right = w.noun(subject)
    options = w.several(lambda: w.noun(w.pick(others)), 2, 4) + [right]
    w.rng.shuffle(options)
    letters = "ABCDE"
    shown = "\n".join(f"{letters[i]}) {option}" for i, option in enumerate(options))
    name = w.pick(SUBJECT_NAMES[subject])
    if w.chance(0.5):
        return [(f"Which word belongs to {name}?\n{shown}", f"{letters[options.index(right)]}) {right}")]
    return [(f"Which of these belongs to {name}: {', '.join(options)}?", right)]


def define(w: Words) -> list[tuple[str, str]]:
    (pos, word), gloss = w.pick(DEFINITIONS(w))
    gloss = gloss.split(";")[0]
    if pos == "n":
        return [(ask(w, f"What is {with_article(word)}?", f"Define {word}.", f"What does {word} mean?"), f"{capital(with_article(word))} is {gloss}.")]
    if pos == "v":
        return [(ask(w, f"What does it mean to {word}?", f"Define to {word}."), f"To {word} is to {gloss}.")]
    return [(ask(w, f"What does {word} mean?", f"Define {word}."), f"{capital(word)} means {gloss}.")]


def DEFINITIONS(w: Words) -> list:  # noqa: N802 - a cached table
    if not hasattr(w, "definitions"):
        w.definitions = sorted(w.lexicon.gloss_of.items())
    return w.definitions


def yes_or_no(w: Words) -> list[tuple[str, str]]:
    roll = w.random()
    if roll < 0.4:
        subject = w.pick(list(SUBJECT_NAMES))
        asked = subject if w.chance(0.5) else w.pick(list(SUBJECT_NAMES))
        return [(f"Yes or no: does {w.noun(subject)} belong to {w.pick(SUBJECT_NAMES[asked])}?", "Yes" if asked == subject else "No")]
    if roll < 0.7:
        a, b = w.below(1, 99), w.below(1, 99)
        return [(f"Is {a} {w.pick(('days', 'months', 'years', 'kg', 'km'))} more than {b}?", "Yes" if a > b else "No")]
    items = w.several(w.thing, 3, 6)
    asked = w.pick(items) if w.chance(0.5) else w.thing()
    return [(f"The box holds {listed(items)}. Is there {with_article(asked)} in it?", "Yes" if asked in items else "No")]


def count(w: Words) -> list[tuple[str, str]]:
    items = w.several(w.pick((w.thing, w.invented, w.full_name)), 2, 7)
    number = len(items)
    roll = w.random()
    if roll < 0.5:
        return [(ask(w, "How many are there? ", "Count: ", "How many words? ") + ", ".join(items), w.pick((str(number), in_words(number))))]
    if roll < 0.75:
        at = w.below(1, number)
        return [(f"What is the {ordinal(at)} of these? {', '.join(items)}", items[at - 1])]
    return [(f"Sort by the alphabet: {', '.join(items)}", ", ".join(sorted(items)))]


def repeat(w: Words) -> list[tuple[str, str]]:
    text = w.pick((lambda: ", ".join(w.several(w.value, 2, 6)), lambda: " ".join(w.several(w.invented, 3, 8)), lambda: prose.report(w).split(". ")[0]))()
    roll = w.random()
    if roll < 0.5:
        return [(ask(w, "Repeat: ", "Say exactly this: ", "Copy this line.\n") + text, text)]
    if roll < 0.8:
        frame = w.pick(("<< {} >>", "Result: {}", "** {} **", "{} - done", "Answer: {}.", "[{}]"))
        return [(f"Write the text as `{frame.format('…')}`.\n{text}", frame.format(text))]
    return [(f"In capital letters: {text}", text.upper())]


def by_rules(w: Words) -> list[tuple[str, str]]:
    """A ladder of number rules in the prompt."""
    steps = sorted(w.several(lambda: w.below(3, 95), 2, 3))
    labels = w.several(w.pick((w.adjective, w.thing, lambda: w.pick(COLOURS))), len(steps) + 1, len(steps) + 1)
    while len(labels) <= len(steps):
        labels.append(w.invented())
    unit = w.pick(("days", "weeks", "kg", "km", "points", "pieces"))
    rules = "; ".join(f"up to {step} {unit}: {label}" for step, label in zip(steps, labels)) + f"; more: {labels[len(steps)]}"
    turns = []
    for number in range(w.below(1, 3)):
        value = w.below(1, 99)
        answer = next((label for step, label in zip(steps, labels) if value <= step), labels[len(steps)])
        turns.append((f"Rules: {rules}.\n{value} {unit}" if number == 0 else f"{value} {unit}", answer))
    return turns


def small_story(w: Words) -> list[tuple[str, str]]:
    text = prose.story(w)
    return [(ask(w, "Tell me a story", "Write a short story") + f" that begins: {text.split('. ')[0]}.", text)]


def chat(w: Words) -> list[tuple[str, str]]:
    name, feeling, thing = w.first()[0], w.pick(FEELINGS), prose.phrase(w)
    return [(ask(w, f"Hello, I am {name}.", f"Hi! My name is {name}.", f"{name} here. Good morning!"), ask(w, f"Hello {name}, how can I help you?", f"Hi {name}! What can I do for you?")),
            (f"I am {feeling} about my {thing}.", f"I see, {name}. Tell me more about the {thing}."),
            (ask(w, "What is my name?", "Who am I?"), f"You are {name}."), ][: w.below(1, 3)]


# (writer, share of the conversations)
WRITERS = [
    (extract_all, 12), (extract_prose, 12), (answer_from_passage, 9), (classify_word, 7), (classify_sentence, 8), (sentiment, 4), (polite, 4),
    (fill_template, 9), (sentence_from_attributes, 3), (person_sentence, 3), (sum_up, 4), (short_letter, 6), (list_keys, 4), (look_up, 8),
    (choose, 3), (define, 4), (yes_or_no, 3), (count, 3), (repeat, 5), (by_rules, 4), (small_story, 1), (chat, 2),
]


def conversation(w: Words, writer) -> list[dict[str, str]]:
    system = w.pick(SYSTEMS)
    if "{" in system:
        system = system.format(company=w.company(), name=w.full_name(), place=w.place())
    messages = [{"role": "system", "content": system}] if system else []
    for question, answer in writer(w):
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return messages
