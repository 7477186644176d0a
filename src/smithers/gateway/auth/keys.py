"""Keys: public keys that JWTs are signed with, from PEM text or from a JWKS file. Every key knows its one algorithm.

Apart from `jwts` because loading the cryptography takes a while, and secrets need none of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt import PyJWK
from jwt.exceptions import PyJWTError
from pydantic_core import from_json

from smithers.errors import InvalidInput
from smithers.jsons import list_of, object_of, text_of

log = logging.getLogger(__name__)

MIN_RSA_BITS: Final = 2048
MAX_JWKS_BYTES: Final = 1_048_576
_KINDS: Final = {"RSA": ("RS256",), "EC": ("ES256",), "OKP": ("EdDSA", "Ed25519")}
"""The algorithm of each kind of JWKS entry, by all its names."""


@dataclass(frozen=True, slots=True)
class Key:
    """A public key. `kid` is None for a key that was given without a name; it is tried whatever the token says."""

    algorithm: str
    kid: str | None
    verify: Callable[[bytes, bytes], bool] = field(repr=False)
    """Called with what was signed and the signature."""


class FixedKeys:
    """Keys that the operator wrote down. Raises `InvalidInput`."""

    __slots__ = ("_keys",)

    def __init__(self, keys: str | Mapping[str, str], where: str) -> None:
        named: Mapping[str | None, str] = {None: keys} if isinstance(keys, str) else dict(keys.items())
        self._keys = tuple(_key_of_pem(pem, kid, where) for kid, pem in named.items())

    def current(self) -> tuple[Key, ...]:
        """The keys as of now."""
        return self._keys


class JwksFile:
    """The keys of a JWKS file, read again when the file has changed. Raises `InvalidInput` if it cannot be read at first.

    A file that cannot be read later leaves the keys as they were: it may be half written, and a mistake in it shall not
    lock everybody out. Keys are taken away by a readable file without them.
    """

    __slots__ = ("_keys", "_path", "_seen")

    def __init__(self, path: Path, where: str) -> None:
        self._path = path
        try:
            self._seen = self._stamp()
            self._keys = self._read()
        except (OSError, ValueError) as error:
            raise InvalidInput(f"{where}: is no readable JWKS file") from error

    def current(self) -> tuple[Key, ...]:
        """The keys as of now."""
        try:
            stamp = self._stamp()
            if stamp != self._seen:
                self._seen = stamp
                self._keys = self._read()
        except (OSError, ValueError) as error:
            log.warning("a JWKS file cannot be read; its keys stay as they were", extra={"error": type(error).__name__})
        return self._keys

    def _stamp(self) -> tuple[int, int, int]:
        found = self._path.stat()
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self) -> tuple[Key, ...]:
        with self._path.open("rb") as file:
            text = file.read(MAX_JWKS_BYTES + 1)
        if len(text) > MAX_JWKS_BYTES:
            raise ValueError("the file is too large")
        entries = object_of(from_json(text)).get("keys")
        if not isinstance(entries, list):
            raise ValueError("the file holds no key set")
        found = (_key_of_jwk(object_of(entry)) for entry in list_of(cast("object", entries)))
        return tuple(key for key in found if key is not None)


def _key_of_pem(pem: str, kid: str | None, where: str) -> Key:
    try:
        loaded: object = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidInput(f"{where}: must be a public key in PEM") from error
    key = _key(loaded, kid)
    if key is None:
        raise InvalidInput(f"{where}: must be an RSA key of at least {MIN_RSA_BITS} bits, a P-256 or an Ed25519 key")
    return key


def _key_of_jwk(entry: dict[str, object]) -> Key | None:
    """The key of a JWKS entry; None for what is not for us: other uses and kinds, secrets, private keys."""
    kind = text_of(entry.get("kty")) or ""
    names = _KINDS.get(kind)
    if names is None or entry.get("use", "sig") != "sig" or entry.get("alg", names[0]) not in names:
        return None
    try:
        loaded: object = PyJWK.from_dict(entry, algorithm=names[0]).key
    except (PyJWTError, UnsupportedAlgorithm, ValueError, TypeError):
        log.warning("an entry of a JWKS file is no key that can be used", extra={"kty": kind})
        return None
    return _key(loaded, text_of(entry.get("kid")))


def _key(loaded: object, kid: str | None) -> Key | None:
    match loaded:
        case RSAPublicKey() if loaded.key_size >= MIN_RSA_BITS:
            return Key("RS256", kid, _by_rsa(loaded))
        case EllipticCurvePublicKey() if isinstance(loaded.curve, SECP256R1):
            return Key("ES256", kid, _by_p256(loaded))
        case Ed25519PublicKey():
            return Key("EdDSA", kid, _by_ed25519(loaded))
        case _:
            return None


def _by_rsa(key: RSAPublicKey) -> Callable[[bytes, bytes], bool]:
    def verify(signed: bytes, signature: bytes) -> bool:
        try:
            key.verify(signature, signed, PKCS1v15(), SHA256())
        except InvalidSignature:
            return False
        return True

    return verify


def _by_p256(key: EllipticCurvePublicKey) -> Callable[[bytes, bytes], bool]:
    def verify(signed: bytes, signature: bytes) -> bool:
        if len(signature) != 64:
            return False
        halves = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        try:
            key.verify(encode_dss_signature(*halves), signed, ECDSA(SHA256()))
        except InvalidSignature:
            return False
        return True

    return verify


def _by_ed25519(key: Ed25519PublicKey) -> Callable[[bytes, bytes], bool]:
    def verify(signed: bytes, signature: bytes) -> bool:
        try:
            key.verify(signature, signed)
        except InvalidSignature:
            return False
        return True

    return verify
