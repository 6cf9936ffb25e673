"""Keys and tokens as an issuer makes them, and an issuer that publishes its keys over HTTP as a test tells it to."""

from __future__ import annotations

import json
import threading
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any

import jwt
from attrs import frozen
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.integration.backend import Exchange, Script, ScriptedBackend, answer
from tests.integration.wire import TIMEOUT_S

#: Long enough for every hash.
SECRET = "correct horse battery staple, and sixty-four bytes are more than that"

Claims = Mapping[str, Any]


@frozen(eq=False)
class Key:
    """What signs tokens: a private key or a secret.

    Attributes:
        kid: its name; empty for none.
    """

    algorithm: str
    private: Any
    kid: str = ""

    @property
    def pem(self) -> str:
        """The public key."""
        raw: bytes = self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return raw.decode("ascii")

    def jwk(self, **members: Any) -> dict[str, Any]:
        """The public key, or the secret; ``members`` are added."""
        public = self.private if isinstance(self.private, bytes) else self.private.public_key()
        made = jwt.get_algorithm_by_name(self.algorithm).to_jwk(public, as_dict=True)
        return {**made, **({"kid": self.kid} if self.kid else {}), **members}

    def sign(self, header: bytes, payload: bytes) -> str:
        """A token of any two segments."""
        signing_input = base64url(header) + b"." + base64url(payload)
        signature = jwt.get_algorithm_by_name(self.algorithm).sign(signing_input, self.private)
        return (signing_input + b"." + base64url(signature)).decode("ascii")

    def token(self, header: Claims | None = None, **claims: Any) -> str:
        """A token of alice's that is good for ten minutes, but for what is said here; ``...`` leaves a claim out."""
        head = {"alg": self.algorithm, **({"kid": self.kid} if self.kid else {}), **(header or {})}
        said = {"sub": "alice", "exp": epoch_s() + 600, **claims}
        return self.sign(_json(head), _json({name: value for name, value in said.items() if value is not ...}))


@cache
def key(algorithm: str, kid: str = "") -> Key:
    """A key for an algorithm, the same at each call with the same name."""
    private: Any = SECRET.encode()
    if algorithm.startswith("ES"):
        curves = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
        private = ec.generate_private_key(curves[algorithm])
    elif algorithm == "EdDSA":
        private = ed25519.Ed25519PrivateKey.generate()
    elif not algorithm.startswith("HS"):
        private = rsa.generate_private_key(65537, 2048)
    return Key(algorithm, private, kid)


def epoch_s() -> float:
    """The wall clock, as the gateway reads it."""
    return datetime.now(UTC).timestamp()


def base64url(raw: bytes) -> bytes:
    """Without padding."""
    return urlsafe_b64encode(raw).rstrip(b"=")


def bearer(token: str) -> str:
    """The field line that carries a token."""
    return f"Authorization: Bearer {token}"


def jwks(*jwks_: Mapping[str, Any]) -> str:
    """A document of these keys."""
    return json.dumps({"keys": jwks_})


class Issuer(ScriptedBackend):
    """Publishes keys at :attr:`jwks_url`; whatever else it may do is a script, as any backend's.

    Attributes:
        downloads: begun so far.
    """

    downloads = 0

    @property
    def script(self) -> Script:
        """For each download from now on."""
        return self._counting

    @script.setter
    def script(self, script: Script) -> None:
        self._script = script

    def _counting(self, exchange: Exchange) -> None:
        self.downloads += 1
        self._script(exchange)

    @property
    def jwks_url(self) -> str:
        """Where the document is."""
        return f"{self.url}/keys?secret=query"

    def publish(self, *keys: Mapping[str, Any]) -> None:
        """Answer every download from now on with these."""
        self.script = answer(http_answer(jwks(*keys).encode()))

    def publish_when_told(self, *keys: Mapping[str, Any]) -> threading.Event:
        """Answer with these as soon as the event is set."""
        told = threading.Event()

        def script(exchange: Exchange) -> None:
            assert told.wait(TIMEOUT_S)
            exchange.send(http_answer(jwks(*keys).encode()))

        self.script = script
        return told


def http_answer(body: bytes, status: str = "200 OK") -> bytes:
    """A whole answer."""
    return b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        status.encode(), len(body), body,
    )  # fmt: skip


def _json(value: object) -> bytes:
    return json.dumps(value).encode()
