"""YAML as vmprov reads it: JSON in another notation, with the place of everything, and nothing that surprises."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from vmprov import documents
from vmprov.documents import DEEPEST, LARGEST, MOST_VALUES, Document, parse, read, refuse, unknown, validate
from vmprov.errors import NotFound, SpecError

CASES = Path(__file__).parents[1] / "cases" / "flows"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18) + 1, 10**18 - 1)
    | st.floats(allow_nan=False, allow_infinity=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=100), inner),
)  # fmt: skip


def value(text: str) -> Any:
    return parse(text, "f").value


def problems(text: str | bytes) -> list[str]:
    with pytest.raises(SpecError) as refused:
        parse(text, "f")
    return list(refused.value.problems)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("true", True), ("True", True), ("FALSE", False),
        ("yes", "yes"), ("no", "no"), ("on", "on"), ("Off", "Off"), ("y", "y"), ("tRue", "tRue"),
        ("null", None), ("~", None), ("nULL", "nULL"),
        ("0", 0), ("-1", -1), ("+12", 12), ("007", "007"), ("0o17", 15), ("0xff", 255), ("0b1", "0b1"),
        ("1_000", "1_000"),
        ("999999999999999999", 999999999999999999), ("1000000000000000000", "1000000000000000000"),
        ("1.5", 1.5), ("1e3", 1000.0), (".5", 0.5), ("1.", 1.0), ("-0.25", -0.25), ("1e999", "1e999"), (".inf", ".inf"),
        (".nan", ".nan"), ("00.5", "00.5"), ("1.2.3", "1.2.3"), ("12e03", 12000.0),
        ("12:30", "12:30"), ("190:20:30", "190:20:30"), ("2024-01-01", "2024-01-01"),
        ("2024-01-01T00:00:00Z", "2024-01-01T00:00:00Z"), ("=", "="), ("<<", "<<"),
        ("'true'", "true"), ('"1"', "1"), ("''", ""), ("'null'", "null"), ("|\n 12\n", "12\n"), (">-\n yes\n", "yes"),
    ],
)  # fmt: skip
def test_a_scalar_means_what_yaml_1_2_says(text: str, expected: Any) -> None:
    found = value(f"a: {text}")["a"]

    assert (found, type(found)) == (expected, type(expected))


@given(JSON)
def test_json_is_read_as_json(whole: Any) -> None:
    text = json.dumps({"a": whole}, ensure_ascii=False)
    forbidden = documents._FORBIDDEN.search(text)

    if forbidden:
        assert "is not allowed" in problems(text)[0]
    elif _null_or_shallow(whole):
        assert value(text) == {"a": whole}


def _null_or_shallow(whole: Any, deep: int = 2) -> bool:
    inner = whole.values() if isinstance(whole, dict) else whole if isinstance(whole, list) else ()
    return deep <= DEEPEST and all(_null_or_shallow(part, deep + 1) for part in inner)


@given(st.text(st.sampled_from("ab:-?[]{},&*!|>'\"%@`#\\ \t\n0.~<="), max_size=60))
def test_any_text_is_read_or_refused_with_a_place(text: str) -> None:
    try:
        document = parse(text, "f")
    except SpecError as refused:
        assert refused.problems
        assert all(problem.startswith("f:") and "\n" not in problem for problem in refused.problems)
    else:
        assert document.values[()].line >= 1


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        assert parse(data, "f").values
    except SpecError as refused:
        assert refused.problems


# places


def test_everything_has_its_place() -> None:
    document = parse("# first\na: 1\nbé:\n  - x\n  - 'k y': {c: [d]}\n", "f")

    assert document.value == {"a": 1, "bé": ["x", {"k y": {"c": ["d"]}}]}
    assert {path: tuple(place) for path, place in document.values.items()} == {
        (): (2, 1), ("a",): (2, 4), ("bé",): (4, 3), ("bé", 0): (4, 5), ("bé", 1): (5, 5), ("bé", 1, "k y"): (5, 12),
        ("bé", 1, "k y", "c"): (5, 16), ("bé", 1, "k y", "c", 0): (5, 17),
    }  # fmt: skip
    assert {path: tuple(place) for path, place in document.keys.items()} == {
        ("a",): (2, 1), ("bé",): (3, 1), ("bé", 1, "k y"): (5, 5), ("bé", 1, "k y", "c"): (5, 13),
    }  # fmt: skip


def test_what_an_alias_stands_for_keeps_its_place() -> None:
    document = parse("a: &x {k: v}\nb: *x\nc: [*x]\n", "f")

    assert document.value == {"a": {"k": "v"}, "b": {"k": "v"}, "c": [{"k": "v"}]}
    assert document.values["b", "k"] == document.values["c", 0, "k"] == document.values["a", "k"] == (1, 11)
    assert document.keys["b",] == (2, 1)


def test_an_anchor_that_is_set_again_stands_for_the_later_value() -> None:
    assert value("[&x a, *x, &x b, *x]") == ["a", "a", "b", "b"]


def test_a_path_may_lead_deeper_than_the_document() -> None:
    document = parse("stages:\n  stage: a\n  expect: x\n", "f")

    assert document.find(("stages", 0, "expect", 0, "text")) == ("stages", "expect")
    assert document.find(("stages", 3, "expect")) == ("stages",)
    assert str(document.problem(("stages", 0, "expect", 0, "text"), "bad")) == "f:3:11: stages.expect: bad"
    assert str(document.problem(("stages", "stage"), "bad", hint="mend", key=True)) == "f:2:3: stages.stage: bad; mend"


def test_odd_keys_are_quoted_in_paths() -> None:
    document = parse("'a b': [{'': x, 'c.d': y}]\n", "f")

    assert str(document.problem(("a b", 0, ""), "bad")) == "f:1:14: ['a b'][0]['']: bad"
    assert str(document.problem(("a b", 0, "c.d"), "bad")) == "f:1:24: ['a b'][0]['c.d']: bad"


# limits


def test_size_is_bounded() -> None:
    assert value("a: b\n" + "#" * (LARGEST - 5)) == {"a": "b"}
    assert problems("a: b\n" + "#" * (LARGEST - 4)) == ["f:1:1: the file is larger than 1MiB"]
    assert problems(b"\xff" * (LARGEST + 1)) == ["f:1:1: the file is larger than 1MiB"]
    assert problems("é" * (LARGEST // 2 + 1)) == ["f:1:1: the file is larger than 1MiB"]


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_depth_is_bounded(opening: str) -> None:
    closing = {"[": "]", "{a: ": "}"}.get(opening, "")

    if opening != "? ":
        assert value(opening * (DEEPEST - 1) + "x" + closing * (DEEPEST - 1))
    assert "nested more than 50 deep" in problems(opening * DEEPEST + "x" + closing * DEEPEST)[0]
    assert "nested more than 50 deep" in problems(opening * (900_000 // len(opening)))[0]


def test_depth_is_bounded_through_aliases_too() -> None:
    chain = "".join(f"a{number}: &a{number} [*a{number - 1}]\n" for number in range(1, 60))

    assert "nested more than 50 deep" in problems("a0: &a0 [x]\n" + chain)[0]


@pytest.mark.parametrize(
    "text",
    [
        "[" + "a," * (MOST_VALUES + 1) + "]",
        "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
            f"{name}: &{name} [{','.join(['*' + before] * 9)}]\n" for before, name in zip("abcdefghi", "bcdefghij",
                                                                                      strict=True)),
        "a: &a " + "x" * 500_000 + "\nb: [" + "*a," * 100_000 + "]",
    ],
    ids=["many", "bomb", "bomb of one long text"],
)  # fmt: skip
def test_the_number_of_values_is_bounded(text: str) -> None:
    began = time.monotonic()

    assert problems(text)[0].endswith("the file holds more than 100000 values, those of aliases included")
    assert time.monotonic() - began < 10


def test_the_number_of_problems_is_bounded() -> None:
    said = problems("a: 1\n" * 5000)

    assert len(said) == 101
    assert said[0] == "f:2:1: the key 'a' is there already, in line 1; remove one"
    assert said[-1] == "f: there are more problems than are shown here"


# the parser in Python


@pytest.mark.parametrize("path", sorted((CASES / "good").glob("*.yaml")), ids=lambda path: path.stem)
def test_without_the_parser_in_c_a_file_means_the_same(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = parse(path.read_bytes(), "f")
    monkeypatch.setattr(documents, "_LOADER", yaml.SafeLoader)

    assert parse(path.read_bytes(), "f") == fast


@pytest.mark.parametrize("path", sorted((CASES / "bad").glob("*.yaml")), ids=lambda path: path.stem)
def test_without_the_parser_in_c_the_same_files_are_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def outcome() -> bool:
        try:
            parse(path.read_bytes(), "f")
        except SpecError:
            return False
        return True

    fast = outcome()
    monkeypatch.setattr(documents, "_LOADER", yaml.SafeLoader)

    assert outcome() == fast


@given(st.text(st.sampled_from('ab:-[]{},\\xuUF"\n'), max_size=30))
def test_the_parser_in_python_too_reads_or_refuses_any_text(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "_LOADER", yaml.SafeLoader)
        try:
            assert parse(f'"{text}', "f").values
        except SpecError as refused:
            assert refused.problems


# files


def test_a_file_is_read_under_its_name(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("a: [")

    with pytest.raises(SpecError, match=rf"^{file}:1:5: not valid YAML"):
        read(file)
    with pytest.raises(SpecError, match=r"^short:1:"):
        read(file, source="short")
    with pytest.raises(NotFound, match="there is no such file"):
        read(tmp_path / "none.yaml")
    with pytest.raises(SpecError, match="cannot be read: Is a directory"):
        read(tmp_path)


# validation


class Disk(BaseModel):
    model_config = ConfigDict(extra="forbid")

    size: int = Field(ge=1, le=10)
    kind: str = Field(default="qcow2", alias="format")


class Machine(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    disks: Annotated[list[Disk], BeforeValidator(lambda items: items if isinstance(items, list) else [items])] = []
    labels: dict[str, Disk] = {}
    spare: Disk | None = None


def complaints(text: str) -> list[str]:
    with pytest.raises(SpecError) as refused:
        validate(Machine, parse(text, "f"))
    return list(refused.value.problems)


def test_a_model_is_filled() -> None:
    machine = validate(Machine, parse("name: a\ndisks: {size: 3, format: raw}\nspare: {size: 1}\n", "f"))

    assert machine == Machine(name="a", disks=[Disk(size=3, format="raw")], spare=Disk(size=1))


def test_all_errors_are_said_in_the_order_of_the_file() -> None:
    text = "nmae: x\nspare: {siz: 1}\nlabels:\n  a: {size: 11, format: 3}\ndisks:\n  - {size: 0}\n  - 7\nname: ~\n"

    assert complaints(text) == [
        "f:1:1: unknown key 'nmae'; did you mean 'name'?",
        "f:2:8: spare: the key 'size' is missing",
        "f:2:9: spare: unknown key 'siz'; did you mean 'size'?",
        "f:4:13: labels.a.size: must be at most 10, not 11",
        "f:4:25: labels.a.format: must be text, not 3; put it in quotes",
        "f:6:12: disks[0].size: must be at least 1, not 0",
        "f:7:5: disks[1]: must be a mapping (lines of 'key: value'), not 7",
        "f:8:1: name: there is no value; give one, or remove this",
    ]


def test_a_single_thing_for_a_list_has_the_path_that_was_written() -> None:
    assert complaints("name: a\ndisks: {size: 0, x: 1}\n") == [
        "f:2:15: disks.size: must be at least 1, not 0",
        "f:2:18: disks: unknown key 'x'; known: format, size",
    ]


def test_long_values_are_cut() -> None:
    (said,) = complaints(f"name: a\ndisks: {'x' * 10_000}\n")

    assert len(said) < 200


def test_one_line_says_how_many_more_there_are() -> None:
    with pytest.raises(SpecError) as refused:
        validate(Machine, parse("a: 1\nb: 2\n", "f"))

    assert str(refused.value) == "f:1:1: the key 'name' is missing (and 2 more)"
    assert len(refused.value.problems) == 3


def test_no_problems_are_none() -> None:
    refuse([])


def test_the_nearest_name_is_named() -> None:
    assert unknown("key", "expct", ["stage", "expect"]) == ("unknown key 'expct'", "did you mean 'expect'?")
    assert unknown("key", "zzz", ["b", "a"]) == ("unknown key 'zzz'", "known: a, b")
    assert unknown("key", "zzz", []) == ("unknown key 'zzz'", "there are none")
    assert unknown("key", "zzz", [f"n{n:02}" for n in range(20)])[1].endswith("n14, ...")


def test_the_document_is_the_context_of_validators() -> None:
    seen: list[Any] = []

    class Watching(BaseModel):
        a: int

        def model_post_init(self, context: Any) -> None:
            seen.append(context)

    document = parse("a: 1", "f")
    validate(Watching, document)

    assert seen == [document]
    assert isinstance(seen[0], Document)
