"""Documents of plain text: dictionary entries, stories, records, letters, dialogues, lists and copied sequences."""

from .inflect import capital, in_words, listed, ordinal, participle, past, plural, present_participle, third, with_article
from .words import COLOURS, DAYS, FEELINGS, SPOTS, WHENS, Words

POS_NAMES = {"n": "noun", "v": "verb", "a": "adjective", "r": "adverb"}
KEYS = """name title city country owner date time price size weight colour material author subject number code phone
street email status age job team room floor model brand year language height width length deadline budget total sender
receiver place type topic reason amount quantity unit address company manager start end duration level score""".split()


def definition(w: Words) -> str:
    """One to three dictionary entries, in one of several layouts."""
    return "\n".join(entry(w) for _ in range(w.below(1, 3)))


def entry(w: Words) -> str:
    sense = w.pick(w.lexicon.senses)
    word, gloss, kind = w.pick(sense.words), sense.gloss, POS_NAMES[sense.pos]
    forms = [f"{word}: {gloss}.", f"{word} ({kind}): {gloss}.", f'The {kind} "{word}" means: {gloss}.',
             f"What does {word} mean? {capital(gloss)}.", f"{capital(gloss)}: {word}."]
    if sense.pos == "n":
        forms += [f"{capital(with_article(word)) if word.islower() else word} is {gloss}."] * 2
    if sense.pos == "v":
        forms += [f"To {word} is to {gloss}."] * 2
    text = w.pick(forms)
    if len(sense.words) > 1 and w.chance(0.4):
        text += f" Other words for it: {', '.join(sense.words)}."
    if sense.examples and w.chance(0.8):
        example = w.pick(sense.examples)
        text += w.pick((f" {capital(example)}.", f' Example: "{example}".', f"\nFor example: {example}."))
    return text


def examples(w: Words) -> str:
    """WordNet's own example sentences, several in a row."""
    found = []
    while len(found) < 4:
        sense = w.pick(w.lexicon.senses)
        found += [capital(example.rstrip(".")) + "." for example in sense.examples[:2]]
    return " ".join(found)


def phrase(w: Words) -> str:
    """A thing, maybe with an adjective."""
    noun = w.thing()
    roll = w.random()
    if roll < 0.35:
        return f"{w.adjective()} {noun}"
    return f"{w.pick(COLOURS)} {noun}" if roll < 0.5 else noun


def story(w: Words) -> str:
    """A few people, a thing that matters, and what happens to it."""
    (one, she), (two, he) = w.first(), w.first()
    while two == one:
        two, he = w.first()
    thing, place, feeling = phrase(w), w.place(), w.pick(FEELINGS)
    noun, other = thing.split()[-1], phrase(w)
    her = {"she": "her", "he": "his"}[she]
    him = {"she": "her", "he": "him"}[he]
    job = w.noun("person")
    lines = [w.pick((
        f"{capital(w.pick(WHENS))}, {one} found {with_article(thing)} {w.pick(SPOTS)}.",
        f"{one} lived in {place} and worked as {with_article(job)}. {capital(she)} had {with_article(thing)}.",
        f"There was once {with_article(job)} called {one} who owned {with_article(thing)}.",
        f"{one} and {two} were friends. {one} wanted {with_article(thing)}, but {two} wanted {with_article(other)}."))]
    events = [
        lambda: f"{capital(she)} {past(w.verb())} the {noun} {w.adverb()}.",
        lambda: f'"Where is the {noun}?" asked {two}. "It is {w.pick(SPOTS)}," said {one}.',
        lambda: f"{two} {past(w.verb())} {with_article(phrase(w))} and {past(w.verb_alone())} to {place}.",
        lambda: f"{one} was {w.pick(FEELINGS)} because the {noun} was {w.adjective()}.",
        lambda: f'"{capital(w.pick(("please", "now", "tomorrow", "soon")))} {w.verb()} the {noun}," {one} told {two}.',
        lambda: f"Then {he} gave {one} {in_words(w.below(2, 20))} {plural(w.thing())}.",
        lambda: f"{capital(w.pick(WHENS))} {she} {past(w.verb())} {her} {w.thing()} {w.pick(SPOTS)}.",
        lambda: f"The {noun} cost {w.amount()}, and {one} paid for it with {w.noun('money')}.",
        lambda: f"{one} asked {him} to {w.verb()} the {noun}, so {two} {past(w.verb())} it.",
        lambda: f"But {two} did not {w.verb()} the {w.thing()}; {he} {past(w.verb())} the {noun}.",
        lambda: f"It was {w.adjective()} and {w.adjective()}, like {with_article(w.thing())}.",
        lambda: f"While {two} was {present_participle(w.verb_alone())}, {one} {past(w.verb())} {with_article(phrase(w))}.",
    ]
    lines += [w.pick(events)() for _ in range(w.below(3, 8))]
    lines.append(w.pick((
        f"In the end {one} was {feeling}, and the {noun} stayed in {place}.", f"{two} and {one} kept the {noun} for {w.span()}.",
        f"That is how {one} from {place} got the {thing}.", f"{one} never forgot {two} and the {thing}.",
        f"And so the {thing} went back to {two}, who was {feeling}.")))
    return " ".join(lines)


