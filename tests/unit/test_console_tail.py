"""Reading capture files: cleaning, lines, tails, the login prompt."""

from __future__ import annotations

import os
import random
import tracemalloc
from pathlib import Path

import pytest

from vmprov.console.holes import data_start, release_start
from vmprov.console.tail import Tail, last_line, last_lines, shows_login_prompt
from vmprov.console.text import LineReader, clean

BOOT = (
    "\x1b[2J\x1b[01;01H\x1b[=3hBdsDxe: loading Boot0001\r\n"
    "[    0.000000] Linux version 6.1\r\n"
    "\x1b[0;32m[  OK  ]\x1b[0m Started ünïcode €.\r\r\n"
    "\x1b]0;title\x07fetching 10%\rfetching 100%\r\n"
    "\x1b]3008;start=1\x1b\\vm-1 login: "
).encode()
BOOT_LINES = [
    "BdsDxe: loading Boot0001",
    "[    0.000000] Linux version 6.1",
    "[  OK  ] Started ünïcode €.",
    "fetching 100%",
]


@pytest.mark.parametrize(
    ("raw", "seen"),
    [
        (b"plain\ttab\r\n", "plain\ttab\n"),
        (b"a\r\r\nb\r\n", "a\nb\n"),
        (b"a\rb\n", "b\n"),
        (b"a long one\rshort\r\n", "short\n"),
        (b"\x1b[1;31mred\x1b[0m \x1b(B\x1b)0\x1b=\x1b>\x1b7\x1b8\x1bMdone", "red done"),
        (b"\x1b]0;title\x07a\x1b]8;;http://x\x1b\\b\x1bP1$r0m\x1b\\c", "abc"),
        (b"\x1b]P7aaaaaalogin: \x1b]Rhere", "login: here"),
        (b"\x1b]0;cut off by a reset\r\nBIOS\r\n", "\nBIOS\n"),
        (b"a\x00\x07\x0b\x7f\xc2\x9bb", "ab"),
        (b"\xff\xfe\xe2\x82", "\ufffd\ufffd\ufffd"),
        (b"12%\b\b\b13%\r\n", "13%\n"),
        (b"type\b \b\b \bx", "tyx"),
        (b"one\x1b[5;1Htwo", "one\ntwo"),
        (b"one\x1b7\x1b[999;999H\x1b[6n\x1b8two", "onetwo"),
        (b"held back\x1b[3", "held back"),
    ],
)
def test_cleaning_shows_what_a_person_would_see(raw: bytes, seen: str) -> None:
    assert clean(raw) == seen


@pytest.mark.parametrize("seed", range(20))
def test_lines_do_not_depend_on_the_chunking(seed: int) -> None:
    cuts = sorted(random.Random(seed).sample(range(len(BOOT)), 40))
    reader = LineReader()

    lines = [line for a, b in zip([0, *cuts], [*cuts, len(BOOT)], strict=True) for line in reader.feed(BOOT[a:b])]

    assert lines == BOOT_LINES
    assert reader.pending == "vm-1 login: "


def test_bytes_one_by_one_make_the_same_lines() -> None:
    reader = LineReader()

    lines = [line for at in range(len(BOOT)) for line in reader.feed(BOOT[at : at + 1])]

    assert lines == BOOT_LINES


def test_a_line_of_a_megabyte_is_cut_into_pieces() -> None:
    reader = LineReader(longest=1000)

    lines = reader.feed(b"x" * 2500 + b"\n")

    assert [len(line) for line in lines] == [1000, 1000, 500]
    assert reader.pending == ""


def test_a_line_of_just_the_longest_length_is_one_line_however_it_comes() -> None:
    whole, split = LineReader(longest=10), LineReader(longest=10)

    assert whole.feed(b"0123456789\r\n") == ["0123456789"]
    assert [*split.feed(b"0123456789"), *split.feed(b"\r"), *split.feed(b"\n")] == ["0123456789"]


