"""The command line: the only part of vmprov that prints, reads options, and exits.

Each command lives in a module of its own kind and is imported only when it is called, since starting up is
most of what a short command costs.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from types import FrameType
from typing import Any, NoReturn

import click

from vmprov import __version__
from vmprov.errors import Interrupted, VmprovError
from vmprov.events import Listener
from vmprov.waiting import Cancel

# Command -> (module below vmprov.cli, what --help says).
COMMANDS = {
    "create": ("create", "Make virtual machines and wait until each is ready."),
    "delete": ("delete", "Remove machines or labs, with everything that was made for them."),
    "validate": ("spec", "Check lab files."),
    "schema": ("spec", "Print the JSON schema of lab files, for editors."),
    "plan": ("lab", "Say what would make a lab as its file wants it."),
    "apply": ("lab", "Make a lab as its file wants it."),
    "status": ("lab", "Say how machines differ from what is recorded of them."),
    "gc": ("gc", "Remove what was left behind, or make lost records again."),
    "list": ("look", "List machines."),
    "show": ("look", "Show a machine or a lab, or where its time went."),
    "logs": ("logs", "Show serial console logs."),
    "watch": ("watch", "Watch machines, or a serial port, until there is a verdict."),
    "console": ("console", "Attach to a machine's serial console."),
    "vnc": ("vnc", "Offer a machine's screen to a VNC viewer."),
    "ssh": ("ssh", "Log in to a machine, or run a command on it."),
    "start": ("power", "Power machines on."),
    "stop": ("power", "Shut machines down."),
    "reboot": ("power", "Stop machines and start them again."),
    "rebuild": ("remake", "Make machines anew; data disks keep what is on them."),
    "resize": ("remake", "Give a machine other CPUs, memory, or larger disks."),
    "rename": ("remake", "Give a machine another name."),
    "import": ("remake", "Take a domain that somebody made into a lab, as it is."),
    "protect": ("terms", "Let nobody delete, rebuild or replace machines."),
    "renew": ("terms", "Let machines live longer."),
    "label": ("terms", "Set labels of machines, or take them away."),
    "host": ("host", "Start, stop and show hosts."),
    "image": ("image", "Build, import, show and delete images."),
    "flow": ("flow", "List, show and check flows: what consoles are expected to show."),
    "day0": ("day0", "Onboard edge nodes: register them with an orchestrator, see how far they are, report."),
    "stats": ("stats", "Show how long stages took in past runs."),
    "report": ("report", "Put all that tells why a machine is as it is into one archive."),
    "doctor": ("doctor", "Check this machine and say what to mend."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called; ``--help`` imports none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Names of the commands, in the order of their use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"vmprov.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands from the table above."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="vmprov")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.pass_context
def app(ctx: click.Context, debug: bool) -> None:
    """Make batches of KVM virtual machines, watch their consoles, remove exactly what was made.

    Settings come from the environment: VMPROV_HOME (state directory), VMPROV_HOST, VMPROV_RUNNER_IMAGE,
    VMPROV_SUBNETS, VMPROV_POOL, VMPROV_CONSOLE_LIMIT, VMPROV_KEEPER; of the simulator VMPROV_FAKE_MEMORY and
    VMPROV_FAKE_POOL.
    """
    ctx.obj = Session(debug=debug)


class Session:
    """What one run of the command line shares: the cancel token and whether to show tracebacks."""

    def __init__(self, *, debug: bool) -> None:
        self.debug = debug
        self.cancel = Cancel()
        # Who else hears of everything that happens.
        self.listeners: list[Listener] = []

    def cancel_on_signals(self, *, quietly: bool = False) -> None:
        """The first Ctrl-C (or SIGTERM) asks the operation to stop cleanly; the second one leaves at once."""

        def stop(number: int, _frame: FrameType | None) -> None:
            if self.cancel.is_set:
                os._exit(128 + number)
            self.cancel.set()
            if not quietly:
                click.echo("\nvmprov: stopping cleanly; once more to leave at once", err=True)

        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGTERM, stop)


def main(argv: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code."""
    words = sys.argv[1:] if argv is None else argv
    debug = "--debug" in words
    try:
        code: Any = app.main(args=words, prog_name="vmprov", standalone_mode=False)
    except VmprovError as problem:
        if debug:
            import traceback

            traceback.print_exception(problem)
        else:
            _complain(str(problem))
        sys.exit(problem.exit_code)
    except click.exceptions.NoArgsIsHelpError as problem:
        click.echo(problem.format_message(), err=True)
        sys.exit(2)
    except click.UsageError as problem:
        command = problem.ctx.command_path if problem.ctx else "vmprov"
        _complain(f"{problem.format_message().rstrip('.')} (see: {command} --help)")
        sys.exit(2)
    except click.ClickException as problem:
        _complain(problem.format_message())
        sys.exit(problem.exit_code)
    except OSError as problem:  # but for a reader that left: click ends quietly then, with 1
        if debug:
            raise
        _complain(str(problem))
        sys.exit(1)
    except (KeyboardInterrupt, click.Abort):
        _complain("interrupted")
        sys.exit(Interrupted.exit_code)
    sys.exit(code if isinstance(code, int) else 0)


def _complain(what: str) -> None:
    click.echo(f"vmprov: {' '.join(what.split())}", err=True)
