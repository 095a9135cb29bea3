#!/usr/bin/env python3
"""Short synthetic clinic notes and the ICD-10-CM code that fits. No note describes a real person."""

import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
import example_set  # noqa: E402

SYSTEM = "You suggest the ICD-10-CM code for a short clinic note. A clinician checks it."

# code, title, findings. Codes and titles follow ICD-10-CM, which is in the public domain.
CODES = [
    ("J02.9", "Acute pharyngitis, unspecified",
     "sore throat|pain on swallowing|red throat without coating|tender glands in the neck|rapid strep test negative|throat is inflamed"),
    ("J06.9", "Acute upper respiratory infection, unspecified",
     "runny nose and sneezing|stuffy nose with mild cough|feels like a common cold|clear nasal discharge|slight cough, lungs clear|cold symptoms at home and at work"),
    ("J18.9", "Pneumonia, unspecified organism",
     "high fever with productive cough|crackles over the right lower lung|infiltrate on chest film|chest pain on deep breaths and fever|low oxygen with cough and chills|rusty sputum"),
    ("J45.909", "Unspecified asthma, uncomplicated",
     "wheezing at night|wheeze after running|better after inhaler|tight chest in cold air|known asthma, mild wheeze|peak flow varies over the week"),
    ("J30.9", "Allergic rhinitis, unspecified",
     "sneezing every spring|itchy nose and watery eyes with pollen|nose itches near cats|pale swollen nasal lining|hay fever each year|better with antihistamine spray"),
    ("N39.0", "Urinary tract infection, site not specified",
     "burning on passing water|goes to pass water very often|cloudy urine|nitrites in the urine dip|leukocytes in the urine|lower belly pressure and urgency"),
    ("N20.0", "Calculus of kidney",
     "sudden flank pain in waves|stone in the kidney on scan|blood in the urine with colic|pain from flank to groin|earlier kidney stones|cannot lie still from flank pain"),
    ("I10", "Essential (primary) hypertension",
     "blood pressure 162 over 98|raised pressure on three visits|home pressure log above 150|blood pressure high, no complaints|takes pills for high blood pressure|pressure still above target"),
    ("E11.9", "Type 2 diabetes mellitus without complications",
     "HbA1c of 8.1 percent|raised fasting sugar|thirst and high blood sugar|takes metformin|type 2 diabetes check, feet and eyes fine|sugar above target, no complications"),
    ("E03.9", "Hypothyroidism, unspecified",
     "raised TSH|tired, cold and gaining weight|low free T4|dry skin and slow pulse with high TSH|takes levothyroxine|underactive thyroid follow-up"),
    ("E78.5", "Hyperlipidemia, unspecified",
     "high LDL on the blood test|raised cholesterol|triglycerides above normal|lipid panel out of range|starts a statin for lipids|cholesterol follow-up"),
    ("K21.9", "Gastro-esophageal reflux disease without esophagitis",
     "heartburn after meals|sour taste when lying down|burning behind the breastbone after coffee|acid comes up at night|better with acid blocker|reflux, scope shows no inflammation"),
    ("K52.9", "Noninfective gastroenteritis and colitis, unspecified",
     "loose stools since the weekend|vomiting and diarrhea|cramps with watery stools|stool culture negative with diarrhea|upset stomach after travel, no fever|six watery stools a day"),
    ("K59.00", "Constipation, unspecified",
     "hard stools|no bowel movement for five days|strains on the toilet|belly bloated, stool in the colon|stool once a week|needs laxatives"),
    ("G43.909", "Migraine, unspecified, not intractable, without status migrainosus",
     "throbbing headache on one side|headache with nausea and light hurts|sees zigzag lines before the headache|lies in a dark room with headache|monthly one-sided headache|triptan helps the headache"),
    ("G47.00", "Insomnia, unspecified",
     "cannot fall asleep|awake from three every night|sleeps four hours|tired by day from poor sleep|lies awake for hours|sleep diary shows short nights"),
    ("M54.50", "Low back pain, unspecified",
     "pain in the lower back|back hurts after lifting|lumbar muscles tense|low back stiff, legs strong|no leg pain, lower back sore|back ache after long sitting"),
    ("M17.9", "Osteoarthritis of knee, unspecified",
     "knee stiff in the morning|knee grinds on stairs|narrow joint space in the knee film|worn knee cartilage|knee pain after walking, bony swelling|knee bends less each year"),
    ("M10.9", "Gout, unspecified",
     "big toe red and hot|raised uric acid|toe so sore the sheet hurts|sudden swollen toe joint overnight|urate crystals in the joint|toe attack after a feast"),
    ("L20.9", "Atopic dermatitis, unspecified",
     "itchy dry patches in the elbow folds|eczema since childhood|scratched skin behind the knees|dry itching skin worse in winter|eczema flare on the arms|thickened itchy skin in the folds"),
    ("L50.9", "Urticaria, unspecified",
     "itchy wheals that come and go|hives on the trunk|raised welts for an hour|hives of unknown cause|wheals after a meal|welts fade by evening"),
    ("H10.9", "Unspecified conjunctivitis",
     "red sticky eye|eyelids glued in the morning|pink eye after a cold|eye discharge, sight normal|gritty red eyes|yellow discharge from the eye"),
    ("H66.90", "Otitis media, unspecified, unspecified ear",
     "ear pain at night|bulging red eardrum|ear feels blocked and sore|earache after a cold|fluid behind the eardrum|dull eardrum with ear pain"),
    ("D50.9", "Iron deficiency anemia, unspecified",
     "low ferritin|low hemoglobin with small red cells|pale and short of breath on stairs|brittle nails and low iron|iron tablets started|craves ice, iron is low"),
    ("F41.1", "Generalized anxiety disorder",
     "worries about everything|restless and tense most days|constant worry for months|cannot stop worrying|on edge, muscles tight with worry|anxious about small things"),
    ("I48.91", "Unspecified atrial fibrillation",
     "irregular pulse|no P waves on the tracing|heart flutters|palpitations, rhythm irregular|atrial fibrillation on the monitor|pulse uneven and fast"),
]

