"""What a backend is told of a client's certificate: a value of ``X-Forwarded-Client-Cert`` with Envoy's keys.

Only certificates that the handshake has verified come here. Their text is the client's own all the same.
"""

from __future__ import annotations

import re
from typing import Final

from cryptography.x509 import Name
from OpenSSL import SSL
from OpenSSL.crypto import X509

#: A longer subject is left out: half of one could be somebody else's.
MAX_SUBJECT_BYTES: Final = 1024
#: Whatever a reader of RFC 4514, of quoted strings or of comma lists may take for more than itself.
_SPECIAL: Final = re.compile(r"[^A-Za-z0-9 ._@:/()*'=-]|\A[ ]|[ ]\Z")


def forwarded_client_cert(connection: SSL.Connection) -> bytes:
    """``Hash=…;Subject="…"`` for the certificate that the client of a finished handshake has shown, or empty.

    The hash is the SHA-256 of the certificate, in lower-case hexadecimal.
    """
    certificate = connection.get_peer_certificate()
    if certificate is None:
        return b""
    fingerprint = certificate.digest("sha256").replace(b":", b"").lower()
    subject = _subject(certificate)
    if subject is None or len(subject) > MAX_SUBJECT_BYTES:
        return b"Hash=%b" % fingerprint
    return b'Hash=%b;Subject="%b"' % (fingerprint, subject)


def _subject(certificate: X509) -> bytes | None:
    try:
        name = distinguished_name(certificate.to_cryptography().subject)
    except ValueError:  # OpenSSL reads what cryptography does not
        return None
    # RFC 9110 section 5.6.4; there is no other character in it that needs this.
    return name.replace("\\", "\\\\").encode("ascii")


def distinguished_name(name: Name) -> str:
    """A name as RFC 4514 has it, in ASCII: special characters as pairs of hexadecimal digits, so quotes never show."""
    return ",".join(
        "+".join(f"{attribute.rfc4514_attribute_name}={_value(attribute.value)}" for attribute in part)
        for part in reversed(name.rdns)
    )


def _value(value: str | bytes) -> str:
    if isinstance(value, bytes):  # a bit string, section 2.4
        return "#" + value.hex()
    return _SPECIAL.sub(_escaped, value)


def _escaped(found: re.Match[str]) -> str:
    return "".join(f"\\{byte:02X}" for byte in found[0].encode("utf-8", "surrogatepass"))
