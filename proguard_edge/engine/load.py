"""Which engine runs an artifact. Engines are imported when they are asked for, never before."""

from __future__ import annotations

from proguard_edge.artifact import Artifact
from proguard_edge.cache import Cache
from proguard_edge.engine.base import Engine
from proguard_edge.errors import ArtifactError

ENGINES = ("auto", "onnx", "transformers")


def load_engine(artifact: Artifact, cache: Cache, engine: str = "auto", threads: int = 0) -> Engine:
    """`engine`: one of ENGINES; "auto" is what the artifact was made for. `threads`: 0 = all cores.

    Raises ArtifactError when the artifact lacks that engine's files, EngineError when the engine
    cannot be loaded.
    """
    kind = artifact.engine if engine == "auto" else engine
    if kind not in ENGINES:
        raise ArtifactError(f"no engine {kind!r}; known are {', '.join(ENGINES)}")
    if kind != artifact.engine:
        raise ArtifactError(f"this artifact holds files for {artifact.engine}, not for {kind}")
    if kind == "onnx":
        from proguard_edge.engine.onnx import OnnxEngine

        try:
            return OnnxEngine(artifact, cache, threads)
        except (KeyError, TypeError, ValueError) as error:
            what = f"{type(error).__name__}: {error}"
            raise ArtifactError(f"{artifact.folder}: the model is not described: {what}") from None
    from proguard_edge.engine.transformers import TransformersEngine

    return TransformersEngine(artifact, threads)
