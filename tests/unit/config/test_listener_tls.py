from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.helpers.tls import write_pair

from txgateway.config import ConfigurationError, Settings, load
from txgateway.config.listener_tls import MAX_PAIRS, ListenerTlsError, has_certificate, listener_contexts, signature

DEMO = {"GATEWAY_BACKEND_TARGET": "demo"}


@pytest.fixture
def pair(tmp_path: Path, authority: trustme.CA) -> dict[str, str]:
    """The variables of a good pair."""
    crt, key = write_pair(tmp_path, "one", authority.issue_cert("one.example"))
    return {"GATEWAY_TLS_CERT_FILE": crt, "GATEWAY_TLS_KEY_FILE": key}


@pytest.fixture
def directory(tmp_path: Path, authority: trustme.CA) -> Path:
    """Of three pairs; the first by name is a.example's."""
    directory = tmp_path / "certificates"
    directory.mkdir()
    for name in ("c", "a", "b"):
        write_pair(directory, name, authority.issue_cert(f"{name}.example"))
    return directory


def problems_of(environ: dict[str, str]) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load({**DEMO, **environ})
    return [str(problem) for problem in caught.value.problems]


def weak_pair(directory: Path) -> dict[str, str]:
    """A pair that is in order, and too weak for OpenSSL."""
    key = rsa.generate_private_key(65537, 1024)
    name = x509.Name([])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now - timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    crt, pem = directory / "weak.crt", directory / "weak.key"
    crt.write_bytes(certificate.public_bytes(Encoding.PEM))
    pem.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return {"GATEWAY_TLS_CERT_FILE": str(crt), "GATEWAY_TLS_KEY_FILE": str(pem)}


def names(settings: Settings) -> list[str]:
    return [found.name for found in listener_contexts(settings).pairs]


# --- what is good -------------------------------------------------------------------------------------------------------


def test_pair_of_two_variables_is_the_default_before_the_directory(pair: dict[str, str], directory: Path) -> None:
    configuration = load({**DEMO, **pair, "GATEWAY_TLS_CERT_DIR": str(directory)})
    assert names(configuration.settings) == ["default", "a", "b", "c"]
    assert (configuration.warnings, configuration.hazards) == ((), ())


def test_first_of_a_directory_is_the_default(directory: Path) -> None:
    settings = load({**DEMO, "GATEWAY_TLS_CERT_DIR": str(directory)}).settings
    assert names(settings) == ["a", "b", "c"]
    assert has_certificate(settings)


def test_everything_together_is_no_problem(pair: dict[str, str], tmp_path: Path, authority: trustme.CA) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    configuration = load({
        **DEMO, **pair, "GATEWAY_TLS_MIN_VERSION": "1.3", "GATEWAY_TLS_CLIENT_AUTH": "required",
        "GATEWAY_TLS_CLIENT_CA_FILE": str(tmp_path / "ca.pem"), "GATEWAY_REDIRECT_PORT": "80",
        "GATEWAY_LISTEN": "tcp:443 tcp:8080;plain",
    })  # fmt: skip
    assert (configuration.warnings, configuration.hazards) == ((), ())


def test_without_certificate_there_is_no_tls() -> None:
    assert not has_certificate(load(DEMO).settings)


# --- what is not ----------------------------------------------------------------------------------------------------------


def test_half_a_pair_is_a_problem(pair: dict[str, str]) -> None:
    for name, missing in (("CERT", "key"), ("KEY", "certificate")):
        (problem,) = problems_of({f"GATEWAY_TLS_{name}_FILE": pair[f"GATEWAY_TLS_{name}_FILE"]})
        assert problem == f"GATEWAY_TLS_{name}_FILE: there is no {missing} file for it"


def test_key_of_another_certificate_is_one_problem(pair: dict[str, str], directory: Path) -> None:
    (problem,) = problems_of({**pair, "GATEWAY_TLS_KEY_FILE": str(directory / "a.key")})
    assert problem == "GATEWAY_TLS_KEY_FILE: expected the private key that belongs to the certificate"


