"""Moderation works with the network gone, and does not even try to reach it."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageFont

import proguard_edge
from proguard_edge.engine.integers import PROBE

# Loads, judges and runs a batch; "refuse" makes every use of a socket an error. One is let through:
# urllib3, which rapidocr imports and never uses here, binds one of this machine to learn of IPv6.
WORK = """
import json, socket, sys
from pathlib import Path

mode, artifact, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
used = []

def refuse(event, arguments):
    asks_for_ipv6 = event == "socket.bind" and arguments[1] == ("::1", 0)
    if event.startswith("socket.") and event != "socket.__new__" and not asks_for_ipv6:
        used.append(event)
        raise PermissionError(f"no network in this test: {event}")

if mode == "refuse":
    sys.addaudithook(refuse)
for reach in (
    lambda: socket.getaddrinfo("example.org", 80),
    lambda: socket.create_connection(("127.0.0.1", 9), timeout=5),
    lambda: socket.socket().connect(("192.0.2.1", 9)),
):
    try:
        reach()
    except OSError:
        continue
    raise AssertionError("the network is still there")
assert mode != "refuse" or len(used) >= 3
used.clear()

from proguard_edge import Guard
from proguard_edge.batch import run_batch

with Guard.load(artifact, threads=1) as guard:
    verdict = guard.moderate("hello", folder / "sign.png", "there")
    assert verdict.evaluated == ("user_text", "response", "image", "image_text")
    (folder / "rows.jsonl").write_text(json.dumps({"user": "hello", "image": "sign.png"}))
    *_, summary = run_batch(guard, folder / "rows.jsonl", folder / "out.jsonl")
    assert summary.unsafe + summary.safe == 1
assert not used, used
assert "proguard_edge.engine.remote" not in sys.modules
print("done")
"""


def work(folder: Path, artifact: Path, mode: str, *before: str) -> None:
    sign = Image.new("RGB", (160, 60), "red")
    ImageDraw.Draw(sign).text((12, 16), "Good day", font=ImageFont.load_default(24))
    sign.save(folder / "sign.png")
    command = [*before, sys.executable, "-c", WORK, mode, str(artifact), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_nothing_touches_a_socket(tiny_onnx, tmp_path):
    work(tmp_path, tiny_onnx, "refuse")


def test_a_machine_without_a_network_moderates(tiny_onnx, tmp_path):
    alone = next((w for w in (["unshare", "-n"], ["unshare", "-rn"]) if _works(w)), None)
    if alone is None:
        pytest.skip("unshare cannot take the network away here")
    work(tmp_path, tiny_onnx, "gone", *alone)


def judged_at(home: Path, script: str) -> set[str]:
    """Folders that appear in the home of a user who runs the script, on no test machine."""
    home.mkdir()
    silencing = ("CI", "TF_BUILD", "GITHUB_ACTIONS", "XDG_CACHE_HOME")
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in silencing and not name.startswith(("ORT_", "PROGUARD_EDGE_"))
    }
    command = [sys.executable, "-c", script]
    subprocess.run(command, check=True, timeout=300, env={**kept, "HOME": str(home)})
    return {path.name for path in (home / ".cache").glob("*")}


def test_onnxruntime_collects_nothing_to_send(tmp_path):
    load = f"import onnxruntime as ort; ort.InferenceSession({str(PROBE)!r})"
    if judged_at(tmp_path / "control", load) != {"Microsoft"}:
        pytest.skip("this onnxruntime has no telemetry")
    judge = "from proguard_edge import Guard; Guard.load(threads=1, ocr=False).moderate('hello')"
    assert judged_at(tmp_path / "judged", judge) == {"proguard-edge"}


# Modules that can call another machine. A server, which is called, needs none of them.
CALLING = {"http.client", "urllib.request", "urllib3", "requests", "httpx", "aiohttp", "ftplib"}
CALLING |= {"smtplib", "socket", "websockets", "huggingface_hub", "openai", "xmlrpc.client"}


def imports(path: Path) -> set[str]:
    """Modules, and the parents of what is taken from them, that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_only_what_is_told_a_server_can_call_one():
    root = Path(proguard_edge.__file__).parent
    calling = {
        path.relative_to(root).as_posix(): sorted(found)
        for path in root.rglob("*.py")
        if (found := {m for m in imports(path) if CALLING & {m, m.split(".")[0]}})
    }
    assert calling == {
        "client/aio.py": ["httpx"],
        "engine/remote.py": ["http.client"],
        # It binds a port, and calls nobody.
        "serve/run.py": ["socket"],
    }


def _works(command: list[str]) -> bool:
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
