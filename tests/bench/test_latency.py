"""Side-by-side timing, on contenders whose times are known."""

from __future__ import annotations

import time

import pytest

from proguard_edge.bench.compare import FORMAT, compare, other_machine, read_report
from proguard_edge.bench.contenders import Answer
from proguard_edge.bench.latency import Series, Settings, ratios, reference_ms, run
from proguard_edge.bench.machine import machine
from proguard_edge.bench.report import markdown, plot, table
from proguard_edge.bench.scenarios import Scenario
from proguard_edge.errors import EngineError, InputError

SCENARIOS = (Scenario("short", user_tokens=10), Scenario("long", user_tokens=20))


def words(text: str) -> int:
    return len(text.split())


class Sleeper:
    """Takes as long as it is told to, and remembers what it was asked."""

    def __init__(self, name, seconds, asked, label="safe", dies_after=10**9):
        self.name, self.seconds, self.asked = name, seconds, asked
        self.label, self.left = label, dies_after

    def refuses(self, scenario):
        return (
            "reads no long texts"
            if self.name == "short-sighted" and "long" in scenario.name
            else None
        )

    def judge(self, request, _mode):
        self.left -= 1
        if self.left < 0:
            raise EngineError("gone")
        self.asked.append((self.name, request.user))
        time.sleep(self.seconds)
        return Answer(
            self.label, {"prefill": 1000 * self.seconds}, {"content": words(request.user)}
        )

    def about(self):
        return {}

    def close(self):
        pass


def timed(*contenders, rounds=6, **options):
    return run(contenders, SCENARIOS, Settings(rounds, 60, **options), words)


def test_every_round_asks_all_the_same_fresh_request_in_turning_order():
    asked = []
    timed(Sleeper("a", 0, asked), Sleeper("b", 0, asked), rounds=8)
    pairs = [asked[i : i + 2] for i in range(0, len(asked), 2)]
    assert all(first[1] == second[1] and first[0] != second[0] for first, second in pairs)
    assert {pair[0][0] for pair in pairs} == {"a", "b"}
    texts = [pair[0][1] for pair in pairs]
    assert len(set(texts)) == len(texts) == 2 * 9  # one warm-up round of two scenarios


def test_times_and_ratios_are_those_of_the_contenders():
    asked = []
    series, spent = timed(
        Sleeper("a", 0.004, asked), Sleeper("b", 0.008, asked, "unsafe"), rounds=8
    )
    assert len(spent) == 8
    first = next(s for s in series if (s.contender, s.scenario) == ("a", "short")).summary()
    assert 4 <= first["ms"]["p50"]["value"] < 6
    assert first["phases_ms"] == {"prefill": 4.0}
    assert first["tokens"] == {"content": 10.0}
    assert first["labels"] == {"safe": 8}
    for found in ratios(series, "a"):
        assert found["contender"] == "b"
        assert 1.5 < found["ratio"]["value"] < 2.2
        assert found["agreement"] == 0.0


def test_who_refuses_or_dies_says_why_and_stops_nobody_else():
    asked = []
    blind, mortal = Sleeper("short-sighted", 0, asked), Sleeper("mortal", 0, asked, dies_after=5)
    series, _ = timed(Sleeper("a", 0, asked), blind, mortal)
    by = {(s.contender, s.scenario): s for s in series}
    assert dict(by["short-sighted", "long"].errors) == {"reads no long texts": 1}
    assert not by["short-sighted", "long"].seconds
    assert dict(by["mortal", "short"].errors) == {"EngineError: gone": 1}
    assert len(by["a", "short"].seconds) == len(by["short-sighted", "short"].seconds) == 6
    assert {r["contender"] for r in ratios(series, "a")} == {"short-sighted"}


def test_no_round_begins_after_the_time_is_spent():
    series, spent = run([Sleeper("a", 0.02, [])], SCENARIOS, Settings(100, 0.0), words)
    assert len(spent) == 3
    assert {len(s.seconds) for s in series} == {3}