def test_file_that_cannot_be_read_is_one_problem(pair: dict[str, str], tmp_path: Path) -> None:
    for name in ("GATEWAY_TLS_CERT_FILE", "GATEWAY_TLS_KEY_FILE"):
        (problem,) = problems_of({**pair, name: str(tmp_path / "none")})
        assert problem.startswith(f"{name}: ")
        assert "the file cannot be read" in problem


def test_pair_that_openssl_does_not_take_is_a_problem(tmp_path: Path) -> None:
    (problem,) = problems_of(weak_pair(tmp_path))
    assert problem.startswith("GATEWAY_TLS_CERT_FILE: OpenSSL does not take it (")
    weak = tmp_path / "weak"
    weak.mkdir()
    weak_pair(weak)
    (problem,) = problems_of({"GATEWAY_TLS_CERT_DIR": str(weak)})
    assert problem.startswith("GATEWAY_TLS_CERT_DIR: weak.crt: OpenSSL does not take it (")


def test_directory_with_a_mixed_pair_is_a_problem(directory: Path) -> None:
    (directory / "b.key").write_bytes((directory / "a.key").read_bytes())
    (problem,) = problems_of({"GATEWAY_TLS_CERT_DIR": str(directory)})
    assert problem.startswith("GATEWAY_TLS_CERT_DIR: ")
    assert "b.crt: expected the private key" in problem


@pytest.mark.parametrize("auth", ["optional", "required"])
def test_client_certificates_without_authority_are_a_problem(pair: dict[str, str], auth: str) -> None:
    (problem,) = problems_of({**pair, "GATEWAY_TLS_CLIENT_AUTH": auth})
    assert problem == "GATEWAY_TLS_CLIENT_AUTH: needs GATEWAY_TLS_CLIENT_CA_FILE"


