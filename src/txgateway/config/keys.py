"""What configured key material must look like: certificates, private and public keys, JWKS documents.

Looked at while the configuration is loaded, so that a wrong file is a line on standard error and not a failed
handshake. Parsers as in :mod:`txgateway.config.values`; no message holds any part of a key.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from cryptography.x509 import Certificate, load_pem_x509_certificates

from txgateway.config.values import string

#: The most bytes read of a certificate, key or secret file.
MAX_KEY_FILE_BYTES: Final = 2**20
MAX_KEYS: Final = 1000

#: By path: device, inode, time of change in nanoseconds, and bytes; None where there is nothing.
Signature = dict[str, tuple[int, int, int, int] | None]


def signature_of(paths: Iterable[str]) -> Signature:
    """What tells whether one of the files has changed, also behind symbolic links."""
    return {path: _stat(path) for path in paths}


def _stat(path: str) -> tuple[int, int, int, int] | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def read_bounded(path: str, limit_bytes: int) -> bytes:
    """The content of a file.

    Raises:
        ValueError: it cannot be read, or is longer than ``limit_bytes``.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(limit_bytes + 1)
    except (OSError, ValueError) as exc:  # ValueError: a NUL in the path
        why = exc.strerror if isinstance(exc, OSError) and exc.strerror else "not a path"
        raise ValueError(f"the file cannot be read ({why})") from exc
    if len(content) > limit_bytes:
        raise ValueError(f"the file is longer than {limit_bytes} bytes")
    return content


def certificates(path: str) -> list[Certificate]:
    """The certificates in a PEM file, at least one.

    Raises:
        ValueError: the file cannot be read or holds none.
    """
    content = read_bounded(path, MAX_KEY_FILE_BYTES)
    try:
        return load_pem_x509_certificates(content)
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise ValueError("expected a file with certificates in PEM form") from exc


def private_key(path: str) -> PrivateKeyTypes:
    """The unencrypted private key in a PEM file.

    Raises:
        ValueError: the file cannot be read, or holds no such key.
    """
    content = read_bounded(path, MAX_KEY_FILE_BYTES)
    try:
        return load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:  # TypeError: it wants a password
        raise ValueError("expected a file with an unencrypted private key in PEM form") from exc


def certificate_file(value: object) -> str:
    """A path whose file holds certificates.

    Raises:
        ValueError: it does not.
    """
    certificates(path := string(value))
    return path


def private_key_file(value: object) -> str:
    """A path whose file holds a private key.

    Raises:
        ValueError: it does not.
    """
    private_key(path := string(value))
    return path


def certificate_directory(value: object) -> str:
    """A directory of ``NAME.crt`` and ``NAME.key``, at least one pair.

    Raises:
        ValueError: it is none, or a pair is incomplete, malformed or does not belong together.
    """
    path = string(value)
    try:
        found = sorted(Path(path).glob("*.crt"))
    except (OSError, ValueError):
        found = []
    if not found:
        raise ValueError("expected a directory that holds files NAME.crt and NAME.key")
    for file in found:
        try:
            check_pair(str(file), str(file.with_suffix(".key")))
        except ValueError as exc:
            raise ValueError(f"{file.name}: {exc}") from exc
    return path


def check_pair(certificate_path: str, key_path: str) -> None:
    """Make sure that the first certificate is the key's.

    Raises:
        ValueError: it is not, or a file is not what it should be.
    """
    pair_of(certificate_path, key_path)


def pair_of(certificate_path: str, key_path: str) -> tuple[tuple[Certificate, ...], PrivateKeyTypes]:
    """A certificate with those that lead to its authority, and its key.

    Raises:
        ValueError: the first certificate is not the key's, or a file is not what it should be.
    """
    chain = tuple(certificates(certificate_path))
    try:
        key = private_key(key_path)
    except ValueError as exc:
        raise ValueError(f"its key: {exc}") from exc
    try:
        belongs = chain[0].public_key() == key.public_key()
    except UnsupportedAlgorithm as exc:
        raise ValueError("expected a certificate with a key of a known kind") from exc
    if not belongs:
        raise ValueError("expected the private key that belongs to the certificate")
    return chain, key


def public_key(value: object) -> str:
    """A public key in PEM form.

    Raises:
        ValueError: it is not.
    """
    text = string(value)
    try:
        load_pem_public_key(text.encode("utf-8"))
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise ValueError("expected a public key in PEM form (-----BEGIN PUBLIC KEY-----)") from exc
    return text


def jwks(value: object) -> str:
    """A JSON Web Key Set (RFC 7517 section 5) with at least one key.

    Raises:
        ValueError: it is not.
    """
    text = string(value)
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise ValueError("expected a JWKS document, which is JSON") from exc
    found = document.get("keys") if isinstance(document, dict) else None
    is_set = isinstance(found, list) and all(isinstance(key, dict) and isinstance(key.get("kty"), str) for key in found)
    if not is_set or not found or len(found) > MAX_KEYS:
        raise ValueError(f'expected a JWKS document: {{"keys": […]}} with 1 to {MAX_KEYS} keys, each with a "kty"')
    return text


def secret(value: object) -> str:
    """A secret as given; its length is judged together with the algorithms.

    Raises:
        ValueError: it is empty or blank, or has characters that got in by mistake: line ends, other controls, a byte
            order mark.
    """
    text = string(value)
    if not text.strip():
        raise ValueError("expected a secret that is not blank")
    if any(character < " " or character in "\x7f\ufeff" for character in text):
        raise ValueError("expected a secret without line ends, other control characters and byte order mark")
    return text
