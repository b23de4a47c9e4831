"""Certificates from files, for a server of ours and for those who talk to it. Owns what is said when a file is not right."""

from __future__ import annotations

import logging
import re
import ssl
from pathlib import Path

from zhibei.errors import BadSetting

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_MAX_FILE_BYTES = 1 << 20
_MAX_ROUNDS = 10
# OpenSSL's numbers for what is wrong with a certificate.
_NOT_YET_VALID, _EXPIRED = 9, 10

log = logging.getLogger("zhibei.server")


def server_context(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """What a server needs to speak TLS 1.2 and later; None if it should not. A certificate's file may hold its key too.

    Raises:
        BadSetting: a file is missing, is no such thing, or one does not belong to the other.
    """
    if certificate is None:
        if key is not None:
            raise BadSetting("server.tls_key is set, and server.tls_cert is not.", hint="Set both, or neither.")
        return None
    _leaf(certificate)
    if key is not None:
        _text(key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except _Encrypted:
        raise BadSetting(
            "The key of the certificate {path} is protected by a password.",
            hint="Store it without one: openssl pkey -in FILE -out FILE2",
            path=key or certificate,
        ) from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise BadSetting(
                "The key {key} does not belong to the certificate {path}.", key=key or certificate, path=certificate
            ) from None
        raise BadSetting("There is no usable key in {path}.", hint="It must be in PEM form.", path=key or certificate) from None
    except OSError as error:
        raise BadSetting("The file {path} cannot be read: {problem}", path=key or certificate, problem=error.strerror) from None
    _look_at_dates(context, certificate)
    return context


def client_context(certificate: Path) -> ssl.SSLContext:
    """What trusts one certificate and no other, whatever name the server is reached by.

    Raises:
        BadSetting: the file is missing, or is no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # The certificate itself is the anchor, not whoever has signed it: then its holder is who is meant, by any name.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.check_hostname = False
    try:
        context.load_verify_locations(cadata=_leaf(certificate))
    except ssl.SSLError:
        raise _no_certificate(certificate) from None
    return context


class _Encrypted(Exception):
    """OpenSSL wants a password."""


def _no_password() -> str:
    raise _Encrypted


def _leaf(path: Path) -> str:
    """The first certificate of a file: the server's own."""
    found = _PEM.search(_text(path))
    if found is None:
        raise _no_certificate(path)
    return found[0]


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_FILE_BYTES).decode("ascii", "replace")
    except FileNotFoundError:
        raise BadSetting("There is no file {path}.", hint="See server.tls_cert and server.tls_key.", path=path) from None
    except OSError as error:
        raise BadSetting("The file {path} cannot be read: {problem}", path=path, problem=error.strerror or error) from None


def _no_certificate(path: Path) -> BadSetting:
    return BadSetting("There is no certificate in {path}.", hint="It must be in PEM form.", path=path)


def _look_at_dates(context: ssl.SSLContext, certificate: Path) -> None:
    """Shake hands with ourselves: Python reads a certificate's dates only for somebody who checks it."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(to_server, to_client, server_side=True)
    client = client_context(certificate).wrap_bio(to_client, to_server)
    try:
        for _ in range(_MAX_ROUNDS):
            for side in (client, server):
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    continue
    except ssl.SSLCertVerificationError as error:
        if error.verify_code == _EXPIRED:
            log.warning("the certificate %s has expired; clients will refuse it", certificate)
        elif error.verify_code == _NOT_YET_VALID:
            log.warning("the certificate %s is not valid yet; clients will refuse it", certificate)
    except ssl.SSLError as error:
        log.warning("the certificate %s does not work: %s", certificate, error.reason)
