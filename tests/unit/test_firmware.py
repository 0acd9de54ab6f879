"""Certificates in, variable stores out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from virt.firmware.efi.siglist import EfiSigDB
from virt.firmware.varstore.edk2 import Edk2VarStore

from tests.unit.certificates import certificate, pem, private_key
from vmprov.errors import HostNotReady, SpecError
from vmprov.firmware import STORE_SIZE, blank_store, choose_loader, read_certificates, variable_store

NOW = datetime.now(UTC)
DAY = timedelta(days=1)


def variables(store: bytes, scratch: Path) -> dict[str, EfiSigDB]:
    path = scratch / "store.fd"
    path.write_bytes(store)
    return dict(Edk2VarStore(str(path)).get_varlist())


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_several_certificates_in_a_file_are_read_whatever_is_between_them(tmp_path: Path) -> None:
    first, second = certificate("a"), certificate("b")
    text = b"subject: a\n" + pem(first) + b"\nsubject: b\n" + pem(second) + private_key()

    assert read_certificates(written(tmp_path / "ca.pem", text), now=NOW) == [first, second]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "there is no certificate in"),
        (b"hello\n", "there is no certificate in"),
        (b"\x30\x82\x01\x02", "is not in PEM form"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "is damaged"),
        (b"-----BEGIN CERTIFICATE-----\nnot base64!\n", "is damaged"),
        (b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n", "is a request for a certificate"),
        (private_key(), "is a private key and not a certificate"),
        (b"x" * (1024**2 + 1), "is larger than 1MiB"),
    ],
)
def test_what_is_no_certificate_is_refused_with_the_reason(tmp_path: Path, content: bytes, why: str) -> None:
    with pytest.raises(SpecError, match=why):
        read_certificates(written(tmp_path / "ca.pem", content), now=NOW)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"the certificate .*/none\.pem cannot be read: No such file"):
        read_certificates(tmp_path / "none.pem")


@pytest.mark.parametrize(
    ("first", "last", "why"),
    [(NOW - 3 * DAY, NOW - DAY, "expired on"), (NOW + DAY, NOW + 3 * DAY, "is valid from")],
)
def test_a_certificate_out_of_its_time_is_refused(tmp_path: Path, first: datetime, last: datetime, why: str) -> None:
    path = written(tmp_path / "ca.pem", pem(certificate("a", first=first, last=last)))

    with pytest.raises(SpecError, match=why):
        read_certificates(path, now=NOW)
    assert read_certificates(path)


def test_a_blank_store_is_one_without_variables(tmp_path: Path) -> None:
    store = blank_store()

    assert len(store) == STORE_SIZE == 540_672
    assert variables(store, tmp_path) == {}
    # What the firmware volume's header says of itself.
    assert sum(int.from_bytes(store[place : place + 2], "little") for place in range(0, 72, 2)) & 0xFFFF == 0


def test_certificates_for_tls_become_signature_lists(tmp_path: Path) -> None:
    trusted = [certificate("a"), certificate("b")]

    found = variables(variable_store(tls=trusted), tmp_path)

    assert list(found) == ["TlsCaCertificate"]
    assert str(found["TlsCaCertificate"].guid) == "fd2340d0-3dab-4349-a6c7-3b4f12b48eae"
    assert [entry.x509 for entry in found["TlsCaCertificate"].sigdb] == trusted
    # https://uefi.org/specs/UEFI/2.10/32_Secure_Boot_and_Driver_Signing.html: the type comes first.
    assert bytes(found["TlsCaCertificate"].data)[:16].hex() == "a159c0a5e494a74a87b5ab155c2bf072"


def test_under_secure_boot_only_what_is_given_is_trusted(tmp_path: Path) -> None:
    ours = certificate("ours")

    found = variables(variable_store(secure_boot=True, boot=[ours]), tmp_path)

    for name in ("PK", "KEK", "db"):
        assert [entry.x509 for entry in found[name].sigdb] == [ours], name
    assert (found["SecureBootEnable"].data, found["CustomMode"].data) == (b"\x01", b"\x00")


def test_under_secure_boot_microsoft_is_trusted_where_nothing_is_given(tmp_path: Path) -> None:
    found = variables(variable_store(secure_boot=True), tmp_path)

    subjects = " ".join(entry.x509.subject.rfc4514_string() for entry in found["db"].sigdb)
    assert "Microsoft Corporation UEFI CA 2011" in subjects
    assert "TlsCaCertificate" not in found


def test_a_bundle_that_does_not_fit_is_refused() -> None:
    bundle = [certificate(f"number {number}", padding=2000) for number in range(70)]

    with pytest.raises(SpecError, match=r"the certificates take \d+ bytes, and firmware has room for"):
        variable_store(tls=bundle)


def test_the_firmware_is_chosen_by_what_it_can() -> None:
    has = ["/f/OVMF_CODE_4M.ms.fd", "/f/OVMF_CODE_4M.fd", "/f/AAVMF_CODE.fd"]

    assert choose_loader(has, secure=False, host="embedded") == "/f/OVMF_CODE_4M.fd"
    assert choose_loader(has, secure=True, host="embedded") == "/f/OVMF_CODE_4M.ms.fd"
    with pytest.raises(HostNotReady, match="embedded has no UEFI firmware that vmprov knows"):
        choose_loader(["/f/AAVMF_CODE.fd"], secure=False, host="embedded")
