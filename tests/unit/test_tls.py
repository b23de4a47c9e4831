"""Certificates from files: what is wrong with them is said before anybody is refused by a handshake."""

from __future__ import annotations

import contextlib
import ssl
from pathlib import Path

import pytest

from support.certificates import Certificate, make_certificate
from zhibei.errors import BadSetting
from zhibei.tls import client_context, server_context


@pytest.fixture
def good(tmp_path: Path) -> Certificate:
    return make_certificate(tmp_path)


def handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> str | None:
    """The version that two sides agree on."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = (client.wrap_bio(to_client, to_server, server_hostname="10.1.2.3"), server.wrap_bio(to_server, to_client, True))
    for _ in range(4):
        for side in sides:
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    return sides[0].version()


def test_without_files_there_is_no_tls() -> None:
    assert server_context(None, None) is None


def test_two_files_or_one(good: Certificate, caplog: pytest.LogCaptureFixture) -> None:
    for server in (server_context(good.path, good.key), server_context(good.both, None), server_context(good.both, good.both)):
        assert server is not None
        assert handshake(server, client_context(good.path)) == "TLSv1.3"
    assert caplog.text == ""


def test_old_versions_are_not_spoken(good: Certificate) -> None:
    server = server_context(good.path, good.key)
    assert server is not None and server.minimum_version == ssl.TLSVersion.TLSv1_2
    client = client_context(good.path)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    assert handshake(server, client) == "TLSv1.2"


def test_a_client_trusts_this_certificate_and_no_other(good: Certificate, tmp_path: Path) -> None:
    other = make_certificate(tmp_path, "other")
    server = server_context(other.path, other.key)
    assert server is not None
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, client_context(good.path))
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, ssl.create_default_context())


def test_of_a_chain_only_the_first_is_trusted(good: Certificate, tmp_path: Path) -> None:
    other = make_certificate(tmp_path, "other")
    chain = tmp_path / "chain.pem"
    chain.write_bytes(good.path.read_bytes() + other.path.read_bytes())
    server = server_context(other.path, other.key)
    assert server is not None
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, client_context(chain))


@pytest.mark.parametrize(
    ("certificate", "key", "said"),
    [
        (None, "good.key", "server.tls_cert is not"),
        ("none.crt", "good.key", "no file .*none.crt"),
        ("good.crt", "none.key", "no file .*none.key"),
        ("good.crt", None, "no usable key in .*good.crt"),
        ("good.crt", "good.crt", "no usable key in .*good.crt"),
        ("good.key", "good.key", "no certificate in .*good.key"),
        ("empty", "good.key", "no certificate in .*empty"),
        ("binary", "good.key", "no certificate in .*binary"),
        ("broken", "good.key", "in .*(broken|good.key)"),
        ("good.crt", "other.key", "other.key does not belong to the certificate .*good.crt"),
        ("good.crt", "good.locked", "good.locked is protected by a password"),
        (".", "good.key", "cannot be read"),
    ],
)
def test_what_is_wrong_is_said_in_words(tmp_path: Path, good: Certificate, certificate: str, key: str, said: str) -> None:
    make_certificate(tmp_path, "other")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "binary").write_bytes(bytes(range(256)) * 100)
    (tmp_path / "broken").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    with pytest.raises(BadSetting, match=said):
        server_context(certificate and tmp_path / certificate, key and tmp_path / key)  # type: ignore[arg-type]


@pytest.mark.parametrize(("from_days", "to_days", "said"), [(-9, -2, "has expired"), (2, 9, "not valid yet")])
def test_a_certificate_out_of_its_time_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, from_days: int, to_days: int, said: str
) -> None:
    files = make_certificate(tmp_path, from_days=from_days, to_days=to_days)
    assert server_context(files.path, files.key) is not None
    assert said in caplog.text
