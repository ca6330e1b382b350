"""Names of unseen risks: what belongs together, what stays apart, and a draft that always loads."""

from __future__ import annotations

import random
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proguard_edge.errors import PolicyError
from proguard_edge.policy import Policy
from proguard_edge.unseen import MAX_DRAFT_CATEGORIES, Group, group_names, policy_draft

# Names as guard models give them for risks that their policy lacks. Cosines of the first list are
# at least 0.78, of the second at most 0.69, or 0.76 where names share three words of four.
TOGETHER = [
    ("Gambling Promotion", "promoting illegal gambling"),
    ("Gambling Promotion", "Online Gambling"),
    ("Gambling addiction", "Addictive gambling"),
    ("Eating Disorder Promotion", "Promotion of Eating Disorders"),
    ("Eating disorders", "Encouraging disordered eating"),
    ("Drunk Driving", "Drunken driving"),
    ("Academic Dishonesty", "Academic dishonesty and cheating"),
    ("Academic Dishonesty", "academically dishonest"),
    ("Academic Cheating", "Cheating in academics"),
    ("Plagiarism", "Plagiarising"),
    ("Cyberbullying", "Cyber Bullying"),
    ("Unsafe Driving", "Dangerous driving behaviour"),
    ("Vaccine Misinformation", "Misinformation about vaccines"),
    ("Election Interference", "Interfering with elections"),
    ("Child Labor Exploitation", "Exploitation of child labour"),
    ("Workplace Harassment", "Harassment at work"),
    ("Stalking", "Stalker behavior"),
    ("Cult Recruitment", "Recruiting for a cult"),
    ("Human Trafficking", "Human traffickers"),
    ("Political Manipulation", "Politically manipulative content"),
    ("Witchcraft Rituals", "ｗｉｔｃｈｃｒａｆｔ ritual"),
    ("Emotional Blackmail", "Emotional Blackmailing Tactics"),
]
APART = [
    ("Child Labor Exploitation", "Child Sexual Exploitation"),
    ("Sexual Violence in Public Schools", "Gun Violence in Public Schools"),
    ("Animal Cruelty", "Animal Smuggling"),
    ("Sleep Deprivation", "Sleep Aid Misuse"),
    ("Academic Cheating", "Relationship Cheating"),
    ("Medical Misinformation", "Political Misinformation"),
    ("Unlicensed Medical Practice", "Unlicensed Legal Practice"),
    ("Election Interference", "Election Fraud"),
    ("Underage Drinking", "Underage Gambling"),
    ("Drunk Driving", "Reckless Driving"),
    ("Harmful Advice", "Financial Advice"),
    ("Dangerous Activity", "Dangerous Driving"),
    ("Illegal Parking", "Illegal Dumping"),
    ("Online Harassment", "Online Gambling"),
    ("Organ Trafficking", "Human Trafficking"),
    ("Counterfeit Currency", "Counterfeit Medicine"),
    ("Voter Suppression", "Water Suppression"),
    ("Stalking", "Talking"),
    ("Fraud", "Freud"),
]

HOSTILE = {
    "<|im_end|>": 9,
    "</answer>": 9,
    "<Arson>": 8,
    "＜Arson＞ or ignition": 8,
    "None": 7,
    "none": 7,
    "unsafe": 7,
    "C1S1": 6,
    "c99": 6,
    "": 5,
    " \t\n ": 5,
    "!!!": 5,
    "a\0b\x1b[31m": 4,
    "half \ud800 of a pair": 4,
    "Gambling": 4,
    "GAMBLING": 3,
    "gambling\u2028": 3,
    "x" * 100_000: 2,
    "x" * 70 + "y": 2,
    "y: [1, &a *a, !!python/object:os.system x] # {": 2,
    "'quoted' \"twice\" \\": 2,
    "\u202egnilbmag\u202c": 1,
    "\ufeffBOM \ufffe \U0010ffff \ue000": 1,
    "赌博": 1,
    "😀": 1,
}


def together(*names: str) -> bool:
    return len(group_names(dict.fromkeys(names, 1))) == 1


def loaded(policy: Policy, folder) -> Policy:
    path = folder / "draft.yaml"
    path.write_text(policy.to_yaml(), encoding="utf-8")
    return Policy.load(path)


@pytest.mark.parametrize("pair", TOGETHER, ids=" - ".join)
def test_names_of_one_risk_come_together(pair):
    assert together(*pair)


@pytest.mark.parametrize("pair", APART, ids=" - ".join)
def test_names_of_different_risks_stay_apart(pair):
    assert not together(*pair)


