"""The only door to jinja2: templates, found in three places, with strict variables and quoting filters.

Templates are dumb: they hold loops and includes, every value passes a filter that quotes it for the language
it lands in (``ruby``, ``xml``), and a variable that is missing is an error.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmprov.errors import HostNotReady

if TYPE_CHECKING:
    import jinja2

_PACKAGE = Path(__file__).parent


def template_dirs() -> list[Path]:
    """Where templates are looked for: $VMPROV_TEMPLATES, an installed copy's data, a source checkout."""
    user = os.environ.get("VMPROV_TEMPLATES", "")
    places = [Path(user)] if user else []
    return [*places, _PACKAGE / "_data", _PACKAGE.parent]


def template_file(name: str) -> Path:
    """The first file of that name, for example ``vagrantfiles/vmprov.rb``."""
    for place in template_dirs():
        if (place / name).is_file():
            return place / name
    raise HostNotReady(f"the template {name} is missing", hint="install vmprov again")


def ruby(value: object) -> str:
    """A Ruby literal: a single-quoted string, in which nothing is interpolated, or a number."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    text = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"


def xml(value: object) -> str:
    """Text or an attribute's value in XML."""
    from xml.sax.saxutils import escape  # It brings in half of urllib.

    return escape(str(value), {"'": "&apos;", '"': "&quot;"})


@cache
def _environment() -> jinja2.Environment:
    # It is slow to import, and most commands render nothing.
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([str(place) for place in template_dirs()]),
        undefined=jinja2.StrictUndefined,
        # The output is Ruby and XML with filters of its own; HTML escaping would be wrong in Ruby.
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["ruby"] = ruby
    environment.filters["xml"] = xml
    return environment


def render(template: str, **inputs: Any) -> str:
    """The template's text with these inputs; raises :class:`HostNotReady` where it is missing or wrong."""
    import jinja2

    try:
        return _environment().get_template(template).render(**inputs)
    except jinja2.TemplateError as problem:
        raise HostNotReady(f"the template {template} cannot be used: {problem}") from problem
