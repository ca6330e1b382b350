"""The one schema of labelled rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from proguard_edge.request import Request
from proguard_edge.train.rows import Row, RowError, read_jsonl


@pytest.mark.parametrize("user", [None, "", " ", "hello"])
@pytest.mark.parametrize("response", [None, "", "no"])
@pytest.mark.parametrize("image", [None, "a.png"])
def test_a_row_has_the_modality_of_the_request_it_becomes(
    user: str | None, response: str | None, image: str | None
) -> None:
    raw = {"id": 1, "source": "s", "licence": "MIT", "user": user, "response": response}
    row = Row.from_dict({**raw, "image": image})
    images = (row.image,) if row.image else ()
    assert row.modality == Request(user, response, images).modality


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is not JSON"),
        ("[]", "line 2 is not a JSON object"),
        ('{"id": 1, "source": "s"}', "line 2: 'licence' is missing"),
        ('{"id": 1, "source": "s", "licence": "x", "request_label": "bad"}', "line 2: 1:"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"id": 0, "source": "s", "licence": "x"}\n' + line)
    rows = read_jsonl(path)
    assert next(rows).id == "0"
    with pytest.raises(RowError) as error:
        next(rows)
    assert str(error.value).startswith(f"{path}, ")
    assert message in str(error.value)
