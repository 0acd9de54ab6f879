"""Lab files: what is taken and what it means, what is refused and how, and that the schema for editors says the same.

Beside each file of ``tests/cases/labs/good`` lies the canonical file that means the same; beside each of ``bad``, what
is said about it. ``VMPROV_REGENERATE=1`` writes both anew. A line ``#! --set ... --var ...`` gives options.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmprov.documents import parse
from vmprov.errors import SpecError
from vmprov.flows.load import flow_machine
from vmprov.spec.file import schema
from vmprov.spec.lab import LabSpec
from vmprov.spec.load import load_lab, parse_lab
from vmprov.spec.write import to_yaml

CASES = Path(__file__).parents[1] / "cases" / "labs"
GOOD = sorted((CASES / "good").glob("*.yaml"))
BAD = sorted((CASES / "bad").glob("*.yaml"))
SCHEMA = jsonschema.Draft202012Validator(schema())
ENVIRON = {
    "LAB_NAME": "from-env", "LAB_CPUS": "3", "LAB_MEMORY": "3GiB", "LAB_TPM": "true", "LAB_USER": "ann",
    "LAB_EMPTY": "", "LAB_ODD": "a b\nc",
}  # fmt: skip
PLACED = re.compile(r"(?:([\w./-]+\.(?:yaml|txt)):(\d+):(\d+)|--(?:set|var) [^:]*): \S.*")


def options(path: Path) -> tuple[list[str], dict[str, str]]:
    """What the ``#!`` lines of a case say."""
    lines = [line[2:] for line in path.read_text("utf-8", "replace").splitlines() if line.startswith("#!")]
    words = shlex.split(" ".join(lines))
    pairs = list(zip(words[::2], words[1::2], strict=True))
    variables = [value.split("=", 1) for name, value in pairs if name == "--var"]
    return [value for name, value in pairs if name == "--set"], dict(variables)


def load(path: Path, monkeypatch: pytest.MonkeyPatch) -> LabSpec:
    monkeypatch.chdir(path.parent)
    overrides, variables = options(path)
    return load_lab(path.name, overrides=overrides, variables=variables, environ=ENVIRON, flows=flow_machine)


