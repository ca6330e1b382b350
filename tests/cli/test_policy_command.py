from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from proguard_edge.cli.policy import policy as command
from proguard_edge.policy import Policy


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.yaml"
    path.write_text("name: own\ncategories:\n- {id: C1, name: 'Arms [red]'}\n", encoding="utf-8")
    return path


def test_show_prints_the_default_policy_as_a_tree():
    result = run("show")
    assert result.exit_code == 0
    assert "C8 Dangerous Goods" in result.stdout
    assert "C8S1 Weapons" in result.stdout
    assert "28 subcategories" in result.stdout


def test_show_prints_names_as_they_are_and_not_as_markup(own):
    assert "C1 Arms [red]" in run("show", own).stdout


def test_show_json_is_the_whole_policy_and_its_digest():
    content = json.loads(run("show", "--json").stdout)
    assert content["digest"] == Policy.default().digest()
    assert len(content["categories"]) == 39
    assert content["categories"][1]["parent"] == "C1"


def test_validate_accepts_a_valid_file(own):
    result = run("validate", own)
    assert result.exit_code == 0
    assert result.stdout.startswith("ok: own 1, 1 categories, 0 subcategories")


def test_a_policy_error_is_one_line_on_stderr_and_exit_code_3(tmp_path):
    (bad := tmp_path / "bad.yaml").write_text('"na\\e[31mme": x\n', encoding="utf-8")
    for arguments in (["validate", bad], ["show", bad], ["validate", tmp_path / "none"]):
        result = run(*arguments)
        assert result.exit_code == 3
        assert result.stdout == ""
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1
        # Escape codes of a file must not reach the terminal.
        assert "\x1b" not in result.stderr


def test_import_writes_a_policy_file_from_the_reference_layout(tmp_path):
    (layout := tmp_path / "taxonomy.yaml").write_text(
        "- category: Arms\n  subcategories:\n  - name: Guns\n", encoding="utf-8"
    )
    output = tmp_path / "out.yaml"
    result = run("import", layout, "-o", output, "--name", "theirs")
    assert result.exit_code == 0
    policy = Policy.load(output)
    assert (policy.name, policy.ids) == ("theirs", ("C1", "C1S1"))


@pytest.mark.parametrize(
    ("option", "ids", "expected"),
    [
        ("--keep", "C8S1, C11S2", ["C8", "C8S1", "C11", "C11S2"]),
        ("--keep", "C4", ["C4", "C4S1", "C4S2"]),
        ("--drop", "C1,C2,C3,C4,C5,C6,C7,C8,C9,C10,C11S2", ["C11", "C11S1"]),
    ],
)
def test_subset_keeps_or_drops_the_named_categories(tmp_path, option, ids, expected):
    output = tmp_path / "out.yaml"
    assert run("subset", option, ids, "-o", output).exit_code == 0
    assert list(Policy.load(output).ids) == expected


def test_subset_with_an_unknown_id_or_an_unwritable_file_exits_3(tmp_path):
    assert run("subset", "--keep", "C99", "-o", tmp_path / "out.yaml").exit_code == 3
    result = run("subset", "--keep", "C8", "-o", tmp_path / "no" / "out.yaml")
    assert result.exit_code == 3
    assert "cannot be written" in result.stderr


@pytest.mark.parametrize("options", [[], ["--keep", "C1", "--drop", "C2"], ["--keep", " ,"]])
def test_wrong_use_exits_2(tmp_path, options):
    assert run("subset", *options, "-o", tmp_path / "out.yaml").exit_code == 2


def test_help_loads_no_heavy_library():
    script = (
        "import sys; from proguard_edge.cli.policy import policy\n"
        "policy(['--help'], standalone_mode=False)\n"
        "assert not {'rich', 'yaml', 'jinja2', 'numpy', 'tokenizers'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "validate" in done.stdout
