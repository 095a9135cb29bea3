"""Draws words, names, numbers, dates and codes: the material of every made-up sentence."""

import random

from .inflect import in_words, ordinal
from .wordnet import Lexicon

FIRST_SHE = """Alice Amelia Anne Bella Beth Carmen Celia Chloe Daisy Della Edith Eliza Emily Erin Eva Faith Flora Freya
Gemma Gloria Hannah Hazel Heidi Holly Ingrid Isla Ivy Jasmine Jenny Joan Josie Judith June Kate Keira Lana Leah Lily
Lola Louise Mabel Maeve Margot Martha Maud May Megan Minna Molly Nancy Nell Nicola Odette Olive Paige Pearl Penny
Phoebe Polly Rachel Rebecca Rhoda Rosie Sally Selma Shira Silvia Susan Sylvie Thea Tilly Trudy Ursula Valerie Violet
Wanda Willa Winnie Xenia Yasmin Zelda""".split()
FIRST_HE = """Aaron Abel Adam Albert Alec Andrew Angus Arthur Barry Basil Bill Boris Brian Caleb Calvin Charles Chris
Clive Conrad Craig Curtis Daniel Dennis Derek Dominic Donald Duncan Edgar Elliot Eric Ernest Ethan Eugene Finn
Floyd Fred Gabriel Gavin George Gerald Gordon Graham Greg Gus Hank Harry Hector Henry Howard Ian Isaac Jacob Jake
James Jason Jeff Jerry Joel John Joseph Julian Keith Kenneth Kevin Kurt Lance Larry Lawrence Leon Lewis Lloyd Louis
Luke Marcus Mark Martin Matthew Maurice Miles Mitchell Morgan Nathan Nick Nigel Norman Oliver Owen Patrick Paul
Philip Quentin Ralph Raymond Rex Richard Robert Roger Roland Ronald Roy Rupert Russell Samuel Scott Sean Sidney
Stanley Steven Stuart Ted Thomas Timothy Toby Tony Tyler Vernon Vincent Walter Warren Wayne Will Zachary""".split()
SURNAME_HEADS = """Ash Black Bran Brad Brough Carl Chad Ches Clay Cran Crest Dal Dar Den Dray East El Fair Far Fin
Fair Gal Gar Gold Gran Hal Ham Har Has Hath Hol Hux Kel Ken Kin King Lang Lang Lin Long Mal Mar May Mel Mil Mon Nor
North Oak Old Pem Pen Ply Pres Rad Rain Ran Red Rich Roch Ross Ruth Sal San Sel Sher Stan Stam Strat Sun Sut Tal Thorn
Till Tor Tren Tun Wal War Wat Wes Whit Wil Win Wood Wor Yar""".split()
SURNAME_TAILS = """bury by combe cott croft dale den don er ett field ford gate good ham hill hurst ington ins kin land
ley ling low man mere more ney ridge row sby shaw son stead sted ston stone ton vale well wick win wood worth""".split()
ONSETS = "b bl br c ch cl cr d dr f fl fr g gl gr h j k kl kr l m n p pl pr qu r s sh sk sl sm sn sp st str t th tr v w y z".split()
NUCLEI = "a e i o u ai au ea ee ei ia ie io oa oo ou".split() + list("aeiou") * 4
CODAS = ["", "", "", "", "n", "r", "l", "s", "m", "t", "k", "nd", "rt", "st", "x", "ck", "ng", "p", "d", "th", "lm"]
COMPANY_TAILS = """Company Corporation Group Partners Works Brothers and Sons Trading Industries Services Stores Supplies
Bakery Garage Press Studio Clinic Hotel Airlines Bank Brewery Nursery Pharmacy Theatre University Library Museum
Cooperative Foundation Institute Association Plc Ltd Inc LLC GmbH SA AG BV Oy""".replace("and Sons", "and_Sons").split()
MONTHS = """January February March April May June July August September October November December""".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
CURRENCIES = "EUR USD GBP CHF SEK JPY CAD AUD".split()
SIGNS = ["$", "€", "£"]
UNITS = """kg g mg litres ml km m cm mm miles feet inches pounds tons hours minutes seconds days weeks months years percent
pages pieces boxes bottles bags rows steps points metres degrees watts volts""".split()
COLOURS = """red blue green yellow brown black white grey pink purple orange silver golden violet beige turquoise scarlet
crimson amber maroon indigo lavender khaki bronze lime mint peach rust tan khaki azure""".split()
DOINGS = """find carry paint clean open close buy sell lose repair build draw watch hold move push pull throw catch count
hide wash lift bring take break mend keep borrow lend show send drop choose check visit describe admire need want like
measure cover fill empty plant pick cook taste share order paint pack unpack collect polish sketch photograph examine
remember forget notice study copy print read write design test drive ride clean guard trade wrap weigh burn cut fold
heat cool join mark lock unlock name own paint plan prepare protect remove replace return roll save serve sort split
spread steal store stop study tie touch turn use wear weave win""".split()
MOVINGS = """walk run ride drive climb swim sail fly travel march wander hurry return crawl jump dance row stroll ski
hike rush slip drift""".split()
FEELINGS = """happy sad angry proud tired afraid glad calm nervous lonely curious bored surprised excited ashamed thankful
jealous hopeful worried relieved brave shy hungry thirsty sleepy cheerful grumpy puzzled""".split()
SPOTS = """in the garden|by the river|near the old bridge|at the market|in the kitchen|on the hill|behind the school|under
the stairs|at the station|in the library|on the roof|by the lake|in the forest|at the harbour|in the yard|next to the
church|in the cellar|on the beach|across the street|at the office|in the barn|inside the museum|at the edge of town|on
the train|in the tent|beside the road|in the north wing|at the back door|on the top shelf|in a small shop""".replace("\n", " ").split("|")
WHENS = """one morning|last night|on a cold day|after lunch|before dawn|in the evening|long ago|that summer|in winter|at noon
|during the storm|on her birthday|on the first day of school|at midnight|every day|once a week|the next day|two days later
|early in spring|at the weekend|by the end of the week|as usual|all of a sudden|at last|in the meantime""".replace("\n", "").split("|")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DIGITS = "0123456789"
SEPARATORS = ["-", "-", "/", "", "", ".", "_"]


