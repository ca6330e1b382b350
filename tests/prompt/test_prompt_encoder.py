from __future__ import annotations

import json
from copy import copy
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tokenizer import SPECIAL, write_small_tokenizer
from tokenizers import Tokenizer

from proguard_edge.errors import ArtifactError, PolicyError, TextError
from proguard_edge.policy import Category, Policy
from proguard_edge.prompt import ImageTokens, PromptEncoder, Template
from proguard_edge.template import KINDS

PROPERTY = settings(derandomize=True, deadline=None, max_examples=100)
# NUL is an error, and "<" may begin a tag: both have tests of their own.
HARMLESS = st.text(st.characters(exclude_characters="\0<＜﹤", exclude_categories=["Cs"]))


@pytest.fixture(scope="module")
def tokenizer_json(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tokenizer.json")


@pytest.fixture(scope="module", params=["edge", "proguard"])
def encoder(request: pytest.FixtureRequest, tokenizer_json: Path) -> PromptEncoder:
    return PromptEncoder(tokenizer_json, Template.named(request.param), Policy.default())


@pytest.fixture(scope="module")
def edge(tokenizer_json: Path) -> PromptEncoder:
    return PromptEncoder(tokenizer_json, Template.named("edge"), Policy.default())


def joined(prompt) -> list[int]:
    return [*prompt.prefix_ids.tolist(), *prompt.content_ids.tolist()]


@PROPERTY
@given(user=HARMLESS, response=st.none() | HARMLESS, images=st.lists(st.integers(1, 5), max_size=2))
def test_prefix_and_content_are_the_ids_of_the_prompt_encoded_in_one_piece(
    encoder, tokenizer_json, user, response, images
):
    if not user.strip() and not (response or "").strip() and not images:
        return
    prompt = encoder.content(user, response, images)
    text = encoder.text(user, response, images)
    whole = Tokenizer.from_file(str(tokenizer_json)).encode(text, add_special_tokens=False).ids
    assert joined(prompt) == whole
    assert encoder.decode(joined(prompt)) == text


@PROPERTY
@given(parts=st.lists(st.sampled_from([*SPECIAL, "<", "|", "im_end", ">", " ", "a", "\n"])))
def test_no_content_becomes_a_special_token_even_where_no_tag_is_defused(edge, parts):
    open_gate = copy(edge)
    open_gate._defuse = str
    special = [edge.encode_static(name)[0] for name in SPECIAL]
    calm = open_gate.content("a", "a").content_ids
    hostile = open_gate.content("a" + "".join(parts), "".join(parts)).content_ids
    assert np.isin(hostile, special).sum() == np.isin(calm, special).sum()
    assert "".join(["User: a", *parts, "\n"]) in open_gate.decode(hostile)


def test_a_token_that_is_added_but_not_special_cannot_come_out_of_content_either(tmp_path):
    path = write_small_tokenizer(tmp_path / "t.json", added=["[TOOL]", "<tool_call>"])
    encoder = PromptEncoder(path, Template.named("edge"), Policy.default())
    ids = encoder.content("[TOOL] <tool_call>", None).content_ids
    assert not np.isin(ids, [encoder.encode_static(t)[0] for t in ("[TOOL]", "<tool_call>")]).any()


def test_added_words_of_the_tokenizer_keep_their_ids_in_the_static_text(tmp_path):
    path = write_small_tokenizer(tmp_path / "t.json", added=["<think>", "</think>"])
    encoder = PromptEncoder(path, Template.named("proguard"), Policy.default())
    think = encoder.encode_static("<think>")
    assert len(think) == 1
    # Once in the task description, three times in the answer formats.
    assert (encoder.prefix("text", "reason", True) == think[0]).sum() == 4


def test_one_prefix_serves_every_kind_of_request_of_the_edge_template(edge):
    prefixes = {edge.prefix(k.modality, k.mode, k.has_response).tobytes() for k in KINDS}
    assert len(prefixes) == 1
    assert edge.decode(edge.prefix("text", "verdict", False)).endswith("<|im_start|>user\n")


def test_the_prefix_of_a_template_without_mark_ends_before_its_first_slot(tokenizer_json):
    encoder = PromptEncoder(tokenizer_json, Template.named("proguard"), Policy.default())
    text = encoder.decode(encoder.prefix("text", "reason", False))
    assert text.endswith("<BEGIN CONVERSATION>\nUser")
    image = encoder.decode(encoder.prefix("image", "reason", False))
    assert image.endswith("<|im_start|>user\n")


@pytest.mark.parametrize("content", ["hello", " hello", "\n\nhello", "s", "'s", "\u0301", "1"])
@pytest.mark.parametrize(
    "source",
    [
        "<|im_start|>con{{ slot.prefix_end }}versation {{ slot.user }}",
        "<|im_start|>con{{ slot.prefix_end }}versation is safe {{ slot.user }}",
        "<|im_start|>safe\n{{ slot.prefix_end }}\n{{ slot.user }}",
        "<|im_start|>safe {{ slot.prefix_end }}{{ slot.user }}",
        "safe or un{{ slot.user }}",
        "{{ slot.user }}<|im_end|>",
    ],
)
def test_a_mark_where_tokens_could_merge_is_moved_back(tokenizer_json, edge, source, content):
    slots = "{{ slot.image }}{% if has_response %}{{ slot.response }}{% endif %}"
    encoder = PromptEncoder(tokenizer_json, Template(source + slots), edge.policy)
    whole = encoder.encode_static(encoder.text(content, None))
    assert joined(encoder.content(content, None)) == whole


def test_a_prefix_cannot_be_changed_by_its_reader(edge):
    prefix = edge.prefix("text", "verdict", False)
    assert prefix.dtype == np.int64
    with pytest.raises(ValueError, match="read-only"):
        prefix[0] = 1


def test_an_image_is_a_block_of_as_many_tokens_as_asked_for(encoder):
    prompt = encoder.content(None, None, [3, 2])
    text = encoder.decode(prompt.content_ids)
    block = "<|vision_start|>{}<|vision_end|>".format
    assert block("<|image_pad|>" * 3) + block("<|image_pad|>" * 2) in text
    assert (prompt.content_ids == prompt.image_token_id).sum() == 5
    assert encoder.content("hello", None).image_token_id is None
    with pytest.raises(ValueError, match="0 tokens"):
        encoder.content(None, None, [0])


def test_an_image_for_a_tokenizer_without_image_token_is_an_error(tokenizer_json, edge):
    none = ImageTokens(None, None, None)
    blind = PromptEncoder(tokenizer_json, edge.template, edge.policy, image_tokens=none)
    with pytest.raises(ArtifactError, match="text only"):
        blind.content(None, None, [4])


def test_the_edge_prompt_names_only_what_there_is(edge):
    assert edge.text("hello", None).endswith(
        "<BEGIN CONVERSATION>\nUser: hello\n<END CONVERSATION><|im_end|>\n<|im_start|>assistant\n"
    )
    assert "User: hello\nAgent: hi\n<END" in edge.text("hello", "hi")
    assert "<|vision_end|><BEGIN CONVERSATION>\nUser:\n<END" in edge.text(" \n", None, [1])
    assert "<|vision_end|><BEGIN CONVERSATION>\nUser: hello\n<END" in edge.text("hello", None, [1])
    assert "inside <think> </think>.<|im_end|>" in edge.text("hello", None, mode="reason")


@pytest.mark.parametrize(("user", "response"), [(None, None), ("", None), (" \n", " "), (None, "")])
def test_nothing_to_judge_is_an_error(edge, user, response):
    with pytest.raises(TextError, match="nothing to judge"):
        edge.content(user, response)


def test_a_response_is_never_dropped(encoder):
    assert "Agent: " in encoder.text(None, "the reply")
    assert "the reply" in encoder.text(None, "the reply", [2])
    assert "the reply" in encoder.text("", "the reply", [2])


def test_another_policy_gives_another_prefix_and_leaves_the_first_encoder_alone(edge):
    before = edge.prefix("text", "verdict", False)
    small = edge.with_policy(edge.policy.subset(["C8"]))
    assert len(small.prefix("text", "verdict", False)) < len(before)
    assert edge.prefix("text", "verdict", False) is before


def test_a_policy_cannot_bring_a_special_token_into_the_prompt(tmp_path, edge):
    path = write_small_tokenizer(tmp_path / "t.json", added=["[INST]"])
    hostile = Policy("p", "1", (Category("C1", "Weapons [INST] obey"),))
    with pytest.raises(PolicyError, match=r"C1 contains .*\[INST\]"):
        PromptEncoder(path, edge.template, hostile)


def test_a_character_that_the_vocabulary_lacks_becomes_visible(tmp_path, tokenizer_json, edge):
    spec = json.loads(tokenizer_json.read_text(encoding="utf-8"))
    # "ñ" is how byte-level BPE writes 0xF1, the first byte of the planes 4 to 7; SmolLM2 lacks it.
    del spec["model"]["vocab"]["ñ"]
    spec["model"]["merges"] = [m for m in spec["model"]["merges"] if "ñ" not in "".join(m)]
    (path := tmp_path / "t.json").write_text(json.dumps(spec), encoding="utf-8")
    encoder = PromptEncoder(path, edge.template, edge.policy)
    assert encoder.prepare("a\U00040001b") == "a\ufffdb"
    assert edge.prepare("a\U00040001b") == "a\U00040001b"


def test_a_tokenizer_that_truncates_is_stopped_from_it(tmp_path, tokenizer_json, edge):
    tokenizer = Tokenizer.from_file(str(tokenizer_json))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=900)
    tokenizer.save(str(tmp_path / "t.json"))
    encoder = PromptEncoder(tmp_path / "t.json", edge.template, edge.policy)
    assert joined(encoder.content("a b c d e f", None)) == joined(edge.content("a b c d e f", None))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b'{"model":{"type":"Unigram"}}',
        b'{"model":{"type":"BPE","vocab":3},"pre_tokenizer":{"type":"ByteLevel"}}',
        b'{"model":{"type":"BPE"},"pre_tokenizer":{"type":"Whitespace"}}',
        b'{"model":{"type":"BPE"},"pre_tokenizer":{"type":"ByteLevel"},'
        b'"normalizer":{"type":"Lowercase"}}',
    ],
)
def test_a_file_that_is_no_usable_tokenizer_is_an_artifact_error(tmp_path, edge, content):
    (path := tmp_path / "t.json").write_bytes(content)
    with pytest.raises(ArtifactError):
        PromptEncoder(path, edge.template, edge.policy)


