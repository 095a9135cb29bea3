#!/usr/bin/env python3
"""Customer support of Brightline, a made-up shop: a decision by a fixed policy, then a letter in the house tone."""

import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
import example_set  # noqa: E402

SYSTEM = "You write for Brightline customer care. Follow the policy and the house tone."

ITEMS = """kettle toaster blender radio lamp backpack jacket raincoat keyboard headset camera tent bicycle pump drill
vacuum heater fan mirror rug blanket pillow teapot frying pan suitcase umbrella watch wallet speaker charger monitor
printer clock""".replace("frying pan", "frying_pan").split()

DAYS_TO_14 = "2 days|3 days|4 days|5 days|6 days|8 days|9 days|11 days|12 days|13 days".split("|")
DAYS_TO_30 = "16 days|17 days|18 days|19 days|21 days|22 days|24 days|25 days|27 days|28 days".split("|")
MONTHS = "two months|three months|four months|five months|six months|seven months|eight months|ten months".split("|")
YEARS = "two years|three years|four years|five years|six years|seven years".split("|")

CHANGED = ["I do not want the {i} any more; I got it {t} ago.", "The {i} came {t} ago, but it does not suit me.",
           "I bought a {i} {t} ago and changed my mind.", "I have had the {i} for {t} and I would like to send it back."]
BROKEN = ["The {i} that I got {t} ago is broken.", "After {t} my {i} stopped working.",
          "My {i} is {t} old and no longer works.", "I have had the {i} for {t} and now it is defective."]
MISSING = ["My {i} has not arrived; I ordered it {t} ago.", "I have waited {t} for my {i} and nothing came.",
           "Where is my {i}? It was sent {t} ago.", "The {i} was due {t} ago and is still not here."]
WRONG = ["I ordered a {i} and got something else.", "You sent me the wrong {i}.", "The {i} in the box is not the one I chose.",
         "A different {i} came than the one I ordered."]
TWICE = ["You charged my card twice for the {i}.", "I paid for the {i} two times.", "My bank shows two payments for one {i}.",
         "The price of the {i} was taken twice."]
CANCEL_EARLY = ["Please cancel the {i}; it has not shipped yet.", "I want to cancel my {i} before it is sent.",
                "Cancel the {i} please, it is still in your store.", "Stop my {i}; the parcel has not left yet."]
CANCEL_LATE = ["Please cancel the {i}; it shipped this morning.", "I want to cancel my {i}, but it is on its way.",
               "Cancel the {i} please, the parcel has left.", "Stop my {i}; I was told it was sent yesterday."]

# The policy: (decision, what the customer writes, time spans, the house sentence).
POLICY = [
    ("refund", CHANGED, DAYS_TO_14, "We will refund order {o} to your card within three days."),
    ("store credit", CHANGED, DAYS_TO_30, "We will add the price of order {o} to your account as store credit."),
    ("decline", CHANGED, MONTHS + YEARS, "Order {o} is past our thirty days, so we cannot take it back."),
    ("replacement", BROKEN, DAYS_TO_14 + DAYS_TO_30, "A new one for order {o} leaves our store today."),
    ("repair", BROKEN, MONTHS, "Our workshop will repair order {o} at no cost."),
    ("discount", BROKEN, YEARS, "The warranty of order {o} is over, so we offer you 15% off a new one."),
    ("trace", MISSING, "2 days|3 days|4 days|5 days|6 days|8 days|9 days".split("|"),
     "We will trace order {o} and write to you tomorrow."),
    ("resend", MISSING, DAYS_TO_30 + ["two weeks", "three weeks", "a month"], "We will send order {o} again by express."),
    ("exchange", WRONG, [""], "A courier will bring the right one and collect order {o}."),
    ("escalate", TWICE, [""], "Our billing desk will check order {o} and call you."),
    ("cancel", CANCEL_EARLY, [""], "We have cancelled order {o} and you pay nothing."),
    ("return label", CANCEL_LATE, [""], "Refuse order {o} at the door or use the return label we mail you."),
]

OPENINGS = ["Hello, I am {n}.", "Hi, {n} here.", "Good morning, my name is {n}.", "This is {n}.", "{n} writing.", "Hello."]
ENDINGS = ["What can you do?", "Please help.", "How do we go on?", "Thanks, {n}", "Can you fix this?", "I hope you can help."]
ORDERS = ["My order is {o}.", "Order {o}.", "The order number is {o}.", "It is order {o}."]


def message(rng: random.Random, name: str, order: str, complaint: str) -> str:
    """The customer's words; the name stands in them exactly once."""
    if rng.random() < 0.7:
        opening = rng.choice(OPENINGS[:-1]).format(n=name)
        ending = rng.choice([e for e in ENDINGS if "{n}" not in e])
    else:
        opening, ending = OPENINGS[-1], f"Thanks, {name}"
    middle = [complaint, rng.choice(ORDERS).format(o=order)]
    rng.shuffle(middle)
    return " ".join([opening, *middle, ending])


def make(rng: random.Random, last_names: list[str]):
    decision, complaints, spans, sentence = rng.choice(POLICY)
    item = rng.choice(ITEMS).replace("_", " ")
    name = f"{rng.choice(example_set.FIRST_NAMES)} {rng.choice(last_names)}"
    order = f"B{rng.randint(1000, 9999)}"
    span = rng.choice(spans)
    complaint = rng.choice(complaints).format(i=item, t=span)
    action = sentence.format(o=order)
    answer = (f"Decision: {decision}\nDear {name}, thank you for writing about your {item}. {action} "
              "Warmly, the Brightline team")
    require = [f"Dear {name},", f"about your {item}.", action, "Warmly, the Brightline team"]
    line = example_set.conversation(SYSTEM, message(rng, name, order, complaint), answer, require)
    return (complaint, decision), line


def main() -> None:
    rng = random.Random(20260101)
    train_names, heldout_names = example_set.split_names(example_set.LAST_NAMES)
    taken: set = set()
    heldout = example_set.collect(lambda: make(rng, heldout_names), 80, taken)
    train = example_set.collect(lambda: make(rng, train_names), 540, taken)
    task = {
        "name": "customer-support",
        "title": "Customer support: decision by policy, letter in the house tone",
        "metric": "label_and_phrases",
        "adapter": "support",
        "hyperparameters": {"rank": 16, "alpha": 32, "learning_rate": 0.005, "schedule": "cosine", "epochs": 10,
                            "batch_size": 12, "max_seq_len": 256, "eval_fraction": 0.05},
        "max_tokens": 96,
        "questions": [0, 1, 2, 3],
    }
    example_set.write(Path(__file__).parent, task, train, heldout)


if __name__ == "__main__":
    main()
