from __future__ import annotations

from pathlib import Path

import pytest

from proguard_edge.errors import ArtifactError
from proguard_edge.policy import Category, Policy
from proguard_edge.template import KINDS, Kind, Slot, Template

REFERENCE = Path(__file__).parents[2].parent / "shared" / "upstream"
POLICY = Policy("p", "1", (Category("C1", "Weapons"),))
TEXT = Kind("text", "verdict", False)

WHOLE = "<a>{{ slot.image }}User: {{ slot.user }}\nAgent: {{ slot.response }}\n"


@pytest.mark.parametrize("modality", ["text", "text-image", "image"])
@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference prompts are not here")
def test_the_proguard_template_writes_the_reference_prompt_byte_for_byte(modality):
    policy = Policy.import_reference(REFERENCE / "taxonomy.yaml")
    name = modality.replace("-", "_")
    system = (REFERENCE / "prompts" / f"{name}_system_prompt.txt").read_text(encoding="utf-8")
    user = (REFERENCE / "prompts" / f"{name}_user_prompt_template.txt").read_text(encoding="utf-8")
    filled = {"image": "[image]" if modality != "text" else "", "user": "Hello"}
    for has_response in (False, True) if modality != "image" else (False,):
        filled["response"] = "Hi" if has_response else ""
        pieces = Template.named("proguard").render(policy, Kind(modality, "reason", has_response))
        written = "".join(filled[p.name] if isinstance(p, Slot) else p for p in pieces)
        user_turn = user.replace("{{HUMAN_USER}}", "Hello")
        user_turn = user_turn.replace("{{AI_ASSISTANT}}", filled["response"])
        assert written == (
            f"<|im_start|>system\n{system}<|im_end|>\n"
            f"<|im_start|>user\n{filled['image']}{user_turn}<|im_end|>\n"
            "<|im_start|>assistant\n"
        )


@pytest.mark.parametrize("name", ["edge", "proguard"])
def test_a_shipped_template_renders_every_kind_of_request(name):
    template = Template.named(name)
    for kind in KINDS:
        pieces = template.render(Policy.default(), kind)
        assert pieces[0].startswith("<|im_start|>system\n")
        assert pieces[-1].endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert template.labels == {"User:", "Agent:"}
    assert {"<think>", "</think>", "<answer>", "</answer>", "<|im_end|>"} <= template.tags


def test_slots_cut_the_text_where_they_stand():
    pieces = Template(WHOLE).render(POLICY, Kind("text-image", "verdict", True))
    assert pieces == (
        *("<a>", Slot("image"), "User: ", Slot("user")),
        *("\nAgent: ", Slot("response"), "\n"),
    )


def test_the_image_slot_is_empty_where_there_is_no_image():
    assert Template(WHOLE).render(POLICY, TEXT)[0] == "<a>User: "


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("{% if %}", "not valid"),
        ("{{ slot.user }}{{ nobody }}", "cannot be rendered"),
        ("{{ slot.nobody }}", "cannot be rendered"),
        ("{{ 1 / 0 }}", "cannot be rendered"),
        ("{{ policy.categories[9] }}{{ slot.user }}", "cannot be rendered"),
        ("{{ policy.load('/etc/passwd') }}", "cannot be rendered"),
        ("{{ ''.__class__.__mro__ }}", "cannot be rendered"),
        ("{% for i in range(10000000) %}{% endfor %}", "cannot be rendered"),
        ("no slot", "slot.user stands 0 times"),
        ("{{ slot.user }}{{ slot.user }}", "slot.user stands 2 times"),
        ("{{ slot.user }}{{ slot.prefix_end }}", "prefix_end must stand before"),
    ],
)
def test_a_template_that_cannot_work_is_an_artifact_error(source, problem):
    with pytest.raises(ArtifactError, match=problem):
        Template(source).render(POLICY, TEXT)


def test_a_template_file_that_cannot_be_used_is_an_artifact_error(tmp_path):
    with pytest.raises(ArtifactError, match="cannot be read"):
        Template.load(tmp_path / "none.jinja")
    (tmp_path / "bytes.jinja").write_bytes(b"\xff")
    with pytest.raises(ArtifactError, match="not UTF-8"):
        Template.load(tmp_path / "bytes.jinja")
    (tmp_path / "large.jinja").write_bytes(b" " * 300_000)
    with pytest.raises(ArtifactError, match="larger than"):
        Template.load(tmp_path / "large.jinja")


def test_the_digest_follows_the_words_and_not_the_line_ends(tmp_path):
    (tmp_path / "windows.jinja").write_bytes(WHOLE.replace("\n", "\r\n").encode())
    windows = Template.load(tmp_path / "windows.jinja")
    assert windows.digest() == Template(WHOLE).digest() != Template(WHOLE + " ").digest()
    assert windows.render(POLICY, TEXT) == Template(WHOLE).render(POLICY, TEXT)