def facts(w: Words) -> str:
    """Simple statements about kinds of things."""
    subject = w.pick(("animal", "artifact", "food", "plant", "person"))
    lines = []
    for _ in range(w.below(4, 8)):
        noun, many = w.noun(subject), plural(w.noun(subject))
        lines.append(w.pick((
            f"{capital(many)} {w.verb()} {plural(w.thing())}.", f"Most {many} are {w.adjective()}.",
            f"{capital(with_article(noun))} is {'an' if subject[0] in 'a' else 'a'} {subject}.",
            f"The {noun} {third(w.verb())} the {w.thing()}.", f"Some {many} are {w.adjective()}, and some are {w.adjective()}.",
            f"{capital(with_article(noun))} can be {participle(w.verb())} with {with_article(w.noun('artifact'))}.",
            f"There are {w.number()} {many} in {w.place()}.", f"{capital(with_article(w.adjective()))} {noun} is not {w.adjective()}.",
            f"If you {w.verb()} {with_article(noun)}, it will be {w.adjective()}.")))
    return " ".join(lines)


def record(w: Words) -> dict[str, str]:
    keys = w.several(lambda: w.pick(KEYS), 3, 7)
    return {key: w.value() for key in keys}


def records(w: Words) -> str:
    """A record as lines, and the same in other layouts: the values must be copied."""
    data = record(w)
    pairs = list(data.items())
    as_lines = "\n".join(f"{k}: {v}" for k, v in pairs)
    as_json = "{" + ", ".join(f'"{k}": "{v}"' for k, v in pairs) + "}"
    as_sentence = " ".join(f"The {k} is {v}." for k, v in pairs)
    as_table = " | ".join(data) + "\n" + " | ".join(data.values())
    as_list = "\n".join(f"- {k} = {v}" for k, v in pairs)
    first, second, *_ = w.several(lambda: w.pick((as_lines, as_json, as_sentence, as_table, as_list)), 2, 3)
    link = w.pick(("\n\n", "\nThe same again:\n", "\n---\n", "\nIn other words:\n"))
    return first + link + second


def letter(w: Words) -> str:
    """Letters, mails and notes between made-up people."""
    to, sender, company = w.full_name(), w.full_name(), w.company()
    thing, date = phrase(w), w.date()
    bodies = [
        f"I am writing about the {thing} that we {past(w.verb())} on {date}.", f"We would like to {w.verb()} {plural(w.thing())} in {w.place()}.",
        f"The meeting is on {w.pick(DAYS)} at {w.clock()} in {w.place()}.", f"Could you {w.verb()} the {thing} before {date}?",
        f"Please find the {w.noun('communication')} attached; its number is {w.code()}.", f"The total is {w.amount()}, due in {w.span()}.",
        f"I spoke with {w.full_name()} of {company} about the {w.thing()}.", f"Many thanks for the {thing}; it is {w.adjective()}.",
        f"We need {w.quantity()} of {w.noun('substance')} by {w.pick(DAYS)}.", f"My new address is {w.number()} {w.surname()} Street, {w.place()}.",
        f"Our team at {company} will {w.verb()} it {w.adverb()}.", f"Do not forget to {w.verb()} the {w.thing()}.",
        f"You can reach me under {w.below(100, 999)} {w.below(1000, 9999)}.", f"The {w.thing()} was {w.adjective()}, so I {past(w.verb())} it.",
    ]
    w.rng.shuffle(bodies)
    body = " ".join(bodies[: w.below(2, 5)])
    hello = w.pick((f"Dear {to},", f"Hello {to.split()[0]},", f"Hi {to.split()[0]},", f"To: {to}", f"Dear Ms {to.split()[1]},", f"Dear Mr {to.split()[1]},"))
    bye = w.pick(("Best regards,", "Yours sincerely,", "Kind regards,", "See you soon,", "Thanks,", "Yours,", "Best wishes,"))
    head = w.pick(("", f"Subject: {thing}\n", f"From: {sender}\nTo: {to}\nSubject: {w.noun('communication')} about the {thing}\n\n", f"{w.place()}, {date}\n\n"))
    return f"{head}{hello}\n{body}\n{bye}\n{sender}"


