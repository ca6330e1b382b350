"""Policy files: YAML to Policy and back. Whatever a file holds, the only error is PolicyError."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from proguard_edge.errors import PolicyError
from proguard_edge.policy import MAX_FILE_BYTES, Category, Policy

# Besides YAMLError, PyYAML's constructors let these out for values such as `!!int ""`,
# `!!bool maybe`, `2001-99-99` or thousands of nested brackets.
_YAML_FAILURES = (
    yaml.YAMLError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RecursionError,
)


# The C reader is ten times faster, which every start of a command feels; not all builds have it.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_policy(path: Path) -> Policy:
    """Policy of a file in our own layout. Raises PolicyError, which names the file."""
    try:
        return policy_of(_parse(path))
    except PolicyError as error:
        raise PolicyError(f"{path}: {error}") from None


def read_reference(path: Path, name: str) -> Policy:
    """Policy of a file in the layout of the ProGuard release. Raises PolicyError."""
    try:
        return Policy(name=name, version="1", categories=tuple(_numbered(_parse(path))))
    except PolicyError as error:
        raise PolicyError(f"{path}: {error}") from None


def write_policy(policy: Policy) -> str:
    """The policy as YAML, in our own layout."""
    data = policy_data(policy)
    text: str = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100)
    return text


def policy_data(policy: Policy) -> dict[str, Any]:
    """The policy as plain data, from which `policy_of` makes an equal one."""
    entries: list[dict[str, Any]] = []
    for category in policy.categories:
        entry: dict[str, Any] = {"id": category.id, "name": category.name}
        if category.description:
            entry["description"] = category.description
        if category.synonyms:
            entry["synonyms"] = list(category.synonyms)
        if category.parent is None:
            entries.append(entry)
        else:
            entries[-1].setdefault("subcategories", []).append(entry)
    return {
        "name": policy.name,
        "version": policy.version,
        "language": policy.language,
        "categories": entries,
    }


def _parse(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise PolicyError(f"cannot be read: {error.strerror or error}") from None
    if len(raw) > MAX_FILE_BYTES:
        raise PolicyError(f"the file is larger than {MAX_FILE_BYTES} bytes")
    try:
        return _safe_load(raw.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise PolicyError("the file is not UTF-8: save it as UTF-8") from None
    except _YAML_FAILURES as error:
        raise PolicyError(f"not valid YAML: {_one_line(error)}") from None


def _safe_load(text: str) -> Any:
    """What yaml.safe_load gives, after a look at the entries themselves."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_nodes(node)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check_nodes(root: yaml.Node) -> None:
    """Refuse what would hide a category, or blow up in memory."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            raise yaml.MarkedYAMLError(problem="aliases are not accepted")
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.MappingNode):
            # YAML lets the last of two equal keys win: half a policy would vanish without a word.
            keys: set[str] = set()
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value in keys:
                    problem = f'the key "{key.value:.40}" stands twice in one entry'
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                keys |= {key.value} if isinstance(key, yaml.ScalarNode) else set()
                waiting += (key, value)


def _one_line(error: Exception) -> str:
    if not isinstance(error, yaml.YAMLError):
        # The library's own words ("string index out of range") would only puzzle.
        return "it holds a value that cannot be read: put texts in quotes"
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem is None:
        return str(error).splitlines()[0][:200]
    mark = error.problem_mark
    return error.problem if mark is None else f"{error.problem} (line {mark.line + 1})"


def policy_of(data: Any) -> Policy:
    """The policy in plain data, laid out as in a policy file. Raises PolicyError."""
    top = _fields(data, "the file", {"name", "version", "language", "categories"})
    categories: list[Category] = []
    for number, entry in enumerate(_list(top, "categories", "the file"), start=1):
        where = f"entry {number} of categories"
        fields = _fields(entry, where, {*_CATEGORY, "subcategories"})
        parent = _category(fields, where, None)
        categories.append(parent)
        for position, child in enumerate(_list(fields, "subcategories", parent.id), start=1):
            where = f"subcategory {position} of {parent.id}"
            categories.append(_category(_fields(child, where, _CATEGORY), where, parent.id))
    version = top.get("version", "1")
    if isinstance(version, int) and not isinstance(version, bool):
        version = str(version)
    return Policy(
        name=top.get("name", ""),
        version=version,
        categories=tuple(categories),
        language=top.get("language", "en"),
    )


_CATEGORY = {"id", "name", "description", "synonyms"}


def _category(fields: dict[str, Any], where: str, parent: str | None) -> Category:
    category_id = fields.get("id")
    if not isinstance(category_id, str):
        example = f"{parent}S1" if parent else "C1"
        raise PolicyError(f"{where} has no id: give it one such as {example}")
    return Category(
        id=category_id,
        name=fields.get("name", ""),
        description=fields.get("description", ""),
        synonyms=tuple(_list(fields, "synonyms", category_id)),
        parent=parent,
    )


def _numbered(data: Any) -> list[Category]:
    if not isinstance(data, list):
        raise PolicyError("the reference layout is a list of entries with `category:`")
    found: list[Category] = []
    for i, entry in enumerate(data, start=1):
        known = {"category", "description", "synonymous-phrase", "subcategories"}
        fields = _fields(entry, f"entry {i}", known)
        found.append(_reference(fields, "category", f"C{i}", None))
        for j, child in enumerate(_list(fields, "subcategories", f"C{i}"), start=1):
            known = {"name", "description", "synonymous-phrase"}
            fields_of_child = _fields(child, f"subcategory {j} of C{i}", known)
            found.append(_reference(fields_of_child, "name", f"C{i}S{j}", f"C{i}"))
    return found


def _reference(fields: dict[str, Any], name_key: str, new_id: str, parent: str | None) -> Category:
    return Category(
        id=new_id,
        name=fields.get(name_key, ""),
        description=fields.get("description", ""),
        synonyms=tuple(_list(fields, "synonymous-phrase", new_id)),
        parent=parent,
    )


def _fields(data: Any, where: str, known: set[str]) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise PolicyError(f"{where} must be a mapping with {', '.join(sorted(known))}")
    for key in data:
        if key not in known:
            shown = f'"{key:.40}"' if isinstance(key, str) else f"of type {type(key).__name__}"
            raise PolicyError(f"{where} has an unknown key {shown}: use {', '.join(sorted(known))}")
    return data


def _list(fields: dict[str, Any], key: str, where: str) -> list[Any]:
    value = fields.get(key, [])
    if not isinstance(value, list):
        raise PolicyError(f"{key} of {where} must be a list")
    return value
