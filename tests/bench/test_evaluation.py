"""Figures of an evaluation, from verdicts that are known."""

from __future__ import annotations

import pytest

from proguard_edge.bench.evaluation import evaluate, published
from proguard_edge.bench.evaluation_report import HEAD, markdown, plot, rows
from proguard_edge.bench.unseen import summarize
from proguard_edge.errors import InputError
from proguard_edge.policy import Policy
from proguard_edge.train.rows import Row


def row(name, label, source="xstest", category=None, response=None):
    return Row(
        id=name,
        source=source,
        licence="MIT",
        user="text",
        response=None if response is None else "answer",
        image=None,
        request_label=label,
        response_label=response,
        category=category,
    )


def said(score, response=None, category=None, name="A name", error=None):
    """A line of `moderate-batch`."""
    if error:
        return {"error": {"type": error, "message": "no"}}
    label = "unsafe" if score >= 0.5 else "safe"
    risk = None
    if category or (label == "unsafe" and name):
        risk = {"id": category, "name": name, "in_policy": category is not None, "score": 0.5}
    verdict = {"request": {"label": label, "score": score}, "response": None, "category": risk}
    if response is not None:
        verdict["response"] = {"label": "unsafe" if response >= 0.5 else "safe", "score": response}
    return {"verdict": verdict}


ROWS = [
    row("a", "unsafe", category="C8S1"),
    row("b", "unsafe", category="C8S1"),
    row("c", "unsafe", category="C9"),
    row("d", "safe"),
    row("e", "safe"),
    row("f", "unsafe", source="other", response="unsafe"),
    row("g", None, source="other", response="safe"),
]
LINES = {
    "a": said(0.9, category="C8S1"),
    "b": said(0.8, category="C8S2"),
    "c": said(0.6, category="C1"),
    "d": said(0.1),
    "e": said(0.7),
    "f": said(0.0, error="LanguageError"),
    "g": said(0.2, response=0.1),
}


def test_groups_count_what_is_labelled_and_errors_apart():
    found = evaluate(ROWS, LINES, resamples=50)
    groups = {(g["source"], g["part"]): g for g in found["groups"]}
    assert set(groups) == {
        (s, p) for s in ("xstest", "other", "all") for p in ("request", "response")
    } - {("xstest", "response")}
    first = groups["xstest", "request"]
    assert (first["safe"], first["unsafe"], first["errors"]) == (2, 3, {})
    assert first["recall"]["value"] == 1.0
    assert first["fpr"]["value"] == 0.5
    assert first["f1"]["value"] == pytest.approx(6 / 7, abs=1e-4)
    # An error is not a safe verdict: it is in no figure, and it is counted.
    assert groups["other", "request"] == {
        "source": "other",
        "modality": "text",
        "part": "request",
        "errors": {"LanguageError": 1},
        "safe": 0,
        "unsafe": 0,
    }
    assert groups["all", "request"]["errors"] == {"LanguageError": 1}
    assert groups["other", "response"]["safe"] == 1


def test_categories_are_right_in_main_and_in_full():
    found = evaluate(ROWS, LINES, resamples=0)["categories"]
    assert found["main"] == {"rows": 3, "accuracy": pytest.approx(2 / 3, abs=1e-4)}
    assert found["exact"] == {"rows": 2, "accuracy": 0.5}
    assert found["confusion"] == {"C8": {"C8": 2}, "C9": {"C1": 1}}


def test_page_table_and_plot(tmp_path):
    found = evaluate(ROWS, LINES, resamples=50)
    for group in found["groups"]:
        group["published"] = {"ProGuard-7B": 87.9} if group["source"] == "xstest" else {}
    found |= {"artifact": "f" * 64, "artifact_name": "tiny", "engine": "onnx", "mode": "verdict"}
    found["unseen"] = {"rows": 2, "names": [{"id": "a", "said": "a | b", "truth": "Weapons"}]}
    assert all(len(cells) == len(HEAD) for cells in rows(found))
    page = markdown(found)
    assert "ProGuard-7B 87.9" in page
    assert "a \\| b" in page
    plot(found, tmp_path / "r.png")
    assert (tmp_path / "r.png").stat().st_size > 5000


def test_published_figures_find_their_source(tmp_path):
    file = tmp_path / "p.csv"
    file.write_text(
        "table,metric,model,dataset,value\n"
        "prompt_text,F1,A,OpenAIModeration,80\nresponse_text,F1,A,XSTest,90\n"
        "prompt_text,F1,B,HarmBench,70.5\nprompt_text,accuracy,C,HarmBench,1\n"
    )
    of = published(file)
    assert of("openai_moderation", "text", "request") == {"A": 80.0}
    assert of("xstest_response", "text", "response") == {"A": 90.0}
    assert of("harmbench_prompt", "text", "request") == {"B": 70.5}
    assert of("harmbench_prompt", "image", "request") == {}
    file.write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="published figures"):
        published(file)


def test_the_figures_of_unseen_risks():
    known = {c.id: c for c in Policy.default().categories}
    rows_ = [row(name, "unsafe", category="C8S1") for name in "abcdef"]
    hidden = dict.fromkeys("abcd", True) | dict.fromkeys("ef", False)
    weapons = known["C8S1"].name
    lines = {
        "a": said(0.9, name=weapons),
        "b": said(0.9, name="Cooking"),
        "c": said(0.9, category="C9S1"),
        "d": said(0, error="EngineError"),
        "e": said(0.9, name="Cooking"),
        "f": said(0.9, category="C8S1"),
    }
    found = summarize(
        rows_, hidden, lines, known, lambda name, refs: [float(name == r) for r in refs]
    )
    # Named: a, b, e; right to be named: a, b, c, d.
    assert found["detection_precision"] == pytest.approx(2 / 3, abs=1e-4)
    assert found["detection_recall"] == 0.5
    assert found["detection_f1"] == pytest.approx(4 / 7, abs=1e-4)
    assert found["description_reward"] == pytest.approx((1.0 + 0.5 + 0 + 0) / 4)
    assert found["errors"] == 1
    assert [n["said"] for n in found["names"]] == [weapons, "Cooking"]
