"""Scenario files, and requests of the sizes that they name."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from proguard_edge.bench.scenarios import FOLDER, Scenario, load_scenarios
from proguard_edge.errors import InputError


def words(text: str) -> int:
    return len(text.split())


@pytest.mark.parametrize("name", [p.stem for p in FOLDER.glob("*.yaml")])
def test_the_package_s_scenarios(name):
    found = load_scenarios(name)
    assert found
    assert all(scenario.request(0, words) for scenario in found[:2])


def test_requests_have_the_size_and_are_never_the_same():
    scenario = Scenario("both", user_tokens=40, response_tokens=90, image_pixels=64)
    made = [scenario.request(n, words) for n in range(6)]
    assert {words(r.user) for r in made} == {40}
    assert {words(r.response) for r in made} == {90}
    assert len({r.user for r in made}) == len({r.images[0] for r in made}) == 6
    assert Image.open(io.BytesIO(made[0].images[0])).size == (64, 64)
    assert scenario.request(3, words) == made[3]
    assert scenario.request(3, words, seed=1) != made[3]
    assert scenario.modality == made[0].modality == "text-image"


def test_a_policy_of_any_length():
    policy = Scenario("a", user_tokens=1, categories=200).policy()
    assert len(policy.leaves()) == 200
    assert Scenario("a", user_tokens=1).policy() is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("scenarios: [{name: a}]", "one above 0"),
        ("scenarios: [{name: a, user_tokens: -1}]", "whole numbers"),
        ("scenarios: [{name: a, user_tokens: many}]", "whole numbers"),
        ("scenarios: [{name: a, user_tokens: 1, mode: think}]", "no mode"),
        ("scenarios: [{name: a, user_tokens: 1, categories: -1}]", "0 to 2000"),
        ("scenarios: [{name: a, colour: 1}]", "has no colour"),
        ("scenarios: [{user_tokens: 1}]", "KeyError"),
        ("scenarios: []", "names of their own"),
        ("scenarios: [{name: a, user_tokens: 1}, {name: a, user_tokens: 2}]", "of their own"),
        ("a: [", "no scenarios"),
    ],
)
def test_what_is_no_scenario_is_named(tmp_path, text, said):
    file = tmp_path / "s.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=said):
        load_scenarios(str(file))
    with pytest.raises(InputError, match="default"):
        load_scenarios("nowhere")
