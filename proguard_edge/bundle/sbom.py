"""SBOM: a CycloneDX 1.6 list of what a bundle holds, the model among it (extra `bundle`)."""

from __future__ import annotations

import hashlib
import uuid
import zipfile
from collections.abc import Sequence
from datetime import UTC, datetime
from email.parser import BytesHeaderParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proguard_edge.artifact import Artifact

if TYPE_CHECKING:
    from cyclonedx.model.component import Component

# A bundle's bytes depend on its content, not on the hour.
MOMENT = datetime(1980, 1, 1, tzinfo=UTC)


def sbom(name: str, wheels: Sequence[Path], artifacts: Sequence[Artifact]) -> bytes:
    """The list as JSON."""
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6

    components = [*map(_library, wheels), *map(_model, artifacts)]
    bom = Bom(components=components)
    bom.metadata.component = root = Component(
        name=name, type=ComponentType.APPLICATION, bom_ref=f"bundle:{name}"
    )
    bom.metadata.timestamp = MOMENT
    seed = "".join(sorted(str(component.bom_ref) for component in components))
    bom.serial_number = uuid.uuid5(uuid.NAMESPACE_URL, name + seed)
    bom.register_dependency(root, components)
    text: str = JsonV1Dot6(bom).output_as_string(indent=1)
    return text.encode() + b"\n"


def _library(wheel: Path) -> Component:
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    found = _metadata(wheel)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return Component(
        name=found["Name"],
        version=found["Version"],
        type=ComponentType.LIBRARY,
        licenses=_licenses(found.get("License-Expression")),
        purl=PackageURL("pypi", name=found["Name"].lower(), version=found["Version"]),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
        bom_ref=f"{found['Name']}@{found['Version']}:{digest}",
    )


def _model(artifact: Artifact) -> Component:
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.component import Component, ComponentType

    told = {"engine": artifact.engine, "precision": artifact.precision}
    return Component(
        name=artifact.name,
        version=artifact.digest[:16],
        type=ComponentType.MACHINE_LEARNING_MODEL,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=artifact.digest)],
        properties=[Property(name=f"proguard-edge:{k}", value=v) for k, v in told.items()],
        bom_ref=f"{artifact.name}:{artifact.digest}",
    )


def _licenses(expression: str | None) -> list[Any]:
    from cyclonedx.model.license import LicenseExpression

    return [LicenseExpression(expression)] if expression else []


def _metadata(wheel: Path) -> Any:
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return BytesHeaderParser().parsebytes(archive.read(name))
