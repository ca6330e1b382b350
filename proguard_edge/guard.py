"""Guard: request → pieces → prompt → engine → answer → verdict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from proguard_edge.answer import FreeNames
from proguard_edge.artifact import Artifact, check_digests, check_signature, verify_once
from proguard_edge.cache import Cache
from proguard_edge.closing import Closing
from proguard_edge.engine import Engine, Server, load_engine
from proguard_edge.engine.blas import one_blas_thread
from proguard_edge.errors import ArtifactError, LanguageError, ProGuardEdgeError
from proguard_edge.image import ImageProcessor, Patches
from proguard_edge.image_text import Eyes, Reading
from proguard_edge.judge import Judge, Usage, verdict_of
from proguard_edge.language import unread_language
from proguard_edge.pieces import split_request, views_of
from proguard_edge.policy import Policy
from proguard_edge.prompt import Mode, PromptEncoder, Template
from proguard_edge.request import Request
from proguard_edge.signature import read_key
from proguard_edge.starter import STARTER
from proguard_edge.thresholds import Thresholds
from proguard_edge.verdict import Verdict

if TYPE_CHECKING:
    from proguard_edge.request import ImageSource

MAX_POLICIES = 32


class Guard(Closing):
    """A loaded artifact that gives verdicts. Threads may share one; they take turns."""

    def __init__(self, artifact: Artifact, engine: Engine, eyes: Eyes | None = None) -> None:
        """eyes: how text in images is read; None = not at all."""
        self.artifact, self.engine = artifact, engine
        self.eyes = eyes or Eyes(artifact.modalities, ocr=False, only=False, threads=0)
        template = Template.load(artifact.path("template.jinja"))
        self.policy = Policy.load(artifact.path("policy.yaml"))
        self._encoder = PromptEncoder(artifact.path("tokenizer.json"), template, self.policy)
        self._judges: dict[str, Judge] = {}
        Thresholds.of(artifact, self.policy, self.policy)

    @classmethod
    def load(
        cls,
        artifact: Path | str | None = None,
        engine: str = "auto",
        *,
        device: str = "auto",
        threads: int = 0,
        verify: bool = False,
        public_key: Path | str | None = None,
        cache: Cache | None = None,
        ocr: bool | None = None,
        image_text_only: bool = False,
        max_miss_rate: float | None = None,
        server: Server | str | None = None,
        served_model: str | None = None,
    ) -> Guard:
        """Open an artifact folder; None is the starter that ships with the package.

        `device`: "cpu", "cuda", or "auto": the GPU where the engine can use one that is there.
        `verify` reads every byte again; otherwise digests are checked on the first use of these
        files. `public_key`: PEM, or a file of it; the artifact must be signed by this key, which is
        checked before anything is loaded from it. `threads`: 0 = all cores. `ocr`: judge text in
        images as text too; None = if the extra `ocr` is installed. `image_text_only`: judge that
        text and not the scene, with any artifact that reads text. `max_miss_rate`: call so much
        "unsafe" that at most this share of unsafe content is missed, as far as the artifact bounds
        it (see `Artifact.bounded`).
        `server`: address of an OpenAI-compatible server with this artifact's weights, for the
        engine "remote"; `served_model`: the model's name there, None = the only one.
        Raises ArtifactError, EngineError; InputError for a key that cannot be read.
        """
        found = Artifact.open(artifact if artifact is not None else STARTER)
        if public_key is not None:
            check_signature(found, read_key(public_key))
        if max_miss_rate is not None:
            found = found.bounded(max_miss_rate)
        eyes = Eyes(found.modalities, ocr, image_text_only, threads)
        cache = cache or Cache.default()
        if verify:
            check_digests(found)
        else:
            verify_once(found, cache)
        if isinstance(server, str):
            server = Server(server, served_model)
        return cls(found, load_engine(found, cache, engine, threads, server, device), eyes)

    def moderate(
        self,
        user: str | None = None,
        image: ImageSource | Iterable[ImageSource] | None = None,
        response: str | None = None,
        *,
        policy: Policy | None = None,
        mode: Mode = "verdict",
    ) -> Verdict:
        """The verdict on a user turn (text, image or both) and the agent's response, if any.

        Raises InputError for content that cannot be judged, ArtifactError for what this artifact
        cannot do, EngineError and AnswerError when no verdict was reached.
        """
        return self.judge(Request.of(user, image, response), policy=policy, mode=mode)

    def moderate_many(
        self,
        requests: Iterable[Request],
        *,
        policy: Policy | None = None,
        mode: Mode = "verdict",
    ) -> Iterator[Verdict | ProGuardEdgeError]:
        """A verdict for each request in order, or the error in its place; none stops the rest."""
        for request in requests:
            try:
                yield self.judge(request, policy=policy, mode=mode)
            except ProGuardEdgeError as error:
                yield error

    def judge(
        self, request: Request, *, policy: Policy | None = None, mode: Mode = "verdict"
    ) -> Verdict:
        """`moderate` for a Request."""
        with one_blas_thread():
            return self._judge(request, policy, mode)

    def _judge(self, request: Request, policy: Policy | None, mode: Mode) -> Verdict:
        begin = perf_counter()
        self._check(request, mode)
        judge = self.judge_of(policy)
        limits = self.artifact.limits
        window, overlap = limits.get("window_tokens", 512), limits.get("overlap_tokens", 64)
        usage, findings, asked = Usage({}, {}), [], []
        reading = Reading(request, self.eyes)
        for part, views in self._looks(request, reading):
            asked.append(part)
            for piece in split_request(part, views, judge.encoder, window, overlap):
                findings.append(judge.find(piece, mode, usage))
        if reading.ms is not None:
            usage.ms["ocr"] = reading.ms
        elapsed = 1000 * (perf_counter() - begin)
        # Everything but the engine: decoding and resizing images, tokenizing, reading answers.
        usage.ms["preprocess"] = elapsed - sum(usage.ms.values())
        usage.ms["total"] = elapsed
        verdict = verdict_of(
            reading.evaluated(), findings, judge.encoder.policy, mode, self.artifact, usage
        )
        for part in asked:
            self._check_languages(part, verdict)
        return verdict

    def _looks(
        self, request: Request, reading: Reading
    ) -> Iterator[tuple[Request, Iterator[Patches]]]:
        """What the model is asked: the request with its views, then the text that stood in them."""
        if reading.only:
            reading.see_text_alone()
        elif request.images:
            yield request, views_of(request.images, self._processor, reading.see)
        else:
            yield request, iter(())
        for part in reading.requests():
            yield part, iter(())

    def _check(self, request: Request, mode: Mode) -> None:
        known, name = self.artifact.modalities, self.artifact.name
        seen = request.images and not self.eyes.only
        if seen and not {"image", "text-image"} & set(known):
            raise ArtifactError(
                f"{name} reads text only, the image was not judged; `proguard-edge export` makes "
                "an artifact that sees from a ProGuard checkpoint, --image-text-only (Python: "
                "image_text_only=True) judges the text in the image alone"
            )
        if (modality := request.modality if seen else "text") not in known:
            raise ArtifactError(f"{name} reads {', '.join(known)}; {modality} was not judged")
        if mode not in self.artifact.modes:
            raise ArtifactError(
                f"{self.artifact.name} has no mode {mode!r}, only {', '.join(self.artifact.modes)}"
            )
        bounded = self.artifact.max_miss_rate is not None
        for part in ("request", "response") if request.response is not None else ("request",):
            if bounded and part not in self.artifact.miss_bounds:
                raise ArtifactError(f"{name} bounds no missed {part}s: judge without a bound")

    def _check_languages(self, request: Request, verdict: Verdict) -> None:
        parts = {
            "request": (request.user, verdict.request),
            "response": (request.response, verdict.response),
        }
        for part, (text, judgement) in parts.items():
            if not text or judgement is None or judgement.label == "unsafe":
                continue
            if language := unread_language(text, self.artifact.languages):
                raise LanguageError(
                    f"the {part} seems to be in {language!r} and {self.artifact.name} reads "
                    f'{", ".join(self.artifact.languages)} only: its "safe" is withheld'
                )

    def judge_of(self, policy: Policy | None = None) -> Judge:
        """Prompts and answers under a policy; None is the artifact's own. Raises ArtifactError."""
        policy = policy or self.policy
        key = policy.digest()
        if key not in self._judges:
            if self.artifact.policy_is_fixed and key != self.policy.digest():
                raise ArtifactError(
                    f"{self.artifact.name} was trained on its own policy and knows no other; "
                    "export a ProGuard checkpoint to use your policy"
                )
            if len(self._judges) >= MAX_POLICIES:
                own = self.policy.digest()
                del self._judges[next(digest for digest in self._judges if digest != own)]
            encoder = self._encoder.with_policy(policy)
            thresholds = Thresholds.of(self.artifact, self.policy, policy)
            self._judges[key] = Judge(
                self.artifact, self.engine, encoder, lambda: self._names, thresholds
            )
        return self._judges[key]

    @cached_property
    def _processor(self) -> ImageProcessor:
        import json

        path = self.artifact.path("processor.json")
        return ImageProcessor.from_json(json.loads(path.read_text(encoding="utf-8")))

    @cached_property
    def _names(self) -> FreeNames:
        """Masks for free category names; built when the first one is needed."""
        return FreeNames(self._encoder.encode_static, self._encoder.pieces)

    def close(self) -> None:
        """Free the engine and the reader."""
        self.engine.close()
        self.eyes.close()
