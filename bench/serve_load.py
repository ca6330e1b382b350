"""A server under load and under fire: is every answer right or an error, and how long does it take?

    python -m proguard_edge.bench.serve_load --rows ROWS --minutes 5 --out load.json --plot load.png

Starts `proguard-edge serve`, measures the capacity of one client, and offers 0.5, 1 and 3 times as
much, as Poisson arrivals and from a closed loop of clients that pause between requests. Every
verdict is compared with the one that a Guard of this process gives. `--kills N` runs one more load
at capacity and kills the worker N times. Prints a table; the last line is JSON.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import httpx

from proguard_edge.batch import read_rows
from proguard_edge.bench.machine import machine
from proguard_edge.bench.served import Server
from proguard_edge.cli.exit import handle_errors
from proguard_edge.errors import ProGuardEdgeError
from proguard_edge.guard import Guard

SHARES = (0.5, 1.0, 3.0)
CLIENTS = 16
MEMORY_EVERY_S = 2.0
ROUNDS = 60


@dataclass(frozen=True)
class Expected:
    """A text, and the verdict on it in process: labels, category."""

    text: str
    verdict: tuple[str, str | None]


@dataclass
class Result:
    """Of one load. latencies: seconds of verdicts from arrival, in the order of their ends."""

    name: str
    offered: float
    latencies: list[float] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    lost: int = 0
    seconds: float = 0.0
    memory: list[tuple[float, float]] = field(default_factory=list)
    kills: int = 0

    def summary(self) -> dict[str, Any]:
        """Plain data; times in ms."""
        ordered = sorted(self.latencies)
        asked = sum(self.codes.values()) + self.lost
        found: dict[str, Any] = {
            "load": self.name,
            "offered_per_second": round(self.offered, 3),
            "seconds": round(self.seconds, 1),
            "requests": asked,
            "codes": dict(self.codes),
            "rejected_share": round(self.codes["429"] / max(1, asked), 4),
            "wrong": self.wrong,
            "lost": self.lost,
            "kills": self.kills,
            "memory_mb": [[round(t, 1), round(mb, 1)] for t, mb in self.memory],
        }
        for share in (50, 90, 99):
            at = min(len(ordered) - 1, len(ordered) * share // 100)
            found[f"p{share}_ms"] = round(1000 * ordered[at], 1) if ordered else None
        return found


async def ask(client: httpx.AsyncClient, url: str, item: Expected, into: Result) -> None:
    """One request, counted as a verdict (right or wrong), as an error, or as lost."""
    begin = time.perf_counter()
    try:
        answer = await client.post(f"{url}/v1/verdicts", json={"user": item.text})
    except httpx.TransportError as error:
        into.lost += 1
        into.codes[type(error).__name__] += 0
        return
    into.codes[str(answer.status_code)] += 1
    if answer.status_code != 200:
        return
    into.latencies.append(time.perf_counter() - begin)
    raw = answer.json()
    if (raw["request"]["label"], (raw["category"] or {}).get("id")) != item.verdict:
        into.wrong += 1


async def poisson(
    client: httpx.AsyncClient, url: str, items: Sequence[Expected], seconds: float, into: Result
) -> None:
    """Requests that arrive whether or not the last ones were answered."""
    draw, begin, due = random.Random(1), time.perf_counter(), 0.0
    tasks: set[asyncio.Task[None]] = set()
    while (due := due + draw.expovariate(into.offered)) < seconds:
        await asyncio.sleep(max(0.0, begin + due - time.perf_counter()))
        task = asyncio.create_task(ask(client, url, draw.choice(items), into))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)


async def closed(
    client: httpx.AsyncClient, url: str, items: Sequence[Expected], seconds: float, into: Result
) -> None:
    """Clients that wait for their answer, and pause so that they would ask for `into.offered` a
    second if answers took no time; all of them together never wait for more than `CLIENTS`."""
    end = time.perf_counter() + seconds

    async def one(seed: int) -> None:
        draw = random.Random(seed)
        while True:
            await asyncio.sleep(draw.expovariate(into.offered / CLIENTS))
            if time.perf_counter() >= end:
                return
            await ask(client, url, draw.choice(items), into)

    await asyncio.gather(*map(one, range(CLIENTS)))


async def under(server: Server, load: Any, into: Result, kills: int, seconds: float) -> Result:
    """Run `load`, watching the memory and killing the worker `kills` times."""
    begin = time.perf_counter()

    async def watch() -> AsyncIterator[None]:
        while True:
            into.memory.append((time.perf_counter() - begin, server.memory_mb()))
            await asyncio.sleep(MEMORY_EVERY_S)
            yield

    async def observe() -> None:
        async for _ in watch():
            pass

    async def murder() -> None:
        for _ in range(kills):
            await asyncio.sleep(seconds / (kills + 1))
            into.kills += server.kill_worker()

    others = [asyncio.create_task(observe()), asyncio.create_task(murder())]
    await load
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    into.seconds = time.perf_counter() - begin
    return into


async def measure(
    server: Server, items: Sequence[Expected], minutes: float, kills: int
) -> dict[str, Any]:
    """All loads; the capacity before them."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=50)
    async with httpx.AsyncClient(timeout=120, limits=limits, trust_env=False) as client:
        await server.ready(client)
        alone = Result("one client", 0.0)
        begin = time.perf_counter()
        for number in range(ROUNDS):
            await ask(client, server.url, items[number % len(items)], alone)
        alone.seconds = time.perf_counter() - begin
        capacity = len(alone.latencies) / alone.seconds
        results, seconds = [alone], 60 * minutes
        for share in SHARES:
            for drive in (poisson, closed):
                into = Result(f"{drive.__name__} {share:g}×", share * capacity)
                load = drive(client, server.url, items, seconds, into)
                results.append(await under(server, load, into, 0, seconds))
                _say(results[-1])
        if kills:
            into = Result(f"poisson 1×, {kills} kills", capacity)
            load = poisson(client, server.url, items, seconds, into)
            results.append(await under(server, load, into, kills, seconds))
            _say(results[-1])
            await server.ready(client)
    return {"capacity_per_second": round(capacity, 3), "results": [r.summary() for r in results]}


