"""Contrast rows: harmless sentences with alarming words beside harmful ones with the same words.

The sentences are data, `train/contrast/*.yaml`, in our own words. One line there is one template:

    How do I {kill|stop} a {process} that hangs?

`{process}` is a slot named in the file, `{kill|stop}` an inline one. A template gives as many rows
as its longest slot has fillers, at most `CAPS[label]`; one without slots gives one row. A file has

    slots:      name → list of fillers, or category id → list (category `"*"` then reads it there)
    topics:     {name, cap?, unsafe_cap?, safe: lines, unsafe: {category id: lines}}
    exchanges:  {name, cap?, request, response, category?, pairs: lines "user => response"}
                or users: lines and responses: lines, each user with `each` responses

`python -m proguard_edge.train.contrast` prints the counts by file and label and by category.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

# Harmful asks have the longer slots (groups, drugs, titles): fewer of each keep the balance.
CAPS = {"safe": 8, "unsafe": 4}
CAP = max(CAPS.values())
FOLDER = Path(__file__).parent / "contrast"
SLOT = re.compile(r"\{([^{}]+)\}")
FROM_SLOT = "*"

Row = dict[str, Any]
Slots = dict[str, Any]


def contrast_rows(seed: int = 0) -> list[Row]:
    """All rows in file order, the same for the same seed; no two with the same normalised text."""
    rows: list[Row] = []
    seen: set[tuple[str, str]] = set()
    for path in sorted(FOLDER.glob("*.yaml")):
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        for row in _document_rows(path.stem, document, seed):
            key = (normalise(row["user"]), normalise(row["response"] or ""))
            if key not in seen:
                seen.add(key)
                rows.append(row)
    return rows


def normalise(text: str) -> str:
    """Lower case, letters and digits only, single spaces: the key under which rows are equal."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower().replace("'", "").replace("’", "")))


def template_of(row: Row) -> str:
    """The template a row came from: its id without the number of the expansion."""
    return str(row["id"]).rsplit(".", 1)[0]


def _document_rows(part: str, document: dict[str, Any], seed: int) -> Iterator[Row]:
    slots = document.get("slots", {})
    for topic in document.get("topics", []):
        yield from _topic_rows(part, topic, slots, seed)
    for exchange in document.get("exchanges", []):
        yield from _exchange_rows(part, exchange, slots, seed)


def _topic_rows(part: str, topic: dict[str, Any], slots: Slots, seed: int) -> Iterator[Row]:
    sides = [("safe", None, topic.get("safe", ""))]
    sides += [("unsafe", category, text) for category, text in topic.get("unsafe", {}).items()]
    number = 0
    for label, category, text in sides:
        for template in _lines(text):
            number += 1
            name = f"{part}-{topic['name']}-{number:03}"
            rng = random.Random(f"{seed}:{name}")
            key = "cap" if label == "safe" else "unsafe_cap"
            expansions = _expand(template, slots, topic.get(key, CAPS[label]), rng)
            for index, (user, found) in enumerate(expansions):
                chosen = found if category == FROM_SLOT else category
                yield _row(f"{name}.{index}", part, topic["name"], _restyle(user, rng), None,
                           label, None, chosen)  # fmt: skip


def _exchange_rows(part: str, exchange: dict[str, Any], slots: Slots, seed: int) -> Iterator[Row]:
    name, given = exchange["name"], exchange.get("category")
    for number, template in enumerate(_exchange_templates(exchange, seed), 1):
        rng = random.Random(f"{seed}:{part}-{name}-{number}")
        expansions = _expand(template, slots, exchange.get("cap", CAPS[exchange["request"]]), rng)
        for index, (text, found) in enumerate(expansions):
            user, response = (side.strip() for side in text.split("=>", 1))
            category = found if given == FROM_SLOT else given
            yield _row(f"{part}-{name}-{number:03}.{index}", part, name, user,
                       response.replace("\\n", "\n"), exchange["request"], exchange["response"],
                       category)  # fmt: skip


