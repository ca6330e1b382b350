"""One scan from its plan to its counts: what is finished is kept, and never judged again."""

from __future__ import annotations

import json
from collections.abc import Mapping

from proguard_edge.errors import InputError
from proguard_edge.scan.plan import Plan
from proguard_edge.scan.store import Store
from proguard_edge.scan.tally import Tally
from proguard_edge.scan.worker import Done, Progress

# So many failed shards in a row, and those to come would fail as well.
MAX_FAILURES = 3


class GiveUp(Exception):
    """Too many shards failed one after the other; `Scan.failures` says why."""


class Scan:
    """A plan and its folder; `todo` is what no run has finished yet.

    Raises InputError when the folder belongs to another plan, or cannot be read or written.
    """

    def __init__(self, store: Store, plan: Plan) -> None:
        store.begin(plan)
        self.store, self.plan = store, plan
        self.tally = Tally()
        self.failures: list[str] = []
        self._in_a_row = 0
        self._done = store.done(plan.output)
        shards = list(plan.shards())
        for shard in shards:
            if shard.number in self._done:
                self._count_again(shard.number, shard.rows)
        self.todo = [shard for shard in shards if shard.number not in self._done]
        self.found_rows = self.tally.rows

    def _count_again(self, number: int, rows: int) -> None:
        before = self.tally.rows
        self.tally.add_all(self.store.read_shard(number, self.plan.output))
        if self.tally.rows - before != rows:
            raise InputError(
                f"{self.store.folder}: shard {number} has {self.tally.rows - before} of {rows} "
                "rows; remove its file and run again"
            )

    def finished(self, done: Done) -> None:
        """Keep and count a shard's lines, or note its failure.

        Raises InputError when they cannot be written, GiveUp after `MAX_FAILURES` in a row.
        """
        if done.failure:
            self.failures.append(done.failure)
            self._in_a_row += 1
            if self._in_a_row >= MAX_FAILURES:
                raise GiveUp
            return
        self._in_a_row = 0
        self.store.write_shard(done.number, self.plan.output, done.lines)
        self._done.add(done.number)
        self.tally.add_all(map(json.loads, done.lines.splitlines()))

    def progress(self, running: Mapping[int, Progress] | None = None) -> Progress:
        """Counts of the finished shards, and of the running ones among those that are told."""
        labels = self.tally.labels
        under_way = [p for n, p in (running or {}).items() if n not in self._done]
        return Progress(
            self.tally.rows + sum(p.rows for p in under_way),
            labels["unsafe"] + sum(p.unsafe for p in under_way),
            labels["error"] + sum(p.errors for p in under_way),
        )

    @property
    def missing(self) -> int:
        """Rows without a line."""
        return self.plan.rows - self.tally.rows
