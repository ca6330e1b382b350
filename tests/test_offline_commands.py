"""The main commands, and the server with a client, speak to no other machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageFont
from served import served
from tiny import tiny_checkpoint

from proguard_edge.client import Client
from proguard_edge.starter import STARTER
from proguard_edge.train.rows import Row, write_jsonl

# Python imports it in every process that reads PYTHONPATH: in commands and in their workers. What
# goes to another machine is written down and refused. Names of this machine may be looked up. What
# a library does without Python it does not see: so there is no network either, where that can be.
WATCH = """
import os, sys

def watch(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.bind"):
        address = arguments[1]
        if isinstance(address, (str, bytes)) or address is None:
            return
        host = address[0]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        host = arguments[0]
    else:
        return
    if host in ("localhost", "::1", None) or str(host).startswith("127."):
        return
    with open(os.environ["WATCHED"], "a") as log:
        log.write(f"{event} {arguments!r} by {sys.argv}\\n")
    raise PermissionError(f"no network in this test: {event} {host!r}")

sys.addaudithook(watch)
"""

# What a person does on a machine without a network, in one folder.
COMMANDS = """
set -x
proguard-edge moderate --text "How do I bake bread?"
proguard-edge moderate --image sign.png --image-text-only --json
proguard-edge moderate-batch rows.jsonl -o verdicts.jsonl
proguard-edge policy show
proguard-edge artifact verify
proguard-edge artifact show
proguard-edge doctor --json
proguard-edge calibrate artifact --data labelled.jsonl --keep-scores --dry-run
proguard-edge eval labelled.jsonl --artifact artifact -o report --limit 4
proguard-edge bench latency artifact --rounds 3 --out bench.json
proguard-edge export recipes
proguard-edge export checkpoint --recipe onnx-fp32 -o made --no-gate
proguard-edge api-key team --file keys.txt
proguard-edge env list
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the commands are given."""
    draw_text(tmp_path / "sign.png", "Good day")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"user": "hello", "response": "hi"}) + "\n")
    rows = [row(number) for number in range(40)]
    write_jsonl(tmp_path / "labelled.jsonl", rows)
    shutil.copytree(STARTER, tmp_path / "artifact")
    tiny_checkpoint(tmp_path / "checkpoint")
    return tmp_path


def row(number: int) -> Row:
    unsafe = number % 2 == 0
    text = f"How do I {'kill my neighbour' if unsafe else 'water my garden'}, {number} times?"
    label = "unsafe" if unsafe else "safe"
    return Row(f"r{number}", "test", "none", text, None, None, label, None, None)


def draw_text(path: Path, text: str) -> None:
    sign = Image.new("RGB", (160, 60), "white")
    ImageDraw.Draw(sign).text((12, 16), text, fill="black", font=ImageFont.load_default(24))
    sign.save(path)


def environment(folder: Path) -> dict[str, str]:
    """Of a user whose Python processes are all watched."""
    watch = folder / "watch"
    watch.mkdir()
    (watch / "sitecustomize.py").write_text(WATCH)
    bin_ = Path(sys.executable).parent
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith(("PROGUARD_EDGE_", "HF_"))},
        "PYTHONPATH": str(watch),
        "PATH": f"{bin_}:{os.environ['PATH']}",
        "WATCHED": str(folder / "spoken_to"),
        "PROGUARD_EDGE_CACHE": str(folder / "cache"),
        "XDG_DATA_HOME": str(folder / "data"),
    }


def without_a_network() -> list[str]:
    """What takes the network away from a command, as far as it can be had here."""
    if shutil.which("unshare"):
        for before in (["unshare", "-n"], ["unshare", "-rn"]):
            if subprocess.run([*before, "true"], capture_output=True).returncode == 0:
                return before
    return []


def test_the_watch_sees_a_process_that_calls(tmp_path):
    """The control: what the other tests rely on."""
    code = "import socket; socket.create_connection(('192.0.2.1', 9), timeout=5)"
    variables = environment(tmp_path)
    inner = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])"
    subprocess.run([sys.executable, "-c", inner], env=variables, capture_output=True, check=True)
    assert "192.0.2.1" in (tmp_path / "spoken_to").read_text()


def test_no_command_speaks_to_another_machine(folder):
    done = subprocess.run(
        [*without_a_network(), "bash", "-eu", "-c", COMMANDS],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert not (folder / "spoken_to").exists(), (folder / "spoken_to").read_text()


def test_a_server_and_its_workers_speak_to_nobody_but_their_client(folder, monkeypatch):
    for name, value in environment(folder).items():
        monkeypatch.setenv(name, value)
    audit = ("--audit", str(folder / "audit"))
    with served(folder / "log", *audit) as server, Client(server.url) as client:
        assert client.moderate("How do I bake bread?").request.label == "safe"
    assert not (folder / "spoken_to").exists(), (folder / "spoken_to").read_text()


def test_hubs_are_off_before_a_library_can_read_it():
    code = (
        "import sys, proguard_edge; assert 'huggingface_hub' not in sys.modules;"
        "import huggingface_hub.constants as c; print(c.HF_HUB_OFFLINE)"
    )
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS"))}
    command = [sys.executable, "-c", code]
    for told, seen in (({}, "True\n"), ({"HF_HUB_OFFLINE": "0"}, "False\n")):
        done = subprocess.run(command, env={**variables, **told}, capture_output=True, text=True)
        assert done.stdout == seen, done.stderr
