"""What is a line, what is a prompt, and what was torn apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmprov.console.boots import FIRMWARE_START
from vmprov.flows.grammar import Pattern
from vmprov.flows.matcher import LONGEST_SEGMENT, Console, FirmwareStart, Hit, Rule, Watch
from vmprov.flows.nearest import in_words, nearest
from vmprov.flows.normal import begun_intruder, clean, intruders, unfinished

SETTLE = 0.3


class Ear:
    """A console and one watch; everything that is fed comes a millisecond after what was fed before."""

    def __init__(self, *patterns: Pattern) -> None:
        self.seen: list[bytes] = []
        self.console = Console(0, SETTLE, self.seen.append, 0.0)
        self.watch = Watch([Rule(pattern, rank=(number,)) for number, pattern in enumerate(patterns)])
        self.at = 0.0
        self.offset = 0

    def hear(self, data: bytes) -> list[tuple[str, int]]:
        """The lines that were found, and where they begin."""
        self.at += 0.001
        found = list(self.console.feed(self.offset, data, self.at, lambda: self.watch))
        self.offset += len(data)
        return [(one.line.text.decode(), one.line.offset) for one in found if isinstance(one, Hit)]

    def wait(self, seconds: float = SETTLE + 0.01) -> list[tuple[str, int]]:
        """What was found once nothing came for that long."""
        self.at += seconds
        found = []
        while (when := self.console.deadline("")) is not None and when <= self.at:
            hit = self.console.judge(self.at, "", self.watch)
            found += [(hit.line.text.decode(), hit.line.offset)] if hit else []
        return found


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"\x1b[1;31mred\x1b[0m\x1b[K", b"red"),
        (b"Pa\x00ss\xffwo\x80rd\x7f: ", b"Password: "),
        (b"a\x1b[\x0031mb", b"ab"),
        (b"a\x1b]0;title\x07b\x1bP1$r0m\x1b\\c\x1b]8;;x\x1b\\d", b"abcd"),
        (b"a\x1b(Bb\x1b)0c\x1b=d\x1b>e\x0ef\x0fg", b"abcdefg"),
        (b"a\x1b]P0123456b\x1b]Rc\x1b[[Ad", b"abcd"),
        (b"one\x1b[2;3Htwo\x1b[2Jthree\x1bcfour", b"one\ntwo\nthree\nfour"),
        (b"log\x1b7\x1b[r\x1b[999;999H\x1b[6n\x1b8in", b"login"),
        (b"log\x1b[s\x1b[999;999H\x1b[uin", b"login"),
        (b"10%\b\b\b20%\b\b\b    \b\b\b\bok", b"ok"),
        (b"abc\b \bd\b\b\b\b\b\bx", b"xbd"),
        (b"h\xc3\x1b[0m\xa4st \xe2\x80\xa6 \xc2\x85", "häst … ".encode()),
        (b"prompt: \x1b[3", b"prompt: "),
        (b"10%\r20%\r\n", b"10%\n20%\n\n"),
    ],
)
def test_cleaning(raw: bytes, text: bytes) -> None:
    assert clean(raw) == text


def test_intruders_are_told_from_other_brackets() -> None:
    for text in (b"[    1.234567] x", b"[12345.678901][  T123] x", b"<4>[    0.1] x", b"[  OK  ] x", b"[FAILED] x",
                 b"[DEPEND] x", b"[  *** ] x", b"[*     ] x"):  # fmt: skip
        assert intruders(b"login: " + text) == [7], text
        assert begun_intruder(b"login: " + text[:4]) == 7, text
    for text in (b"[sudo] password:", b"[Y/n]", b"[ok]", b"[1]+ Done", b"[root@x ~]# ", b"[  100%] x", b"[ 1.2.3 ]"):
        assert intruders(text) == []


def test_what_may_go_on_is_not_cut() -> None:
    for end in (b"\x1b", b"\x1b[", b"\x1b[1;3", b"\x1b(", b"\x1b]0;ti", b"\x1b]0;ti\x1b", b"\xc3", b"\xe2\x80"):
        assert unfinished(b"login: " + end) == len(end), end
    assert unfinished(b"login: \x1b[0m") == 0


def test_a_text_is_found_in_a_complete_line_at_once() -> None:
    ear = Ear(Pattern(text="a.c"))

    assert ear.hear(b"abc\r\nxa.cx\r") == [("xa.cx", 5)]
    assert ear.hear(b"\nxx a") == []
    assert ear.hear(b".c") == []
    assert ear.hear(b"!\r\n") == [("xx a.c!", 12)]


def test_each_state_of_a_repainted_line_counts() -> None:
    ear = Ear(Pattern(text=" 50%"))

    assert ear.hear(b" 10%\r 50%\r100%\r\n") == [(" 50%", 5)]


def test_expressions_know_lines_but_no_more() -> None:
    ear = Ear(Pattern(regex=r"^one$"), Pattern(regex=r"\Atwo\z"), Pattern(regex=r"three\sfour|(?P<n>f)(?P<m>i)ve"))

    assert ear.hear(b"one\r\nxone\r\ntwo\r\ntwox\r\nthree\r\nfour\r\nfive\r\n") == [
        ("one", 0),
        ("two", 11),
        ("five", 35),
    ]


def test_groups_of_one_name_may_be_in_two_expressions() -> None:
    ear = Ear(Pattern(regex="(?P<x>a)1"), Pattern(regex="(?P<x>a)2"))

    assert ear.hear(b"a2\n") == [("a2", 0)]


def test_a_prompt_has_to_stand_still() -> None:
    ear = Ear(Pattern(prompt="login:"))

    assert ear.hear(b"vm login: ") == []
    assert ear.wait(0.2) == []
    assert ear.hear(b"x") == []
    assert ear.wait() == []
    assert ear.hear(b"\r\nvm login:") == []
    assert ear.wait() == [("vm login:", 13)]


def test_a_prompt_that_has_ended_is_none() -> None:
    ear = Ear(Pattern(prompt="login:"))

    assert ear.hear(b"vm login: \r\n") == []
    assert ear.wait() == []


def test_the_cursor_may_go_away_from_a_prompt() -> None:
    ear = Ear(Pattern(prompt="grub>"))
    ear.hear(b"\x1b[2J\x1b[1;1Hhelp\x1b[5;1Hgrub> \x1b[5;7H")

    assert ear.wait() == [("grub> ", 0)]


def test_what_was_found_at_rest_is_done_with() -> None:
    ear = Ear(Pattern(text="Retry"), Pattern(prompt="login:"))
    ear.hear(b"Retry now")

    assert ear.wait() == [("Retry now", 0)]
    assert ear.hear(b" or never\r\nvm login: ") == []
    assert ear.wait() == [("vm login: ", 20)]
    ear.hear(b"[    1.234567] eth0: up\r\n")
    assert ear.wait() == []
    assert ear.hear(b"root\r\nvm login: ") == []
    assert ear.wait() == [("vm login: ", 61)]


def test_a_sequence_that_stood_unfinished_stays_one() -> None:
    ear = Ear(Pattern(prompt="login:"))
    ear.hear(b"vm login: \x1b[")

    assert ear.wait() == [("vm login: ", 0)]
    ear.hear(b"0m\r\n")
    assert b"".join(ear.seen).strip(b"\n") == b"vm login: "


def test_chatter_does_not_hide_a_prompt() -> None:
    ear = Ear(Pattern(prompt="Password:"))
    ear.hear(b"Pass[    1.234567] foo\r\n[  OK  ] Started bar.\r\nword: ")
    found = []
    for number in range(10):
        for piece in (b"[    2.%d" % number, b"34567] kernel says this\r", b"\n"):
            ear.hear(piece)
            found += ear.wait(0.02)

    assert found == [("Password: ", 0)]


def test_torn_lines_are_put_together_and_intruders_are_heard() -> None:
    ear = Ear(Pattern(text="Welcome home"), Pattern(text="eth0: up"))

    assert ear.hear(b"Wel[    1.234567] eth0: up\r\ncome ho[  OK  ] Started X.\r\nme!\r\n") == [
        ("[    1.234567] eth0: up", 0),
        ("Welcome home!", 0),
    ]


def test_an_intruder_may_be_torn_itself() -> None:
    ear = Ear(Pattern(text="Reached target Login"), Pattern(prompt="login:"))

    assert ear.hear(b"vm lo[  OK  ] Reached tar[    1.234567] foo\r\nget Login.\r\nvm two\r\n") == [
        ("[  OK  ] Reached target Login.", 0)
    ]
    ear.hear(b"Pass\r\nvm lo[  OK  ] Started x.[    1.234567] foo\r\ngin: ")
    assert ear.wait() == [("vm login: ", 71)]


def test_what_only_looks_like_an_intruder_is_searched_as_it_came() -> None:
    ear = Ear(Pattern(regex="took .* done"))

    assert ear.hear(b"it took [ 1.5] seconds, done\r\n") == [("it took [ 1.5] seconds, done", 0)]


def test_a_panic_within_a_prompt_that_is_answered_is_still_heard() -> None:
    ear = Ear(Pattern(prompt="login:"), Pattern(text="Kernel panic"))
    ear.hear(b"vm login: [    1.234567] Kernel pa")

    assert ear.wait() == [("vm login: ", 0)]
    assert ear.hear(b"nic - not syncing\r\n") == [("[    1.234567] Kernel panic - not syncing", 10)]


def test_an_empty_line_ends_a_torn_one() -> None:
    ear = Ear(Pattern(prompt="login:"))
    ear.hear(b"vm login: [    1.234567] foo\r\n\r\n")

    assert ear.wait() == []


def test_missing_bytes_end_a_line_and_known_ones_are_passed_over() -> None:
    ear = Ear(Pattern(text="ab"))
    ear.hear(b"xa")
    ear.offset = 1
    assert ear.hear(b"ab\n") == [("xab", 0)]
    ear.hear(b"xa")
    ear.offset = 100
    assert ear.hear(b"b\nab\n") == [("ab", 102)]


def test_long_segments_are_searched_in_pieces_that_overlap() -> None:
    for place in (0, 4095, LONGEST_SEGMENT - 3, 3 * LONGEST_SEGMENT):
        ear = Ear(Pattern(text="needle"))
        assert len(ear.hear(b"x" * place + b"needle" + b"x" * (4 * LONGEST_SEGMENT - place) + b"\n")) == 1


def test_the_first_rule_counts_and_seams_do_not_hide_it() -> None:
    ear = Ear(Pattern(text="b"), Pattern(text="a"))
    [hit] = ear.console.feed(0, b"ab\n", 1.0, lambda: ear.watch)

    assert isinstance(hit, Hit)
    assert hit.rule.pattern.text == "b"


def starts(*pieces: bytes) -> int:
    ear = Ear(Pattern(text="never"))
    found = list(ear.console.feed(0, b"".join(pieces), 1.0, lambda: ear.watch))
    return sum(isinstance(one, FirmwareStart) for one in found)


def test_firmware_starts_are_counted_once() -> None:
    uefi = b"\x1b[2J\x1b[01;01H\x1b[=3h\x1b[2J\x1b[01;01H" * 2
    seabios = b"\x1bc\x1b[?7l\x1b[2JSeaBIOS (version 1.16.2)\r\n"
    assert FIRMWARE_START
    assert starts(seabios, b"\r\n", seabios) == 1
    assert starts(seabios, b"Booting from Hard Disk...\r\n", seabios) == 2
    assert starts(uefi, b"\r\n", uefi, b"BdsDxe: loading\r\n", b"x\r\n") == 1
    assert starts(uefi, b"BdsDxe: loading\r\n", b"x\r\n", uefi, b"\r\n") == 2
    assert starts(b"Sea\x00BIOS (ver\xffsion 1\n") == 1
    assert starts(b"\x1b[2J\x1b[01;01Hmenu\r\n") == 0


UEFI = b"\x1b[2J\x1b[01;01H\x1b[=3h\x1b[2J\x1b[01;01H" * 2
SEABIOS = b"\x1bc\x1b[?7l\x1b[2JSeaBIOS (version 1.16.2)"
TEXTS = [
    b"", b"calm", b"a hit", b"one hit after a hit", b"\x1b[2J\x1b[3;4Ha hit\x1b[Hhits", b"\x1b[2Jcalm\x1b[H",
    UEFI, SEABIOS, b"\x1b[1ma\x1b[0m \x1b[31mhit", b"[    1.000000] kernel", b"a h[    1.000000] kernel", b"it",
    b"hi\bit", b"\v", b"\xc3\xa4",
]  # fmt: skip
SEGMENTS = st.tuples(st.sampled_from(TEXTS), st.sampled_from([b"\n", b"\r\n", b"\r"])).map(b"".join)


@given(st.lists(SEGMENTS, max_size=60))
def test_blocks_of_segments_are_searched_as_each_segment_is(segments: list[bytes]) -> None:
    def heard(pieces: list[bytes]) -> list[object]:
        ear = Ear(Pattern(regex=r"\ba hit\b"), Pattern(regex=r"[^x]it$"), Pattern(regex="^it"))
        ear.at = -1.0
        found: list[object] = []
        for piece in pieces:
            found += ear.console.feed(ear.offset, piece, 0.0, lambda: ear.watch)
            ear.offset += len(piece)
        return [(type(one), one.line, getattr(one, "rule", None) and one.rule.rank) for one in found]

    assert heard([b"".join(segments)]) == heard(segments)


def test_patterns_in_words() -> None:
    assert in_words(Pattern(text="it's")) == '"it\'s"'
    assert in_words(Pattern(regex="a+", console=1)) == "/a+/ on console 1"


@pytest.mark.parametrize(
    ("pattern", "lines", "found"),
    [
        (Pattern(prompt="login:"), ["x", "vm Login :", "y"], "vm Login :"),
        (Pattern(text="Secure Boot Status MATCH"), ["Secure Boot Status MISMATCH"], "Secure Boot Status MISMATCH"),
        (
            Pattern(regex=r"Ubuntu \d+\.\d+ LTS \S+ tty"),
            ["Debian 12", "Ubuntu 24.04 LTS vm hvc0"],
            "Ubuntu 24.04 LTS vm hvc0",
        ),
        (Pattern(text="iPXE boot success"), ["[    1.2] eth0: up", "SeaBIOS (version 1.2)"], ""),
        (Pattern(text="ok"), ["ko"], ""),
    ],
)
def test_the_nearest_line(pattern: Pattern, lines: list[str], found: str) -> None:
    assert nearest([pattern], lines) == found