def test_a_spinner_that_turns_for_ever_takes_no_memory() -> None:
    reader = LineReader(longest=1000)

    lines = reader.feed(b"-\b/\b|\b\\\b" * 10_000 + b"\rloading\r" * 1000)

    assert lines == []
    assert reader.pending == "loading"


def test_an_escape_sequence_without_an_end_takes_no_memory() -> None:
    reader = LineReader(longest=1000)

    for _ in range(200):
        reader.feed(b"\x1b[" + b"1;" * 500)
    lines = reader.feed(b"\r\nafter\r\n")

    assert lines[-1] == "after"


def test_a_tail_reads_what_is_new_and_only_that(tmp_path: Path) -> None:
    log = tmp_path / "console-0.log"
    tail = Tail(log)

    assert tail.read() == b""
    log.write_bytes(b"one\n")
    assert tail.read() == b"one\n"
    assert tail.read() == b""
    with log.open("ab") as file:
        file.write(b"two")
    assert tail.read(2) == b"tw"
    assert tail.read() == b"o"


def test_a_tail_starts_over_when_the_file_is_truncated_replaced_or_made_anew(tmp_path: Path) -> None:
    log = tmp_path / "console-0.log"
    log.write_bytes(b"a long first life\n")
    tail = Tail(log)
    tail.read()

    log.write_bytes(b"short\n")
    truncated = tail.read()
    (tmp_path / "new").write_bytes(b"replaced by a longer one\n")
    (tmp_path / "new").replace(log)
    replaced = tail.read()
    log.unlink()
    gone = tail.read()
    log.write_bytes(b"made anew, and longer than ever before\n")

    assert (truncated, replaced, gone) == (b"short\n", b"replaced by a longer one\n", b"")
    assert tail.read() == b"made anew, and longer than ever before\n"


@pytest.mark.parametrize(
    ("lines", "rest"), [(0, b""), (1, b"prompt: "), (2, b"two\nprompt: "), (9, b"one\ntwo\nprompt: ")]
)
def test_a_tail_can_begin_some_lines_before_the_end(tmp_path: Path, lines: int, rest: bytes) -> None:
    log = tmp_path / "console-0.log"
    log.write_bytes(b"one\ntwo\nprompt: ")
    tail = Tail(log)

    tail.from_end(lines)

    assert tail.read() == rest


def test_the_last_lines_of_a_huge_log_are_found_without_reading_it(tmp_path: Path) -> None:
    log = tmp_path / "console-0.log"
    with log.open("wb") as file:
        file.truncate(20 << 30)  # sparse
        file.seek(0, 2)
        file.write(b"\n" + b"".join(b"line %d \xe2\x82\xac\r\n" % number for number in range(20_000)))
    tracemalloc.start()

    lines = last_lines(log, 5000)

    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert lines[0] == "line 15000 €"
    assert lines[-1] == "line 19999 €"
    assert len(lines) == 5000
    assert most < 16 << 20


def test_the_last_lines_end_with_an_unfinished_prompt(tmp_path: Path) -> None:
    log = tmp_path / "console-0.log"
    log.write_bytes(BOOT)

    assert last_lines(log, 2) == ["fetching 100%", "vm-1 login: "]
    assert last_lines(log, 0) == []
    assert last_lines(tmp_path / "missing", 3) == []


@pytest.mark.parametrize(
    ("raw", "line"),
    [(BOOT, "vm-1 login: "), (b"kernel\r\n\r\n \r\n", "kernel"), (b"", ""), (b"\x1b[2J\x1b[H", "")],
)
def test_the_last_line_is_the_last_that_says_anything(tmp_path: Path, raw: bytes, line: str) -> None:
    log = tmp_path / "console-0.log"
    log.write_bytes(raw)

    assert last_line(log) == line


def test_there_is_no_last_line_without_a_log(tmp_path: Path) -> None:
    assert last_line(tmp_path / "missing") == ""


