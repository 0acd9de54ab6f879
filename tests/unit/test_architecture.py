"""What the code may look like and who may import what; see also the import contract in pyproject.toml."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "vmprov").rglob("*.py"))
LONGEST_FUNCTION = 60
LONGEST_MODULE = 600
# A helper lives with the knowledge that it encodes; a module of this name would have none.
EMPTY_NAMES = {"utils", "util", "helpers", "helper", "manager", "misc", "base", "core", "common"}
# Options and output that commands share, which is what its docstring says.
SEAMS = {
    "subprocess": ["vmprov/runner.py"],
    "libvirt": [
        "vmprov/hypervisor/connection.py",
        "vmprov/hypervisor/libvirt.py",
        "vmprov/hypervisor/storage.py",
    ],
    "docker": ["vmprov/containers/engine.py"],
    "sqlite3": ["vmprov/store/database.py"],
    "jinja2": ["vmprov/render.py"],
    "vagrant": ["vmprov/drivers/vagrant_cli.py"],
    "pexpect": ["vmprov/console/"],
    "serial": ["vmprov/console/"],
    "pycdlib": ["vmprov/seeds.py"],
    "yaml": ["vmprov/documents.py"],
    "re2": ["vmprov/flows/"],
    "httpx": ["vmprov/day0/https.py"],
    "fastapi": ["vmprov/day0/orchestrator/"],
    "uvicorn": ["vmprov/day0/orchestrator/"],
}
# Spelled apart, so that this file does not find itself. Where packages come from is the user's affair.
MIRRORS = [
    f"{name}.{domain}"
    for name, domain in [
        ("deb.debian", "org"), ("security.debian", "org"), ("ftp.debian", "org"), ("archive.ubuntu", "com"),
        ("security.ubuntu", "com"), ("registry-1.docker", "io"), ("index.docker", "io"), ("files.pythonhosted", "org"),
        ("pypi", "org/simple"), ("proxy.golang", "org"), ("rubygems", "org"), ("vagrantcloud", "com"),
    ]
]  # fmt: skip


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def tracked_files() -> list[Path]:
    """Every file of the repository; in an unpacked source distribution, every file there is."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def functions(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{relative(path)}:{node.name}", (node.end_lineno or 0) - node.lineno + 1


def imported(path: Path) -> set[str]:
    """The top-level packages that a module imports, wherever in it, also for type hints only."""
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").split(".")[0])
    return found


def broad_excepts(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ExceptHandler):
            kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            names = {kind.id for kind in kinds if isinstance(kind, ast.Name)}
            reraises = any(isinstance(inner, ast.Raise) and inner.exc is None for inner in ast.walk(node))
            if (node.type is None or names & {"Exception", "BaseException"}) and not reraises:
                yield f"{relative(path)}:{node.lineno}"


def calls(path: Path) -> Iterator[str]:
    """What a module calls, as ``file:line name``."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield f"{relative(path)}:{node.lineno} {ast.unparse(node.func)}"


def shell_scripts() -> list[Path]:
    """Files that begin with a shell's name, and what they source."""
    return [path for path in tracked_files() if re.match(rb"#!.*\b(ba|da)?sh\b|# shellcheck shell=|# .*sourced",
                                                         path.read_bytes()[:200])]  # fmt: skip


def test_imports_point_downwards_and_siblings_do_not_know_each_other() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    if not program.exists():
        pytest.skip("import-linter is not installed")

    ran = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)

    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_no_function_is_longer_than_a_screen() -> None:
    sizes = {name: lines for path in MODULES for name, lines in functions(path)}

    assert {name: lines for name, lines in sizes.items() if lines > LONGEST_FUNCTION} == {}


def test_no_module_is_longer_than_its_subject() -> None:
    sizes = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}

    assert {name: lines for name, lines in sizes.items() if lines > LONGEST_MODULE} == {}


def test_nothing_is_caught_that_was_not_expected() -> None:
    assert [place for path in MODULES for place in broad_excepts(path)] == []


def test_no_module_has_a_name_that_says_nothing() -> None:
    named = {relative(path) for path in MODULES if path.stem in EMPTY_NAMES or path.parent.name in EMPTY_NAMES}

    assert named == set()


@pytest.mark.parametrize("package", SEAMS)
def test_an_outside_package_has_one_importer(package: str) -> None:
    importers = {relative(path) for path in MODULES if package in imported(path)}

    assert importers != set()
    assert [name for name in importers if not name.startswith(tuple(SEAMS[package]))] == []


def test_every_seam_is_guarded_by_ruff_too() -> None:
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")

    assert [package for package in SEAMS if f"\n{package}.msg = " not in settings] == []


def test_only_the_command_line_prints_or_exits() -> None:
    # _dial.py is a program, which ssh runs.
    library = [path for path in MODULES if "/cli/" not in relative(path) and path.name != "_dial.py"]

    assert [call for path in library for call in calls(path) if call.endswith((" print", " sys.exit", " exit"))] == []


def test_nothing_sleeps_but_what_can_be_cancelled() -> None:
    assert [call for path in MODULES for call in calls(path) if call.endswith(" time.sleep")] == []


def test_no_file_speaks_of_the_machine_that_it_was_written_on() -> None:
    place = re.compile(re.escape(str(ROOT)).encode() + rb"\b")

    assert [relative(path) for path in tracked_files() if place.search(path.read_bytes())] == []


def test_no_file_names_a_mirror_or_registry() -> None:
    mirrors = re.compile("|".join(map(re.escape, MIRRORS)).encode())

    assert [relative(path) for path in tracked_files() if mirrors.search(path.read_bytes())] == []


def test_shell_scripts_can_be_read_by_the_shell() -> None:
    scripts = shell_scripts()
    unread = [relative(path) for path in scripts if subprocess.run(["bash", "-n", path], check=False).returncode]

    assert "scripts/test" in {relative(path) for path in scripts}
    assert unread == []


@pytest.mark.parametrize(
    ("where", "severity"),
    [
        ("scripts/", "style"),
        (".ci/", "style"),
        # What runs in images of ours takes its inputs from programs that shellcheck does not know.
        ("vmprov/", "error"),
    ],
)
def test_shell_scripts_have_no_known_mistakes(where: str, severity: str) -> None:
    program = shutil.which("shellcheck")
    if program is None:
        pytest.skip("shellcheck is not installed")
    # What is sourced is checked with what sources it.
    scripts = [path for path in shell_scripts() if relative(path).startswith(where) and path.read_bytes()[:2] == b"#!"]

    ran = subprocess.run(
        [program, "--external-sources", f"--severity={severity}", *scripts],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert scripts != []
    assert ran.returncode == 0, ran.stdout