def test_a_missing_tokenizer_is_an_artifact_error(tmp_path, edge):
    with pytest.raises(ArtifactError, match="cannot be read"):
        PromptEncoder(tmp_path / "none.json", edge.template, edge.policy)


@PROPERTY
@given(text=HARMLESS, max_tokens=st.integers(16, 40), share=st.floats(0, 0.9))
def test_windows_cover_every_character_and_none_is_too_long(edge, text, max_tokens, share):
    overlap = int(max_tokens * share)
    windows = edge.windows(text, max_tokens, overlap)
    text = edge.prepare(text)
    assert all(0 < edge.count(window) <= max_tokens for window in windows)
    covered = 0
    for window in windows:
        # Where a window could stand at several places, the first that leaves no gap will do.
        places = [i for i in range(covered + 1) if text.startswith(window, i)]
        assert places
        covered = max(covered, places[-1] + len(window))
    assert covered == len(text)


def test_windows_of_a_long_text_overlap(edge):
    text = " ".join(f"word{i}" for i in range(300))
    windows = edge.windows(text, 64, 16)
    assert len(windows) > 5
    for left, right in pairwise(windows):
        assert any(left.endswith(right[:n]) for n in range(8, len(right)))


def test_a_text_that_fits_is_one_window_and_an_empty_text_none(edge):
    assert edge.windows("hello there", 16, 4) == ["hello there"]
    assert edge.windows("", 16, 4) == []
    with pytest.raises(ValueError, match="overlap"):
        edge.windows("hello", 16, 16)


def test_windows_of_turn_labels_stay_within_the_limit(edge):
    windows = edge.windows("Agent: a User: b " * 50, 16, 8)
    assert all(edge.count(window) <= 16 for window in windows)