PROMPT = b"\r\nDebian GNU/Linux 12 vm-1 ttyS0\r\n\r\nvm-1 login: "


@pytest.mark.parametrize(
    "raw",
    [
        PROMPT,
        PROMPT.rstrip(b" "),
        b"\x1b[H\x1b[J" + PROMPT + b"\x1b[0m",
        PROMPT + b"[   12.345678] random: crng init done\r\n",
        PROMPT + b"[   12.345678] random: crng init done\r\n" * 20 + b"[   13.0",
        b"vm-1 lo[   12.345678][    T1] random: crng init done\r\ngin: ",
        PROMPT + b"\x1b[0;32m[  OK  ]\x1b[0m Finished cloud-final.service.\r\n",
        PROMPT + b"<14>Nov 21 cloud-init: ####\r\n-----BEGIN SSH HOST KEY KEYS-----\r\nssh-ed25519 AAAAC3 root@vm\r\n",
    ],
)
def test_a_login_prompt_is_seen_through_what_others_write(tmp_path: Path, raw: bytes) -> None:
    log = tmp_path / "console-0.log"
    log.write_bytes(b"[    0.1] booting\r\n" * 5000 + raw)

    assert shows_login_prompt(log)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[    9.1] systemd[1]: Reached target Login Prompts.\r\n",
        b"type your login: now\r\n",
        b"please type your login: ",
        PROMPT + b"root\r\nPassword: ",
        PROMPT + b"[   20.1] Kernel panic - not syncing: Attempted to kill init!\r\n",
        PROMPT + b"\r\nBdsDxe: loading Boot0001\r\n",
    ],
)
def test_anything_else_is_no_login_prompt(tmp_path: Path, raw: bytes) -> None:
    log = tmp_path / "console-0.log"
    log.write_bytes(raw)

    assert not shows_login_prompt(log)


def test_a_login_prompt_of_an_earlier_boot_does_not_count(tmp_path: Path) -> None:
    log = tmp_path / "console-0.log"
    log.write_bytes(PROMPT)
    since = log.stat().st_size

    before = shows_login_prompt(log, since)
    with log.open("ab") as file:
        file.write(b"\r\n[    0.1] booting\r\n" + PROMPT)

    assert not before
    assert shows_login_prompt(log, since)
    assert not shows_login_prompt(tmp_path / "missing")


def test_the_beginning_of_a_file_can_be_given_back_and_offsets_stay(tmp_path: Path) -> None:
    log = tmp_path / "console-0.log"
    log.write_bytes(b"a" * 65536 + b"b" * 65536)
    with log.open("rb") as file:
        os.fsync(file.fileno())
    before = log.stat().st_blocks

    end = release_start(log, 65536 + 100)

    assert end == 65536
    assert log.stat().st_size == 2 * 65536
    assert log.stat().st_blocks <= before // 2
    assert data_start(log) == 65536
    assert log.read_bytes() == bytes(65536) + b"b" * 65536


def test_less_than_a_page_is_not_given_back(tmp_path: Path) -> None:
    log = tmp_path / "console-0.log"
    log.write_bytes(b"a" * 5000)

    assert release_start(log, 4095) == 0
    assert log.read_bytes() == b"a" * 5000
    assert data_start(log) == 0


def test_what_was_trimmed_is_neither_read_nor_counted(tmp_path: Path) -> None:
    log = tmp_path / "console-0.log"
    log.write_bytes(b"old line\n" * 8192 + b"one\ntwo\nthree")
    start = release_start(log, 65536)
    behind, tail = Tail(log), Tail(log)

    tail.from_end(2)

    assert behind.read() == log.read_bytes()[start:]
    assert behind.position == log.stat().st_size
    assert tail.read() == b"two\nthree"
    assert last_lines(log, 1_000_000)[-3:] == ["one", "two", "three"]
    assert len(last_lines(log, 1_000_000)) == (8192 * 9 - start) // 9 + 1 + 3
