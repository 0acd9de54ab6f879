"""``vmprov image``."""

from __future__ import annotations

import time
from pathlib import Path

import click

from vmprov.cli import Session
from vmprov.cli.options import json_option, opened, print_json, print_object, print_table
from vmprov.cli.progress import choose_progress
from vmprov.spec.quantities import format_size


@click.group()
def image_command() -> None:
    """Build, import, show and delete images: what machines' disks start from."""


@image_command.command("build")
@click.argument("recipe")
@click.option("--replace", is_flag=True, help="Build again although there is one of that name.")
@click.pass_obj
def build(session: Session, recipe: str, replace: bool) -> None:
    """Build debian-12 or tiny from distribution packages, in a container of ours."""
    session.cancel_on_signals()
    with choose_progress(lambda _vm: Path()) as progress, opened(session, progress) as vmprov:
        image = vmprov.images.build(recipe, events=vmprov.events, cancel=session.cancel, replace=replace)
    click.echo(f"image {image.name}: {format_size(image.size)}, sha256 {image.sha256}")


@image_command.command("import")
@click.argument("source", metavar="FILE|URL")
@click.option("--name", required=True, help="What to call it.")
@click.option("--sha256", default="", metavar="DIGEST", help="What the file's SHA-256 digest must be.")
@click.option("--login", type=click.Choice(("ssh", "console", "none")), default="ssh", show_default=True,
              help="How a guest shows that it is ready: by SSH, by a login prompt on serial, or not.")  # fmt: skip
@click.pass_obj
def import_(session: Session, source: str, name: str, sha256: str, login: str) -> None:
    """Take in a qcow2 or raw disk, or a Vagrant box of the libvirt provider."""
    session.cancel_on_signals()
    with choose_progress(lambda _vm: Path()) as progress, opened(session, progress) as vmprov:
        image = vmprov.images.import_(
            source, name, events=vmprov.events, cancel=session.cancel, sha256=sha256, login=login
        )
    click.echo(f"image {image.name}: {format_size(image.size)}, sha256 {image.sha256}")


@image_command.command("list")
@json_option
@click.pass_obj
def list_images(session: Session, as_json: bool) -> None:
    """List images."""
    with opened(session) as vmprov:
        images = vmprov.images.all()
    if as_json:
        print_json([image.to_json() for image in images])
        return
    rows = [
        (
            image.name,
            format_size(image.size),
            format_size(image.virtual_size),
            image.login,
            image.sha256[:12],
            image.source,
        )
        for image in images
    ]
    if rows:
        print_table(("IMAGE", "SIZE", "DISK", "LOGIN", "SHA256", "SOURCE"), rows)
    else:
        click.echo("no images; build one with: vmprov image build debian-12", err=True)


@image_command.command("show")
@click.argument("name")
@json_option
@click.pass_obj
def show(session: Session, name: str, as_json: bool) -> None:
    """Show one image."""
    with opened(session) as vmprov:
        image = vmprov.images.get(name)
    document = image.to_json()
    if not as_json:
        document["created"] = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(image.created))
    print_object(document, as_json=as_json, sizes=("size", "virtual_size"))


@image_command.command("box")
@click.argument("name")
@click.argument("path", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@click.pass_obj
def box(session: Session, name: str, path: Path) -> None:
    """Write an image as a Vagrant box of the libvirt provider, for `vagrant box add`."""
    with opened(session) as vmprov:
        made = vmprov.write_box(name, path)
    click.echo(f"box of {name}: {made}, {format_size(made.stat().st_size)}")


@image_command.command("delete")
@click.argument("names", nargs=-1, required=True)
@click.pass_obj
def delete(session: Session, names: tuple[str, ...]) -> None:
    """Delete images; one from which machines are made stays."""
    with opened(session) as vmprov:
        for name in names:
            gone = vmprov.delete_image(name)
            click.echo(f"image {name}: {'deleted' if gone else 'there was none'}")
