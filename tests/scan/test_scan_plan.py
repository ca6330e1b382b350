"""Plans: the same shards always, every row in one of them, and no going on with another plan."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scanning import JUDGING, write_rows

from proguard_edge.errors import InputError
from proguard_edge.scan.plan import MAX_SHARD_ROWS, Plan, Shard, make_plan
from proguard_edge.scan.sources import Source


def sources(*rows: int) -> tuple[Source, ...]:
    names = tuple(f"{i}.txt" for i in range(rows[0]))
    first = Source("/0", "folder", rows[0], "d0", not_looked_at={".pdf": 2}, files=names)
    others = enumerate(rows[1:], 1)
    return (first, *(Source(f"/{i}", "jsonl", n, f"d{i}", 10, 20) for i, n in others))


@given(st.lists(st.integers(0, 50), min_size=1, max_size=4), st.integers(1, 20))
def test_every_row_is_in_exactly_one_shard(rows, shard_rows):
    plan = Plan(JUDGING, sources(*rows), "jsonl", shard_rows)
    shards = list(plan.shards())
    assert [shard.number for shard in shards] == list(range(len(shards)))
    covered = [(s.path, row) for s in shards for row in range(s.first, s.first + s.rows)]
    assert covered == [(f"/{i}", row) for i, n in enumerate(rows) for row in range(n)]
    assert all(0 < shard.rows <= shard_rows for shard in shards)
    files = [name for shard in shards for name in shard.files]
    assert files == [f"{i}.txt" for i in range(rows[0])]
    assert [Shard.from_json(shard.to_json()) for shard in shards] == shards
    assert list(Plan(JUDGING, sources(*rows), "jsonl", shard_rows).shards()) == shards


def test_a_plan_comes_back_from_its_manifest_without_the_names_of_files():
    plan = Plan(JUDGING, sources(5, 7), "parquet", 3)
    text = plan.to_json()
    assert "1.txt" not in text
    again = Plan.from_json(text)
    assert again == plan
    assert again.sources[0].files == ()
    assert again.differences(plan) == []


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"judging": replace(JUDGING, artifact="c" * 64)}, "another artifact"),
        ({"judging": replace(JUDGING, policy="c", mode="reason")}, "another policy, another mode"),
        ({"judging": replace(JUDGING, max_miss_rate=0.05)}, "another max miss rate"),
        ({"judging": replace(JUDGING, reading="image and text")}, "another reading"),
        ({"judging": replace(JUDGING, engine="remote")}, "another engine"),
        ({"output": "parquet"}, "another --format"),
        ({"shard_rows": 4}, "another --shard-rows"),
        ({"sources": sources(5)}, "other sources"),
        ({"sources": sources(5, 7)[::-1]}, "in another order"),
        (
            {"sources": (sources(5)[0], replace(sources(5, 7)[1], digest="x"))},
            "/1 as it was before it changed",
        ),
    ],
)
def test_another_plan_differs_in_words(other, said):
    plan = Plan(JUDGING, sources(5, 7), "jsonl", 3)
    assert plan.differences(replace(plan)) == []
    assert said in ", ".join(plan.differences(replace(plan, **other)))


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": "proguard-edge-scan/1"}', "[" * 9000])
def test_a_damaged_manifest_is_an_error(text):
    with pytest.raises(InputError, match="manifest is damaged"):
        Plan.from_json(text)


def test_a_manifest_of_another_version_is_an_error():
    with pytest.raises(InputError, match="not of the format"):
        Plan.from_json('{"format": "proguard-edge-scan/99"}')


@pytest.mark.parametrize(
    ("rows", "shard_rows"), [(3, 4), (256, 4), (1000, 15), (20_000, MAX_SHARD_ROWS)]
)
def test_small_inputs_have_small_shards_so_that_all_workers_have_some(tmp_path, rows, shard_rows):
    source = write_rows(tmp_path / "rows.jsonl", [{"user": "x"}] * rows)
    plan = make_plan([source], JUDGING, "jsonl")
    assert plan.shard_rows == shard_rows
    assert make_plan([source], JUDGING, "jsonl", 99).shard_rows == 99
    begun = replace(plan, shard_rows=77)
    assert make_plan([source], JUDGING, "jsonl", begun=begun).shard_rows == 77


def test_nothing_to_judge_and_a_source_named_twice_are_errors(tmp_path):
    source = write_rows(tmp_path / "rows.jsonl", [{"user": "x"}])
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.pdf").write_text("x")
    with pytest.raises(InputError, match="named twice"):
        make_plan([source, source], JUDGING, "jsonl")
    with pytest.raises(InputError, match="nothing to judge, 1 files of other kinds"):
        make_plan([tmp_path / "folder"], JUDGING, "jsonl")
