"""Something to boot from over HTTPS: a server with an authority of its own, and a file as small as firmware takes."""

from __future__ import annotations

import http.server
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import IPv4Network
from pathlib import Path

import docker
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

HOST = "boot.test"
SAID = "hello from the network"


@dataclass(frozen=True)
class BootServer:
    """``url`` of the file to boot, ``address`` of the host in it, ``ca``: the PEM file of its authority."""

    url: str
    address: str
    ca: Path
    asked: list[str]


@contextmanager
def boot_server(directory: Path) -> Iterator[BootServer]:
    """Serve until the end of the block; the embedded host's guests reach it through their gateway."""
    ca = _certificates(directory)
    (directory / "hello.efi").write_bytes(efi_application(SAID))
    with closing(docker.from_env()) as engine:
        (subnet,) = (part["Subnet"] for part in engine.networks.get("bridge").attrs["IPAM"]["Config"])
    gateway = str(IPv4Network(subnet)[1])
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *arguments: object) -> None:
            asked.append(format % arguments)

    server = http.server.ThreadingHTTPServer((gateway, 0), partial(Handler, directory=str(directory)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # What this firmware can do is not what is thought of as safe today.
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.load_cert_chain(directory / "server.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield BootServer(f"https://{HOST}:{server.server_port}/hello.efi", gateway, ca, asked)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _certificates(directory: Path) -> Path:
    """Make an authority and the server's certificate; returns the authority's file."""
    # This firmware has no elliptic curves.
    authority_key, key = (rsa.generate_private_key(65537, 2048) for _ in range(2))
    authority = _signed("vmprov test authority", authority_key, "vmprov test authority", authority_key, ca=True)
    certificate = _signed(HOST, key, "vmprov test authority", authority_key, ca=False)
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (directory / "server.pem").write_bytes(certificate.public_bytes(Encoding.PEM) + secret)
    path = directory / "ca.pem"
    path.write_bytes(authority.public_bytes(Encoding.PEM))
    return path


def _signed(
    subject: str, key: rsa.RSAPrivateKey, issuer: str, issuer_key: rsa.RSAPrivateKey, *, ca: bool
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if not ca:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(subject)]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def efi_application(text: str) -> bytes:
    """An unsigned UEFI application for x86-64 that prints a line and returns (PE32+, two sections)."""
    message = f"{text}\r\n".encode("utf-16-le") + b"\0\0"
    # mov rcx, [rdx+0x40] (ConOut); lea rdx, [rip+message]; call [rcx+8] (OutputString); return 0
    end = bytes.fromhex("ff5108 31c0 4883c428 c3")
    code = bytes.fromhex("4883ec28 488b4a40 488d15") + struct.pack("<i", len(end)) + end + message
    size = -(-len(code) // 512) * 512
    dos = b"MZ".ljust(60, b"\0") + struct.pack("<I", 64)
    coff = struct.pack("<HHIIIHH", 0x8664, 2, 0, 0, 0, 240, 0x22E)
    optional = struct.pack("<HBBIIIII", 0x20B, 0, 0, size, 512, 0, 0x1000, 0x1000)
    optional += struct.pack("<QIIHHHHHHIIIIHHQQQQII", 0, 0x1000, 0x200, *[0] * 6, 0, 0x3000, 0x400, 0, 10, 0,
                            *[0x100000, 0x1000] * 2, 0, 16)  # fmt: skip
    directories = [(0x2000, 8) if number == 5 else (0, 0) for number in range(16)]
    optional += b"".join(struct.pack("<II", *one) for one in directories)
    sections = struct.pack("<8sIIIIIIHHI", b".text", len(code), 0x1000, size, 0x400, 0, 0, 0, 0, 0x60000020)
    sections += struct.pack("<8sIIIIIIHHI", b".reloc", 8, 0x2000, 512, 0x400 + size, 0, 0, 0, 0, 0x42000040)
    header = (dos + b"PE\0\0" + coff + optional + sections).ljust(0x400, b"\0")
    return header + code.ljust(size, b"\0") + struct.pack("<II", 0x1000, 8).ljust(512, b"\0")
