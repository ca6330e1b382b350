"""Sign: keys, and signatures by `model-signing` (extra `bundle`), the same each time.

`model-signing verify key MANIFEST_FOLDER --signature … --public-key …` accepts them too.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from proguard_edge.bundle.archive import MANIFEST
from proguard_edge.bundle.signature import canonical
from proguard_edge.errors import InputError


def keygen(private: Path, public: Path) -> None:
    """Write a new P-256 pair as PEM; neither file may exist. Raises InputError."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    shown = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for path, raw, mode in ((private, secret, 0o600), (public, shown, 0o644)):
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(raw)
        except OSError as error:
            raise InputError(f"{path}: {error.strerror or error}") from None


def sign(manifest: bytes, private: Path) -> bytes:
    """The signature on a manifest. Raises InputError for a key that cannot be used."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from model_signing import hashing
    from model_signing._signing import sign_ec_key, signing

    class Repeatable:
        """ECDSA that draws its nonce from key and message (RFC 6979): the same bundle twice has
        the same bytes. model-signing has no option for that."""

        def __init__(self, key: Any) -> None:
            self._key = key

        def sign(self, data: bytes, algorithm: Any) -> bytes:
            exact = ec.ECDSA(algorithm.algorithm, deterministic_signing=True)
            made: bytes = self._key.sign(data, exact)
            return made

        def public_key(self) -> Any:
            return self._key.public_key()

    try:
        signer: Any = sign_ec_key.Signer(private)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{private}: no private key: {error}") from None
    if signer._private_key.public_key().curve.name != "secp256r1":
        raise InputError(f"{private}: not of the curve P-256; `bundle keygen` makes one")
    signer._private_key = Repeatable(signer._private_key)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / "bundle"
        folder.mkdir()
        (folder / MANIFEST).write_bytes(manifest)
        payload = signing.Payload(hashing.Config().hash(folder))
        target = Path(scratch) / "signature"
        signer.sign(payload).write(target)
        return canonical(json.loads(target.read_text()))