@pytest.mark.parametrize(
    ("name", "value"),
    [("GATEWAY_TLS_MIN_VERSION", "1.2"), ("GATEWAY_TLS_CLIENT_AUTH", "required"), ("GATEWAY_TLS_CLIENT_CA_FILE", "")],
)
def test_what_only_matters_with_tls_is_a_problem_without(
    name: str, value: str, tmp_path: Path, authority: trustme.CA
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    problems = problems_of({name: value or str(tmp_path / "ca.pem")})
    assert f"{name}: there is no TLS without a certificate: set GATEWAY_TLS_CERT_FILE or GATEWAY_TLS_CERT_DIR" in (
        problem.replace(", ", " or ") for problem in problems
    )


def test_client_auth_none_asks_for_nothing() -> None:
    assert load({**DEMO, "GATEWAY_TLS_CLIENT_AUTH": "none"}).warnings == ()


@pytest.mark.parametrize(("listen", "is_fine"), [("tcp:1;plain tcp:2;plain", False), ("tcp:1;plain tcp:2", True)])
def test_redirect_needs_a_listener_that_speaks_tls(pair: dict[str, str], listen: str, is_fine: bool) -> None:
    environ = {**pair, "GATEWAY_REDIRECT_PORT": "80", "GATEWAY_LISTEN": listen}
    if is_fine:
        load({**DEMO, **environ})
    else:
        (problem,) = problems_of(environ)
        assert problem.startswith("GATEWAY_REDIRECT_PORT: every endpoint of GATEWAY_LISTEN is plain")


def test_own_ssl_endpoint_stays_refused(pair: dict[str, str]) -> None:
    (problem,) = problems_of({**pair, "GATEWAY_LISTEN": "ssl:443"})
    assert "expected another endpoint than ssl:" in problem


# --- what is probably not wanted ---------------------------------------------------------------------------------------------


def test_expired_certificate_is_a_hazard(tmp_path: Path, authority: trustme.CA) -> None:
    past = datetime.now(UTC) - timedelta(days=1)
    crt, key = write_pair(tmp_path, "old", authority.issue_cert("old.example", not_after=past))
    (hazard,) = load({**DEMO, "GATEWAY_TLS_CERT_FILE": crt, "GATEWAY_TLS_KEY_FILE": key}).hazards
    assert hazard == "GATEWAY_TLS_CERT_FILE: certificate default has expired, or is not valid yet"


def test_authority_that_nobody_is_asked_about_is_a_hazard(
    pair: dict[str, str], tmp_path: Path, authority: trustme.CA
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    (hazard,) = load({**DEMO, **pair, "GATEWAY_TLS_CLIENT_CA_FILE": str(tmp_path / "ca.pem")}).hazards
    assert hazard.startswith("GATEWAY_TLS_CLIENT_CA_FILE: GATEWAY_TLS_CLIENT_AUTH is none")


# --- files that change after they were judged ----------------------------------------------------------------------------------


def test_what_goes_wrong_later_is_told_with_the_setting(
    pair: dict[str, str], directory: Path, tmp_path: Path, authority: trustme.CA
) -> None:
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    settings = load({
        **DEMO, **pair, "GATEWAY_TLS_CERT_DIR": str(directory), "GATEWAY_TLS_CLIENT_AUTH": "optional",
        "GATEWAY_TLS_CLIENT_CA_FILE": str(ca_file),
    }).settings  # fmt: skip
    listener_contexts(settings)
    for path, key in ((ca_file, "tls_client_ca_file"), (directory / "b.key", "tls_cert_dir")):
        good = path.read_bytes()
        path.write_bytes(b"half a fi")
        with pytest.raises(ListenerTlsError) as caught:
            listener_contexts(settings)
        assert caught.value.key == key
        path.write_bytes(good)
    Path(pair["GATEWAY_TLS_KEY_FILE"]).unlink()
    with pytest.raises(ListenerTlsError) as caught:
        listener_contexts(settings)
    assert caught.value.key == "tls_cert_file"


def test_directory_that_became_empty_or_too_full_is_told(directory: Path) -> None:
    settings = load({**DEMO, "GATEWAY_TLS_CERT_DIR": str(directory)}).settings
    for number in range(MAX_PAIRS):
        (directory / f"{number}.crt").touch()
    with pytest.raises(ListenerTlsError, match="1 to 1000 files"):
        listener_contexts(settings)
    for file in directory.iterdir():
        file.unlink()
    with pytest.raises(ListenerTlsError, match="1 to 1000 files"):
        listener_contexts(settings)


# --- whether they change ---------------------------------------------------------------------------------------------------------


def test_signature_changes_with_content_time_and_file(pair: dict[str, str], directory: Path) -> None:
    ca_file = directory / "ca.pem"
    ca_file.write_bytes(Path(pair["GATEWAY_TLS_CERT_FILE"]).read_bytes())
    settings = load({
        **DEMO, **pair, "GATEWAY_TLS_CERT_DIR": str(directory), "GATEWAY_TLS_CLIENT_CA_FILE": str(ca_file),
    }).settings  # fmt: skip
    seen = [signature(settings)]
    key = Path(pair["GATEWAY_TLS_KEY_FILE"])

    def is_new() -> bool:
        found = signature(settings)
        known = found in seen
        seen.append(found)
        return not known

    assert not is_new()
    for path in (key, Path(pair["GATEWAY_TLS_CERT_FILE"]), directory / "b.key", directory / "c.crt", ca_file):
        os.utime(path, ns=(1, 1))
        assert is_new(), path
    key.write_bytes(key.read_bytes() + b"\n")
    os.utime(key, ns=(1, 1))
    assert is_new()  # by its size
    other = key.with_name("other")
    other.write_bytes(key.read_bytes())
    os.utime(other, ns=(1, 1))
    other.rename(key)
    assert is_new()  # by its inode
    (directory / "d.crt").write_bytes(b"x")
    assert is_new()
    (directory / "a.key").unlink()
    assert is_new()


def test_signature_looks_behind_links(tmp_path: Path, authority: trustme.CA) -> None:
    """As Kubernetes mounts secrets: one link is swapped, and all files are others."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        write_pair(tmp_path / name, "tls", authority.issue_cert("a.example"))
    (tmp_path / "..data").symlink_to("first")
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    crt, key = str(tmp_path / "tls.crt"), str(tmp_path / "tls.key")
    settings = load({**DEMO, "GATEWAY_TLS_CERT_FILE": crt, "GATEWAY_TLS_KEY_FILE": key}).settings
    before = signature(settings)
    (tmp_path / "..next").symlink_to("second")
    (tmp_path / "..next").rename(tmp_path / "..data")
    assert signature(settings) != before