def _exchange_templates(exchange: dict[str, Any], seed: int) -> list[str]:
    """`user => response` lines; `users` meet `responses` in turn, so that all are used alike."""
    pairs = _lines(exchange.get("pairs", ""))
    users, responses = _lines(exchange.get("users", "")), _lines(exchange.get("responses", ""))
    random.Random(f"{seed}:{exchange['name']}").shuffle(responses)
    each = exchange.get("each", 1)
    for index, user in enumerate(users):
        for turn in range(each):
            pairs.append(f"{user} => {responses[(index * each + turn) % len(responses)]}")
    return pairs


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _expand(
    template: str, slots: Slots, cap: int, rng: random.Random
) -> list[tuple[str, str | None]]:
    """(text, category of the fillers) a row; every filler is used before one repeats."""
    names = list(dict.fromkeys(SLOT.findall(template)))
    choices = {name: _fillers(name, slots) for name in names}
    for options in choices.values():
        rng.shuffle(options)
    count = min(cap, CAP, max((len(options) for options in choices.values()), default=1))
    expansions = []
    for index in range(count):
        chosen = {name: options[index % len(options)] for name, options in choices.items()}
        text = SLOT.sub(lambda match, chosen=chosen: chosen[match[1]][0], template)
        category = next((found for _, found in chosen.values() if found), None)
        expansions.append((text[0].upper() + text[1:], category))
    return expansions


def _fillers(name: str, slots: Slots) -> list[tuple[str, str | None]]:
    if "|" in name:
        return [(filler, None) for filler in name.split("|")]
    fillers = slots[name]
    if isinstance(fillers, dict):
        return [(filler, category) for category, group in fillers.items() for filler in group]
    return [(filler, None) for filler in fillers]


def _restyle(text: str, rng: random.Random) -> str:
    """One text in five as people type it: lower case, no final stop, a slip of the finger.

    Drawn without looking at the label, so that sloppy typing says nothing about it.
    """
    draw = rng.random()
    if draw < 0.12:
        return text.lower().rstrip(".?!")
    if draw < 0.16:
        return text.replace("'", "").rstrip(".?!")
    if draw < 0.20:
        return _slip(text, rng)
    return text


def _slip(text: str, rng: random.Random) -> str:
    """Two neighbouring letters inside one longer word change places."""
    words = text.split(" ")
    long_words = [index for index, word in enumerate(words) if len(word) > 5 and word.isalpha()]
    if not long_words:
        return text
    index = rng.choice(long_words)
    word, place = words[index], rng.randrange(1, len(words[index]) - 2)
    words[index] = word[:place] + word[place + 1] + word[place] + word[place + 2 :]
    return " ".join(words)


def _row(
    identity: str,
    part: str,
    topic: str,
    user: str,
    response: str | None,
    request_label: str,
    response_label: str | None,
    category: str | None,
) -> Row:
    return {
        "id": f"contrast-{identity}",
        "source": "contrast",
        "licence": "Apache-2.0",
        "modality": "text",
        "user": user,
        "response": response,
        "image": None,
        "request_label": request_label,
        "response_label": response_label,
        "category": category,
        "source_category": f"{part}/{topic}",
    }


def main() -> None:
    """Print the counts: file × labels, then category."""
    rows = contrast_rows()
    parts = Counter(
        (row["source_category"].split("/")[0], row["request_label"], row["response_label"])
        for row in rows
    )
    for (part, request, response), count in sorted(parts.items(), key=str):
        print(f"{part:14} request {request:7} response {response!s:7} {count:5}")
    categories = Counter(row["category"] for row in rows if row["category"])
    print(" ".join(f"{category}:{count}" for category, count in sorted(categories.items())))
    safe = sum(row["request_label"] == "safe" for row in rows)
    templates = len({template_of(row) for row in rows})
    print(f"{len(rows)} rows, {templates} templates, requests {safe / len(rows):.1%} safe")


if __name__ == "__main__":
    main()
