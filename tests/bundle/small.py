"""Small bundles, made as the large ones are, without wheels."""

from __future__ import annotations

from pathlib import Path

from proguard_edge.bundle.create import Plan, _write
from proguard_edge.signing import keygen

FILES: dict[str, Path | bytes] = {
    "artifacts/a/artifact.json": b"{}\n",
    "artifacts/a/decoder.onnx": bytes(range(256)) * 9,
    "licences/one/LICENSE": b"Do what you want.\n",
    "requirements/runtime.txt": b"one==1 --hash=sha256:00\n",
    "sbom.cdx.json": b'{"components": []}\n',
    "empty": b"",
}


def keys(folder: Path) -> tuple[Path, str]:
    """A pair of keys: the private one's file, the public one's text."""
    folder.mkdir(exist_ok=True)
    keygen(folder / "private.pem", folder / "public.pem")
    return folder / "private.pem", (folder / "public.pem").read_text()


def small_bundle(
    out: Path,
    key: Path | None = None,
    *,
    release: int = 1,
    files: dict[str, Path | bytes] | None = None,
    part: int | None = None,
    python: str = "3.11",
) -> Path:
    """Write it; its path."""
    plan = Plan(
        "small", release, (), (), ("runtime",), Path(), Path(), python=python, max_part_bytes=part
    )
    _write(plan, files or FILES, ["a"], out, key)
    return out
