"""Moderator: a request → tried pictures → a worker's verdict → the audit log → the client.

A verdict leaves the server only after the audit log has taken it.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from proguard_edge.child import Child, Make
from proguard_edge.errors import (
    AuditError,
    BusyError,
    ImageError,
    PolicyError,
    ProGuardEdgeError,
    StartingError,
    WorkerError,
)
from proguard_edge.policy import Policy
from proguard_edge.prompt import Mode
from proguard_edge.request import Request
from proguard_edge.serve.audit import AuditLog
from proguard_edge.serve.metrics import Metrics, Recent
from proguard_edge.serve.pool import Answer, Limits, Pool
from proguard_edge.serve.settings import Settings
from proguard_edge.serve.workers import (
    DecoderSpec,
    GuardFacts,
    Job,
    make_decoder,
    make_guard,
)
from proguard_edge.verdict import Verdict

SYNC_S = 1.0
DEFAULT = "default"


@dataclass(frozen=True)
class Caller:
    """Whose request it is: its id, the name of the API key, the route."""

    request_id: str
    key: str | None
    route: str


class Moderator:
    """Owns the workers, the decoders and the audit log. Belongs to one event loop."""

    def __init__(self, settings: Settings, make: Make = make_guard) -> None:
        """make: what the workers run."""
        self.settings = settings
        guard, limits = settings.guard, settings.limits
        self._guard = guard
        self.pool = Pool(lambda: Child(make, self._guard, "the worker"), settings.workers, limits)
        decoding = Limits(
            queue=1024,
            max_wait_s=limits.deadline_s,
            deadline_s=limits.deadline_s,
            start_s=60,
            hang_s=settings.decode_s,
        )
        self._decoders = Pool(
            lambda: Child(make_decoder, DecoderSpec(), "the image decoder"),
            settings.decoders,
            decoding,
        )
        self.streams = 0
        self.metrics, self.recent = Metrics(self.pool), Recent()
        self.audit: AuditLog | None = None
        self._audit_works = True
        self._syncing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the audit log, start the children. Raises ArtifactError, AuditError, …"""
        if self.settings.audit is not None:
            self.audit = AuditLog(self.settings.audit, self.settings.audit_key)
        facts, _ = await asyncio.gather(self.pool.start(), self._decoders.start())
        # A worker that comes back must be the same: the folder may hold another artifact by then.
        self._guard = replace(self._guard, digest=facts.digest)
        self._note(
            {"event": "start", "artifact": facts.digest, "policy": self.default_policy.digest()}
        )
        self._syncing = asyncio.create_task(self._sync())

    async def stop(self) -> None:
        """End the children, close the audit log."""
        await asyncio.gather(self.pool.stop(), self._decoders.stop())
        if self._syncing is not None:
            self._syncing.cancel()
        if self.audit is not None:
            with suppress(AuditError):
                self._note({"event": "stop"})
            self.audit.close()

    @property
    def facts(self) -> GuardFacts:
        """What the workers' guard is."""
        facts: GuardFacts = self.pool.facts
        return facts

    @property
    def default_policy(self) -> Policy:
        """Judges requests that name none."""
        return self.settings.default_policy or self.facts.policy

    @property
    def ready(self) -> bool:
        """Whether a request would be judged now."""
        return self.pool.ready > 0 and self._audit_works

    def policy(self, name: str | None) -> Policy:
        """The policy of that name, or the one for requests that name none. Raises PolicyError."""
        if name is None or name == DEFAULT:
            return self.default_policy
        if name not in self.settings.policies:
            known = ", ".join((DEFAULT, *self.settings.policies))
            raise PolicyError(f"no policy {name!r:.80}; there are {known}")
        return self.settings.policies[name]

    async def judge(
        self,
        request: Request,
        caller: Caller,
        *,
        policy: Policy | None = None,
        mode: Mode | None = None,
        bulk: bool = False,
    ) -> Verdict:
        """The verdict, once it stands in the audit log. Raises ProGuardEdgeError.

        bulk: a row of a list or of a stream, see `Pool`.
        """
        begin = time.perf_counter()
        policy, mode = policy or self.default_policy, mode or self.settings.default_mode
        entry = self._entry(request, caller, policy, mode)
        try:
            answer = await self._answer(Job(request, policy, mode), bulk)
            verdict = Verdict.from_dict(answer.value)
            self._note({**entry, **_said(verdict)})
        except ProGuardEdgeError as error:
            self.failed(error, caller, entry)
            raise
        except asyncio.CancelledError:
            with suppress(AuditError):
                self._note({**entry, "error": "the client went away"})
            raise
        seconds = time.perf_counter() - begin
        own = policy is self.default_policy or policy in self.settings.policies.values()
        self.metrics.verdict(verdict, answer, seconds, own)
        self.recent.verdict(caller.request_id, verdict, seconds)
        return verdict

    def failed(
        self, error: ProGuardEdgeError, caller: Caller, entry: dict[str, Any] | None = None
    ) -> None:
        """Count and note a request that got no verdict. Raises AuditError."""
        kind = type(error).__name__
        self.metrics.error(kind)
        self.recent.error(caller.request_id, kind)
        # Under a flood the log would fill the disk with requests that nobody looked at.
        if not isinstance(error, BusyError | AuditError):
            named = entry or {"event": "error", "request": caller.request_id, "key": caller.key}
            self._note({**named, "error": kind})

    def refuse(self, error: ProGuardEdgeError, caller: Caller) -> ProGuardEdgeError:
        """`failed` for content that never came to `judge`; the error to answer with."""
        try:
            self.failed(error, caller)
        except AuditError as worse:
            return worse
        return error

    async def _answer(self, job: Job, bulk: bool) -> Answer:
        until = asyncio.get_running_loop().time() + self.settings.limits.deadline_s
        await self._try_images(job.request, bulk, until)
        return await self.pool.submit(job, bulk=bulk, until=until)

    async def _try_images(self, request: Request, bulk: bool, until: float) -> None:
        for number, image in enumerate(request.images, 1):
            try:
                await self._decoders.submit(image, bulk=bulk, until=until)
            except StartingError:
                raise
            except WorkerError as error:
                raise ImageError(f"image {number}: it ended its decoder ({error})") from None

    def _entry(
        self, request: Request, caller: Caller, policy: Policy, mode: Mode
    ) -> dict[str, Any]:
        if self.audit is None:
            return {}
        content: dict[str, Any] = {}
        for name, text in (("user", request.user), ("response", request.response)):
            if text is not None:
                content[name] = self.audit.digest(text)
        if request.images:
            content["images"] = [
                self.audit.digest(i) for i in request.images if isinstance(i, bytes)
            ]
        return {
            "event": "verdict",
            "request": caller.request_id,
            "key": caller.key,
            "route": caller.route,
            "content": content,
            "policy": policy.digest(),
            "mode": mode,
        }

    def _note(self, entry: dict[str, Any]) -> None:
        if self.audit is None:
            return
        try:
            self.audit.append(entry)
        except AuditError:
            self._audit_works = False
            raise
        self._audit_works = True

    async def _sync(self) -> None:
        """Bring the log to the disk each second; after a failure, see whether it works again."""
        while self.audit is not None:
            await asyncio.sleep(SYNC_S)
            try:
                await asyncio.to_thread(self.audit.sync)
                if not self._audit_works:
                    self._note({"event": "audit log writable again"})
            except AuditError:
                self._audit_works = False


def _said(verdict: Verdict) -> dict[str, Any]:
    risk = verdict.category
    return {
        "artifact": verdict.artifact,
        "unsafe": verdict.unsafe,
        "scores": {
            "request": verdict.request.score,
            "response": verdict.response.score if verdict.response else None,
        },
        "category": None if risk is None else {"id": risk.id, "name": risk.name},
    }
