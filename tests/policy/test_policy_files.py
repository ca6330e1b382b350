from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proguard_edge.errors import PolicyError
from proguard_edge.policy import MAX_FILE_BYTES, Policy

FUZZ = settings(
    derandomize=True,
    deadline=None,
    max_examples=120,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

VALID: dict[str, Any] = {
    "name": "mine",
    "version": 2,
    "categories": [
        {"id": "C3", "name": "Arms", "subcategories": [{"id": "C3S2", "name": "Guns"}]},
        {"id": "C1", "name": "Spam", "description": "Junk.", "synonyms": ["Bulk mail"]},
    ],
}


def written(path: Path, content: Any) -> Path:
    raw = content if isinstance(content, bytes) else yaml.safe_dump(content).encode()
    path.write_bytes(raw)
    return path


def test_a_file_is_read_in_its_order_and_with_its_gaps(tmp_path):
    policy = Policy.load(written(tmp_path / "p.yaml", VALID))
    assert policy.ids == ("C3", "C3S2", "C1")
    assert (policy.version, policy.language) == ("2", "en")
    assert policy.get("C3S2").parent == "C3"
    assert policy.get("C1").synonyms == ("Bulk mail",)


@pytest.mark.parametrize("source", ["default", "file"])
def test_a_policy_survives_writing_and_reading(tmp_path, source):
    valid = written(tmp_path / "p.yaml", VALID)
    policy = Policy.default() if source == "default" else Policy.load(valid)
    again = Policy.load(written(tmp_path / "again.yaml", policy.to_yaml().encode()))
    assert again == policy
    assert again.digest() == policy.digest()


def test_the_reference_layout_is_numbered_in_its_order(tmp_path):
    layout = [
        {
            "category": "Arms",
            "description": "Things that kill.",
            "synonymous-phrase": ["Weapons"],
            "subcategories": [{"name": "Guns", "description": "They shoot."}, {"name": "Bombs"}],
        },
        {"category": "Spam", "description": "Junk."},
    ]
    policy = Policy.import_reference(written(tmp_path / "r.yaml", layout), name="theirs")
    assert policy.name == "theirs"
    assert [(c.id, c.name, c.parent) for c in policy.categories] == [
        ("C1", "Arms", None),
        ("C1S1", "Guns", "C1"),
        ("C1S2", "Bombs", "C1"),
        ("C2", "Spam", None),
    ]
    assert policy.get("C1").synonyms == ("Weapons",)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "must be a mapping"),
        (b"[]", "must be a mapping"),
        (b"name: a: b", "not valid YAML: mapping values are not allowed .*line 1"),
        (b"name: a\nname: b", 'key "name" stands twice in one entry .line 2'),
        (b"a: &x 1\nb: *x", "aliases are not accepted"),
        (b"a: !!python/name:os.system", "could not determine a constructor"),
        (b"a: !!int ''", "cannot be read: put texts in quotes"),
        (b"a: 2001-99-99", "cannot be read"),
        (b"[" * 100_000, "not valid YAML"),
        (b"- " * 100_000, "not valid YAML"),
        (b"\xff\xfe", "not UTF-8"),
        (b"#" * (MAX_FILE_BYTES + 1), "larger than"),
        ({**VALID, "extra": 1}, 'the file has an unknown key "extra"'),
        ({**VALID, "categories": "C1"}, "categories of the file must be a list"),
        ({**VALID, "categories": []}, "at least one"),
        ({**VALID, "categories": [3]}, "entry 1 of categories must be a mapping"),
        ({**VALID, "categories": [{"name": "x"}]}, "entry 1 of categories has no id"),
        ({**VALID, "categories": [{"id": "C1"}]}, "name of C1 is empty"),
        ({**VALID, "categories": [{"id": "C1", "name": False}]}, "name of C1 is not text but bool"),
        ({**VALID, "version": 1.1}, "version is not text but float: put it in quotes"),
        (
            {**VALID, "categories": [{"id": "C1", "name": "A", "subcategories": [{"id": "C2S1"}]}]},
            "C2S1 must have the parent C2",
        ),
    ],
)
def test_a_file_that_is_not_valid_says_where_and_why(tmp_path, content, problem):
    path = written(tmp_path / "p.yaml", content)
    with pytest.raises(PolicyError, match=problem) as caught:
        Policy.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_policy_errors(tmp_path):
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(PolicyError, match="cannot be read"):
            Policy.load(path)


KEYS = ["name", "version", "language", "categories", "id", "description", "synonyms"]
KEYS += ["subcategories", "category", "synonymous-phrase"]
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.dates()
    | st.binary(max_size=5)
    | st.text(max_size=8)
    | st.sampled_from(["C1", "C1S1", "None", "Arms"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | st.integers() | st.text(max_size=3), inner)
    ),
    max_leaves=12,
)


@FUZZ
@given(content=ANYTHING)
def test_whatever_structure_a_file_holds_the_only_error_is_a_policy_error(tmp_path, content):
    path = written(tmp_path / "p.yaml", content)
    for read in (Policy.load, Policy.import_reference):
        with contextlib.suppress(PolicyError):
            read(path)


YAML_WORDS = ["a", ":", " ", "\n", "-", "? ", "!!", "!", "int ", "float ", "set ", "&", "*", "<<"]
YAML_WORDS += ["{", "}", "[", "]", "'", '"', "|", ">", "%", "#", "1", "_", "0x", ".", "=", "~"]


@FUZZ
@given(content=st.binary(max_size=40) | st.lists(st.sampled_from(YAML_WORDS), max_size=20))
def test_whatever_bytes_a_file_holds_the_only_error_is_a_policy_error(tmp_path, content):
    raw = content if isinstance(content, bytes) else "".join(content).encode()
    path = written(tmp_path / "p.yaml", raw)
    for read in (Policy.load, Policy.import_reference):
        with contextlib.suppress(PolicyError):
            read(path)