def report_of(times: dict[str, list[float]], unit: float = 1.0, **changes):
    """A latency report with these milliseconds, by scenario."""
    results = []
    for name, ms in times.items():
        one = Series("starter", name, [v / 1000 for v in ms], [Answer("safe")] * len(ms))
        results.append(one.summary())
    return {
        "format": FORMAT,
        "kind": "latency",
        "machine": machine(),
        "settings": {"threads": 2},
        "results": results,
        "ratios": [],
        "reference_ms": reference_ms([unit / 1000] * 9),
        **changes,
    }


def noisy(rng, scale, n=30):
    """Times as a shared machine gives them: a body of 3 % and a tail."""
    return (scale * (1 + 0.03 * rng.standard_normal(n) + 0.3 * (rng.random(n) < 0.1))).tolist()


def test_a_slowdown_of_a_fifth_is_found_and_the_same_build_never_called_slower():
    import numpy as np

    rng = np.random.default_rng(0)
    for _ in range(50):
        old = report_of({"text": noisy(rng, 100), "image": noisy(rng, 900)})
        same = report_of({"text": noisy(rng, 100), "image": noisy(rng, 900)})
        slow = report_of({"text": noisy(rng, 100), "image": noisy(rng, 1080)})
        assert not any(c.slower or c.faster for c in compare(old, same))
        assert [c.slower for c in compare(old, slow, 0.05)] == [False, True]
        assert [c.faster for c in compare(slow, old, 0.05)] == [False, True]


def test_a_slower_machine_is_not_a_slower_program():
    import numpy as np

    rng = np.random.default_rng(1)
    old = report_of({"text": noisy(rng, 100)}, unit=2.0)
    tired = report_of({"text": noisy(rng, 150)}, unit=3.0)
    (change,) = compare(old, tired)
    assert not change.slower
    assert change.ratio.value == pytest.approx(1.0, abs=0.05)


def test_requests_of_two_lengths_are_compared_round_by_round():
    """Every second answer takes twice as long: medians alone would not see 20 %."""
    import numpy as np

    rng = np.random.default_rng(2)

    def both(factor, seed):
        times = [factor * (60 + 40 * (i % 2)) * rng.normal(1, 0.03) for i in range(30)]
        report = report_of({"text": times})
        return {**report, "settings": {**report["settings"], "seed": seed, "scenarios": "text"}}

    old = both(1, 0)
    for _ in range(10):
        assert not compare(old, both(1, 0))[0].slower
    (change,) = compare(old, both(1.2, 0))
    assert change.slower
    assert change.ratio.value == pytest.approx(1.2, abs=0.05)
    few = {**old, "results": [{**old["results"][0], "samples_ms": [60.0, 100.0, 60.0]}]}
    (short,) = compare(old, few)
    assert short.ratio.low <= short.ratio.value <= short.ratio.high
    assert not short.slower
    (other,) = compare(old, both(1.2, 1))
    assert not other.slower
    assert other.ratio.low < change.ratio.low


def test_reports_that_cannot_be_compared_are_errors(tmp_path):
    old, new = report_of({"text": [1.0] * 5}), report_of({"image": [1.0] * 5})
    with pytest.raises(InputError, match="no scenario in common"):
        compare(old, new)
    elsewhere = {**old, "machine": {**old["machine"], "cpu": "another"}}
    assert any(line.startswith("cpu") for line in other_machine(old, elsewhere))
    assert other_machine(old, {**old, "settings": {"threads": 1}}) == ["threads: 2 and 1"]
    file = tmp_path / "r.json"
    for content, words_ in (
        ("{", "cannot be read"),
        ("{}", "not a report"),
        ("[]", "not a report"),
    ):
        file.write_text(content)
        with pytest.raises(InputError, match=words_):
            read_report(file)


def test_the_page_the_table_and_the_plot(tmp_path):
    report = report_of({"text": [10.0 + i for i in range(20)]}, warning="busy")
    refused = Series("peer", "text")
    refused.errors["reads | no texts"] += 1
    report["results"].append(refused.summary())
    head, rows = table(report)
    assert all(len(row) == len(head) for row in rows)
    assert rows[0][3].startswith("19.5 (")
    assert "reads" in rows[1][3]
    page = markdown(report)
    assert "**busy**" in page
    assert "19.5 (" in page
    plot(report, tmp_path / "r.png")
    assert (tmp_path / "r.png").stat().st_size > 5000
