#!/usr/bin/env python3
"""Product copy of Fern & Field, a made-up shop: from attributes to four sentences in the house style."""

import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
import example_set  # noqa: E402

SYSTEM = "You write product copy for Fern & Field in the house style."

NAMES = """Alba Alma Arden Arlo Aster Avon Basil Bero Bira Bodo Brava Briar Calla Camo Caro Cato Cleo Cora Dalia Daro Delo
Dune Edda Elba Elva Emba Enzo Faro Fenn Fila Fiore Flor Gala Gil Gora Halo Hedda Hilo Ilma Indo Iora Isar Jara Jorn Juno
Kasa Kelo Kira Kiva Lago Lena Lido Lira Loma Luna Mako Malo Mara Mira Moro Nalu Nevo Nilo Noor Nova Oda Olmo Oria Otto
Palo Pera Pina Polo Rada Rena Rilo Rima Rola Runa Sable Sela Silo Sola Suri Tala Tavo Tero Tilda Toro Ulma Una Vada Vela
Vico Vira Wilma Yara Yola Zara Zeno Zilo""".split()

COLOURS = """moss green|slate grey|sand|ivory|navy blue|brick red|mustard yellow|charcoal|sky blue|rose pink|olive|cream
white|copper|plum|teal|black""".replace("\n", " ").split("|")

# The house has its own words for every material.
MATERIALS = {
    "oak": "solid oak", "ash": "pale ash", "steel": "brushed steel", "brass": "warm brass", "linen": "washed linen",
    "wool": "soft wool", "cotton": "heavy cotton", "clay": "hand-thrown clay", "glass": "mouth-blown glass",
    "leather": "full-grain leather", "canvas": "waxed canvas", "cork": "natural cork",
}

# category line, types, materials, features
CATEGORIES = [
    ("Good light, kept simple.", "desk lamp|floor lamp|lantern|wall light", "oak|ash|steel|brass|glass",
     "a dimmer you turn by hand|a long cotton cable|a shade that tilts|a touch switch|a spare bulb"),
    ("For slow mornings.", "teapot|mug|coffee dripper|bread board", "clay|glass|oak|ash|steel",
     "a lid that stays put|a wide handle|a glaze that lasts|a spout that never drips|a cork stand"),
    ("Rest comes easy.", "blanket|cushion|pillow|bed throw", "linen|wool|cotton",
     "hidden seams|a hand-tied fringe|a washable cover|a button row|a loop to hang it"),
    ("Made to travel.", "backpack|tote bag|weekend bag|wallet", "leather|canvas|cotton|wool",
     "a pocket for keys|a strap that adjusts|two inner pockets|a brass buckle|a padded back"),
    ("A place for everything.", "shelf|storage box|coat rack|side table", "oak|ash|steel|cork|brass",
     "pegs of three lengths|a lid with a groove|feet that level|rounded corners|a hidden drawer"),
    ("Happy in any weather.", "garden chair|plant pot|bird house|watering can", "ash|oak|steel|clay|cork",
     "a drain hole|a folding frame|a rain roof|a balanced grip|a rust-free coat"),
]

KEYS = ["name", "type", "colour", "material", "feature", "price"]


def make(rng: random.Random, names: list[str]):
    line, types, materials, features = rng.choice(CATEGORIES)
    value = {
        "name": rng.choice(names), "type": rng.choice(types.split("|")), "colour": rng.choice(COLOURS),
        "material": rng.choice(materials.split("|")), "feature": rng.choice(features.split("|")),
        "price": f"{rng.randint(9, 480)} EUR",
    }
    keys = KEYS[:]
    rng.shuffle(keys)
    user = "\n".join(f"{key}: {value[key]}" for key in keys)
    sentences = [
        f"Meet {value['name']}, our {value['type']} in {value['colour']}.",
        f"Made of {MATERIALS[value['material']]}, it comes with {value['feature']}.",
        line,
        f"Yours for {value['price']}.",
    ]
    require = [sentences[0], f"Made of {MATERIALS[value['material']]},", f"comes with {value['feature']}.", line, sentences[3]]
    key = tuple(value[k] for k in ("type", "colour", "material", "feature"))
    return key, example_set.conversation(SYSTEM, user, " ".join(sentences), require)


def main() -> None:
    rng = random.Random(20260104)
    train_names, heldout_names = example_set.split_names(NAMES)
    taken: set = set()
    heldout = example_set.collect(lambda: make(rng, heldout_names), 80, taken)
    train = example_set.collect(lambda: make(rng, train_names), 420, taken)
    task = {
        "name": "product-descriptions",
        "title": "Product descriptions: from attributes, in the house style",
        "metric": "phrases",
        "adapter": "copywriter",
        "hyperparameters": {"rank": 16, "alpha": 32, "learning_rate": 0.005, "schedule": "cosine", "epochs": 12,
                            "batch_size": 12, "max_seq_len": 256, "eval_fraction": 0.05},
        "max_tokens": 80,
        "questions": [0, 1, 2, 3],
    }
    example_set.write(Path(__file__).parent, task, train, heldout)


if __name__ == "__main__":
    main()
