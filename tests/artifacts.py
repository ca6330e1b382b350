"""What the test artifacts say and do."""

from __future__ import annotations

from typing import Any

from proguard_edge.export.folder import Contents
from proguard_edge.policy import Policy
from proguard_edge.template import Template


def contents(template: str = "edge", **changes: Any) -> Contents:
    """Default policy, one of the package's templates."""
    named = Template.named(template)  # type: ignore[arg-type]
    return Contents(**{"policy": Policy.default(), "template": named, "name": "tiny", **changes})
