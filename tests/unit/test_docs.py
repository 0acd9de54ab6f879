"""The documentation is true: what it shows exists, what exists is shown, and what it says runs does run."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from pydantic import BaseModel

import vmprov
from vmprov import errors, views
from vmprov.cli import app
from vmprov.console.index import Moment
from vmprov.console.inputs import Typed
from vmprov.console.lines import Line
from vmprov.console.session import Ran
from vmprov.day0.answers import Host as OrchestratorHost
from vmprov.doctor import Finding
from vmprov.flows.load import flow_names, parse_flow, schema
from vmprov.flows.machine import REBOOT_LOOP
from vmprov.flows.signatures import shipped_signatures
from vmprov.flows.verdict import StageTime, Verdict
from vmprov.images import Image
from vmprov.settings import Settings
from vmprov.spec.file import Defaults, Entry, LabFile
from vmprov.spec.file import schema as lab_schema
from vmprov.spec.lab import Network
from vmprov.spec.load import load_lab
from vmprov.spec.machine import Disk, HttpBoot, Smbios
from vmprov.spec.quantities import exact_size
from vmprov.spec.wishes import Seed
from vmprov.views import (
    CreateResult,
    DeleteResult,
    Failure,
    HostView,
    PortVerdict,
    StageStatistics,
    StageStay,
    Timeline,
    VMView,
)
from vmprov.vm import VM, JudgedConsole

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [README, ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
CLI = DOCS / "reference" / "cli.md"
LIBRARY = DOCS / "reference" / "library.md"
SETTINGS = DOCS / "reference" / "settings.md"
FLOWS = DOCS / "reference" / "flows.md"
LAB_FILE = DOCS / "reference" / "lab-file.md"
DESCRIBE = DOCS / "how-to" / "describe-a-lab.md"
# What the simulator needs where a page shows the default driver and image.
SIMULATED = ("--driver", "fake", "--image", "")
LIMIT = 60
# The mark of a block that is the text of a file, which commands below it use.
FILE = "file: "

BLOCK = re.compile(r"(?:^<!-- (?P<mark>[^\n]*) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)|(?:src|href|srcset)=\"([^\"]+)\"")
SPAN = re.compile(r"(?<!`)`(vmprov [^`\n]*)`(?!`)")
# Where the code looks at a variable, itself or through a function of settings.py.
READ = re.compile(r"""(?:\benviron(?:\.get)?[\[(]|\b_(?:size|switch)\()\s*["'](VMPROV_\w+)""")
OPTION = re.compile(r"(?<![\w-])(--?[a-z][a-z0-9-]*)")


@dataclass(frozen=True)
class Block:
    """A fenced block, with what the comment just before it says."""

    page: Path
    line: int
    mark: str
    language: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def runs(self) -> bool:
        return self.mark == "run"

    @property
    def is_lab(self) -> bool:
        """Whether it is a lab file, or one on which others are based."""
        return self.mark == "lab" or (self.mark.startswith(FILE) and self.page in (LAB_FILE, DESCRIBE))


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(page, text[: found.start()].count("\n") + 1, found["mark"] or "", found["language"], found["text"])
        for found in BLOCK.finditer(text)
    ]


BLOCKS = [block for page in PAGES for block in blocks(page)]


def shell_lines(block: Block) -> Iterator[str]:
    """What is typed: the lines after ``$`` of a console block, all lines of a shell block."""
    for line in block.text.replace("\\\n", " ").splitlines():
        if block.language == "console" and line.startswith("$ "):
            yield line[2:]
        elif block.language in ("sh", "bash") and not line.startswith("#"):
            yield line


def vmprov_calls(line: str) -> Iterator[list[str]]:
    """The argument lists of the ``vmprov`` commands in a line of shell."""
    words = shlex.shlex(line, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    words.commenters = "#"
    call: list[str] = []
    for word in [*words, ";"]:
        if set(word) <= set("();<>|&") and word:
            while call and re.fullmatch(r"\w+=.*", call[0]):
                del call[0]
            if call and call[0].rsplit("/", 1)[-1] == "vmprov":
                yield call[1:]
            call = []
        else:
            call.append(word)


def commands(group: click.Group = app, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command of the tree that does something itself, by the words that call it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


TREE = dict(commands())


def options(command: click.Command) -> dict[str, click.Option]:
    return {
        name: option
        for option in command.params
        if isinstance(option, click.Option)
        for name in (*option.opts, *option.secondary_opts)
    }


def refuse(words: list[str]) -> str:
    """What click has against a command line; nothing where it would take it."""
    command: click.Command = app
    context: click.Context | None = None
    name, rest = "vmprov", list(words)
    try:
        while isinstance(command, click.Group):
            context = click.Context(command, info_name=name, parent=context, **command.context_settings)
            given, rest, _ = command.make_parser(context).parse_args(rest)
            if not rest:
                return "" if {"help", "version"} & set(given) else f"{name} needs a command"
            name, rest = rest[0], rest[1:]
            found = command.get_command(context, name)
            if found is None:
                return f"no such command: {name}"
            command = found
        command.make_context(name, rest, parent=context)
    except click.exceptions.Exit:  # --help
        return ""
    except click.UsageError as problem:
        return problem.format_message()
    return ""


def section(page: Path, title: str) -> str:
    """The text below a heading, down to the next one of its rank or a higher one."""
    text = page.read_text()
    heading = re.search(rf"^(#+) {re.escape(title)}$", text, re.M)
    assert heading, f"{page.relative_to(ROOT)} has no section {title!r}"
    rest = text[heading.end() :]
    end = re.search(rf"^#{{1,{len(heading[1])}}} ", rest, re.M)
    return rest[: end.start()] if end else rest


def first_cells(text: str) -> list[str]:
    """The first column of the tables in a text, without their headings."""
    rows = [line for line in text.splitlines() if line.startswith("|")]
    cells = [re.split(r"(?<!\\)\|", row)[1].strip() for row in rows]
    return [cell for place, cell in enumerate(cells) if not set(cell) <= set("-: ") and not is_heading(rows, place)]


def is_heading(rows: list[str], place: int) -> bool:
    return place + 1 < len(rows) and set(rows[place + 1]) <= set("|-: ")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as forges make them."""
    text = BLOCK.sub("", page.read_text())
    return {
        re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", text, re.M)
    }


# commands


def test_every_command_has_a_section_and_every_section_a_command() -> None:
    shown = re.findall(r"^### vmprov (.*)$", CLI.read_text(), re.M)

    assert sorted(shown) == sorted(" ".join(words) for words in TREE)


@pytest.mark.parametrize("words", TREE, ids=" ".join)
def test_the_options_of_a_command_are_those_of_its_section(words: tuple[str, ...]) -> None:
    text = section(CLI, f"vmprov {' '.join(words)}")
    shown = {option for cell in first_cells(text) for option in OPTION.findall(cell)}

    assert shown == set(options(TREE[words]))


@pytest.mark.parametrize("words", TREE, ids=" ".join)
def test_defaults_are_those_that_the_help_shows(words: tuple[str, ...]) -> None:
    text = section(CLI, f"vmprov {' '.join(words)}")

    for name, option in options(TREE[words]).items():
        if option.show_default:
            (row,) = (line for line in text.splitlines() if re.match(rf"\|[^|]*(?<![\w-]){name}(?![\w-])", line))
            assert f"`{option.default}`" in row, f"{name}: the default {option.default} is not in {row!r}"


def test_the_options_of_vmprov_itself_are_shown() -> None:
    shown = {
        option for cell in first_cells(section(CLI, "Options of every command")) for option in OPTION.findall(cell)
    }

    assert shown == {*options(app), "-h", "--help"}


CALLS = [
    (f"{block.where}: {line}", call) for block in BLOCKS for line in shell_lines(block) for call in vmprov_calls(line)
]


def test_there_are_commands_to_check() -> None:
    assert len(CALLS) > 30


@pytest.mark.parametrize("call", [call for _, call in CALLS], ids=[where for where, _ in CALLS])
def test_a_shown_command_line_is_one_that_vmprov_takes(call: list[str]) -> None:
    assert refuse(call) == ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_named_in_the_text_exist(page: Path) -> None:
    text = BLOCK.sub("", page.read_text())

    for span in SPAN.findall(text):
        words = span.split()[1:]
        known = [path for path in TREE if list(path) == words[: len(path)]]
        groups = {path[:1] for path in TREE if len(path) > 1}
        assert known or tuple(words) in groups or words[0].startswith("-"), f"`{span}` is not a command"
        allowed = {*options(app), "--help", "-h", *(options(TREE[known[0]]) if known else ())}
        own = words[: words.index("--")] if "--" in words else words
        assert set(OPTION.findall(" ".join(own))) <= allowed, f"`{span}` has an option that does not exist"


@pytest.mark.parametrize("words", [["nope"], ["create", "--nope"], ["host"], ["resize"], ["image", "nope"]])
def test_what_vmprov_does_not_take_would_be_found(words: list[str]) -> None:
    assert refuse(words)


# shapes, codes, settings, names

EXAMPLE_IMAGE = Image("x", "00" * 32, 1, 1, "ssh", "root", "x", 0.0)
EXAMPLE_VM = VMView(**{field.name: "" for field in dataclasses.fields(VMView)})  # type: ignore[arg-type]
SHAPES = {
    "VMView": EXAMPLE_VM.to_json(),
    "CreateResult": CreateResult("", (), 0).to_json(),
    "DeleteResult": DeleteResult((), (Failure("", ""),)).to_json(),
    "GcResult": views.GcResult((), ()).to_json(),
    "RebuildResult": views.RebuildResult("", "", (), (), ()).to_json(),
    "HostView": HostView("", "", up=True, vms=0).to_json(),
    "Image": EXAMPLE_IMAGE.to_json(),
    "Finding": Finding("", "", "").to_json(),
    "Timeline": Timeline("", "", "", "", 0.0, (StageStay("", 0.0, None, 0.0, ""),)).to_json(),
    "OrchestratorHost": OrchestratorHost(resourceId="host-1").to_json(),
    "Onboarding": views.Onboarding("", "", "", "", "", "", "", "", "", 0.0, {}).to_json(),
    "StageStatistics": StageStatistics("", "", "", 0, None, None, {}).to_json(),
    "Line": Line("", "", 0, Moment(0.0, 0.0)).to_json(),
    "Verdict": Verdict("success").to_json(),
    "PortVerdict": PortVerdict("", "", "", "", "", "", "", {}, [StageTime("", 0.0).to_json()]).to_json(),
}


@pytest.mark.parametrize("name", SHAPES)
def test_json_is_shown_as_it_is(name: str) -> None:
    (block,) = (block for block in blocks(CLI) if block.mark == f"shape: {name}")
    shown = json.loads(block.text)

    assert list(shown) == list(SHAPES[name])
    for field in (field for field in ("failed", "stages") if isinstance(shown.get(field), list)):
        assert list(shown[field][0]) == list(SHAPES[name][field][0])


def exit_codes() -> set[int]:
    found, waiting = {0}, [errors.VmprovError]
    while waiting:
        kind = waiting.pop()
        found.add(kind.exit_code)
        waiting += kind.__subclasses__()
    return found


@pytest.mark.parametrize("page", [README, CLI], ids=lambda page: page.name)
def test_the_exit_codes_are_those_of_the_errors(page: Path) -> None:
    assert {int(cell) for cell in first_cells(section(page, "Exit codes"))} == exit_codes()


def variables_read() -> set[str]:
    """The VMPROV_ variables that the code and the scripts look at."""
    code = "".join(path.read_text() for path in (ROOT / "vmprov").rglob("*.py"))
    shell = "".join(path.read_text() for path in (ROOT / "scripts").iterdir() if path.is_file())
    return {*READ.findall(code), *re.findall(r"\$\{?(VMPROV_\w+)", shell)}


def test_every_variable_is_documented_and_every_documented_variable_is_read() -> None:
    shown = {name for cell in first_cells(SETTINGS.read_text()) for name in re.findall(r"VMPROV_\w+", cell)}

    assert shown == variables_read()


def test_the_settings_table_of_the_readme_is_whole() -> None:
    source = (ROOT / "vmprov" / "settings.py").read_text()
    shown = {name for cell in first_cells(section(README, "Settings")) for name in re.findall(r"VMPROV_\w+", cell)}

    assert set(READ.findall(source)) <= shown <= variables_read()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_speaks_of_a_variable_that_does_not_exist(page: Path) -> None:
    assert set(re.findall(r"\bVMPROV_[A-Z_]+\b", page.read_text())) <= variables_read()


def test_every_public_name_has_a_section() -> None:
    shown = re.findall(r"^### ([A-Z]\w*)$", LIBRARY.read_text(), re.M)

    assert sorted(shown) == sorted(vmprov.__all__)


def test_every_method_of_the_facade_is_documented_with_its_parameters() -> None:
    text = section(LIBRARY, "Vmprov")
    shown = dict(re.findall(r"^\| `(\w+)\(([^`]*)\)`", text, re.M))
    methods = {
        name: [parameter for parameter in inspect.signature(method).parameters if parameter != "self"]
        for name, method in inspect.getmembers(vmprov.Vmprov, inspect.isfunction)
        if not name.startswith("_")
    }

    assert {name: re.findall(r"(\w+)(?:=[^,]*)?(?:, |$)", given) for name, given in shown.items()} == methods


@pytest.mark.parametrize(("kind", "title"), [(VM, "Of a VM"), (JudgedConsole, "Of a console")])
def test_every_member_of_a_machine_and_its_consoles_is_documented(kind: type, title: str) -> None:
    text = section(LIBRARY, "VM and its consoles")
    (table,) = re.findall(rf"^\| {title} \|.*\n((?:\|.*\n)*)", text, re.M)
    shown = dict(re.findall(r"^\| `(\w+)(?:\(([^`]*)\))?`", table, re.M))
    members = {name for name in dir(kind) if not name.startswith("_")} | {"name", "log"} & set(shown)

    # What types on it is reached through the methods.
    assert set(shown) == members - {"session"}
    for name, method in inspect.getmembers(kind, inspect.isfunction):
        if not name.startswith("_"):
            parameters = [parameter for parameter in inspect.signature(method).parameters if parameter != "self"]
            assert re.findall(r"(\w+)(?:=[^,]*)?(?:, |$)", shown[name]) == parameters, name


@pytest.mark.parametrize(
    "kind",
    [
        Line,
        Moment,
        Verdict,
        Timeline,
        StageStay,
        StageStatistics,
        views.Onboarding,
        views.Usual,
        PortVerdict,
        Typed,
        Ran,
    ],
    ids=lambda kind: kind.__name__,
)
def test_every_field_of_what_is_returned_is_documented(kind: type) -> None:
    text = section(LIBRARY, "What is returned")
    (row,) = re.findall(rf"^\| `{kind.__name__}` \| (.*) \|$", text, re.M)

    assert {field.name for field in dataclasses.fields(kind)} <= set(re.findall(r"`(\w+)`", row))


def test_every_field_of_the_settings_is_documented() -> None:
    text = section(LIBRARY, "Settings")

    assert {field.name for field in dataclasses.fields(Settings)} <= set(re.findall(r"`(\w+)`", text))


def test_every_field_of_the_request_is_documented() -> None:
    shown = [cell.strip("`") for cell in first_cells(section(LIBRARY, "CreateRequest"))]

    assert shown == list(vmprov.CreateRequest.model_fields)


def test_every_error_is_documented() -> None:
    kinds = [name for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, Exception)]
    shown = [cell.strip("`") for cell in first_cells(section(LIBRARY, "VmprovError"))]

    assert sorted(shown) == sorted(kinds)


# flows


@pytest.mark.parametrize(
    "block",
    [block for block in BLOCKS if block.language in ("yaml", "yml") and not block.is_lab],
    ids=lambda block: block.where,
)
def test_a_shown_flow_is_one(block: Block) -> None:
    assert parse_flow(block.text, block.where).stages


def test_every_field_of_the_grammar_is_named() -> None:
    kinds = {"Flow": schema(), **schema()["$defs"]}
    pattern = set(kinds["Failure"]["properties"]) & set(kinds["Recovery"]["properties"]) - {"class"}

    for kind, described in kinds.items():
        shown = {cell.strip("`") for cell in first_cells(section(FLOWS, kind))}
        fields = set(described["properties"])
        assert shown == (fields - pattern if fields >= pattern else fields), kind
    assert {cell.strip("`") for cell in first_cells(section(FLOWS, "Pattern"))} == pattern


# lab files


@pytest.mark.parametrize("page", [LAB_FILE, DESCRIBE], ids=lambda page: page.name)
def test_a_shown_lab_is_one(page: Path, tmp_path: Path) -> None:
    labs = [block for block in blocks(page) if block.language == "yaml" and block.is_lab]
    for block in labs:
        file = tmp_path / (block.mark.removeprefix(FILE) if block.mark.startswith(FILE) else "lab.yaml")
        file.write_text(block.text)
        if "lab:" in block.text:
            assert load_lab(file, environ={}).vms, block.where

    assert labs


LAB_TABLES = {
    "Lab": set(LabFile.model_fields),
    "VM": set(Entry.model_fields),
    "Defaults": {"host", "driver"},
    "Network": set(Network.model_fields),
    "Disk": set(Disk.model_fields),
    "HttpBoot": set(HttpBoot.model_fields),
    "Smbios": set(Smbios.model_fields),
    "Seed": set(Seed.model_fields),
}


@pytest.mark.parametrize("title", LAB_TABLES)
def test_every_field_of_a_lab_file_is_named(title: str) -> None:
    assert {cell.strip("`") for cell in first_cells(section(LAB_FILE, title))} == LAB_TABLES[title]
    assert set(lab_schema()["$defs"]) == set(LAB_TABLES) - {"Lab", "VM"} | {"Entry"}


def test_what_defaults_do_not_have_is_said() -> None:
    text = section(LAB_FILE, "Defaults").split("|", 1)[0]
    missing = set(Entry.model_fields) - set(Defaults.model_fields)

    assert missing == set(re.findall(r"`(\w+)`", text))


KINDS = {int: "whole number", bool: "boolean", dict: "labels"}


@pytest.mark.parametrize(("title", "kind"), [("VM", Entry), ("Network", Network)])
def test_types_and_defaults_are_those_of_the_model(title: str, kind: type[BaseModel]) -> None:
    rows = {
        row[1].strip(" `"): row
        for row in (line.split("|") for line in section(LAB_FILE, title).splitlines())
        if len(row) > 4
    }

    for name, field in kind.model_fields.items():
        shown, default = rows[name][3].strip(), field.get_default(call_default_factory=True)
        (default,) = default if isinstance(default, tuple) and len(default) == 1 else (default,)
        assert "required" not in shown, name
        if isinstance(default, bool | int | str) and default != "":
            said = exact_size(default) if name == "memory" else json.dumps(default).strip('"')
            assert f"`{said}`" in shown, name
        if type(default) in KINDS and name != "memory":
            assert KINDS[type(default)] in rows[name][2], name


def test_every_shipped_flow_is_named() -> None:
    shown = [cell.strip("`") for cell in first_cells(section(FLOWS, "The flows that come with vmprov"))]

    assert sorted(shown) == flow_names()


def test_every_shipped_failure_is_named_with_its_meaning() -> None:
    text = section(FLOWS, "Failures that are always known")
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| (.*) \|$", text, re.M))

    assert list(rows) == list(dict.fromkeys(one.failure_class for one in shipped_signatures()))
    assert [one.why for one in shipped_signatures() if one.why not in rows[one.failure_class]] == []
    assert f"`{REBOOT_LOOP}`" in text


def test_every_other_class_of_failure_is_named() -> None:
    code = "".join((ROOT / "vmprov" / "engine" / name).read_text() for name in ("outcome.py", "judging/ready.py"))
    named = {"libvirt", "power-on", "stopped", "provisioning-failed"}

    assert all(f'"{name}"' in code for name in named)
    for page in (FLOWS, DOCS / "how-to" / "when-a-machine-fails.md"):
        assert named <= set(re.findall(r"`([a-z-]+)`", page.read_text()))


def test_the_layers_are_those_that_are_checked() -> None:
    shown = {block.mark: block.text.splitlines() for block in blocks(DOCS / "explanation" / "architecture.md")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())

    contracts = project["tool"]["importlinter"]["contracts"]
    assert [shown["layers"], shown["engine layers"]] == [contract["layers"] for contract in contracts]


# links


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    text = BLOCK.sub("", page.read_text())
    for found in LINK.finditer(text):
        link = found[1] or found[2]
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} leads nowhere"
        assert target.is_relative_to(ROOT), f"{link} leads out of the repository"
        assert not anchor or anchor in anchors(target), f"{link}: {target.name} has no such heading"


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_page_can_be_reached_from_the_readme(page: Path) -> None:
    assert str(page.relative_to(ROOT)) in README.read_text()


# what runs


def run(argv: list[str], cwd: Path) -> str:
    """What went wrong with a program that ran against the simulator; nothing where it ended well."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("VMPROV_", "PYTEST_"))}
    environ = {**kept, "VMPROV_HOME": str(cwd / "state"), "VMPROV_HOST": "fake:", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        argv, cwd=cwd, env=environ, input="y\n", capture_output=True, text=True, timeout=LIMIT, check=False
    )
    return "" if ended.returncode == 0 else f"{shlex.join(argv)}: {ended.returncode}\n{ended.stdout}\n{ended.stderr}"


@pytest.mark.parametrize(
    "page", sorted({block.page for block in BLOCKS if block.runs and block.language == "console"}), ids=lambda p: p.name
)
def test_the_commands_of_a_page_run_one_after_the_other(page: Path, tmp_path: Path) -> None:
    for block in blocks(page):
        if block.mark.startswith(FILE):
            (tmp_path / block.mark.removeprefix(FILE)).write_text(block.text)
        if block.runs and block.language == "console":
            for line in shell_lines(block):
                for call in vmprov_calls(line):
                    more = SIMULATED if call[0] == "create" and "--driver" not in call else ()
                    assert run([sys.executable, "-m", "vmprov", *call, *more], tmp_path) == "", f"{block.where}: {line}"


@pytest.mark.parametrize(
    "block",
    [block for block in BLOCKS if block.runs and block.language == "python"],
    ids=lambda block: block.where,
)
def test_a_python_example_runs(block: Block, tmp_path: Path) -> None:
    program = tmp_path / "test_example.py"
    program.write_text(block.text)
    under_pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]

    assert run([sys.executable, *(under_pytest if "def test_" in block.text else []), program.name], tmp_path) == ""


def test_the_state_directory_holds_what_the_page_says(tmp_path: Path) -> None:
    page = (DOCS / "explanation" / "state-directory.md").read_text()
    shown = [path for cell in first_cells(page) for path in re.findall(r"`([^`]+)`", cell)]
    patterns = [
        re.sub(r"<\w+>", "[^/]+", path.replace(".", r"\.")) + (".*" if path.endswith("/") else "") for path in shown
    ]

    more = ["--count", "2", "--consoles", "2", "--network", "shared", *SIMULATED]
    assert run([sys.executable, "-m", "vmprov", "create", *more], tmp_path) == ""

    home = tmp_path / "state"
    files = [str(path.relative_to(home)) for path in home.rglob("*") if not path.is_dir()]
    assert [file for file in files if not any(re.fullmatch(pattern, file) for pattern in patterns)] == []
    assert len(files) > 8
    # Or its keeper would go on.
    assert run([sys.executable, "-m", "vmprov", "delete", "--all", "--yes"], tmp_path) == ""


def test_every_block_says_what_it_is_and_every_mark_is_known() -> None:
    known = {"", "run", "lab", "layers", "engine layers", *(f"shape: {name}" for name in SHAPES)}
    marks = [(block.where, block.mark) for block in BLOCKS if not block.mark.startswith(("session:", FILE))]

    assert [block.where for block in BLOCKS if not block.language] == []
    assert [where for where, mark in marks if mark not in known] == []
    assert [block.where for block in BLOCKS if block.runs and block.language not in ("console", "python")] == []
