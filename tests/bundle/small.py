"""Small bundles, made as the large ones are, without wheels."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

from proguard_edge.bundle.create import Plan, _write
from proguard_edge.signing import keygen

SCRIPTS = "[console_scripts]\nproguard-edge = proguard_edge.__main__:main\n"
MAIN = """
import os, sys
def main():
    if sys.argv[1:3] == ["env", "create"]:
        locks = sys.argv[sys.argv.index("--locks") + 1]
        print(os.environ["PROGUARD_EDGE_ENVS"], *sys.argv[3:], file=open(locks + "/told", "a"))
    elif "--json" in sys.argv:
        print('{{"request": {{"label": "safe"}}}}' if {code} != 1 else "Traceback: no module")
    else:
        print("verdict of {version}")
    sys.exit({code})
if __name__ == "__main__":
    main()
"""

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
    stages: tuple[str, ...] = ("runtime",),
) -> Path:
    """Write it; its path."""
    plan = Plan(
        "small", release, (), (), stages, Path(), Path(), python=python, max_part_bytes=part
    )
    _write(plan, f"{release}.0", files or FILES, ["a"], out, key)
    return out


def stand_in(version: str, code: int = 0, more: dict[str, str] | None = None) -> bytes:
    """A wheel of our name whose command prints its version and leaves with `code`; always the same.

    more: other files of it, as text.
    """
    info = f"proguard_edge-{version}.dist-info"
    files = {
        "proguard_edge/__init__.py": "",
        "proguard_edge/__main__.py": MAIN.format(version=version, code=code),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: proguard-edge\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": SCRIPTS,
        **(more or {}),
    }
    record = "".join(f"{name},,\n" for name in (*files, f"{info}/RECORD"))
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        for name, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return raw.getvalue()


def spans(bundle: Path) -> list[tuple[int, str]]:
    """Where each file's header begins, and the end."""
    with tarfile.open(bundle) as tar:
        found = [(member.offset, member.name) for member in tar.getmembers()]
        last = tar.getmembers()[-1]
    end = last.offset_data + last.size + -last.size % 512
    return [*found, (end, "the end of the bundle")]
