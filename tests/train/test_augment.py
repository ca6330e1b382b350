"""A row's target always belongs to the policy that stands in its prompt."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proguard_edge.errors import PolicyError
from proguard_edge.policy import Policy
from proguard_edge.train.augment import Hiding, Target, augment
from proguard_edge.train.rows import Row

DEFAULT = Policy.default()
KEEP = Hiding(0, 0)

LABELS = st.sampled_from(["safe", "unsafe", None])
PROBABILITY = st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])


def row(**fields: object) -> Row:
    base = {"id": "a", "source": "s", "licence": "MIT", "user": "hi", "request_label": "unsafe"}
    return Row.from_dict({**base, **fields})


ROWS = st.builds(
    row,
    id=st.integers(0, 10**9),
    user=st.just("hi"),
    response=st.sampled_from([None, "no"]),
    request_label=LABELS,
    response_label=LABELS,
    category=st.sampled_from([None, *DEFAULT.ids]),
)


@settings(max_examples=150, deadline=None)
@given(row=ROWS, seed=st.integers(), hiding=st.builds(Hiding, PROBABILITY, PROBABILITY))
def test_the_target_names_the_rows_own_category_in_the_tasks_policy(
    row: Row, seed: int, hiding: Hiding
) -> None:
    task = augment(row, DEFAULT, seed, hiding)
    target = task.target
    names = {category.name for category in task.policy.categories}
    if row.category is None or "unsafe" not in (target.request, target.response):
        assert (target.category, target.ood_name, target.synonyms) == (None, None, ())
    else:
        true = DEFAULT.get(row.category)
        if true.name in names:
            assert target.ood_name is None
            assert target.category is not None
            found = task.policy.get(target.category)
            assert (found.name, found.description) == (true.name, true.description)
            assert (found.parent is None) == (true.parent is None)
        else:
            assert target.category is None
            assert (target.ood_name, target.synonyms) == (true.name, true.synonyms)
    assert Target.from_json(target.to_json()) == target
    assert augment(row, DEFAULT, seed, hiding) == task


@settings(max_examples=50, deadline=None)
@given(row=ROWS, seed=st.integers(), hiding=st.builds(Hiding, PROBABILITY, PROBABILITY))
def test_ids_run_without_gaps_and_subcategories_stay_with_their_category(
    row: Row, seed: int, hiding: Hiding
) -> None:
    policy = augment(row, DEFAULT, seed, hiding).policy
    old = {category.name: category for category in DEFAULT.categories}
    mains = [c for c in policy.categories if c.parent is None]
    assert [c.id for c in mains] == [f"C{i}" for i in range(1, len(mains) + 1)]
    for main in mains:
        children = policy.children(main.id)
        expected = [f"{main.id}S{j}" for j in range(1, len(children) + 1)]
        assert [child.id for child in children] == expected
        assert children
        assert {old[child.name].parent for child in children} == {old[main.name].id}


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(), main=st.sampled_from([c for c in DEFAULT.categories if not c.parent]))
def test_a_row_of_a_whole_category_never_meets_half_of_it(seed: int, main: object) -> None:
    true = main.id  # type: ignore[attr-defined]
    policy = augment(row(category=true), DEFAULT, seed, Hiding(0.4, 0.6)).policy
    left = {category.name for category in policy.categories}
    shown = [child.name in left for child in DEFAULT.children(true)]
    assert all(shown) or not any(shown)


def test_nothing_hidden_keeps_every_category_in_another_place() -> None:
    policies = [augment(row(id=i), DEFAULT, 0, KEEP).policy for i in range(20)]
    names = sorted(c.name for c in DEFAULT.categories)
    assert all(sorted(c.name for c in policy.categories) == names for policy in policies)
    assert len({policy.digest() for policy in policies}) == 20
    places = Counter(augment(row(id=i, category="C8S1"), DEFAULT, 0, KEEP).target.category
                     for i in range(150))  # fmt: skip
    # Any of 11 numbers and 3 below it: about 5 each.
    assert len(places) > 28
    assert max(places.values()) < 20


def test_categories_are_hidden_as_often_as_asked_whatever_the_label() -> None:
    def hidden(count: int, **fields: object) -> list[int]:
        tasks = [augment(row(id=i, **fields), DEFAULT, 5, Hiding(0.3, 0)) for i in range(count)]
        return [11 - sum(c.parent is None for c in t.policy.categories) for t in tasks]

    # 11 x 0.3 = 3.3; the standard error of 200 draws is 0.11.
    unlabelled = hidden(200, request_label=None)
    assert abs(sum(unlabelled) / 200 - 3.3) < 0.5
    assert hidden(40, category="C8S1") == hidden(40, request_label="safe") == unlabelled[:40]


def test_a_hidden_subcategory_is_out_of_policy_although_its_category_is_left() -> None:
    for i in range(200):
        task = augment(row(id=i, category="C8S1"), DEFAULT, 0, Hiding(0, 0.5))
        names = {category.name for category in task.policy.categories}
        if task.target.ood_name and "Dangerous Goods" in names:
            assert task.target.ood_name == "Weapons"
            assert task.target.synonyms == DEFAULT.get("C8S1").synonyms
            return
    pytest.fail("no such task among 200")


def test_text_without_a_response_counts_as_a_safe_response() -> None:
    def response(**fields: object) -> str | None:
        return augment(row(**fields), DEFAULT, 0).target.response

    assert response() == "safe"
    assert response(response="no") is None
    assert response(response="no", response_label="unsafe") == "unsafe"
    assert response(image="x.png") == "safe"
    assert response(user=None, image="x.png") is None


def test_a_category_that_the_policy_lacks_is_an_error() -> None:
    with pytest.raises(PolicyError, match="C8S1"):
        augment(row(category="C8S1"), DEFAULT.without(["C8"]), 0)


@pytest.mark.parametrize(
    "fields",
    [
        {"request": "bad", "response": None},
        {"request": "safe", "response": "safe", "category": "C1"},
        {"request": "unsafe", "response": None, "category": "C1", "ood_name": "Arson"},
        {"request": "unsafe", "response": None, "synonyms": ("a",)},
    ],
)
def test_a_target_that_contradicts_itself_is_an_error(fields: dict) -> None:
    with pytest.raises(ValueError, match=r"."):
        Target(**fields)


@pytest.mark.parametrize("text", ["[]", "{", '{"request": "safe"}', '{"unknown": 1}'])
def test_json_that_is_no_target_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Target.from_json(text)
