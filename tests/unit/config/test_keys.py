from __future__ import annotations

from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from txgateway.config import keys


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with two pairs of certificate and key."""
    directory = tmp_path_factory.mktemp("pem")
    authority = trustme.CA()
    for name in ("a", "b"):
        certificate = authority.issue_cert(f"{name}.example.com")
        certificate.cert_chain_pems[0].write_to_path(str(directory / f"{name}.crt"))
        certificate.private_key_pem.write_to_path(str(directory / f"{name}.key"))
    return directory


def test_pair_that_belongs_together_is_accepted(pem: Path) -> None:
    keys.check_pair(str(pem / "a.crt"), str(pem / "a.key"))
    assert keys.certificate_directory(str(pem)) == str(pem)


def test_pair_that_does_not_belong_together_is_refused(pem: Path) -> None:
    with pytest.raises(ValueError, match="belongs to the certificate"):
        keys.check_pair(str(pem / "a.crt"), str(pem / "b.key"))


def test_directory_with_an_incomplete_pair_is_refused(pem: Path, tmp_path: Path) -> None:
    (tmp_path / "c.crt").write_bytes((pem / "a.crt").read_bytes())
    with pytest.raises(ValueError, match=r"c\.crt: its key: the file cannot be read"):
        keys.certificate_directory(str(tmp_path))


@pytest.mark.parametrize("name", ["", "/nowhere/at/all"])
def test_directory_without_certificates_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a directory"):
        keys.certificate_directory(name or str(tmp_path))


def test_file_of_another_kind_is_refused(pem: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="certificates in PEM form"):
        keys.certificate_file(str(pem / "a.key"))
    with pytest.raises(ValueError, match="private key in PEM form"):
        keys.private_key_file(str(pem / "a.crt"))
    with pytest.raises(ValueError, match="cannot be read"):
        keys.certificate_file(str(tmp_path))
    with pytest.raises(ValueError, match="cannot be read"):
        keys.certificate_file("a\0b")


def test_encrypted_key_is_refused(tmp_path: Path) -> None:
    encrypted = generate_private_key(SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")
    )
    (tmp_path / "key").write_bytes(encrypted)
    with pytest.raises(ValueError, match="unencrypted"):
        keys.private_key_file(str(tmp_path / "key"))


def test_public_key_is_a_public_key_in_pem_form() -> None:
    key = generate_private_key(SECP256R1())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    assert keys.public_key(public) == public
    for text in (private, "ssh-ed25519 AAAA", public[:60]):
        with pytest.raises(ValueError, match="expected a public key"):
            keys.public_key(text)


def test_jwks_has_keys() -> None:
    text = '{"keys": [{"kty": "RSA"}]}'
    assert keys.jwks(text) == text


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"keys": []}', '{"keys": [1]}', '{"keys": [{}]}', '{"keys": {}}']
)
def test_jwks_without_keys_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a JWKS document"):
        keys.jwks(text)


@pytest.mark.parametrize("text", ["", " ", "x" * 40 + "\n", "x\r" * 20, "\ufeff" + "x" * 40, "x" * 40 + "\x00"])
def test_secret_with_what_got_in_by_mistake_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a secret"):
        keys.secret(text)
    assert keys.secret("ä b" * 20) == "ä b" * 20
