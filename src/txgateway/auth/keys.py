"""Keys that tokens are verified with. Which algorithms a key serves is decided here, when it is loaded.

A token only says which of them it used. So ``none`` has no key, and a public key never becomes an HMAC secret. Keys in
JSON are read by :mod:`txgateway.auth.jwk`.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Collection, Iterable
from typing import Final, TypeAlias

from attrs import field, frozen
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key
from jwt.algorithms import Algorithm, ECAlgorithm, HMACAlgorithm, OKPAlgorithm, RSAAlgorithm, RSAPSSAlgorithm

from txgateway.errors import TokenBadSignature, TokenUnknownKey

Material: TypeAlias = bytes | RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey | Ed448PublicKey

#: RFC 7518 sections 3.3 and 3.5 say at least 2048 bits; the upper bound is for the time that one signature takes.
MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 16384
MAX_RSA_EXPONENT: Final = 2**32

#: RFC 7518 section 3.2: a secret has at least as many octets as the hash.
HASH_BYTES: Final = {"HS256": 32, "HS384": 48, "HS512": 64}
_RSA_NAMES: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
#: RFC 7518 section 3.4: each curve has its algorithm.
_CURVE_NAMES: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}

#: The mathematics of each algorithm; all rules on keys are ours.
_MATHEMATICS: Final[dict[str, Algorithm]] = {
    "HS256": HMACAlgorithm(HMACAlgorithm.SHA256),
    "HS384": HMACAlgorithm(HMACAlgorithm.SHA384),
    "HS512": HMACAlgorithm(HMACAlgorithm.SHA512),
    "RS256": RSAAlgorithm(RSAAlgorithm.SHA256),
    "RS384": RSAAlgorithm(RSAAlgorithm.SHA384),
    "RS512": RSAAlgorithm(RSAAlgorithm.SHA512),
    "PS256": RSAPSSAlgorithm(RSAPSSAlgorithm.SHA256),
    "PS384": RSAPSSAlgorithm(RSAPSSAlgorithm.SHA384),
    "PS512": RSAPSSAlgorithm(RSAPSSAlgorithm.SHA512),
    "ES256": ECAlgorithm(ECAlgorithm.SHA256),
    "ES384": ECAlgorithm(ECAlgorithm.SHA384),
    "ES512": ECAlgorithm(ECAlgorithm.SHA512),
    "EdDSA": OKPAlgorithm(),
}

#: What a key may be bound to, in the order of the published list.
ALGORITHMS: Final = tuple(_MATHEMATICS)

#: Public material pasted where a secret belongs: whoever has the public key could sign with it.
_PUBLIC_TEXT: Final = re.compile(rb"-----BEGIN|\A\s*(?:ssh-|ecdsa-sha2-)")


@frozen(eq=False)
class VerificationKey:
    """One key, bound to what it may verify. Made by :func:`bind`.

    Attributes:
        kid: its name, or None.
        algorithms: names of RFC 7518 section 3.1 and RFC 8037; at least one.
    """

    kid: str | None
    algorithms: frozenset[str]
    _material: Material = field(repr=False)

    def verify(self, signing_input: bytes, signature: bytes, algorithm: str) -> bool:
        """Whether ``signature`` was made with this key, by ``algorithm``, over ``signing_input``."""
        return algorithm in self.algorithms and _MATHEMATICS[algorithm].verify(signing_input, self._material, signature)


class KeySet:
    """Keys by name and algorithm; never changes.

    Args:
        keys: may be none, then no token is ever verified.

    Raises:
        ValueError: two keys of one name serve the same algorithm, so that a token could mean either.
    """

    __slots__ = ("_fitting", "_named", "_size")

    def __init__(self, keys: Iterable[VerificationKey]) -> None:
        self._named: dict[str, dict[str, VerificationKey]] = {}
        self._fitting: dict[str, list[VerificationKey]] = {}
        self._size = 0
        for key in keys:
            self._size += 1
            for algorithm in key.algorithms:
                self._fitting.setdefault(algorithm, []).append(key)
            if key.kid is not None:
                namesakes = self._named.setdefault(key.kid, {})
                if not key.algorithms.isdisjoint(namesakes):
                    raise ValueError("the key set is ambiguous: two keys have the same kid and a common algorithm")
                namesakes.update(dict.fromkeys(key.algorithms, key))

    def __len__(self) -> int:
        return self._size

    def find(self, kid: str | None, algorithm: str) -> VerificationKey:
        """The one key for a token. A set in which no key has a name takes a token's ``kid`` for unsaid.

        Raises:
            TokenUnknownKey: no key has that name, or several fit a token without one; a newer set may help.
            TokenBadSignature: the algorithm is not one of the key's, or of any key.
        """
        if algorithm not in _MATHEMATICS:
            raise TokenBadSignature("not an algorithm that is ever accepted")
        if not self._size:
            raise TokenUnknownKey("the key set is empty")
        if kid is not None and self._named:
            namesakes = self._named.get(kid)
            if namesakes is None:
                raise TokenUnknownKey("no key of that name")
            fitting = [namesakes[algorithm]] if algorithm in namesakes else []
        else:
            fitting = self._fitting.get(algorithm, [])
        if not fitting:
            raise TokenBadSignature("the algorithm is not the key's")
        if len(fitting) > 1:
            raise TokenUnknownKey("no kid, and several keys fit")
        return fitting[0]


def bind(material: Material, kid: str | None, allowed: Collection[str]) -> VerificationKey:
    """A key for those of its algorithms that are allowed.

    Args:
        allowed: names of algorithms; empty for all that the kind of key has.

    Raises:
        ValueError: the key is too weak or of an unusable kind, or serves none of the allowed algorithms.
    """
    names = _algorithms_of(material)
    if allowed:
        names &= frozenset(allowed)
    if not names:
        raise ValueError("the key does not fit any of the allowed algorithms")
    return VerificationKey(kid, names, material)


def keys_from_secret(secret: str, allowed: tuple[str, ...] = ()) -> KeySet:
    """The set of one secret, used as its UTF-8 octets.

    Args:
        allowed: HMAC algorithms; empty for those that the secret is long enough for.

    Raises:
        ValueError: it is public material, or shorter than the hash of an algorithm that was asked for.
    """
    try:
        octets = secret.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("the secret is not UTF-8") from None
    key = bind(octets, None, allowed)
    if too_long := sorted(name for name in allowed if name in HASH_BYTES and name not in key.algorithms):
        raise ValueError(f"the secret is too short for {too_long[0]}: it needs {HASH_BYTES[too_long[0]]} bytes")
    return KeySet([key])


def keys_from_pem(pem: str, allowed: tuple[str, ...] = ()) -> KeySet:
    """The set of one public key in PEM form.

    Raises:
        ValueError: it is none, too weak, of an unusable kind, or does not fit any of the allowed algorithms.
    """
    try:
        public = load_pem_public_key(pem.encode("utf-8"))
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("not a public key in PEM form (-----BEGIN PUBLIC KEY-----)") from None
    if not isinstance(public, RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey | Ed448PublicKey):
        raise ValueError("keys of this kind do not sign tokens: expected RSA, P-256, P-384, P-521, Ed25519 or Ed448")
    return KeySet([bind(public, None, allowed)])


def _is_public_key(secret: bytes) -> bool:
    """Whether a text is a key in PEM, SSH, base64 DER or JWK form: whoever has it could sign with it."""
    if _PUBLIC_TEXT.search(secret) is not None:
        return True
    if secret.lstrip().startswith(b"{") and b'"kty"' in secret:
        return True
    try:
        load_der_public_key(b64decode(secret, validate=True))
    except (ValueError, UnsupportedAlgorithm):
        return False
    return True


def _algorithms_of(material: Material) -> frozenset[str]:
    """What a kind of key can verify.

    Raises:
        ValueError: it is too weak, or of an unusable kind.
    """
    if isinstance(material, bytes):
        if _is_public_key(material):
            raise ValueError("the secret is a public key, or looks like one: give a public key as such")
        fitting = frozenset(name for name, size in HASH_BYTES.items() if len(material) >= size)
        if not fitting:
            raise ValueError("the secret is shorter than its hash: expected at least 32 bytes (RFC 7518 section 3.2)")
        return fitting
    if isinstance(material, RSAPublicKey):
        if not MIN_RSA_BITS <= material.key_size <= MAX_RSA_BITS:
            raise ValueError(f"an RSA key of {material.key_size} bits: expected {MIN_RSA_BITS} to {MAX_RSA_BITS}")
        numbers = material.public_numbers()
        if numbers.n % 2 == 0 or numbers.e % 2 == 0 or not 3 <= numbers.e < MAX_RSA_EXPONENT:
            raise ValueError("an RSA key with an unusable modulus or public exponent")
        return _RSA_NAMES
    if isinstance(material, EllipticCurvePublicKey):
        if material.curve.name not in _CURVE_NAMES:
            raise ValueError("a curve that has no algorithm: expected P-256, P-384 or P-521")
        return frozenset({_CURVE_NAMES[material.curve.name]})
    return frozenset({"EdDSA"})
