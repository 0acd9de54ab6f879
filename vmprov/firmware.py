"""What UEFI firmware is told before a machine starts: certificates, and the variable store that holds them.

The only door to virt-firmware. A store is made from nothing, so that it needs no file of the host: 4 MiB builds of OVMF
all have it at the same places. Certificates for TLS lie in it as the variable from which firmware takes them; handing
them over beside it (``fw_cfg``) would need a file that QEMU may read, and hosts that confine QEMU forbid that.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmprov.errors import HostNotReady, SpecError

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

# Where 4 MiB builds of OVMF have things (OvmfPkg/Include/Fdf/OvmfPkgDefines.fdf.inc).
STORE_SIZE = 0x84000
_VARIABLES_SIZE = 0x40000
_HEADERS_SIZE = 72 + 28
_WORKING_BLOCK = 0x41000
_BLOCK_SIZE = 0x1000
_VOLUME = uuid.UUID("fff12b8d-7696-4c8b-a985-2747075b4f50")
_AUTHENTICATED_VARIABLES = uuid.UUID("aaf32c78-947b-439a-a180-2e144ec37792")
_WORKING = uuid.UUID("9e58292b-7c68-497d-a0ce-6500fd9f1b95")
_VOLUME_ATTRIBUTES = 0x0004FEFF
_TLS_CERTIFICATES = ("TlsCaCertificate", "fd2340d0-3dab-4349-a6c7-3b4f12b48eae")
# Who put a certificate into a list; nothing depends on it.
_OWNER = "a0baa8a3-041d-48a8-bc87-c36d121b5e3d"
_LARGEST_PEM = 1024**2


def read_certificates(path: Path, *, now: datetime | None = None) -> list[Certificate]:
    """The X.509 certificates in a PEM file; :class:`SpecError` where it has none that are whole.

    Where ``now`` is given, each must be valid then.
    """
    from cryptography import x509

    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST_PEM + 1)
    except OSError as problem:
        raise SpecError(f"the certificate {path} cannot be read: {problem.strerror}", hint="give a PEM file") from None
    if len(text) > _LARGEST_PEM:
        raise SpecError(f"the certificate {path} is larger than 1MiB", hint="give the authority's own certificate")
    if b"-----BEGIN CERTIFICATE-----" not in text:
        raise _not_a_certificate(path, text)
    try:
        found = x509.load_pem_x509_certificates(text)
    except ValueError:
        raise SpecError(f"the certificate {path} is damaged", hint="copy it again; openssl x509 -in reads it") from None
    for certificate in found if now else ():
        _check_dates(path, certificate, now or datetime.now(UTC))
    return found


def _not_a_certificate(path: Path, text: bytes) -> SpecError:
    if b"PRIVATE KEY-----" in text:
        return SpecError(
            f"{path} is a private key and not a certificate", hint="give the certificate that belongs to it"
        )
    if b"-----BEGIN CERTIFICATE REQUEST-----" in text:
        return SpecError(f"{path} is a request for a certificate", hint="give the certificate that was issued for it")
    if text[:1] == b"\x30":
        return SpecError(f"{path} is not in PEM form", hint="run: openssl x509 -inform der -in FILE -out FILE.pem")
    return SpecError(f"there is no certificate in {path}", hint="a PEM file has a line -----BEGIN CERTIFICATE-----")


def _check_dates(path: Path, certificate: Certificate, now: datetime) -> None:
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > last:
        raise SpecError(
            f"the certificate {path} expired on {last:%Y-%m-%d}", hint="get a new one; firmware refuses this"
        )
    if now < first:
        raise SpecError(f"the certificate {path} is valid from {first:%Y-%m-%d} on", hint="see that the clock is right")


def choose_loader(loaders: Sequence[str], *, secure: bool, host: str) -> str:
    """Of the firmware that a host has, a 4 MiB build of OVMF, with Secure Boot or without.

    >>> choose_loader(["/f/OVMF_CODE.fd", "/f/OVMF_CODE_4M.secboot.fd", "/f/OVMF_CODE_4M.fd"], secure=True, host="h")
    '/f/OVMF_CODE_4M.secboot.fd'
    """
    # Builds of which names end otherwise differ in the variables that come along, not in the code.
    endings = ("_4M.secboot.fd", "_4M.ms.fd") if secure else ("_4M.fd",)
    for ending in endings:
        found = next((loader for loader in loaders if loader.endswith(ending)), None)
        if found is not None:
            return found
    kind = "UEFI firmware with Secure Boot" if secure else "UEFI firmware"
    known = ", ".join(loaders) or "none"
    raise HostNotReady(f"{host} has no {kind} that vmprov knows (it has: {known})", hint="install the package ovmf")


def variable_store(
    *, tls: Sequence[Certificate] = (), secure_boot: bool = False, boot: Sequence[Certificate] = ()
) -> bytes:
    """A variable store for a 4 MiB build of OVMF.

    ``tls``: what firmware trusts when it boots over HTTPS. ``secure_boot``: only what is signed by one of ``boot``, or
    where that is empty by Microsoft, is started.
    """
    from virt.firmware.efi.efivar import EfiVar, EfiVarList

    variables = EfiVarList()
    if tls:
        name, guid = _TLS_CERTIFICATES
        variables[name] = _with_certificates(EfiVar(name, guid=guid), tls)
    if secure_boot:
        if boot:
            for name, trusted in (("PK", boot[:1]), ("KEK", boot), ("db", boot)):
                variables[name] = _with_certificates(EfiVar(name), trusted)
        else:
            variables.enroll_platform_microsoft()
            variables.add_microsoft_keys()
        variables.enable_secureboot()
    return _written(variables)


def _with_certificates(variable: Any, certificates: Sequence[Certificate]) -> Any:
    """The variable, holding an EFI signature list for each certificate."""
    from cryptography.hazmat.primitives.serialization import Encoding
    from virt.firmware.efi import guids

    for certificate in certificates:
        variable.sigdb_add_cert_data(guids.parse_str(_OWNER), certificate.public_bytes(Encoding.DER))
    return variable


def _written(variables: Any) -> bytes:
    from virt.firmware.varstore.edk2 import Edk2VarStore

    # virt-firmware's own way to write a whole store takes seconds: it pads it byte by byte.
    written = b"".join(Edk2VarStore.bytes_var(variable) for _, variable in sorted(variables.items()))
    # Firmware itself needs room for what it remembers.
    room = (_VARIABLES_SIZE - _HEADERS_SIZE) // 2
    if len(written) > room:
        raise SpecError(
            f"the certificates take {len(written)} bytes, and firmware has room for {room}",
            hint="give the authority's own certificate instead of a bundle",
        )
    store = bytearray(blank_store())
    store[_HEADERS_SIZE : _HEADERS_SIZE + len(written)] = written
    return bytes(store)


def blank_store() -> bytes:
    """A variable store without variables: the header of a firmware volume, one of the variables, and a working block.

    See the UEFI Platform Initialization specification (EFI_FIRMWARE_VOLUME_HEADER) and MdeModulePkg's
    Guid/VariableFormat.h and Guid/SystemNvDataGuid.h.
    """
    volume = bytearray(
        bytes(16)
        + _VOLUME.bytes_le
        + struct.pack("<Q4sLHHHBB", STORE_SIZE, b"_FVH", _VOLUME_ATTRIBUTES, 72, 0, 0, 0, 2)
        + struct.pack("<LLLL", STORE_SIZE // _BLOCK_SIZE, _BLOCK_SIZE, 0, 0)
    )
    # The 16-bit words of the header add up to zero.
    struct.pack_into("<H", volume, 50, -sum(struct.unpack("<36H", volume)) & 0xFFFF)
    formatted, healthy = 0x5A, 0xFE
    size = _VARIABLES_SIZE - len(volume)
    variables = _AUTHENTICATED_VARIABLES.bytes_le + struct.pack("<LBBHL", size, formatted, healthy, 0, 0)
    working = _WORKING.bytes_le + struct.pack("<LBBBBQ", 0x642CAF2C, 0xFE, 0xFF, 0xFF, 0xFF, _BLOCK_SIZE - 32)
    store = bytearray(b"\xff" * STORE_SIZE)
    store[: len(volume) + len(variables)] = volume + variables
    store[_WORKING_BLOCK : _WORKING_BLOCK + len(working)] = working
    return bytes(store)
