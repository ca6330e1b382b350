"""Whole reports, as the commands write them: machine, settings, contenders, results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import count as numbers
from pathlib import Path
from typing import Any

from proguard_edge.bench.ceilings import decoder_work, described, measure_ceilings, roofline
from proguard_edge.bench.compare import FORMAT
from proguard_edge.bench.contenders import Contender, Ours, encoder_of, load
from proguard_edge.bench.latency import Series, Settings, ratios, reference_ms, run
from proguard_edge.bench.machine import Energy, gpu_memory_mb, machine, peak_mb, warning
from proguard_edge.bench.scenarios import Scenario, load_scenarios
from proguard_edge.bench.startup import measure_startup
from proguard_edge.bench.throughput import MIXED, Load, drive, endless
from proguard_edge.errors import InputError
from proguard_edge.prompt import PromptEncoder
from proguard_edge.request import Request


def latency_report(
    specs: Sequence[str],
    scenarios: str,
    settings: Settings,
    threads: int,
    report: Callable[[int, int], None] = lambda _done, _of: None,
) -> dict[str, Any]:
    """Time `specs` (see `contenders.load`; the first is what the others are compared with).

    Raises InputError, ArtifactError, EngineError.
    """
    chosen, found = load_scenarios(scenarios), _frame("latency")
    with ExitStack() as stack:
        contenders = _contenders(specs, threads, stack)
        first = contenders[0]
        if not isinstance(first, Ours):
            raise InputError("the first contender must be an artifact")
        counter = counter_of(first.guard.judge_of().encoder)
        energy = Energy()
        series, spent = run(contenders, chosen, settings, counter, report)
        joules = energy.take()
        found |= {
            "settings": {"threads": threads, "scenarios": scenarios, "seed": settings.seed},
            "contenders": [{"name": c.name, **c.about()} for c in contenders],
            "results": [one.summary() for one in series if _takes_part(one, chosen, first)],
            "ratios": ratios(series, first.name),
            "reference_ms": reference_ms(spent),
            "memory": {"peak_rss_mb": peak_mb(), "gpu_mb": gpu_memory_mb()},
            "energy_j": joules,
        }
        found |= _against_ceilings(first, found["results"], threads)
    return found


def throughput_report(
    spec: str,
    loads: Sequence[Load],
    data: Path | None,
    threads: int,
    report: Callable[[str, int], None] = lambda _load, _done: None,
) -> dict[str, Any]:
    """Drive one contender with each load in turn. Raises as `latency_report` does."""
    found = _frame("throughput")
    with ExitStack() as stack:
        (contender,) = _contenders([spec], threads, stack)
        encoder = encoder_of(contender)
        if encoder is None:
            raise InputError("throughput is that of an artifact")
        results = []
        for one in loads:
            requests = _rows(data, contender) if data else _mixed(counter_of(encoder), one.seed)
            contender.judge(next(requests), MIXED)
            outcome = drive(contender, requests, one, lambda done, one=one: report(one.name, done))
            results.append(outcome.summary())
        found |= {
            "settings": {"threads": threads, "data": None if data is None else data.name},
            "contenders": [{"name": contender.name, **contender.about()}],
            "results": results,
            "memory": {"peak_rss_mb": peak_mb(), "gpu_mb": gpu_memory_mb()},
        }
    return found


def startup_report(artifact: Path | None, runs: int) -> dict[str, Any]:
    """See `startup.measure_startup`."""
    return _frame("startup") | {"results": measure_startup(artifact, runs)}


def counter_of(encoder: PromptEncoder) -> Callable[[str], int]:
    """Counts the tokens of a text, its kind of prompt left out."""
    bare = len(encoder.content("x", None).content_ids) - 1
    return lambda text: len(encoder.content(text, None).content_ids) - bare


def _frame(kind: str) -> dict[str, Any]:
    block = machine()
    return {"format": FORMAT, "kind": kind, "machine": block, "warning": warning(block)}


def _contenders(specs: Sequence[str], threads: int, stack: ExitStack) -> list[Contender]:
    made: list[Contender] = []
    for spec in specs:
        encoder = encoder_of(made[0]) if made else None
        contender = load(spec, encoder, threads)
        stack.callback(contender.close)
        if contender.name in {other.name for other in made}:
            contender.name = f"{contender.name} ({len(made) + 1})"
        made.append(contender)
    return made


def _takes_part(one: Series, scenarios: Sequence[Scenario], first: Contender) -> bool:
    """Whether a row of the report is worth showing: not where the first contender is out, too."""
    scenario = next(s for s in scenarios if s.name == one.scenario)
    return first.refuses(scenario) is None or one.contender == first.name


def _against_ceilings(
    first: Ours, results: Sequence[dict[str, Any]], threads: int
) -> dict[str, Any]:
    ceilings, work = measure_ceilings(threads), decoder_work(first.guard.artifact)
    found: dict[str, Any] = {"ceilings": described(ceilings, work)}
    if work is not None:
        points = [
            {"scenario": one["scenario"], **point}
            for one in results
            if one["contender"] == first.name and (point := roofline(one, work, ceilings))
        ]
        found["roofline"] = points
    return found


def _mixed(counter: Callable[[str], int], seed: int) -> Iterator[Request]:
    """Texts of 10 to 240 tokens, mostly short, half of them alarming."""
    sizes = (10, 20, 30, 40, 60, 60, 80, 120, 180, 240)
    for number in numbers():
        size = sizes[(number * 7 + number // len(sizes)) % len(sizes)]
        yield Scenario(MIXED.name, user_tokens=size).request(number, counter, seed)


def _rows(data: Path, contender: Contender) -> Iterator[Request]:
    """Requests of labelled rows over and over, of those that the contender reads."""
    from proguard_edge.train.sources import read_rows

    found = []
    for row in read_rows(data):
        size = {"image_pixels": 1} if row.image else {"user_tokens": 1}
        shape = Scenario(row.id, response_tokens=int(bool(row.response)), **size)
        if contender.refuses(shape) is None:
            found.append(Request(row.user, row.response, (row.image,) if row.image else ()))
    if not found:
        raise InputError(f"{data}: no row that {contender.name} reads")
    return endless(found)