def expected(rows: Path, artifact: Path | None, count: int) -> list[Expected]:
    """Texts of the rows that a guard of this process judges, with its verdicts."""
    found: list[Expected] = []
    with Guard.load(artifact) as guard:
        for row in read_rows(rows):
            text = row.row.get("user") if isinstance(row.row, dict) else None
            if not isinstance(text, str):
                continue
            try:
                verdict = guard.moderate(text)
            except ProGuardEdgeError:
                continue
            category = verdict.category.id if verdict.category else None
            found.append(Expected(text, (verdict.request.label, category)))
            if len(found) == count:
                break
    return found


def plot(report: dict[str, Any], path: Path) -> None:
    """Latencies and rejected shares of the loads, and the memory over the time of all of them."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    results = report["results"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 4.5), layout="constrained")
    for offset, share in enumerate((50, 90, 99)):
        heights = [r[f"p{share}_ms"] or 0 for r in results]
        left.bar(
            [i + 0.27 * (offset - 1) for i in range(len(results))], heights, 0.25, label=f"p{share}"
        )
    left.axhline(3 * results[0]["p50_ms"], color="0.5", linestyle=":", label="3 × p50 alone")
    names = [f"{r['load']}\n{r['rejected_share']:.0%} rejected" for r in results]
    left.set_xticks(range(len(results)), names, rotation=30, ha="right", fontsize=8)
    left.set_ylabel("ms from arrival to verdict")
    left.legend()
    begin = 0.0
    for result in results:
        points = result["memory_mb"]
        if points:
            right.plot(
                [begin + t for t, _ in points], [mb for _, mb in points], label=result["load"]
            )
            begin += points[-1][0]
    right.set_ylim(bottom=0)
    right.set_xlabel("seconds of load")
    right.set_ylabel("resident memory of all processes, MB")
    right.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def _say(result: Result) -> None:
    line = {k: v for k, v in result.summary().items() if k != "memory_mb"}
    click.echo(json.dumps(line, ensure_ascii=False), err=True)


@click.command()
@click.option("--rows", type=click.Path(path_type=Path), required=True, help="JSONL with `user`.")
@click.option("--artifact", type=click.Path(path_type=Path))
@click.option("--texts", type=click.IntRange(1), default=100, show_default=True)
@click.option("--minutes", type=click.FloatRange(0.01), default=5.0, show_default=True)
@click.option("--kills", type=click.IntRange(0), default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
@click.option("--plot", "plot_file", type=click.Path(path_type=Path))
@click.argument("options", nargs=-1)
@handle_errors
def main(
    rows: Path,
    artifact: Path | None,
    texts: int,
    minutes: float,
    kills: int,
    out: Path | None,
    plot_file: Path | None,
    options: tuple[str, ...],
) -> None:
    """OPTIONS behind `--` go to `proguard-edge serve`."""
    items = expected(rows, artifact, texts)
    server = Server(artifact, options)
    try:
        measured = asyncio.run(measure(server, items, minutes, kills))
    finally:
        code = server.stop()
    shown = " ".join(["python -m proguard_edge.bench.serve_load", *sys.argv[1:]])
    report = {"command": shown, "machine": machine(), **measured, "exit_code": code}
    if out is not None:
        out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    if plot_file is not None:
        plot(report, plot_file)
    click.echo(json.dumps(report, ensure_ascii=False))


if __name__ == "__main__":
    main()
