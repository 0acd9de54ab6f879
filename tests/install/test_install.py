"""The package as users get it: from a wheel, from a source distribution, and as an editable checkout.

Nothing is downloaded: what vmprov depends on is borrowed from the environment that runs the tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT = 120
KINDS = ["wheel", "sdist", "editable"]

pytestmark = pytest.mark.install


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the wheel (of the checkout) and the source distribution."""
    target = tmp_path_factory.mktemp("dist")
    run([sys.executable, "-m", "build", "--no-isolation", "--sdist", "--wheel", "--outdir", target, ROOT])
    return target


@dataclass(frozen=True)
class Installed:
    """A fresh virtual environment with vmprov in it, away from the checkout."""

    root: Path

    def __call__(self, program: str, *words: str) -> str:
        """What one of its programs prints; none of the tests' own environment takes part."""
        environ = {"PATH": os.environ["PATH"], "VMPROV_HOME": str(self.root / "home"), "VMPROV_HOST": "fake:"}
        return run([self.root / "bin" / program, *words], cwd=self.root, env=environ)

    def python(self, program: str) -> str:
        """What a Python program prints."""
        return self("python", "-I", "-c", program)


def run(argv: list[str | Path], *, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    ended = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=LIMIT)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def make_environment(root: Path) -> None:
    """An empty virtual environment that sees the packages of this one, but no vmprov: links are not followed twice."""
    run([sys.executable, "-m", "venv", "--without-pip", root])
    target = next(root.glob("lib/python*/site-packages"))
    borrowed = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (target / "borrowed.pth").write_text("\n".join(borrowed) + "\n")


@pytest.fixture(scope="session", params=KINDS)
def installed(request: pytest.FixtureRequest, built: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """vmprov, installed in each of the ways."""
    root = tmp_path_factory.mktemp(request.param)
    make_environment(root)
    source: dict[str, Callable[[], list[str | Path]]] = {
        "wheel": lambda: [next(built.glob("*.whl"))],
        "sdist": lambda: [next(built.glob("*.tar.gz"))],
        "editable": lambda: ["--editable", ROOT],
    }
    # --ignore-installed: a vmprov among the borrowed packages is not to be replaced, but passed over.
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--ignore-installed"]
    pip: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--python",
        root / "bin" / "python",
    ]
    run([*pip, "install", *options, *source[request.param]()])
    return Installed(root)


def test_the_command_is_there(installed: Installed) -> None:
    assert installed("vmprov", "--version").startswith("vmprov, version ")


def test_the_package_can_be_run(installed: Installed) -> None:
    assert "create" in installed("python", "-I", "-m", "vmprov", "--help")


def test_what_is_imported_is_what_was_installed(installed: Installed, request: pytest.FixtureRequest) -> None:
    where = Path(installed.python("import vmprov; print(vmprov.__file__)").strip())
    expected = ROOT if request.node.callspec.params["installed"] == "editable" else installed.root

    assert where.is_relative_to(expected)


def test_templates_are_found(installed: Installed) -> None:
    names = [
        f"{path.parent.name}/{path.name}"
        for place in ("vagrantfiles", "network-xml", "charts")
        for path in files(place)
    ]
    program = f"from vmprov.render import template_file\nfor name in {names}: print(template_file(name).is_file())"

    assert len(names) > 3
    assert installed.python(program).split() == ["True"] * len(names)


def files(place: str) -> list[Path]:
    return sorted(path for path in (ROOT / place).iterdir() if path.is_file())


@pytest.mark.parametrize("recipe", ["host", "runner", "builder"])
def test_container_images_are_made_of_what_the_checkout_has(installed: Installed, recipe: str) -> None:
    program = f"from vmprov.containers import recipes; print(recipes.image_name({recipe!r}))"
    here = run([sys.executable, "-c", program], cwd=ROOT)

    assert installed.python(program) == here


def test_files_that_containers_run_can_still_be_run(installed: Installed) -> None:
    script = "dockerfiles/host/vmprov-host"
    program = f"import os, vmprov; print(os.access(os.path.dirname(vmprov.__file__) + '/{script}', os.X_OK))"

    assert installed.python(program) == f"{os.access(ROOT / 'vmprov' / script, os.X_OK)}\n"


def test_type_checkers_see_that_it_is_typed(installed: Installed) -> None:
    program = "from importlib.resources import files; print(files('vmprov').joinpath('py.typed').is_file())"

    assert installed.python(program) == "True\n"


def test_machines_are_made_and_removed(installed: Installed) -> None:
    made = json.loads(installed("vmprov", "create", "--count", "2", "--driver", "fake", "--image", "", "--json"))
    removed = json.loads(installed("vmprov", "delete", "--all", "--yes", "--json"))

    assert (made["ok"], [vm["name"] for vm in made["vms"]]) == (True, ["vm-1", "vm-2"])
    assert removed == {"deleted": ["vm-1", "vm-2"], "failed": []}


def test_the_wheel_of_the_source_distribution_is_that_of_the_checkout(built: Path, tmp_path: Path) -> None:
    sdist, wheel = next(built.glob("*.tar.gz")), next(built.glob("*.whl"))
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    unpacked = next(path for path in tmp_path.iterdir() if path.is_dir())
    run([sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", tmp_path, unpacked])

    assert contents(next(tmp_path.glob("*.whl"))) == contents(wheel)


def contents(wheel: Path) -> dict[str, int]:
    with zipfile.ZipFile(wheel) as archive:
        return {entry.filename: entry.CRC for entry in archive.infolist() if not entry.filename.endswith("RECORD")}


def test_the_wheel_holds_nothing_but_the_package(built: Path) -> None:
    names = contents(next(built.glob("*.whl")))

    assert {name.split("/")[0].split("-")[0] for name in names} == {"vmprov"}
    assert [name for name in names if "__pycache__" in name or "test" in name] == []
