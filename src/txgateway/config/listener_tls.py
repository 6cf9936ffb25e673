"""From the settings to what the listeners show: the certificate files, read and put together as OpenSSL takes them.

Used when the configuration is judged, when the gateway starts, and again when a file changes. It blocks on files and on
keys that OpenSSL checks, so in a running gateway it is a thread's work.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cryptography.x509 import Certificate

from txgateway.config.keys import Signature, certificates, pair_of, signature_of
from txgateway.config.settings import Settings
from txgateway.transport.server_contexts import KeyPair, ServerContexts, TlsPolicy, UnusablePair

#: The label of the pair that two variables name; the others are called what their files are.
DEFAULT_NAME: Final = "default"
#: Most pairs of a directory.
MAX_PAIRS: Final = 1000


class ListenerTlsError(ValueError):
    """The files of a setting are not fit for a listener.

    Attributes:
        key: of the setting.
    """

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(problem)
        self.key = key


def has_certificate(settings: Settings) -> bool:
    """Whether listeners speak TLS."""
    return bool(settings.tls_cert_file or settings.tls_cert_dir)


def listener_contexts(settings: Settings) -> ServerContexts:
    """What listeners show, read from the files as they are at this moment.

    Raises:
        ListenerTlsError: a file cannot be read, is not what it should be, or does not belong to the others.
    """
    sources = list(key_pairs(settings))
    policy = TlsPolicy(
        settings.tls_min_version, settings.tls_client_auth, _client_authorities(settings), settings.http2
    )
    try:
        return ServerContexts([pair for _, pair in sources], policy)
    except UnusablePair as exc:
        key, pair = sources[exc.index]
        raise ListenerTlsError(key, f"{_label(key, pair.name)}{exc}") from exc


def signature(settings: Settings) -> Signature:
    """What tells whether one of the files has changed, also behind symbolic links; blocks."""
    return signature_of(sorted(_watched(settings)))


def key_pairs(settings: Settings) -> Iterator[tuple[str, KeyPair]]:
    """The certificates with their keys, the default one first, and the key of the setting that each comes from.

    Raises:
        ListenerTlsError: as :func:`listener_contexts`.
    """
    if settings.tls_cert_file:
        pair = _read("tls_cert_file", DEFAULT_NAME, settings.tls_cert_file, settings.tls_key_file or "")
        yield "tls_cert_file", pair
    if settings.tls_cert_dir:
        files = _certificate_files(settings.tls_cert_dir)
        if not 1 <= len(files) <= MAX_PAIRS:
            message = f"expected a directory that holds 1 to {MAX_PAIRS} files NAME.crt with their NAME.key"
            raise ListenerTlsError("tls_cert_dir", message)
        for file in files:
            yield "tls_cert_dir", _read("tls_cert_dir", file.stem, str(file), str(file.with_suffix(".key")))


def _read(key: str, name: str, certificate_path: str, key_path: str) -> KeyPair:
    try:
        return KeyPair(name, *pair_of(certificate_path, key_path))
    except ValueError as exc:
        raise ListenerTlsError(key, f"{_label(key, name)}{exc}") from exc


def _client_authorities(settings: Settings) -> tuple[Certificate, ...]:
    if settings.tls_client_auth == "none" or settings.tls_client_ca_file is None:
        return ()
    try:
        return tuple(certificates(settings.tls_client_ca_file))
    except ValueError as exc:
        raise ListenerTlsError("tls_client_ca_file", str(exc)) from exc


def _label(key: str, name: str) -> str:
    return f"{name}.crt: " if key == "tls_cert_dir" else ""


def _certificate_files(directory: str) -> list[Path]:
    return sorted(Path(directory).glob("*.crt"))


def _watched(settings: Settings) -> Iterator[str]:
    for path in (settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file):
        if path:
            yield path
    if settings.tls_cert_dir:
        for file in _certificate_files(settings.tls_cert_dir):
            yield str(file)
            yield str(file.with_suffix(".key"))