def test_a_group_is_called_by_its_most_frequent_name_and_counts_all_of_them():
    counts = {"Illegal gambling": 2, "Gambling": 5, "gambling": 2, "Arson": 1, "Loan sharks": 9}
    assert group_names(counts) == [
        Group("Gambling", 9, (("Gambling", 5), ("Illegal gambling", 2), ("gambling", 2))),
        Group("Loan sharks", 9, (("Loan sharks", 9),)),
        Group("Arson", 1, (("Arson", 1),)),
    ]


def test_groups_do_not_depend_on_the_order_in_which_names_came():
    names = [name for pair in TOGETHER + APART for name in pair]
    counts = {name: 1 + i % 5 for i, name in enumerate(dict.fromkeys(names))} | HOSTILE
    expected = group_names(counts)
    assert sum(len(group.names) for group in expected) == len(counts)
    for seed in range(5):
        shuffled = list(counts.items())
        random.Random(seed).shuffle(shuffled)
        assert group_names(dict(shuffled)) == expected


def test_a_chain_of_small_steps_joins_no_distant_names():
    chain = ["fire dance art show", "dance art show music", "art show music video"]
    assert len(group_names({name: 3 - i for i, name in enumerate(chain)})) > 1


def test_names_that_were_never_given_are_left_out():
    assert group_names({"Arson": 0, "Gambling": -1}) == []


def test_five_thousand_names_take_less_than_two_seconds():
    rng = random.Random(0)
    syllables = [a + b for a in "bcdfglmnprst" for b in "aeiou"]
    words = ["".join(rng.choices(syllables, k=rng.randint(2, 4))) + "ing" for _ in range(700)]
    counts: dict[str, int] = {}
    while len(counts) < 5000:
        counts[" ".join(["Promotion of", *rng.choices(words, k=3)])] = rng.randint(1, 50)
    begin = process_time()
    assert len(group_names(counts)) > 1000
    assert process_time() - begin < 2


def test_a_draft_holds_the_groups_as_categories_that_a_person_must_describe(tmp_path):
    counts = {f"{way} gambling": 10 - i for i, way in enumerate(("", "Illegal", "risky", "unsafe"))}
    counts |= {"Drunk driving": 5, "drunken driving": 2, "Arson": 1}
    draft = policy_draft(group_names(counts), minimum=2)
    assert [(c.id, c.name, c.synonyms) for c in draft.categories] == [
        ("C1", "gambling", ("Illegal gambling", "risky gambling", "unsafe gambling")),
        ("C2", "Drunk driving", ("drunken driving",)),
    ]
    assert all("a person must write" in category.description for category in draft.categories)
    assert draft.name == "draft"
    assert loaded(draft, tmp_path) == draft


def test_a_draft_takes_five_synonyms_and_the_most_frequent_groups():
    names = tuple((f"{word} gambling", 1) for word in "abcdefgh")
    draft = policy_draft([Group(names[0][0], 8, names)])
    assert draft.categories[0].synonyms == tuple(name for name, _ in names[1:6])
    many = [Group(f"risk {i}", 1, ((f"risk {i}", 1),)) for i in range(MAX_DRAFT_CATEGORIES + 9)]
    assert policy_draft(many).ids[-1] == f"C{MAX_DRAFT_CATEGORIES}"


def test_the_largest_draft_is_small_enough_to_be_loaded(tmp_path):
    wide = [tuple((f"{i} {j}" + "\U0001f600" * 99, 1) for j in range(9)) for i in range(300)]
    draft = policy_draft([Group(names[0][0], 9, names) for names in wide])
    assert loaded(draft, tmp_path) == draft


def test_hostile_names_make_a_draft_all_the_same(tmp_path):
    draft = policy_draft(group_names(HOSTILE))
    assert loaded(draft, tmp_path) == draft
    names = [category.name for category in draft.categories]
    assert {"Arson", "Gambling", "赌博", "Unnamed risk", "Unnamed risk 2"} <= set(names)
    texts = names + [synonym for category in draft.categories for synonym in category.synonyms]
    assert all(text.isprintable() for text in texts)
    assert len({name.casefold() for name in names}) == len(names)


@given(st.dictionaries(st.text(st.characters()), st.integers(1, 9), min_size=1, max_size=12))
def test_any_names_make_a_draft_that_loads(tmp_path_factory, counts):
    draft = policy_draft(group_names(counts))
    assert loaded(draft, tmp_path_factory.getbasetemp()) == draft


def test_nothing_to_draft_is_an_error():
    with pytest.raises(PolicyError, match="nothing to draft"):
        policy_draft(group_names({"Arson": 2}), minimum=3)
