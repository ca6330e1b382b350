"""Signatures that `model-signing` makes with a key, checked with what Python brings.

A signature is a Sigstore bundle (v0.3): a DSSE envelope around an in-toto statement that names the
SHA-256 of one file, signed by ECDSA over NIST P-256 (FIPS 186-5). Only public data is computed on
here, so nothing needs to take constant time.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from pathlib import Path, PurePath

from proguard_edge.errors import ArtifactError, InputError

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"

# NIST P-256, from FIPS 186-4 D.1.2.3: y² = x³ - 3x + B over the integers modulo P.
P = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
# What stands before the point in every PEM public key of this curve (RFC 5480).
_SPKI = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")

# Two integers of 33 bytes with their heads.
MAX_PROOF_BYTES = 72

Point = tuple[int, int]


def public_key(pem: str) -> Point:
    """The point of a PEM public key. Raises ArtifactError for anything but P-256."""
    lines = [line.strip() for line in pem.strip().splitlines()]
    if len(lines) < 3 or lines[0] != "-----BEGIN PUBLIC KEY-----":
        raise ArtifactError("the public key is no PEM file (-----BEGIN PUBLIC KEY-----)")
    try:
        raw = base64.b64decode("".join(lines[1:-1]), validate=True)
    except (binascii.Error, ValueError):
        raise ArtifactError("the public key is no PEM file: not base64") from None
    if not raw.startswith(_SPKI) or len(raw) != len(_SPKI) + 64:
        raise ArtifactError("the public key is not of the curve P-256; `bundle keygen` makes one")
    x, y = (int.from_bytes(raw[-64:][i : i + 32]) for i in (0, 32))
    if not (x < P and y < P and (y * y - (x**3 - 3 * x + B)) % P == 0):
        raise ArtifactError("the public key is no point of the curve")
    return x, y


def key_id(pem: str) -> str:
    """SHA-256 (hex) of the key as model-signing writes it: it stands in each signature."""
    x, y = public_key(pem)
    raw = _SPKI + x.to_bytes(32) + y.to_bytes(32)
    text = base64.encodebytes(raw).decode().replace("\n", "")
    lines = "\n".join(text[i : i + 64] for i in range(0, len(text), 64))
    whole = f"-----BEGIN PUBLIC KEY-----\n{lines}\n-----END PUBLIC KEY-----\n"
    return hashlib.sha256(whole.encode()).hexdigest()


def envelope(statement: bytes, proof: bytes, pem: str) -> bytes:
    """The one way in which a signature is written: every other writing of it is refused."""
    found = {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": key_id(pem)}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(statement).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(proof).decode(), "keyid": ""}],
        },
    }
    return json.dumps(found, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def read_key(source: Path | str) -> str:
    """A public key as PEM: `source` itself, or the text of that file.

    Raises InputError for a file that cannot be read, ArtifactError for what is no such key.
    """
    pem = source
    if not isinstance(pem, str) or not pem.lstrip().startswith("-----BEGIN"):
        try:
            pem = Path(source).read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{source}: cannot be read: {error}") from None
    public_key(pem)
    return pem


def check(raw: bytes, pem: str, digest: str, file: str, signature: str) -> None:
    """That `raw`, which lies in `signature`, is this key's on `file` with that SHA-256 (hex).

    Raises ArtifactError, which names the one of the two that is not as it should be.
    """
    key, own = public_key(pem), key_id(pem)
    try:
        found = json.loads(raw)
        wrapped = found["dsseEnvelope"]
        (only,) = wrapped["signatures"]
        signed = base64.b64decode(wrapped["payload"], validate=True)
        proof = base64.b64decode(only["sig"], validate=True)
        hint = found["verificationMaterial"]["publicKey"]["hint"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ArtifactError(f"{signature}: malformed signature") from None
    if hint != own:
        raise ArtifactError(f"{signature}: signed with another key")
    if envelope(signed, proof, pem) != raw:
        raise ArtifactError(f"{signature}: malformed signature")
    before = f"DSSEv1 {len(PAYLOAD_TYPE)} {PAYLOAD_TYPE} {len(signed)} ".encode()
    if not verifies(key, proof, before + signed):
        raise ArtifactError(f"{signature}: the signature is not of this key, or was altered")
    if _stated(signed, PurePath(file).name, signature) != digest:
        raise ArtifactError(f"{file}: was altered after it was signed")


def _stated(statement: bytes, name: str, signature: str) -> str:
    """The SHA-256 (hex) that the statement has for the one file `name`."""
    try:
        stated = json.loads(statement)
        (resource,) = stated["predicate"]["resources"]
        told = (stated["predicateType"], resource["name"], resource["algorithm"])
        digest = str(resource["digest"])
    except (KeyError, TypeError, ValueError):
        told, digest = None, ""
    if told != (PREDICATE_TYPE, name, "sha256"):
        raise ArtifactError(f"{signature}: the signature is on something else")
    return digest


def verifies(key: Point, proof: bytes, message: bytes) -> bool:
    """ECDSA with SHA-256 (FIPS 186-5, 6.4.2). proof: DER."""
    numbers = _der(proof)
    if numbers is None:
        return False
    r, s = numbers
    # Of s and N - s, which both fit, only the smaller counts: a file has one signature of a key.
    if not (0 < r < N and 0 < s <= N // 2):
        return False
    hashed = int.from_bytes(hashlib.sha256(message).digest())
    inverse = pow(s, -1, N)
    point = _add(_times(hashed * inverse % N, G), _times(r * inverse % N, key))
    return point is not None and point[0] % N == r


def lower(proof: bytes) -> bytes:
    """The signature with the smaller of the two s that fit. Raises ValueError for no signature."""
    numbers = _der(proof)
    if numbers is None:
        raise ValueError("not a DER signature")
    body = _integer(numbers[0]) + _integer(min(numbers[1], N - numbers[1]))
    return bytes([0x30, len(body)]) + body


def _der(raw: bytes) -> tuple[int, int] | None:
    """The two integers of SEQUENCE { r INTEGER, s INTEGER }, in its one DER form."""
    if len(raw) > MAX_PROOF_BYTES:
        return None
    numbers, rest = [], raw[2:]
    for _ in range(2):
        if len(rest) < 2 or rest[0] != 2 or len(rest) < 2 + rest[1]:
            return None
        numbers.append(int.from_bytes(rest[2 : 2 + rest[1]]))
        rest = rest[2 + rest[1] :]
    body = b"".join(_integer(number) for number in numbers)
    whole = bytes([0x30, len(body)]) + body
    return (numbers[0], numbers[1]) if whole == raw else None


def _integer(number: int) -> bytes:
    raw = number.to_bytes(number.bit_length() // 8 + 1)
    return bytes([2, len(raw)]) + raw


def _add(one: Point | None, other: Point | None) -> Point | None:
    """Of two points of the curve; None is the point at infinity."""
    if one is None or other is None:
        return one or other
    if one[0] == other[0] and (one[1] + other[1]) % P == 0:
        return None
    if one == other:
        slope = (3 * one[0] * one[0] - 3) * pow(2 * one[1], -1, P) % P
    else:
        slope = (other[1] - one[1]) * pow(other[0] - one[0], -1, P) % P
    x = (slope * slope - one[0] - other[0]) % P
    return x, (slope * (one[0] - x) - one[1]) % P


def _times(number: int, point: Point) -> Point | None:
    total: Point | None = None
    summand: Point | None = point
    while number:
        if number & 1:
            total = _add(total, summand)
        summand = _add(summand, summand)
        number >>= 1
    return total
