"""`proguard-edge moderate`: exit codes, the JSON contract, errors on one line, a quick `--help`."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image
from variants import ALL_SAFE, ALL_UNSAFE, variant

from proguard_edge.cli import COMMANDS, main

HEAVY = (
    *("numpy", "onnxruntime", "torch", "transformers", "rich", "yaml", "jinja2", "tokenizers"),
    *("rapidocr", "cv2", "ray", "pyarrow", "matplotlib"),
)

# Asks every command and subcommand for its help in one process; prints those of HEAVY that came.
ALL_HELP = f"""
import sys
from proguard_edge.cli import main

def ask(command, words):
    try:
        main([*words, "--help"], prog_name="proguard-edge")
    except SystemExit as end:
        assert end.code == 0, words
    for name in getattr(command, "commands", []) or (
        command.list_commands(None) if hasattr(command, "list_commands") else []
    ):
        ask(command.get_command(None, name), [*words, name])

ask(main, [])
print("came:", *[name for name in {HEAVY} if name in sys.modules])
"""

MODERATE = """
import atexit, sys
from proguard_edge.cli import main
atexit.register(lambda: print(*sys.modules, file=sys.stderr))
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def calm(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny artifact with a calibration under which everything is safe."""
    return variant(tiny_onnx, tmp_path_factory.mktemp("calm") / "artifact", calibration=ALL_SAFE)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "red.png"
    Image.new("RGB", (60, 60), "red").save(path)
    return path


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    words = ["moderate", "--threads", "1", *map(str, arguments)]
    return CliRunner().invoke(main, words, input=stdin)


def python(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=300,
        check=False,
    )


def said(result: Result) -> dict:
    """The verdict, after a look at the form of the output."""
    assert result.stdout.count("\n") == 1
    assert result.stdout.endswith("}\n")
    assert result.stderr == ""
    return json.loads(result.stdout)


def error_of(result: Result | subprocess.CompletedProcess[str], code: int = 3) -> str:
    """The one line on stderr."""
    assert getattr(result, "exit_code", None) == code or getattr(result, "returncode", 0) == code
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert result.stderr.rstrip("\n").isprintable()
    return result.stderr


def test_a_safe_text_ends_with_0_and_an_unsafe_one_with_1(calm, tiny_onnx):
    for artifact, code, label in ((calm, 0, "safe"), (tiny_onnx, 1, "unsafe")):
        result = run("--text", "hello", "--artifact", artifact)
        assert result.exit_code == code
        assert result.stdout.splitlines()[0].split()[:2] == ["request", label]
        assert "looked at user text" in result.stdout


def test_an_unsafe_response_to_a_safe_request_ends_with_1(tiny_onnx, tmp_path):
    only = {"request": ALL_SAFE["request"]}
    artifact = variant(tiny_onnx, tmp_path / "artifact", calibration=only)
    result = run("--text", "a", "--response", "b", "--artifact", artifact, "--json")
    assert result.exit_code == 1
    found = said(result)
    assert (found["request"]["label"], found["response"]["label"]) == ("safe", "unsafe")


def test_json_is_one_line_that_keeps_the_contract(tiny_onnx, picture):
    result = run(
        "--text", "a\nb", "--response", "c", "--image", picture, "--artifact", tiny_onnx, "--json"
    )
    found = said(result)
    assert list(found) == [
        "request",
        "response",
        "category",
        "reasoning",
        "evaluated",
        "mode",
        "artifact",
        "tokens",
        "timings_ms",
    ]
    for part in ("request", "response"):
        assert set(found[part]) == {"label", "score"}
        assert found[part]["label"] == "unsafe"
        assert 0.5 <= found[part]["score"] <= 1
    assert set(found["category"]) == {"id", "name", "in_policy", "score"}
    assert found["category"]["in_policy"] is (found["category"]["id"] is not None)
    assert found["reasoning"] is None
    assert found["evaluated"] == ["user_text", "response", "image"]
    assert found["mode"] == "verdict"
    assert len(found["artifact"]) == 64
    assert {"prefix", "content", "generated"} <= set(found["tokens"])
    assert {"preprocess", "vision", "prefill", "total"} <= set(found["timings_ms"])


def test_json_of_a_safe_text_has_neither_response_nor_category(calm):
    found = said(run("--text", "hello", "--artifact", calm, "--json"))
    assert (found["response"], found["category"]) == (None, None)
    assert found["request"]["label"] == "safe"


def test_a_policy_file_decides_which_ids_are_named(tiny_onnx, tmp_path):
    artifact = variant(tiny_onnx, tmp_path / "artifact", free_names=False, calibration=ALL_UNSAFE)
    policy = tmp_path / "own.yaml"
    policy.write_text("name: own\ncategories:\n- {id: C1, name: Arms}\n", encoding="utf-8")
    result = run("--text", "a", "--policy", policy, "--artifact", artifact, "--json")
    assert said(result)["category"] == {"id": "C1", "name": "Arms", "in_policy": True, "score": 1.0}
    shown = run("--text", "a", "--policy", policy, "--artifact", artifact)
    assert "category  Arms  (C1)" in shown.stdout


def test_thoughts_are_shown_without_what_could_steer_a_terminal(calm, tiny_onnx, monkeypatch):
    from proguard_edge.cli.moderate import moderate
    from proguard_edge.guard import Guard
    from proguard_edge.verdict import Judgement, Verdict

    verdict = Verdict(
        Judgement("safe", 0.1), None, None, "one\n\x1b[31mtwo", ("user_text",), "reason", "0" * 64
    )
    monkeypatch.setattr(Guard, "moderate", lambda *_, **__: verdict)
    shown = CliRunner().invoke(moderate, ["--text", "a", "--artifact", str(calm)])
    assert "reasoning one\n\ufffd[31mtwo\n" in shown.stdout
    raw = CliRunner().invoke(moderate, ["--text", "a", "--artifact", str(tiny_onnx), "--json"])
    assert said(raw)["reasoning"] == verdict.reasoning


def test_text_comes_from_the_option_a_file_or_stdin(tiny_onnx, tmp_path):
    text = "Zeile eins\nnaïve “quotes” 日本語"
    path = tmp_path / "text.txt"
    path.write_text(text, encoding="utf-8")
    rest = ("--artifact", tiny_onnx, "--json")
    scores = {
        said(result)["request"]["score"]
        for result in (
            run("--text", text, *rest),
            run("--text-file", path, *rest),
            run("-", *rest, stdin=text.encode()),
        )
    }
    assert len(scores) == 1
    assert said(run("--text", "other", *rest))["request"]["score"] not in scores


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--text", "a", "-"),
        ("--text", "a", "--text-file", "b"),
        ("--text",),
        ("hello",),
        ("--text", "a", "--mode", "fast"),
        ("--text", "a", "--threads", "-1"),
        ("--text", "a", "--threads", "many"),
        ("--text", "a", "--fail-open"),
    ],
    ids=" ".join,
)
def test_a_usage_error_ends_with_2(arguments):
    result = run(*arguments, stdin=b"a")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Error: " in result.stderr
    assert "Traceback" not in result.stderr


def test_an_error_is_one_line_and_ends_with_3(calm, picture, tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "long.txt").write_bytes(b"a" * 500_000)
    (tmp_path / "bad.yaml").write_bytes(b"name: x")
    (tmp_path / "page\x1b[31m.png").write_bytes(b"<html>")
    ours = ("--artifact", calm)
    cases = [
        ("not an artifact", ("--text", "a", "--artifact", tmp_path)),
        ("NUL", ("--text", "a\0b", *ours)),
        ("surrogate", ("--text", "a\udcffb", *ours)),
        ("nothing to judge", ("--text", " ", *ours)),
        ("100001 characters", ("--text", "a" * 100_001, *ours)),
        ("missing.txt", ("--text-file", tmp_path / "missing.txt", *ours)),
        ("cannot be read", ("--text-file", tmp_path, *ours)),
        ("not UTF-8", ("--text-file", tmp_path / "latin.txt", *ours)),
        ("more than 100000", ("--text-file", tmp_path / "long.txt", *ours)),
        ("missing.png", ("--image", tmp_path / "missing.png", *ours)),
        ("not a JPEG", ("--image", tmp_path / "page\x1b[31m.png", *ours)),
        ("missing.png", ("--image", picture, "--image", tmp_path / "missing.png", *ours)),
        ("bad.yaml", ("--text", "a", "--policy", tmp_path / "bad.yaml", *ours)),
        ("no engine 'magic'", ("--text", "a", "--engine", "magic", *ours)),
        ("for onnx, not for transformers", ("--text", "a", "--engine", "transformers", *ours)),
    ]
    for message, arguments in cases:
        for more in ((), ("--json",)):
            assert message in error_of(run(*arguments, *more)), message


def test_stdin_that_is_not_text_or_never_ends_is_an_error(calm):
    assert "stdin: not UTF-8" in error_of(run("-", "--artifact", calm, stdin=b"\xff\xfe"))
    endless = io.BytesIO(b"a" * 1_000_000)
    assert "stdin: more than" in error_of(run("-", "--artifact", calm, stdin=endless.getvalue()))
    assert "nothing to judge" in error_of(run("-", "--artifact", calm, stdin=b""))


def test_an_error_that_nobody_foresaw_is_no_verdict_either(calm, monkeypatch):
    from proguard_edge.guard import Guard

    def fail(*_: object, **__: object) -> None:
        raise MemoryError("out\nof memory")

    monkeypatch.setattr(Guard, "moderate", fail)
    assert "unexpected MemoryError" in error_of(run("--text", "a", "--artifact", calm))
    monkeypatch.setenv("PROGUARD_EDGE_DEBUG", "1")
    assert isinstance(run("--text", "a", "--artifact", calm).exception, MemoryError)


def test_a_stop_by_the_user_is_no_verdict(calm, monkeypatch):
    from proguard_edge.guard import Guard

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Guard, "moderate", stop)
    assert error_of(run("--text", "a", "--artifact", calm)) == "error: stopped\n"


def test_the_installed_command_ends_with_its_codes(calm, tiny_onnx, tmp_path):
    def moderate(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        words = ("moderate", "--threads", "1", "--text", "hello", *arguments)
        return python("-m", "proguard_edge", *words, **environment)

    safe = moderate("--artifact", calm, "--json")
    assert (safe.returncode, safe.stderr) == (0, "")
    assert json.loads(safe.stdout)["request"]["label"] == "safe"
    # Of a terminal that has no blocks to draw the bar with.
    unsafe = moderate("--artifact", tiny_onnx, PYTHONIOENCODING="ascii")
    assert (unsafe.returncode, unsafe.stderr) == (1, "")
    assert unsafe.stdout.startswith("request")
    assert moderate("--artifact", calm, "--bogus").returncode == 2
    assert "not an artifact" in error_of(moderate("--artifact", tmp_path))


def test_a_verdict_needs_neither_torch_nor_transformers(calm):
    words = ("moderate", "--threads", "1", "--text", "hello", "--artifact", calm)
    result = python("-c", MODERATE, *words)
    assert result.returncode == 0
    loaded = set(result.stderr.split())
    assert "onnxruntime" in loaded
    assert not loaded & {"torch", "transformers", "onnx", "safetensors", "sklearn"}


def test_every_command_explains_itself_without_loading_a_library():
    result = python("-c", ALL_HELP)
    assert result.returncode == 0, result.stderr
    *_, came = result.stdout.splitlines()
    assert came == "came:"
    assert result.stdout.count("Usage: proguard-edge") >= 1 + len(COMMANDS) + len(["show"] * 6)
    for name in COMMANDS:
        assert f"Usage: proguard-edge {name} " in result.stdout


def test_help_comes_at_once():
    resource = pytest.importorskip("resource")

    def processor_seconds() -> float:
        """Of the child alone: the clock on the wall also counts what else the machine does."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert python("-m", "proguard_edge", "--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # The promise is 0.3 s from the shell; 0.1 s were measured.
    assert min(processor_seconds() for _ in range(5)) < 0.3
