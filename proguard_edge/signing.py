"""Sign: keys, and signatures by `model-signing` (extra `bundle`), the same each time.

`model-signing verify key FOLDER --signature … --public-key …` accepts them too, of a folder that
holds the signed file alone.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cryptography.hazmat.primitives import serialization

from proguard_edge.errors import InputError
from proguard_edge.signature import envelope, lower


def keygen(private: Path, public: Path) -> None:
    """Write a new P-256 pair as PEM; neither file may exist. Raises InputError."""
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


def sign(name: str, content: bytes, private: Path) -> bytes:
    """The signature on a file. Raises InputError for a key that cannot be used."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from model_signing._signing import sign_sigstore_pb

    key = _private_key(private)
    statement = json.dumps(_statement(name, content), sort_keys=True).encode()
    # The nonce comes from key and message (RFC 6979): the same file twice has the same signature.
    method = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
    proof = lower(key.sign(sign_sigstore_pb.pae(statement), method))
    pem = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return envelope(statement, proof, pem.decode())


def _statement(name: str, content: bytes) -> dict[str, Any]:
    """What model-signing states of a folder that holds that file; in an order of its own."""
    from google.protobuf import json_format
    from model_signing import hashing
    from model_signing._signing import signing

    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / Path(name).stem
        folder.mkdir()
        (folder / name).write_bytes(content)
        config: Any = hashing.Config
        payload = signing.Payload(config().hash(folder))
    statement: dict[str, Any] = json.loads(json_format.MessageToJson(payload.statement.pb))
    statement["predicate"]["serialization"]["ignore_paths"].sort()
    return statement


def _private_key(path: Path) -> Any:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path}: no private key: {error}") from None
    if getattr(getattr(key, "curve", None), "name", "") != "secp256r1":
        raise InputError(f"{path}: not of the curve P-256; `bundle keygen` makes one")
    return key
