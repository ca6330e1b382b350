"""The reward, branch by branch: numbers from DESIGN and arXiv 2512.23573, worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proguard_edge.train.augment import Target
from proguard_edge.train.reward import MALFORMED, MAXIMUM, Reward, reward, similarity_bonus

IDS = frozenset({"C1", "C1S1", "C1S2", "C2", "C2S1"})
SAFE = Target("safe", "safe")
IN_POLICY = Target("unsafe", "safe", "C1S1")
HIDDEN = Target("unsafe", "safe", None, "Weapons", ("Guns and knives", "Arms trade"))


def fixed(*values: float):
    """A similarity that gives these cosines, and wants to be asked for as many references."""

    def similarity(_: str, references: Sequence[str], /) -> list[float]:
        assert len(references) == len(values)
        return list(values)

    return similarity


def never(name: str, references: Sequence[str], /) -> list[float]:
    raise AssertionError(f"{name!r} was compared with {references}")


def text(request: str, response: str | None, category: str = "None", tag: str = "think") -> str:
    line = f"Response:{response}\n" if response else ""
    return (
        f"<{tag}>Some reasons.</{tag}>\n<answer>\nRequest:{request}\n{line}"
        f"Category:{category}\n</answer>"
    )


CASES = [
    # truth safe throughout: the category is not asked for
    (SAFE, text("safe", "safe"), (1, 1, 0)),
    (SAFE, text("unsafe", "safe", "C1S1"), (0, 1, 0)),
    (SAFE, text("unsafe", "unsafe", "C1S1"), (0, 0, 0)),
    # answer safe throughout: it names no category
    (IN_POLICY, text("safe", "safe"), (0, 1, 0)),
    (HIDDEN, text("safe", "safe"), (0, 1, 0)),
    # in policy
    (IN_POLICY, text("unsafe", "safe", "C1S1"), (1, 1, 1)),
    (IN_POLICY, text("unsafe", "safe", "C1S2"), (1, 1, 0.5)),
    (IN_POLICY, text("unsafe", "safe", "C1"), (1, 1, 0.5)),
    (IN_POLICY, text("unsafe", "safe", "Stolen works"), (1, 1, 0)),
    (IN_POLICY, text("unsafe", "unsafe", "C1S1"), (1, 0, 1)),
    (IN_POLICY, text("safe", "unsafe", "C1S1"), (0, 0, 1)),
    (Target("safe", "unsafe", "C2"), text("safe", "unsafe", "C2"), (1, 1, 1)),
    (Target("unsafe", "unsafe", "C2"), text("unsafe", "unsafe", "C2S1"), (1, 1, 0.5)),
    # hidden: an id is wrong, and so is what looks like one
    (HIDDEN, text("unsafe", "safe", "C1S1"), (1, 1, 0)),
    (HIDDEN, text("unsafe", "safe", "C1 Weapons"), (1, 1, 0)),
    (HIDDEN, text("unsafe", "safe", "unsafe"), (1, 1, 0)),
    (HIDDEN, text("unsafe", "safe", "?!"), (1, 1, 0)),
    # nobody labelled a part: nothing for it, whatever is said
    (Target(None, "safe"), text("safe", "safe"), (0, 1, 0)),
    (Target(None, "unsafe", "C1"), text("unsafe", "unsafe", "C1"), (0, 1, 1)),
    (Target("unsafe", None, "C1"), text("unsafe", "safe", "C1"), (1, 0, 1)),
    (Target("unsafe", None, "C1"), text("unsafe", "unsafe", "C1"), (1, 0, 1)),
    (Target("unsafe", "safe"), text("unsafe", "safe", "C1"), (1, 1, 0)),
    (Target("unsafe", "safe"), text("unsafe", "safe", "Arson"), (1, 1, 0)),
    (Target(None, None), text("safe", "safe"), (0, 0, 0)),
]


@pytest.mark.parametrize("tag", ["think", "thinking"])
@pytest.mark.parametrize(("target", "answer", "parts"), CASES)
def test_each_part_of_a_text_answer_earns_its_own(
    target: Target, answer: str, parts: tuple[float, float, float], tag: str
) -> None:
    answer = answer.replace("think>", f"{tag}>")
    found = reward(answer, target, IDS, never, "text")
    assert (found.request, found.response, found.category) == parts
    assert (found.format, found.total) == (1, sum(parts))
    assert reward(answer, target, IDS, never, "text-image") == found


@pytest.mark.parametrize(
    ("similarities", "category"),
    [
        # 0.5 + max(0, (max - 0.7) / 0.3 x 0.5, (mean - 0.6) / 0.4 x 0.5)
        ((0.7, 0.1, 0.1), 0.5),
        ((0.85, 0.1, 0.1), 0.75),
        ((1.0, 0.1, 0.1), 1.0),
        # mean 0.7 gives 0.125, which is more than what max 0.7 gives
        ((0.7, 0.7, 0.7), 0.625),
        # mean 0.8 → 0.25; max 0.8 → 0.1667
        ((0.8, 0.8, 0.8), 0.75),
        ((-1.0, -1.0, -1.0), 0.5),
        # rounding of cosines does not give more than the maximum
        ((1.0000002, 1.0000002, 1.0000002), 1.0),
    ],
)
def test_a_name_for_a_hidden_category_earns_by_its_similarity(
    similarities: tuple[float, ...], category: float
) -> None:
    answer = text("unsafe", "safe", "Illegal firearms")
    found = reward(answer, HIDDEN, IDS, fixed(*similarities), "text")
    assert found.category == pytest.approx(category, abs=1e-12)
    assert found.total == pytest.approx(2 + category, abs=1e-12)


def test_the_name_is_compared_with_the_true_name_and_its_synonyms() -> None:
    asked = []

    def similarity(name: str, references: Sequence[str], /) -> list[float]:
        asked.append((name, list(references)))
        return [0.0] * len(references)

    reward(text("unsafe", "safe", " Illegal firearms "), HIDDEN, IDS, similarity, "text")
    assert asked == [("Illegal firearms", ["Weapons", "Guns and knives", "Arms trade"])]


@pytest.mark.parametrize(
    ("target", "answer", "parts"),
    [
        (Target("safe", None), text("safe", None), (2, 0, 0)),
        (Target("unsafe", None, "C1"), text("unsafe", None, "C1"), (2, 0, 1)),
        (Target("unsafe", None, "C1"), text("unsafe", None, "C2"), (2, 0, 0.5)),
        (Target("unsafe", None, "C1"), text("safe", None), (0, 0, 0)),
        (Target("safe", None), text("unsafe", None, "C1"), (0, 0, 0)),
        (Target(None, None), text("safe", None), (0, 0, 0)),
    ],
)
def test_a_picture_alone_earns_double_for_its_only_label(
    target: Target, answer: str, parts: tuple[float, float, float]
) -> None:
    found = reward(answer, target, IDS, never, "image")
    assert (found.request, found.response, found.category) == parts
    assert found.total == sum(parts)


def test_the_response_line_belongs_to_conversations_only() -> None:
    assert reward(text("safe", "safe"), SAFE, IDS, never, "image") == MALFORMED
    assert reward(text("safe", None), SAFE, IDS, never, "text") == MALFORMED
    assert reward(text("safe", None), SAFE, IDS, never, "text-image") == MALFORMED


def test_a_template_without_the_line_can_say_so() -> None:
    found = reward(text("safe", None), SAFE, IDS, never, "text", response_line=False)
    assert found == Reward(1, 1, 1, 0, 0)
    answer = text("safe", "safe")
    assert reward(answer, SAFE, IDS, never, "text", response_line=False) == MALFORMED


def test_reasoning_is_asked_for_unless_told_otherwise() -> None:
    bare = text("safe", "safe").split("\n", 1)[1]
    assert reward(bare, SAFE, IDS, never, "text") == MALFORMED
    assert reward(bare, SAFE, IDS, never, "text", reasoning=False).total == 2
    assert reward(text("safe", "safe"), SAFE, IDS, never, "text", reasoning=False).total == 2


GOOD = text("unsafe", "safe", "C1S1")
MUTATIONS = {
    "empty": "",
    "no reasoning": GOOD.split("\n", 1)[1],
    "blank reasoning": GOOD.replace("Some reasons.", " \n "),
    "reasoning not closed": GOOD.replace("</think>", ""),
    "reasoning not opened": GOOD.replace("<think>", ""),
    "tags do not match": GOOD.replace("</think>", "</thinking>"),
    "another tag": GOOD.replace("think>", "reason>"),
    "reasoning in it twice": GOOD.replace("<think>", "<think><think>"),
    "two thoughts": GOOD.replace("</think>", "</think><think>more</think>"),
    "an answer inside the reasoning": GOOD.replace(
        "Some reasons.", "<answer>\nRequest:safe\nResponse:safe\nCategory:None\n</answer>"
    ),
    "two answers": GOOD + "\n" + GOOD.split("\n", 1)[1],
    "answer not closed": GOOD.replace("</answer>", ""),
    "answer not opened": GOOD.replace("<answer>\n", ""),
    "words before": "Sure! " + GOOD,
    "words between": GOOD.replace("</think>\n", "</think>\nSo:\n"),
    "words after": GOOD + " That is all.",
    "no request": GOOD.replace("Request:unsafe\n", ""),
    "no response": GOOD.replace("Response:safe\n", ""),
    "no category": GOOD.replace("Category:C1S1\n", ""),
    "empty category": GOOD.replace("C1S1", ""),
    "another label": GOOD.replace("Request:unsafe", "Request:harmful"),
    "both labels": GOOD.replace("Request:unsafe", "Request:safe/unsafe"),
    "capital label": GOOD.replace("Request:unsafe", "Request:Unsafe"),
    "another key": GOOD.replace("Request:", "Query:"),
    "another order": GOOD.replace("Request:unsafe\nResponse:safe", "Response:safe\nRequest:unsafe"),
    "one line": GOOD.replace("\n", " "),
    "a line more": GOOD.replace("Category:", "Severity:high\nCategory:"),
    "an id of another policy": GOOD.replace("C1S1", "C9S9"),
    "a small id": GOOD.replace("C1S1", "c1s1"),
    "the placeholder": GOOD.replace("C1S1", "<id>"),
    "unsafe without category": GOOD.replace("C1S1", "None"),
    "safe with category": GOOD.replace("unsafe", "safe"),
}


@pytest.mark.parametrize("name", MUTATIONS)
@pytest.mark.parametrize("target", [SAFE, IN_POLICY, HIDDEN])
def test_a_malformed_answer_earns_nothing_at_all(name: str, target: Target) -> None:
    assert reward(GOOD, IN_POLICY, IDS, never, "text").total == 3
    assert MUTATIONS[name] != GOOD
    assert reward(MUTATIONS[name], target, IDS, never, "text") == MALFORMED


@pytest.mark.parametrize("values", [[], [float("nan")], [0.9, float("nan")]])
def test_a_similarity_that_is_no_number_is_an_error(values: list[float]) -> None:
    with pytest.raises(ValueError, match="similarities"):
        similarity_bonus(values)


COSINES = st.lists(st.floats(-1, 1), min_size=1, max_size=6)


@given(COSINES)
def test_the_bonus_is_between_nothing_and_a_half(values: list[float]) -> None:
    assert 0 <= similarity_bonus(values) <= 0.5


@given(COSINES, st.data())
def test_a_name_that_is_more_alike_never_earns_less(
    values: list[float], data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(values) - 1))
    better = [*values]
    better[at] = data.draw(st.floats(values[at], 1))
    assert similarity_bonus(better) >= similarity_bonus(values) - 1e-12


LABEL = st.sampled_from(["safe", "unsafe", None])
CATEGORY = st.sampled_from(["None", *sorted(IDS), "Arson", "C7", "", "?"])


@given(
    modality=st.sampled_from(["text", "text-image", "image"]),
    labels=st.tuples(LABEL, LABEL),
    truth=st.sampled_from([None, "C1S1", "hidden"]),
    said=st.tuples(st.sampled_from(["safe", "unsafe"]), LABEL, CATEGORY),
    cosine=st.floats(-1, 1),
)
def test_every_reward_is_within_its_bounds_and_adds_up(
    modality: str, labels: tuple, truth: str | None, said: tuple, cosine: float
) -> None:
    response = None if modality == "image" else labels[1]
    target = Target(labels[0], response)
    if truth and target.unsafe:
        hidden = truth == "hidden"
        target = Target(
            labels[0], response, None if hidden else truth, "Weapons" if hidden else None
        )
    found = reward(text(*said), target, IDS, fixed(cosine), modality)  # type: ignore[arg-type]
    assert 0 <= found.total <= MAXIMUM
    assert found.total == found.request + found.response + found.category
    assert found.format or found == MALFORMED
    assert found.request <= (2 if modality == "image" else 1)
    assert found.response <= (0 if modality == "image" else 1)
    assert found.category <= 1


def test_any_text_is_judged_without_an_error() -> None:
    for answer in ("\x00", "<answer>" * 1000, "\ud800", "<think>" + "a" * 100_000):
        assert reward(answer, IN_POLICY, IDS, never, "text") == MALFORMED
