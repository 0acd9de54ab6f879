"""Certificates for tests: self-signed, quick to make."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


@cache
def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def certificate(
    name: str, *, first: datetime | None = None, last: datetime | None = None, padding: int = 0
) -> x509.Certificate:
    """A certificate that is valid today, unless ``first`` and ``last`` say otherwise; ``padding`` makes it larger."""
    now = datetime.now(UTC).replace(microsecond=0)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(_key().public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(first or now - timedelta(days=1))
        .not_valid_after(last or now + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    if padding:
        comment = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"), bytes(padding))
        builder = builder.add_extension(comment, critical=False)
    return builder.sign(_key(), hashes.SHA256())


def pem(wanted: x509.Certificate) -> bytes:
    """The certificate's PEM form."""
    return wanted.public_bytes(Encoding.PEM)


def private_key() -> bytes:
    """The PEM form of the key."""
    return _key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
