from __future__ import annotations

import pytest

from vmprov.drivers.vagrant_output import Transcript

PARALLEL = """\
Bringing machine 'web-1' up with 'libvirt' provider...
Bringing machine 'web-2' up with 'libvirt' provider...
==> web-1: Starting domain.
==> web-2: Starting domain.
==> web-2: An error occurred. The error will be shown after all tasks complete.
    web-1: something indented
An error occurred while executing multiple actions in parallel.
Any errors that occurred are shown below.
An error occurred while executing the action on the 'web-2'
machine. Please handle this error then try again:
Failed to start domain: Network not found: no network with matching name 'trial-web-2'
An unexpected error occurred when executing the action on the
'web-3' machine. Please report this as a bug:
undefined method `foo' for nil:NilClass
/usr/lib/ruby/vagrant/action.rb:12:in `call'
"""


def transcript(text: str, *vms: str) -> Transcript:
    taken = Transcript(vms)
    for line in text.splitlines():
        taken.take(line)
    return taken


def test_an_error_belongs_to_the_machine_that_vagrant_names() -> None:
    taken = transcript(PARALLEL, "web-1", "web-2", "web-3")

    assert taken.why("web-1") == ""
    assert taken.why("web-2") == "Network not found: no network with matching name 'trial-web-2'"
    assert taken.why("web-3") == "undefined method `foo' for nil:NilClass"


def test_a_single_machines_error_is_what_stands_alone() -> None:
    taken = transcript(
        "Bringing machine 'web-1' up with 'libvirt' provider...\n"
        "==> web-1: Starting domain.\n"
        "There was an error talking to Libvirt. The error message is shown\n"
        "below:\n"
        "\n"
        "Call to virDomainDefineXML failed: operation failed: domain exists\n",
        "web-1",
    )

    assert taken.why("web-1") == "operation failed: domain exists"


def test_general_words_are_nobodys_error_among_several() -> None:
    taken = transcript("The Vagrantfile is broken.\n", "web-1", "web-2")

    assert taken.why("web-1") == ""
    assert taken.general == "The Vagrantfile is broken."


@pytest.mark.parametrize(
    ("line", "vm", "text"),
    [
        ("==> web-1: Starting domain.", "web-1", "Starting domain."),
        ("    web-1:  -- Name: x", "web-1", " -- Name: x"),
        ("==> web-10: Starting domain.", "", "==> web-10: Starting domain."),
        ("    vagrant: a trigger", "", "    vagrant: a trigger"),
        ("Bringing machine 'web-1' up", "", "Bringing machine 'web-1' up"),
        ("==> web-1: ", "web-1", ""),
    ],
)
def test_a_line_is_about_the_machine_in_its_prefix(line: str, vm: str, text: str) -> None:
    assert Transcript(["web-1"]).take(line) == (vm, text)