PEOPLE = "man|woman|teacher|driver|student|farmer|nurse|clerk|cook|retired man|retired woman|baker|builder|singer".split("|")
SINCE = ("since yesterday|for two days|for three days|for a week|for two weeks|for a month|since last month|on and off"
         "|since Monday|lately|again|since the morning").split("|")
FRAMES = [
    "{w}, {n}: {f} {s}; {g}.",
    "{n}-year-old {w} with {f} {s}. Also {g}.",
    "Seen today: {w} aged {n}. {F}. {G} {s}.",
    "{W}, {n} years. {F} {s}. {G}.",
    "Visit of a {w} ({n}). Reports {f}; {g} {s}.",
    "Note: {f}, {g}. {W} of {n}, {s}.",
]


def capital(text: str) -> str:
    return text[0].upper() + text[1:]


def make(rng: random.Random):
    code, title, findings = rng.choice(CODES)
    first, second = rng.sample(findings.split("|"), 2)
    who = rng.choice(PEOPLE)
    note = rng.choice(FRAMES).format(w=who, W=capital(who), n=rng.randint(19, 88), s=rng.choice(SINCE), f=first,
                                     F=capital(first), g=second, G=capital(second))
    key = (code, frozenset((first, second)))
    return key, example_set.conversation(SYSTEM, capital(note), f"{code} {title}")


def main() -> None:
    rng = random.Random(20260103)
    heldout_pairs: set = set()
    heldout = example_set.collect(lambda: make(rng), 80, heldout_pairs)
    train = []
    while len(train) < 560:  # a pair of findings may come again in training, never one of the held-out pairs
        key, line = make(rng)
        if key not in heldout_pairs:
            train.append(line)
    task = {
        "name": "clinical-notes",
        "title": "Clinical notes: suggest an ICD-10-CM code",
        "metric": "first_line",
        "adapter": "icd10",
        "hyperparameters": {"rank": 16, "alpha": 32, "learning_rate": 0.005, "schedule": "cosine", "epochs": 12,
                            "batch_size": 12, "max_seq_len": 256, "eval_fraction": 0.05},
        "max_tokens": 40,
        "questions": [0, 1, 2, 3],
    }
    example_set.write(Path(__file__).parent, task, train, heldout)


if __name__ == "__main__":
    main()
