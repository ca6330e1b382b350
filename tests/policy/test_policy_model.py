from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from proguard_edge.errors import PolicyError
from proguard_edge.policy import Category, Policy

REFERENCE = Path(__file__).parents[2].parent / "shared" / "upstream" / "taxonomy.yaml"

A = Category("C1", "Arms", "Guns.", ("Weapon",))
A1 = Category("C1S1", "Guns", parent="C1")
A2 = Category("C1S2", "Bombs", parent="C1")
B = Category("C2", "Spam")
SMALL = Policy("small", "1", (A, A1, A2, B))


def test_the_default_policy_has_the_categories_of_proguard():
    policy = Policy.default()
    parents = [c for c in policy.categories if c.parent is None]
    assert [c.id for c in parents] == [f"C{i}" for i in range(1, 12)]
    # Subcategories of C1 … C11 in the ProGuard taxonomy.
    assert [len(policy.children(c.id)) for c in parents] == [3, 2, 3, 2, 2, 2, 3, 3, 3, 3, 2]
    assert len(policy.leaves()) == 28
    assert policy.get("C8S3").name == "Illegal Drugs and Narcotics"


def test_every_category_of_the_default_policy_is_described_and_has_five_synonyms():
    for category in Policy.default().categories:
        assert category.description.endswith(".")
        assert len({synonym.casefold() for synonym in category.synonyms}) == 5
        assert all(1 <= len(synonym.split()) <= 6 for synonym in category.synonyms)


def test_no_synonym_of_the_default_policy_names_two_categories():
    words = [s.casefold() for c in Policy.default().categories for s in c.synonyms]
    assert len(words) == len(set(words))


@pytest.mark.skipif(not REFERENCE.is_file(), reason="the reference taxonomy is not here")
def test_the_default_policy_shares_ids_and_names_with_the_reference_but_no_wording():
    ours, theirs = Policy.default(), Policy.import_reference(REFERENCE)
    assert [(c.id, c.name) for c in ours.categories] == [(c.id, c.name) for c in theirs.categories]

    def wording(policy: Policy) -> set[str]:
        texts = {t for c in policy.categories for t in (c.description, *c.synonyms)}
        return {text.casefold().strip(" .") for text in texts}

    assert not wording(ours) & wording(theirs)


def test_leaves_are_subcategories_and_categories_without_any():
    assert [c.id for c in SMALL.leaves()] == ["C1S1", "C1S2", "C2"]


@pytest.mark.parametrize(
    ("ids", "kept"),
    [
        (["C2"], ["C2"]),
        (["C1"], ["C1", "C1S1", "C1S2"]),
        (["C1S2"], ["C1", "C1S2"]),
        (["C1", "C1S2"], ["C1", "C1S2"]),
        (["C2", "C1S1", "C1S1"], ["C1", "C1S1", "C2"]),
        (SMALL.ids, list(SMALL.ids)),
    ],
)
def test_a_subset_keeps_ids_order_and_parents(ids, kept):
    assert list(SMALL.subset(ids).ids) == kept


@pytest.mark.parametrize(
    ("ids", "kept"),
    [
        (["C1"], ["C2"]),
        (["C1S1"], ["C1", "C1S2", "C2"]),
        (["C1S1", "C1S2"], ["C2"]),
        ([], list(SMALL.ids)),
    ],
)
def test_dropping_takes_children_along_and_an_empty_parent(ids, kept):
    assert list(SMALL.without(ids).ids) == kept


def test_unknown_ids_and_an_empty_result_are_errors():
    for broken in (
        lambda: SMALL.get("C9"),
        lambda: SMALL.children("C9"),
        lambda: SMALL.subset(["C1", "C9"]),
        lambda: SMALL.without(["C9"]),
        lambda: SMALL.subset([]),
        lambda: SMALL.without(["C1", "C2"]),
    ):
        with pytest.raises(PolicyError):
            broken()


def test_the_digest_changes_with_every_field():
    changed = [
        replace(SMALL, name="other"),
        replace(SMALL, version="2"),
        replace(SMALL, language="de"),
        replace(SMALL, categories=(A, A1, A2)),
        replace(SMALL, categories=(A, A1, A2, replace(B, name="Junk"))),
        replace(SMALL, categories=(A, A1, A2, replace(B, description="Junk"))),
        replace(SMALL, categories=(A, A1, A2, replace(B, synonyms=("Junk",)))),
    ]
    assert len({policy.digest() for policy in [SMALL, *changed]}) == len(changed) + 1
    assert SMALL.digest() == replace(SMALL).digest()


@pytest.mark.parametrize(
    ("categories", "problem"),
    [
        ((), "at least one"),
        ((A, A), "C1 stands twice"),
        ((A, replace(B, name="arms")), 'C1 and C2 are both named "arms"'),
        ((A1,), "C1S1 must stand below its category C1"),
        ((A, B, A1), "C1S1 must stand below its category C1"),
        ((replace(A1, parent=None),), "C1S1 must have the parent C1"),
        ((replace(A, parent="C2"),), "C1 must have the parent None"),
        ((replace(A, id="C0"),), "not a category id"),
        ((replace(A, id="c1"),), "not a category id"),
        ((replace(A, id="C1\n"),), "not a category id"),
        ((replace(A, id="C١"),), "not a category id"),
        ((replace(A, id=1),), "not a category id"),
        ((replace(A, name=""),), "name of C1 is empty"),
        ((replace(A, name=" Arms"),), "begins or ends with a space"),
        ((replace(A, name="Ar\nms"),), "one line"),
        ((replace(A, name="Ar\u2028ms"),), "one line"),
        ((replace(A, name="Ar\ud800ms"),), "control character"),
        ((replace(A, name="None"),), "has a meaning in answers"),
        ((replace(A, name="C7S1"),), "has a meaning in answers"),
        ((replace(A, name="Arms</answer>"),), "holds < or >"),
        ((replace(A, description="a > b"),), "description of C1 holds < or >"),
        ((replace(A, synonyms=("a<b",)),), "synonym of C1 holds < or >"),
        ((replace(A, synonyms=("",)),), "synonym of C1 is empty"),
        ((replace(A, description=None),), "not text but NoneType"),
        ((replace(A, description="x" * 2001),), "2001 characters"),
    ],
)
def test_a_policy_that_is_not_valid_cannot_be_made(categories, problem):
    with pytest.raises(PolicyError, match=problem):
        Policy("p", "1", categories)
