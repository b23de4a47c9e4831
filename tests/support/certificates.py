"""Certificates that nobody has signed, for servers of tests."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_PEM = serialization.Encoding.PEM
_PKCS8 = serialization.PrivateFormat.PKCS8


@dataclass(frozen=True)
class Certificate:
    """Files: the certificate, its key, both in one, and the key behind the password ``x``."""

    path: Path
    key: Path
    both: Path
    locked_key: Path


def make_certificate(directory: Path, name: str = "good", *, from_days: int = -1, to_days: int = 10) -> Certificate:
    """A certificate for localhost that holds between two days from now."""
    private = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=from_days))
        .not_valid_after(now + timedelta(days=to_days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(private, hashes.SHA256())
    )
    files = Certificate(*(directory / f"{name}.{ending}" for ending in ("crt", "key", "pem", "locked")))
    public = made.public_bytes(_PEM)
    secret = private.private_bytes(_PEM, _PKCS8, serialization.NoEncryption())
    files.path.write_bytes(public)
    files.key.write_bytes(secret)
    files.both.write_bytes(secret + public)
    files.locked_key.write_bytes(private.private_bytes(_PEM, _PKCS8, serialization.BestAvailableEncryption(b"x")))
    return files