def dialogue(w: Words) -> str:
    (one, _), (two, _) = w.first(), w.first()
    thing, price, place = phrase(w), w.amount(), w.place()
    turns = [
        (f"Have you seen the {thing}?", f"Yes, the {thing} is {w.pick(SPOTS)}."),
        (f"How much is the {thing}?", f"The {thing} is {price}."), (f"Where do you come from?", f"I come from {place}."),
        (f"When does the {w.noun('event')} start?", f"It starts at {w.clock()}."),
        (f"What is your name?", f"My name is {two}. And yours?"), (f"Can you {w.verb()} the {thing}?", f"No, I cannot {w.verb()} it today."),
        (f"Who {past(w.verb())} the {w.thing()}?", f"It was {w.full_name()} from {place}."), (f"Is it {w.adjective()}?", f"No, it is {w.adjective()}."),
        (f"How long did you stay in {place}?", f"I stayed in {place} for {w.span()}."), (f"Why are you {w.pick(FEELINGS)}?", f"Because I lost my {thing}."),
        (f"Shall we meet on {w.pick(DAYS)}?", f"Gladly. Let us meet at {w.clock()}."), (f"What do you need?", f"I need {with_article(thing)} and {w.quantity()} of {w.noun('substance')}."),
    ]
    w.rng.shuffle(turns)
    return "\n".join(f"{one}: {question}\n{two}: {answer}" for question, answer in turns[: w.below(2, 5)])


def instructions(w: Words) -> str:
    thing = phrase(w)
    steps = [
        f"{capital(w.verb())} the {w.thing()}{w.pick(('', ' ' + w.adverb(), ' with ' + with_article(w.noun('artifact')), ' for ' + w.span()))}."
        for _ in range(w.below(3, 7))
    ]
    title = f"How to {w.verb()} {with_article(thing)}"
    needs = [w.thing() for _ in range(w.below(2, 4))]
    mark = w.pick(("{}. ", "{}) ", "Step {}: ", "- "))
    return f"{title}\nYou need: {listed(needs)}.\n" + "\n".join(mark.format(i + 1) + step for i, step in enumerate(steps))


def passage(w: Words) -> tuple[str, list[tuple[str, str]]]:
    """A passage, and questions that it answers."""
    (name, she), surname = w.first(), w.surname()
    town, job, year, thing, price, firm = w.place(), w.noun("person"), w.below(1950, 2030), phrase(w), w.amount(), w.company()
    spot, day, number, animals = w.pick(SPOTS), w.date(), w.below(2, 90), plural(w.noun("animal"))
    her = {"she": "her", "he": "his"}[she]
    items = [
        (f"{name} {surname} lives in {town}.", f"Where does {name} live?", town),
        (f"{name} works as {with_article(job)}.", f"What is {name}'s job?", job),
        (f"{capital(she)} joined {firm} in {year}.", f"When did {name} join {firm}?", str(year)),
        (f"{capital(she)} bought {with_article(thing)} for {price}.", f"How much did the {thing.split()[-1]} cost?", price),
        (f"{capital(she)} keeps the {thing.split()[-1]} {spot}.", f"Where is the {thing.split()[-1]} kept?", spot),
        (f"{capital(she)} owns {number} {animals}.", f"How many {animals} does {name} own?", str(number)),
        (f"{capital(her)} birthday is on {day}.", f"When is {name}'s birthday?", day),
        (f"The boss of {firm} is {w.full_name()}.", f"Which firm is meant?", firm),
    ]
    first, rest = items[0], items[1:]
    w.rng.shuffle(rest)
    chosen = [first, *rest[: w.below(2, 5)]]
    return " ".join(item[0] for item in chosen), [(item[1], item[2]) for item in chosen]


