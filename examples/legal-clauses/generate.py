#!/usr/bin/env python3
"""Clauses of made-up contracts: the type of the clause, the party bound by it, its term and its amount."""

import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
import example_set  # noqa: E402

SYSTEM = "You keep the clause register of the Larkfield legal desk. Reply with the register entry."

STEMS = """Alder Amber Anchor Argo Ashford Atlas Aurora Bayside Beacon Birch Bluewater Boreal Bridgeway Brightwell Canyon
Cascade Cedar Citadel Clearview Cobalt Compass Copper Coral Crescent Crown Delta Dover Eastgate Echo Elm Ember Evergreen
Fairfield Falcon Forge Garnet Glenwood Granite Greenhill Harbor Hawthorn Highland Horizon Iris Ivory Jade Juniper
Keystone Kingsway Lakeside Lantern Laurel Linden Lumen Magnolia Maple Marina Meadow Meridian Mistral Nimbus Northstar
Oakmont Onyx Opal Orchard Orion Pacific Parkway Pearl Phoenix Pinecrest Pioneer Polar Quarry Quartz Raven Redwood
Ridgeway River Rowan Saffron Sapphire Sequoia Sierra Silverline Solstice Summit Sycamore Tamarack Tidewater Topaz
Trident Union Valley Vantage Verdant Vertex Willow Windmill Zenith""".split()
TRADES = "Foods Freight Systems Textiles Energy Media Logistics Tools Homes Labs Farms Motors Books Travel Steel".split()
FORMS = "Ltd Inc LLC GmbH".split()

DAYS = "7 days|10 days|14 days|15 days|20 days|30 days|45 days|60 days|90 days".split("|")
MONTHS = "3 months|4 months|6 months|9 months|12 months|18 months|24 months".split("|")
YEARS = "1 year|2 years|3 years|4 years|5 years|7 years|10 years".split("|")

# (type, terms, whether it has an amount, wordings); {p} is bound by the clause, {q} is the other party.
CLAUSES = [
    ("payment", DAYS, True, [
        "{p} shall pay {q} the sum of {a} within {t} of the invoice.",
        "Within {t} after delivery, {q} shall receive {a} from {p}.",
        "The price of {a} is due from {p} to {q} no later than {t} after invoice."]),
    ("rent", YEARS, True, [
        "{p} leases the premises from {q} for {t} at a monthly rent of {a}.",
        "For a lease of {t}, {p} shall pay {q} {a} each month for the premises.",
        "{q} lets the building to {p} for {t}; the rent is {a} a month."]),
    ("confidentiality", YEARS, False, [
        "{p} shall keep all information of {q} secret for {t} after disclosure.",
        "For {t}, {p} may not disclose what it learns about {q}.",
        "Information that {q} discloses stays confidential with {p} for {t}."]),
    ("termination", DAYS + MONTHS, False, [
        "{p} may end this agreement with {q} by giving {t} written notice.",
        "On {t} notice to {q}, {p} may terminate this agreement at any time.",
        "This agreement with {q} ends when {p} gives notice of {t}."]),
    ("liability", [None], True, [
        "The total liability of {p} towards {q} shall not exceed {a}.",
        "In no event is {p} liable to {q} for more than {a}.",
        "Claims of {q} against {p} are limited to {a} in total."]),
    ("warranty", MONTHS + YEARS, False, [
        "{p} warrants to {q} that the goods are free from defects for {t}.",
        "For {t} after delivery, {p} shall mend any defect of the goods sold to {q}.",
        "The goods bought by {q} carry a warranty of {t} from {p}."]),
    ("penalty", DAYS, True, [
        "If delivery is late by more than {t}, {p} shall pay {q} a penalty of {a}.",
        "{p} owes {q} a penalty of {a} when the work is late by {t}.",
        "A delay beyond {t} costs {p} a penalty of {a}, payable to {q}."]),
    ("non-compete", MONTHS + YEARS, False, [
        "{p} shall not compete with {q} for {t} after this agreement ends.",
        "For {t} after the end of the contract, {p} may not work for a competitor of {q}.",
        "{p} agrees with {q} to stay out of the same trade for {t}."]),
    ("renewal", MONTHS + YEARS, False, [
        "This agreement renews for {t} unless {p} tells {q} otherwise.",
        "Unless {p} objects in writing to {q}, the term is extended by {t}.",
        "If {p} stays silent, the contract with {q} is renewed for another {t}."]),
    ("insurance", [None], True, [
        "{p} shall hold insurance of at least {a} for the benefit of {q}.",
        "At its own cost {p} shall insure the goods of {q} for {a}.",
        "{q} may ask {p} for proof of insurance cover of {a}."]),
    ("deposit", DAYS, True, [
        "{p} shall place a deposit of {a} with {q} within {t} of signing.",
        "A deposit of {a} is due from {p} to {q} {t} after signing.",
        "{q} holds a deposit of {a} from {p}, returned after {t}."]),
    ("audit", DAYS, False, [
        "{p} may inspect the books of {q} on {t} notice.",
        "After {t} notice, {q} shall open its records to {p} for audit.",
        "The accounts of {q} may be audited by {p} upon notice of {t}."]),
]


def money(rng: random.Random) -> str:
    value = rng.choice([rng.randint(2, 99) * 50, rng.randint(2, 99) * 500, rng.randint(11, 950) * 1000])
    return f"{rng.choice(['EUR', 'USD', 'GBP', 'CHF'])} {value:,}"


def make(rng: random.Random, companies: list[str]):
    kind, terms, has_amount, wordings = rng.choice(CLAUSES)
    party, other = (f"{stem} {rng.choice(TRADES)} {rng.choice(FORMS)}" for stem in rng.sample(companies, 2))
    term, wording = rng.choice(terms), rng.choice(wordings)
    amount = money(rng) if has_amount else None
    clause = wording.format(p=party, q=other, t=term, a=amount)
    answer = f"type: {kind}\nparty: {party}\nterm: {term or 'none'}\namount: {amount or 'none'}"
    user = f"{rng.randint(1, 19)}.{rng.randint(1, 9)} {clause}" if rng.random() < 0.5 else clause
    return (clause,), example_set.conversation(SYSTEM, user, answer)


def main() -> None:
    rng = random.Random(20260102)
    train_stems, heldout_stems = example_set.split_names(STEMS)
    taken: set = set()
    heldout = example_set.collect(lambda: make(rng, heldout_stems), 80, taken)
    train = example_set.collect(lambda: make(rng, train_stems), 560, taken)
    task = {
        "name": "legal-clauses",
        "title": "Legal clauses: classify and extract party, term and amount",
        "metric": "field_f1",
        "adapter": "clauses",
        "hyperparameters": {"rank": 16, "alpha": 32, "learning_rate": 0.005, "schedule": "cosine", "epochs": 10,
                            "batch_size": 12, "max_seq_len": 256, "eval_fraction": 0.05},
        "max_tokens": 64,
        "questions": [0, 1, 2, 3],
    }
    example_set.write(Path(__file__).parent, task, train, heldout)


if __name__ == "__main__":
    main()
