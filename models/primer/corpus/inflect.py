"""English inflection: plurals, verb forms, articles, number words and ordinals."""

IRREGULAR_VERBS = {
    base: forms.split("/")
    for base, forms in (
        entry.split("=")
        for entry in """be=was/been become=became/become begin=began/begun bend=bent/bent bind=bound/bound bite=bit/bitten
blow=blew/blown break=broke/broken bring=brought/brought build=built/built burst=burst/burst buy=bought/bought
catch=caught/caught choose=chose/chosen come=came/come cost=cost/cost creep=crept/crept cut=cut/cut deal=dealt/dealt
dig=dug/dug do=did/done draw=drew/drawn drink=drank/drunk drive=drove/driven eat=ate/eaten fall=fell/fallen
feed=fed/fed feel=felt/felt fight=fought/fought find=found/found flee=fled/fled fly=flew/flown forget=forgot/forgotten
forgive=forgave/forgiven freeze=froze/frozen get=got/got give=gave/given go=went/gone grow=grew/grown hang=hung/hung
have=had/had hear=heard/heard hide=hid/hidden hit=hit/hit hold=held/held hurt=hurt/hurt keep=kept/kept know=knew/known
lay=laid/laid lead=led/led leave=left/left lend=lent/lent let=let/let lie=lay/lain lose=lost/lost make=made/made
mean=meant/meant meet=met/met pay=paid/paid put=put/put read=read/read ride=rode/ridden ring=rang/rung rise=rose/risen
run=ran/run say=said/said see=saw/seen seek=sought/sought sell=sold/sold send=sent/sent set=set/set shake=shook/shaken
shine=shone/shone shoot=shot/shot show=showed/shown shut=shut/shut sing=sang/sung sink=sank/sunk sit=sat/sat
sleep=slept/slept slide=slid/slid speak=spoke/spoken spend=spent/spent spin=spun/spun split=split/split
spread=spread/spread spring=sprang/sprung stand=stood/stood steal=stole/stolen stick=stuck/stuck strike=struck/struck
swear=swore/sworn sweep=swept/swept swim=swam/swum swing=swung/swung take=took/taken teach=taught/taught
tear=tore/torn tell=told/told think=thought/thought throw=threw/thrown understand=understood/understood wake=woke/woken
wear=wore/worn weave=wove/woven win=won/won wind=wound/wound withdraw=withdrew/withdrawn write=wrote/written""".split()
    )
}
DOUBLING = set("""admit allot ban bar beg blot chat chop clap clip commit compel control cram crop defer dip drag drip drop
drum emit equip expel fit flip flop grab grin grip hop hug infer jam jog knit knot map mop nap nod occur omit pat permit
pin plan plot plug pop prefer program propel pun quit rap rebut refer regret rid rig rob rot rub scan scrap scrub ship
shop shrug sin sip skip slam slap slip slot snap sob spot stab star stem step stir stop strap strip stun submit tap tip
transfer transmit trap trim trip trot tug wag whip wrap zip""".split())
IRREGULAR_PLURALS = dict(pair.split("=") for pair in """man=men woman=women child=children foot=feet tooth=teeth
mouse=mice goose=geese wife=wives knife=knives life=lives leaf=leaves wolf=wolves shelf=shelves half=halves calf=calves
loaf=loaves thief=thieves fish=fish sheep=sheep deer=deer ox=oxen person=people crisis=crises basis=bases
potato=potatoes tomato=tomatoes hero=heroes echo=echoes scarf=scarves elf=elves""".split())

SMALL = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen""".split()
TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()
ORDINALS = "zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split()
VOWELS = "aeiou"


def article(word: str) -> str:
    """`a` or `an`."""
    if word.startswith(("uni", "use", "usu", "eu", "one", "once")):
        return "a"
    if word.startswith(("hour", "honest", "heir", "honor")):
        return "an"
    return "an" if word[0].lower() in VOWELS else "a"


def with_article(words: str) -> str:
    return f"{article(words)} {words}"


def plural(noun: str) -> str:
    if noun in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[noun]
    if noun.endswith("man") and noun not in ("human", "german", "roman", "shaman", "talisman", "caiman"):
        return noun[:-3] + "men"
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in VOWELS:
        return noun[:-1] + "ies"
    return noun + "s"


def third(verb: str) -> str:
    """`goes`, `tries`, `runs`."""
    if verb in ("have", "be"):
        return {"have": "has", "be": "is"}[verb]
    if verb.endswith(("s", "x", "z", "ch", "sh", "o")):
        return verb + "es"
    if verb.endswith("y") and verb[-2] not in VOWELS:
        return verb[:-1] + "ies"
    return verb + "s"


def past(verb: str) -> str:
    return IRREGULAR_VERBS[verb][0] if verb in IRREGULAR_VERBS else regular(verb)


def participle(verb: str) -> str:
    return IRREGULAR_VERBS[verb][1] if verb in IRREGULAR_VERBS else regular(verb)


def regular(verb: str) -> str:
    if verb in DOUBLING:
        return verb + verb[-1] + "ed"
    if verb.endswith("e"):
        return verb + "d"
    if verb.endswith("y") and verb[-2] not in VOWELS:
        return verb[:-1] + "ied"
    return verb + "ed"


def present_participle(verb: str) -> str:
    """`going`, `running`, `making`."""
    if verb in DOUBLING or verb in ("run", "sit", "get", "put", "cut", "hit", "set", "let", "win", "swim", "dig", "begin",
                                    "forget", "shut", "split", "spin"):
        return verb + verb[-1] + "ing"
    if verb.endswith("ie"):
        return verb[:-2] + "ying"
    if verb.endswith("e") and not verb.endswith(("ee", "oe", "ye")) and verb != "be":
        return verb[:-1] + "ing"
    return verb + "ing"


def in_words(number: int) -> str:
    """0 to 9999 in words."""
    if number < 20:
        return SMALL[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return TENS[tens] + (f"-{SMALL[ones]}" if ones else "")
    size, name = (100, "hundred") if number < 1000 else (1000, "thousand")
    head, rest = divmod(number, size)
    return f"{in_words(head)} {name}" + (f" {'and ' if rest < 100 else ''}{in_words(rest)}" if rest else "")


def ordinal(number: int) -> str:
    """`1st`, `22nd`, `13th`."""
    if number % 100 in (11, 12, 13):
        return f"{number}th"
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th') }"


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def listed(words: list[str], last: str = "and") -> str:
    """`a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"