def quiz(w: Words) -> str:
    text, questions = passage(w)
    w.rng.shuffle(questions)
    mark, reply = w.pick((("Q: ", "A: "), ("Question: ", "Answer: "), ("", ""), ("- ", "  ")))
    return text + "\n" + "\n".join(f"{mark}{question}\n{reply}{capital(answer)}" for question, answer in questions[: w.below(1, 3)])


def copying(w: Words) -> str:
    """Sequences that come again: whole, as a part, sorted, turned round, or with one value looked up."""
    items = w.several(w.pick((w.invented, w.code, w.thing, w.full_name, w.value, lambda: str(w.number()))), 3, 9)
    gap = w.pick((" ", ", ", "\n", " - ", "; "))
    text = gap.join(items)
    roll = w.random()
    if roll < 0.45:
        return w.pick(("{0}\n{0}", "{0}\n\n{0}\n\n{0}", "Copy: {0}\nCopy: {0}", "{0} | {0}", "Input: {0}\nOutput: {0}")).format(text)
    if roll < 0.55:
        return f"List: {text}\nSorted: {gap.join(sorted(items))}"
    if roll < 0.62:
        return f"List: {text}\nBackwards: {gap.join(reversed(items))}"
    if roll < 0.8:
        at = w.below(0, len(items) - 1)
        return f"{text}\nThe {ordinal(at + 1)} is {items[at]}. The last is {items[-1]}. There are {len(items)}."
    keys = w.several(w.thing, len(items), len(items))
    pairs = list(zip(keys, items))
    key, value = w.pick(pairs)
    return "\n".join(f"{k} = {v}" for k, v in pairs) + f"\n{key}? {value}"


def numbers(w: Words) -> str:
    """Small sums, comparisons, number words and calendars."""
    lines = []
    for _ in range(w.below(3, 7)):
        a, b = w.below(1, 60), w.below(1, 60)
        lines.append(w.pick((
            f"{a} + {b} = {a + b}", f"{a + b} - {b} = {a}", f"{a} is {'more' if a > b else 'less' if a < b else 'as much'} {'as' if a == b else 'than'} {b}.",
            f"{a} is {in_words(a)}.", f"{in_words(a)} and {in_words(b)} make {in_words(a + b)}.", f"After {a} comes {a + 1}.",
            f"The day after {DAYS[a % 7]} is {DAYS[(a + 1) % 7]}.", f"{a} {plural(w.thing())} and {b} more are {a + b}.",
            f"Within {max(a, b)} days? {min(a, b)} days: yes.", f"At most {min(a, b)} days? {max(a, b) + 1} days: no.")))
    return "\n".join(lines)


def report(w: Words) -> str:
    """Short business news and notes."""
    firm, place, thing = w.company(), w.place(), plural(w.thing())
    lines = [
        f"{firm} of {place} sold {w.number()} {thing} in {w.date()}.", f"Its {w.noun('money')} rose by {w.below(2, 90)} percent to {w.amount()}.",
        f"{w.full_name()}, the new {w.noun('person')}, said the {thing} were {w.adjective()}.", f"The firm will {w.verb()} its {w.noun('artifact')} in {w.place()} within {w.span()}.",
        f"A {w.noun('group')} of {in_words(w.below(2, 30))} {plural(w.noun('person'))} {past(w.verb())} the {w.noun('artifact')}.",
        f"The {w.noun('act')} begins on {w.date()} at {w.clock()}.", f"{firm} was founded in {w.below(1800, 2020)} and makes {thing}.",
        f"Prices of {thing} fell from {w.amount()} to {w.amount()}.", f"Nobody {past(w.verb())} the {w.noun('event')} in {place}.",
    ]
    w.rng.shuffle(lines)
    return " ".join(lines[: w.below(3, 6)])


# (writer, share of the text)
WRITERS = [
    (definition, 24), (examples, 8), (story, 18), (facts, 6), (records, 9), (letter, 8), (dialogue, 6), (instructions, 5),
    (quiz, 9), (copying, 9), (numbers, 3), (report, 6),
]
