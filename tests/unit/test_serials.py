"""Serial numbers from lists and files, and those that are made up."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmprov import CreateRequest
from vmprov.errors import NotFound, SpecError
from vmprov.lab import Vmprov
from vmprov.settings import Settings
from vmprov.spec.names import check_serial_number
from vmprov.spec.serials import read_serial_numbers


def in_file(directory: Path, content: str | bytes) -> tuple[str, ...]:
    file = directory / "nodes.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_serial_numbers(f"@{file}")


def problems(directory: Path, content: str | bytes) -> list[str]:
    with pytest.raises(SpecError) as refused:
        in_file(directory, content)
    return [problem.replace(f"{directory}/", "") for problem in refused.value.problems]


def test_a_list_is_one_by_comma() -> None:
    assert read_serial_numbers("AB001,AB002, AB003,") == ("AB001", "AB002", "AB003")
    assert read_serial_numbers("") == ()


@pytest.mark.parametrize(
    "content",
    [
        "AB001\nAB002\n",
        "AB001\r\n\r\n# a comment\r\n  AB002  ",
        "serial\nAB001\nAB002\n",
        '"AB001"\n"AB002"\n',
        "Serial,UUID,Site\nAB001,x,y\nAB002,,\n",
        "site;serialNumber\na;AB001\nb; AB002\n",
        "name\tSerial Number\nn\tAB001\nn\tAB002\n",
        'site,serial_number\n"a, b","AB001"\n"c",AB002\n',
        b"\xef\xbb\xbfSerial,UUID\nAB001,\nAB002,\n",
        "SN,x\nAB001,1\nAB002,2",
    ],
)
def test_a_file_has_one_a_line_or_a_column(tmp_path: Path, content: str | bytes) -> None:
    assert in_file(tmp_path, content) == ("AB001", "AB002")


def test_every_problem_is_told_with_its_place(tmp_path: Path) -> None:
    assert problems(tmp_path, "# nodes\nserial,site\nAB001,a\nAB-01,b\nAB002\nAB001,c\n,d\n") == [
        "nodes.csv:4: serial number 'AB-01' is not allowed; use 5 to 20 letters and digits",
        "nodes.csv:6: AB001 is there already, as nodes.csv:3",
        "nodes.csv:7: serial number '' is not allowed; use 5 to 20 letters and digits",
    ]
    with pytest.raises(SpecError) as refused:
        read_serial_numbers("AB001,AB1,AB001")
    assert refused.value.problems == (
        "serial number 2: serial number 'AB1' is not allowed; use 5 to 20 letters and digits",
        "serial number 3: AB001 is there already, as serial number 1",
    )


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "there are no serial numbers in it"),
        ("# only\n", "there are no serial numbers in it"),
        ("AB001,AB002\n", "nodes.csv:1: none of its columns is called serial or serial_number"),
        ("serial,SN\nAB001,AB002\n", "nodes.csv:1: more than one of its columns is called"),
        ('serial,site\n"AB001,a\nAB002,b\n', "a quote is not closed"),
        (b"\xff\xfeAB001", "not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(tmp_path: Path, content: str | bytes, problem: str) -> None:
    assert problem in problems(tmp_path, content)[0]


def test_a_file_must_be_there_and_be_named_as_one(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no such file"):
        read_serial_numbers(f"@{tmp_path}/none")
    with pytest.raises(SpecError, match="write @ before its name"):
        read_serial_numbers("./nodes.csv")


def test_made_up_serial_numbers_pass_over_those_that_are_given(settings: Settings) -> None:
    machine = {"driver": "fake", "image": "", "memory": "64MiB"}
    with Vmprov(settings) as vmprov:
        installation = vmprov.store.installation.upper()
        # What the second VM of this installation would get.
        wanted = f"VP{installation}000002"
        given = vmprov.create(CreateRequest.parse(name="given", serial_numbers=[wanted], **machine))
        made = vmprov.create(CreateRequest.parse(count=3, name="made", **machine), host="fake:other")
        numbers = [vm.serial_number for vm in (*given.vms, *made.vms)]

        assert numbers == [wanted, *(f"VP{installation}00000{number}" for number in (3, 4, 5))]
        assert [check_serial_number(number) for number in numbers] == numbers
        again = CreateRequest.parse(name="again", serial_numbers=[wanted], **machine)
        with pytest.raises(SpecError, match=f"the serial number {wanted} already"):
            vmprov.create(again, host="fake:other")
