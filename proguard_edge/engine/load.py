"""Which engine runs an artifact. Engines are imported when they are asked for, never before."""

from __future__ import annotations

from dataclasses import dataclass

from proguard_edge.artifact import Artifact
from proguard_edge.cache import Cache
from proguard_edge.engine.base import Engine
from proguard_edge.errors import ArtifactError, EngineError

ENGINES = ("auto", "onnx", "transformers", "tensorrt_llm", "remote")
DEVICES = ("auto", "cpu", "cuda")
# Of each engine, what it can be told; "auto" goes with all of them.
_DEVICES = {"onnx": ("cpu",), "transformers": ("cpu", "cuda"), "tensorrt_llm": ("cuda",)}


@dataclass(frozen=True)
class Server:
    """Where the engine `remote` finds its model.

    url: up to and with `/v1`. model: its name there; None = the only one. top_logprobs: tokens to
    list at each step, which the server limits (20 is common). timeout_s: seconds to an answer.
    """

    url: str
    model: str | None = None
    top_logprobs: int = 20
    timeout_s: float = 60.0


def load_engine(
    artifact: Artifact,
    cache: Cache,
    engine: str = "auto",
    threads: int = 0,
    server: Server | None = None,
    device: str = "auto",
) -> Engine:
    """`engine`: one of ENGINES; "auto" is what the artifact was made for. `threads`: 0 = all cores.

    "remote" runs any artifact, on the `server`. `device`: one of DEVICES; "auto" is a GPU where the
    engine can use one that is there. Raises ArtifactError when the artifact lacks that engine's
    files, EngineError when the engine cannot be loaded, or not there.
    """
    kind = artifact.engine if engine == "auto" else engine
    if kind not in ENGINES:
        raise ArtifactError(f"no engine {kind!r}; known are {', '.join(ENGINES)}")
    if (kind == "remote") != (server is not None):
        raise ArtifactError("the engine `remote` needs a server, and no other engine takes one")
    if kind not in (artifact.engine, "remote"):
        raise ArtifactError(f"this artifact holds files for {artifact.engine}, not for {kind}")
    _check_device(kind, device)
    try:
        return _loaded(kind, artifact, cache, threads, server, device)
    except (KeyError, TypeError, ValueError) as error:
        what = f"{type(error).__name__}: {error}"
        raise ArtifactError(f"{artifact.folder}: the model is not described: {what}") from None


def _check_device(kind: str, device: str) -> None:
    """Raises EngineError where that engine has no such device."""
    if device not in DEVICES:
        raise EngineError(f"no device {device!r}; known are {', '.join(DEVICES)}")
    can = _DEVICES.get(kind, ())
    if device != "auto" and device not in can:
        where = f"runs on {can[0]} alone" if can else "runs where its server does"
        raise EngineError(f"the engine {kind} {where}: --device {can[0] if can else 'auto'}")


def _loaded(
    kind: str, artifact: Artifact, cache: Cache, threads: int, server: Server | None, device: str
) -> Engine:
    if server is not None:
        from proguard_edge.engine.remote import RemoteEngine

        return RemoteEngine(artifact, server)
    if kind == "onnx":
        from proguard_edge.engine.onnx import OnnxEngine

        return OnnxEngine(artifact, cache, threads)
    if kind == "tensorrt_llm":
        from proguard_edge.engine.tensorrt_llm import TensorRTLLMEngine

        return TensorRTLLMEngine(artifact)
    from proguard_edge.engine.transformers import TransformersEngine

    return TransformersEngine(artifact, threads, device)
