"""The artifact: whole, readable, and what it says of itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

from proguard_edge.artifact import Artifact, check_digests, check_signature
from proguard_edge.doctor.finding import Finding, Subject, size
from proguard_edge.doctor.installed import vouched
from proguard_edge.errors import ArtifactError, PolicyError, ProGuardEdgeError
from proguard_edge.starter import STARTER

NAME = "artifact"
LICENCES = ("NOTICE", "LICENSE", "LICENCE", "COPYING")
UNSIGNED = "have its maker sign it: `proguard-edge artifact sign`"
OTHERS = "do not use it: copy it again from its maker, and ask them which key is theirs"


def check(subject: Subject) -> Iterator[Finding]:
    """Sets `subject.artifact` where verdicts can be had of it."""
    try:
        artifact = Artifact.open(subject.folder)
        yield _whole(artifact)
        signatures = list(_signature(artifact, subject.public_key))
        yield from signatures
        if any(finding.state == "problem" for finding in signatures):
            return
        yield _readable(artifact)
    except ProGuardEdgeError as error:
        yield Finding(NAME, "problem", str(error), _remedy(subject.folder, error))
        return
    subject.artifact = artifact
    yield _abilities(artifact)
    yield _bounds(artifact)
    yield from _gate(artifact)
    yield _licence(artifact)


def _remedy(folder: Path, error: ProGuardEdgeError) -> str:
    if folder == STARTER:
        return "install proguard-edge again: the starter is part of the package"
    if isinstance(error, PolicyError):
        return "export it again with a policy that `proguard-edge policy validate` accepts"
    return "copy the artifact again from where it was made, then run this again"


def _whole(artifact: Artifact) -> Finding:
    """Raises ArtifactError for the first file that is not what the manifest lists."""
    begin = perf_counter()
    check_digests(artifact)
    seconds = perf_counter() - begin
    total = sum(entry.size for entry in artifact.files.values())
    found = f"{artifact.name}: {len(artifact.files)} files, {size(total)}, every byte as listed, "
    found += f"digest {artifact.digest}"
    details = {"bytes": total, "seconds": round(seconds, 3), "digest": artifact.digest}
    return Finding(NAME, "ok", found, details=details)


def _readable(artifact: Artifact) -> Finding:
    """Raises ArtifactError, PolicyError."""
    from proguard_edge.engine import ENGINES
    from proguard_edge.policy import Policy
    from proguard_edge.template import Template
    from proguard_edge.thresholds import Thresholds

    known = [engine for engine in ENGINES if engine not in ("auto", "remote")]
    if artifact.engine not in known:
        raise ArtifactError(
            f"{artifact.name} is for the engine {artifact.engine!r}, and this version of "
            f"proguard-edge has {', '.join(known)}"
        )
    policy = Policy.load(artifact.path("policy.yaml"))
    Template.load(artifact.path("template.jinja"))
    Thresholds.of(artifact, policy, policy)
    found = f"engine {artifact.engine}, {artifact.precision}; policy {policy.name}"
    details = {"engine": artifact.engine, "precision": artifact.precision}
    return Finding(
        NAME,
        "ok",
        f"{found} of {len(policy.categories)} categories",
        details={**details, "policy": policy.name, "categories": len(policy.categories)},
    )


def _abilities(artifact: Artifact) -> Finding:
    details = {
        "modalities": list(artifact.modalities),
        "modes": list(artifact.modes),
        "languages": list(artifact.languages),
    }
    reads, modes = ", ".join(artifact.modalities), ", ".join(artifact.modes)
    if not artifact.languages:
        return Finding(
            NAME,
            "note",
            f"reads {reads}, modes {modes}; which languages it reads it does not say",
            'test it on texts in yours: none of its "safe" is withheld for its language',
            details,
        )
    found = f"reads {reads} in {', '.join(artifact.languages)}, modes {modes}"
    return Finding(NAME, "ok", found, details=details)


def _bounds(artifact: Artifact) -> Finding:
    bounds = {part: [bound.rate for bound in of] for part, of in artifact.miss_bounds.items()}
    details = {"calibrated": sorted(artifact.calibration), "miss_bounds": bounds}
    if not artifact.calibration or not any(bounds.values()):
        lacks = "bounds on missed content" if artifact.calibration else "calibrated scores"
        remedy = "`proguard-edge calibrate` fits them to labelled rows of yours"
        return Finding(NAME, "note", f"it has no {lacks}", remedy, details)
    parts = (f"{part} {min(of):g} to {max(of):g}" for part, of in bounds.items() if of)
    found = f"scores are calibrated, missed content is bounded: {', '.join(parts)}"
    return Finding(NAME, "ok", found, details=details)


def _gate(artifact: Artifact) -> Iterator[Finding]:
    quality = artifact.manifest.get("quality")
    if isinstance(quality, dict) and quality.get("measured") is False:
        yield Finding(
            NAME,
            "note",
            "it was exported without the quality gate: nobody compared it with its checkpoint",
            "export it with labelled rows (--data) to know what the export changed",
        )


def _licence(artifact: Artifact) -> Finding:
    stated = artifact.manifest.get("licence")
    files = sorted(name for name in artifact.files if name.upper().startswith(LICENCES))
    details = {"licence": stated, "files": files}
    if not stated:
        remedy = "ask whoever made it: the weights' licence says what you may do with verdicts"
        return Finding(NAME, "note", "its licence is not stated", remedy, details)
    if "-NC" in str(stated).upper():
        remedy = "for commercial use export weights whose licence allows it"
        return Finding(NAME, "note", f"licence: {stated}", remedy, details)
    return Finding(NAME, "ok", f"licence: {stated}", details=details)


def _signature(artifact: Artifact, public_key: str | None) -> Iterator[Finding]:
    """Nothing where nobody is asked for and nobody signed."""
    details = {"signed": artifact.signed}
    if public_key is None:
        if artifact.signed:
            found = "it has a signature, which was not checked"
            remedy = "`proguard-edge doctor --public-key maker.pub` checks it"
            yield Finding(NAME, "note", found, remedy, details)
        return
    try:
        check_signature(artifact, public_key)
    except ArtifactError as error:
        if not artifact.signed and (name := vouched(artifact.digest, public_key)):
            found = f"signed by this key as a part of {name}; it has no signature of its own"
            yield Finding(NAME, "ok", found, details=details)
        else:
            remedy = OTHERS if artifact.signed else UNSIGNED
            yield Finding(NAME, "problem", str(error), remedy, details)
        return
    yield Finding(NAME, "ok", "signed by this key", details=details)
