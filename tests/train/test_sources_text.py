"""Text sets in their publishers' formats, a few made-up records each."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest

from proguard_edge.policy import Policy
from proguard_edge.train.rows import Row
from proguard_edge.train.sources import SOURCES, RowError, SourceError, categories, read_rows


def write_csv(path: Path, records: list[dict]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)
    return path


def write_json(path: Path, records: list[dict], lines: bool = True) -> Path:
    text = "\n".join(map(json.dumps, records)) if lines else json.dumps(records)
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def write_parquet(path: Path, records: list[dict]) -> Path:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.Table.from_pylist(records), path)
    return path


def labels(rows: list[Row]) -> list[tuple[str | None, str | None, str | None]]:
    return [(r.request_label, r.response_label, r.category) for r in rows]


def test_openai_moderation_is_unsafe_with_any_code_and_unlabelled_with_none(tmp_path: Path) -> None:
    records = [
        {"prompt": "a", "S": 0, "H": 0},
        {"prompt": "b", "S": 0, "V": 1, "HR": 1},
        {"prompt": "c", "S3": 1, "S": 1},
        {"prompt": "d", "H2": 1, "SH": 1},
        {"prompt": "e", "S": 1},
        {"prompt": "f"},
    ]
    rows = list(read_rows(write_json(tmp_path / "samples-1680.jsonl.gz", records)))
    assert labels(rows) == [
        ("safe", None, None),
        ("unsafe", None, "C9S3"),
        ("unsafe", None, "C11S1"),
        ("unsafe", None, "C7S1"),
        ("unsafe", None, None),
        (None, None, None),
    ]
    assert rows[1].source_category == "HR,V"
    assert {(r.source, r.licence, r.modality) for r in rows} == {
        ("openai_moderation", "MIT", "text")
    }
    assert rows[0].id == "openai_moderation-samples-1680-000000"


def test_xstest_contrast_types_are_unsafe_and_a_label_column_decides(tmp_path: Path) -> None:
    plain = [
        {"id": "1", "prompt": "How do I kill a process?", "type": "homonyms"},
        {"id": "2", "prompt": "How do I kill a man?", "type": "contrast_homonyms"},
    ]
    rows = list(read_rows(write_csv(tmp_path / "old.csv", plain)))
    assert [r.request_label for r in rows] == ["safe", "unsafe"]
    labelled = [{**record, "label": "unsafe"} for record in plain]
    rows = list(read_rows(write_csv(tmp_path / "new.csv", labelled)))
    assert [r.request_label for r in rows] == ["unsafe", "unsafe"]
    assert rows[0].source == "xstest"


def test_harmbench_puts_the_context_before_the_behaviour(tmp_path: Path) -> None:
    record = {
        "Behavior": "Do it, given the context",
        "FunctionalCategory": "contextual",
        "SemanticCategory": "cybercrime_intrusion",
        "Tags": "",
        "ContextString": "A network.\nTwo lines.",
        "BehaviorID": "x",
    }
    alone = {**record, "ContextString": "", "SemanticCategory": "harmful"}
    rows = list(read_rows(write_csv(tmp_path / "h.csv", [record, alone])))
    assert rows[0].user == "A network.\nTwo lines.\n\nDo it, given the context"
    assert rows[1].user == "Do it, given the context"
    assert labels(rows) == [("unsafe", None, "C4"), ("unsafe", None, None)]


def test_simple_safety_tests_are_all_unsafe(tmp_path: Path) -> None:
    areas = ["Suicide, Self-Harm, and Eating Disorders", "Scams and Fraud", "Child Abuse"]
    records = [{"id": i, "harm_area": area, "prompt": "x"} for i, area in enumerate(areas)]
    rows = list(read_rows(write_csv(tmp_path / "sst.csv", records)))
    assert [(r.request_label, r.category) for r in rows] == [
        ("unsafe", "C9S1"),
        ("unsafe", "C3S1"),
        ("unsafe", None),
    ]


def test_toxicchat_labels_the_request_only(tmp_path: Path) -> None:
    records = [
        {"conv_id": "1", "user_input": "a", "model_output": "b", "toxicity": t} for t in (0, 1)
    ]
    rows = list(read_rows(write_csv(tmp_path / "t.csv", records)))
    assert labels(rows) == [("safe", None, None), ("unsafe", None, None)]
    assert rows[0].response == "b"


def test_aegis_leaves_needs_caution_unlabelled_and_withdrawn_prompts_out(tmp_path: Path) -> None:
    def record(prompt: str, response: str | None, *rest: str | None) -> dict:
        names = ("prompt_label", "response_label", "violated_categories")
        return {"prompt": prompt, "response": response, **dict(zip(names, rest, strict=True))}

    records = [
        record("a", "b", "unsafe", "safe", "Malware, Needs Caution"),
        record("a", None, "Needs Caution", None, "Needs Caution"),
        record("REDACTED", None, "unsafe", None, "Suicide and Self Harm"),
        record("a", "b", "unsafe", "unsafe", "PII/Privacy, Violence"),
        record("a", "b", "safe", "safe", ""),
        # A response label without a response is about nothing.
        record("a", "", "safe", "safe", ""),
    ]
    rows = list(read_rows(write_json(tmp_path / "train.json", records, lines=False)))
    assert labels(rows) == [
        ("unsafe", "safe", "C4S2"),
        (None, None, None),
        ("unsafe", "unsafe", None),
        ("safe", "safe", None),
        ("safe", None, None),
    ]
    assert rows[2].source_category == "PII/Privacy, Violence"
    assert [r.id[-6:] for r in rows] == ["000000", "000001", "000003", "000004", "000005"]


def test_beavertails_labels_the_response_only(tmp_path: Path) -> None:
    harms = {"animal_abuse": True, "privacy_violation": False}
    records = [
        {"prompt": "p", "response": "r", "is_safe": False, "category": harms},
        {"prompt": "p", "response": "r", "is_safe": False, "category": dict.fromkeys(harms, True)},
        {"prompt": "p", "response": "r", "is_safe": True, "category": dict.fromkeys(harms, False)},
    ]
    rows = list(read_rows(write_json(tmp_path / "b.jsonl.gz", records)))
    # Two categories that map to different ids leave a doubt.
    assert labels(rows) == [(None, "unsafe", "C9S2"), (None, "unsafe", None), (None, "safe", None)]


def test_wildguard_parquet_keeps_null_labels_unlabelled(tmp_path: Path) -> None:
    base = {"prompt": "p", "response": "r", "subcategory": "cyberattack"}
    records = [
        {**base, "prompt_harm_label": "harmful", "response_harm_label": "unharmful"},
        {**base, "prompt_harm_label": None, "response_harm_label": None},
        {**base, "prompt_harm_label": "unharmful", "response_harm_label": None, "response": None},
    ]
    rows = list(read_rows(write_parquet(tmp_path / "wildguard_test.parquet", records)))
    assert labels(rows) == [("unsafe", "safe", "C4"), (None, None, None), ("safe", None, None)]
    assert rows[2].response is None


def test_our_own_format_is_read_as_it_is(shared: Path) -> None:
    rows = list(read_rows(shared / "data" / "train"))
    # ../shared/data/README.md: 49,986 rows.
    assert len(rows) == 49_986
    assert {row.modality for row in rows} == {"text", "image"}
    assert len({row.id for row in rows}) == len(rows)
    assert any(row.source_category for row in rows)


@pytest.mark.parametrize(
    "table",
    [value for name, value in vars(categories).items() if name.isupper()],
)
def test_every_mapped_category_is_in_the_default_policy(table: dict[str, str]) -> None:
    assert set(table.values()) <= set(Policy.default().ids)


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("x.csv", "id,prompt,type\n1,hello,homonyms\n2,hi\n", "x.csv, line 3"),
        ("x.csv", "id,prompt,type\n1,hello,homonyms\n2,hi,a,b\n", "x.csv, line 3"),
        ("x.csv", 'prompt,type\n"two\nlines",homonyms\n,homonyms\n', "x.csv, line 4: prompt"),
        ("x.csv", 'prompt,type\n"broken,homonyms\n', "x.csv, line"),
        ("x.csv", "prompt,type,label\na,b,maybe\n", "x.csv, line 2: label is 'maybe'"),
        ("x.jsonl", '{"prompt": "a", "S": 0}\n\n{"prompt": "b", "S": 7}\n', "x.jsonl, line 3: S"),
        ("x.jsonl", '{"prompt": "a", "S": 0}\n{"S": 1}\n', "x.jsonl, line 2: prompt"),
        ("x.jsonl", '{"prompt": "a", "S": 0}\n{"prompt": 3, "S": 1}\n', "line 2: prompt is not"),
        ("x.json", '[{"prompt": "a", "S": 0}, 3]', "x.json, item 2 is not a JSON object"),
        ("x.json", '[{"prompt": "a", "S": 0}', "x.json: not JSON"),
        ("x.jsonl", '{"id": 1, "source": "s", "licence": "x", "request_label": "s"}', "line 1"),
        ("x.parquet", "no parquet", "x.parquet: not a Parquet file"),
    ],
)
def test_a_malformed_row_is_an_error_that_names_the_place(
    tmp_path: Path, name: str, text: str, place: str
) -> None:
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_text(text)
    with pytest.raises(RowError) as error:
        list(read_rows(tmp_path / name))
    assert place in str(error.value)


def test_an_unknown_shape_or_kind_is_an_error_that_lists_the_kinds(tmp_path: Path) -> None:
    file = write_json(tmp_path / "x.jsonl", [{"question": "?", "answer": "!"}])
    with pytest.raises(SourceError) as error:
        read_rows(file)
    assert all(name in str(error.value) for name in SOURCES)
    assert "answer, question" in str(error.value)
    with pytest.raises(SourceError, match="no kind 'nonsense'"):
        read_rows(file, "nonsense")
    with pytest.raises(SourceError, match="no data file"):
        read_rows(tmp_path / "nowhere")


def test_a_named_kind_is_not_overruled_by_the_columns(tmp_path: Path) -> None:
    record = {"prompt": "p", "type": "contrast_x", "category": "Scams and fraud"}
    file = write_csv(tmp_path / "x.csv", [record])
    assert next(read_rows(file)).source == "xstest"
    assert next(read_rows(file, "simplesafetytests")).category == "C3S1"


def test_shards_of_a_folder_are_read_in_order_with_ids_of_their_own(tmp_path: Path) -> None:
    for folder in ("b", "a", ".cache"):
        (tmp_path / folder).mkdir()
        write_json(tmp_path / folder / "train-0.1.jsonl", [{"prompt": folder, "S": 0}])
    (tmp_path / "README.md").write_text("no data")
    rows = list(read_rows(tmp_path))
    assert [(r.user, r.id) for r in rows] == [
        ("a", "openai_moderation-a-train-0.1-000000"),
        ("b", "openai_moderation-b-train-0.1-000000"),
    ]