def problems_of(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    with pytest.raises(SpecError) as refused:
        load(path, monkeypatch)
    return [problem.replace(str(CASES), "CASES") for problem in refused.value.problems]


def value_of(path: Path) -> Any:
    return parse(path.read_bytes(), path.name).value


def mappings(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Every mapping in a document."""
    if isinstance(value, dict):
        yield path, value
        for key, inner in value.items():
            yield from mappings(inner, (*path, key))
    elif isinstance(value, list):
        for inner in value:
            yield from mappings(inner, path)


def said(lab: LabSpec) -> list[dict[str, Any]]:
    """What was said of each VM where it counts: a flow brings defaults for what was not."""
    return [vm.given() if vm.flow else {} for vm in lab.vms]


# the corpus


def test_there_is_a_corpus() -> None:
    assert len(GOOD) >= 60
    assert len(BAD) >= 60
    for folder, cases in (("good", GOOD), ("bad", BAD)):
        assert {path.stem for path in (CASES / folder).glob("*.expected")} == {path.stem for path in cases}


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_a_good_file_means_what_its_canonical_form_says(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = to_yaml(load(path, monkeypatch)).replace(str(CASES), "CASES")
    expected = path.with_suffix(".expected")
    if os.environ.get("VMPROV_REGENERATE"):
        expected.write_text(written, encoding="utf-8")

    assert written == expected.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_the_canonical_form_is_read_as_the_same_lab(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = load(path, monkeypatch)

    again = parse_lab(to_yaml(lab), "again", environ={}, flows=flow_machine)

    assert again == lab
    assert said(again) == said(lab)
    assert to_yaml(again) == to_yaml(lab)


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_a_bad_file_is_refused_with_every_problem_and_its_place(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = problems_of(path, monkeypatch)
    expected = path.with_suffix(".expected")
    if os.environ.get("VMPROV_REGENERATE"):
        expected.write_text("\n".join(found) + "\n", encoding="utf-8")

    assert found == expected.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_problems_are_single_lines_by_file_and_place(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = problems_of(path, monkeypatch)
    placed = [match for line in found if (match := PLACED.fullmatch(line))]
    places = [(match[1] or "--", int(match[2] or 0), int(match[3] or 0)) for match in placed]

    assert places == sorted(places)
    assert len(places) == len(found) - (len(found) > 100)
    assert len(set(found)) == len(found)


# the schema


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_the_schema_takes_what_is_good(path: Path) -> None:
    assert [error.message for error in SCHEMA.iter_errors(value_of(path))] == []


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_the_schema_takes_the_canonical_form(path: Path) -> None:
    value = parse(path.with_suffix(".expected").read_bytes(), path.name).value

    assert [error.message for error in SCHEMA.iter_errors(value)] == []


# Where any key may be.
FREE = {("vars",), ("networks",), ("vms",)}


@pytest.mark.parametrize("path", GOOD[::3], ids=lambda path: path.stem)
def test_the_schema_refuses_an_unknown_key_wherever_there_are_known_ones(path: Path) -> None:
    whole = value_of(path)
    for index, (where, _) in enumerate(list(mappings(whole))[:40]):
        if where in FREE or {"labels", "dns"} & set(where):
            continue
        changed = deepcopy(whole)
        list(mappings(changed))[index][1]["un-known"] = 1
        assert not SCHEMA.is_valid(changed), where


@pytest.mark.parametrize(
    "name",
    ["a-list", "a-text", "counts", "durations", "host-and-driver", "merge-keys", "no-values", "no-vms",
     "nothing-that-must-be-there", "out-of-range", "secrets", "sizes", "subnets", "too-many-of-everything",
     "unknown-keys", "unknown-words", "variables-that-are-no-scalars",
     "vms-as-a-list", "wrong-types"],
)  # fmt: skip
def test_the_schema_refuses_what_has_the_wrong_shape(name: str) -> None:
    assert not SCHEMA.is_valid(value_of(CASES / "bad" / f"{name}.yaml"))


def test_the_schema_refuses_each_of_the_sizes_and_durations_that_reading_refuses() -> None:
    for name, field in (("sizes", "memory"), ("durations", "timeout"), ("counts", "count")):
        for vm in value_of(CASES / "bad" / f"{name}.yaml")["vms"].values():
            alone = {"lab": "x", "vms": {"a": {field: vm[field]}}}
            # It does not know how much is too little, and takes 1e3 for an integer.
            assert vm[field] in ("0GiB", 1000.0) or not SCHEMA.is_valid(alone), vm


def test_the_schema_is_one_itself() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())

    assert "null" not in json.dumps(schema())
    assert schema()["$defs"]["Entry"]["properties"]["memory"]["default"] == "1GiB"


# whatever a file holds

ODD = st.sampled_from(
    [
        *(
            None,
            True,
            False,
            0,
            -1,
            2.5,
            1e300,
            10**17,
            [],
            {},
            ["x"],
            [[]],
            [None],
            {"a": 1},
            {"": None},
            {"size": "1GiB"},
        ),
        *(
            "",
            "x",
            "a b",
            "\n",
            "é",
            "2GiB",
            "${a}",
            "${env:LAB_CPUS}",
            "per-vm",
            "web",
            "10.0.0.0/24",
            "login",
            "a" * 300,
        ),
        *(".", "/dev/zero", "~nobody-at-all/x"),
    ]
)
KEYS = st.sampled_from(["count", "after", "cpus", "seed", "base", "<<", "x y", "password"])
WHOLE = [
    value_of(CASES / "good" / f"{name}.yaml")
    for name in ("everything", "design", "variables", "seeds", "readiness", "overrides")
]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every path in a document."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from places(part, (*path, key))


@settings(max_examples=400)
@given(st.data())
def test_whatever_is_changed_it_is_taken_or_refused_and_the_schema_takes_what_is_taken(data: st.DataObject) -> None:
    whole = deepcopy(data.draw(st.sampled_from(WHOLE)))
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(list(places(whole))[1:] or [()]))
        if not path:
            break
        owner = whole
        for step in path[:-1]:
            owner = owner[step]
        owner[path[-1]] = deepcopy(data.draw(ODD))
        if isinstance(owner, dict) and data.draw(st.booleans()):
            owner[data.draw(KEYS)] = deepcopy(data.draw(ODD))

    try:
        parse_lab(json.dumps(whole), "f", directory=CASES / "good", environ=ENVIRON, flows=flow_machine)
    except SpecError as refused:
        assert refused.problems
        assert all(re.match(r"[\w./-]+:\d+:\d+: .", problem) for problem in refused.problems)
    else:
        assert SCHEMA.is_valid(whole), [error.message for error in SCHEMA.iter_errors(whole)]


@settings(max_examples=200)
@given(st.text(st.sampled_from("labvms:{}[],-? \n\t${}&*'\"0#|>~!<"), max_size=60))
def test_any_text_is_taken_or_refused(text: str) -> None:
    with suppress(SpecError):
        assert parse_lab(text, "f", environ={}).vms