class Words:
    """A seeded source of words. Frequent words come more often, as in real text."""

    def __init__(self, lexicon: Lexicon, seed: str) -> None:
        self.lexicon = lexicon
        self.rng = random.Random(seed)
        self.random = self.rng.random
        self.subjects = sorted(lexicon.nouns)
        self.things = ["artifact", "artifact", "animal", "food", "plant", "body", "nature", "substance"]

    def pick(self, items):
        return items[int(self.random() * len(items))]

    def common(self, items):
        """Leans to the head of a list that is sorted by use."""
        return items[int(self.random() ** 3.2 * len(items))]

    def below(self, low: int, high: int) -> int:
        """An integer from `low` to `high`, both included."""
        return low + int(self.random() * (high - low + 1))

    def chance(self, share: float) -> bool:
        return self.random() < share

    def several(self, make, low: int, high: int) -> list:
        """`low` to `high` different results of `make`."""
        wanted, found = self.below(low, high), []
        for _ in range(wanted * 4):
            if len(found) == wanted:
                break
            item = make()
            if item not in found:
                found.append(item)
        return found

    def noun(self, subject: str | None = None) -> str:
        return self.common(self.lexicon.nouns[subject or self.pick(self.subjects)])

    def thing(self) -> str:
        return self.noun(self.pick(self.things))

    def adjective(self) -> str:
        return self.common(self.lexicon.adjectives)

    def adverb(self) -> str:
        return self.common(self.lexicon.adverbs)

    def verb(self) -> str:
        return self.pick(DOINGS) if self.chance(0.6) else self.common(self.lexicon.verbs["transitive"])

    def verb_alone(self) -> str:
        return self.pick(MOVINGS) if self.chance(0.5) else self.common(self.lexicon.verbs["intransitive"])

    def invented(self, syllables: int | None = None) -> str:
        """A word that no dictionary has: only copying can reproduce it."""
        count = syllables or self.below(1, 3)
        return "".join(self.pick(ONSETS) + self.pick(NUCLEI) + self.pick(CODAS) for _ in range(count))

    def surname(self) -> str:
        roll = self.random()
        if roll < 0.55:
            return self.pick(SURNAME_HEADS) + self.pick(SURNAME_TAILS)
        if roll < 0.7:
            return self.thing().capitalize()
        return self.invented(self.below(1, 2)).capitalize()

    def first(self) -> tuple[str, str]:
        """A first name and its pronoun."""
        roll = self.random()
        if roll < 0.12:
            return self.invented(self.below(1, 2)).capitalize(), self.pick(("she", "he"))
        return (self.pick(FIRST_SHE), "she") if roll < 0.56 else (self.pick(FIRST_HE), "he")

    def full_name(self) -> str:
        return f"{self.first()[0]} {self.surname()}"

    def place(self) -> str:
        name = self.pick(SURNAME_HEADS) + self.pick(SURNAME_TAILS)
        roll = self.random()
        if roll < 0.2:
            return f"{self.pick(('North', 'South', 'New', 'Old', 'Port', 'Upper', 'Lake'))} {name}"
        return self.invented(2).capitalize() if roll < 0.3 else name

    def company(self) -> str:
        roll = self.random()
        if roll < 0.35:
            head = self.surname()
        elif roll < 0.7:
            head = self.thing().capitalize()
        else:
            head = f"{self.pick((self.adjective(), self.pick(COLOURS))).capitalize()} {self.thing().capitalize()}"
        if self.chance(0.3):
            head += f" {self.noun('artifact').capitalize()}"
        return f"{head} {self.pick(COMPANY_TAILS).replace('_', ' ')}"

    def code(self) -> str:
        """`KT-4821`, `93.7`, `B12/7`, …"""
        shape = self.pick(("AD", "A-D", "AAD", "D", "D-D", "A-D-A", "AD-D", "AA-DD", "D.D", "AD.D"))
        mark = self.pick(SEPARATORS)
        out = []
        for part in shape:
            if part == "A":
                out.append("".join(self.pick(LETTERS) for _ in range(self.below(1, 2))))
            elif part == "D":
                out.append("".join(self.pick(DIGITS) for _ in range(self.below(1, 4))))
            else:
                out.append(mark if part == "-" else part)
        return "".join(out)

    def number(self) -> int:
        """1 to 99,999; small ones are likelier."""
        return self.below(1, 10 ** self.pick((1, 2, 2, 3, 3, 4, 5)))

    def amount(self) -> str:
        value = self.pick((self.below(1, 99), self.below(1, 99) * 10, self.below(1, 99) * 100, self.below(1, 999) * 1000,
                           self.below(100, 9999), self.below(1, 99) * 250))
        if self.chance(0.2):
            return f"{self.pick(SIGNS)}{value:,}.{self.below(0, 99):02}"
        roll = self.random()
        if roll < 0.4:
            return f"{self.pick(CURRENCIES)} {value:,}"
        return f"{value:,} {self.pick(CURRENCIES)}" if roll < 0.6 else f"{self.pick(SIGNS)}{value:,}"

    def date(self) -> str:
        year, month, day = self.below(1950, 2035), self.below(1, 12), self.below(1, 28)
        name = MONTHS[month - 1]
        return self.pick((
            f"{day} {name} {year}", f"{name} {day}, {year}", f"{year}-{month:02}-{day:02}", f"the {ordinal(day)} of {name}",
            f"{self.pick(DAYS)}, {day} {name}", f"{name} {year}", f"{day}/{month}/{year}"))

    def clock(self) -> str:
        return self.pick((f"{self.below(1, 12)} o'clock", f"{self.below(0, 23)}:{self.below(0, 59):02}",
                          f"{self.below(1, 12)} {self.pick(('am', 'pm'))}", f"half past {in_words(self.below(1, 12))}"))

    def span(self) -> str:
        number = self.below(2, 60)
        return f"{in_words(number) if self.chance(0.4) else number} {self.pick(('days', 'weeks', 'months', 'years', 'hours', 'minutes'))}"

    def quantity(self) -> str:
        return f"{self.below(2, 400)} {self.pick(UNITS)}"

    def value(self) -> str:
        """A short value of any kind."""
        roll = self.random()
        if roll < 0.12:
            return self.full_name()
        if roll < 0.24:
            return self.code()
        if roll < 0.36:
            return self.amount()
        if roll < 0.46:
            return self.date()
        if roll < 0.54:
            return self.place()
        if roll < 0.62:
            return self.company()
        if roll < 0.70:
            return self.quantity()
        if roll < 0.78:
            return f"{self.adjective()} {self.thing()}"
        if roll < 0.84:
            return self.span()
        if roll < 0.90:
            return self.thing()
        return self.invented() if roll < 0.95 else str(self.number())
