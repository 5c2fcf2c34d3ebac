"""The entry point: finds the command, imports only its module, turns errors into one line and an exit code.

Exit codes: 0 done · 1 the operation failed · 2 no host is running, or wrong usage · 130 Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

SUMMARIES = {
    "serve": "Run the host: the service that answers every guest on this machine.",
    "status": "Show what the host is doing: guests, channels, requests in flight, counters.",
    "rescind": "Withdraw the device from a guest; it connects again at its next call.",
    "demo": "Read real blobs from 100 processes, over HTTP and over the channel; check every byte; print both.",
    "put": "Store files, directories or standard input as blobs.",
    "get": "Fetch blobs into files, a directory or standard output.",
    "cp": "Copy blobs inside an account.",
    "ls": "List containers or blobs.",
    "stat": "Show the properties of a blob or a container.",
    "cache": "Look into, fill or empty the cache of accounts elsewhere.",
    "rm": "Delete blobs or a container.",
    "bench": "Measure scenarios on this machine, side by side with HTTP peers and the physical limit.",
}
EXIT_FAILED = 1
EXIT_NO_HOST = 2
EXIT_INTERRUPTED = 130

try:
    import typer
    from typer.core import TyperCommand, TyperGroup
except ModuleNotFoundError as missing:  # the client library needs no command line, so its packages are an extra
    sys.exit(f"pvblob: the command line needs the package {missing.name!r}: pip install 'pvblob[host]'")


class Commands(TyperGroup):
    """The commands, each imported when it is used; the list of them imports none."""

    _listed = False

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help with the list of commands."""
        self._listed = True
        super().format_help(ctx, formatter)

    def list_commands(self, ctx: Any) -> list[str]:
        """Return every command's name, in the order of `pvblob --help`."""
        return list(SUMMARIES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import the command's module and return it as a command; None for an unknown name."""
        if cmd_name not in SUMMARIES:
            return None
        if self._listed:
            return TyperCommand(cmd_name, short_help=SUMMARIES[cmd_name])
        module = import_module(f"pvblob.cli.{cmd_name}")
        if hasattr(module, "commands"):
            command = typer.main.get_command(module.commands)
            command.name, command.short_help = cmd_name, SUMMARIES[cmd_name]
        else:
            single = typer.Typer(add_completion=False)
            single.command(cmd_name, help=module.HELP, short_help=SUMMARIES[cmd_name])(module.run)
            command = typer.main.get_command(single)
        for one in (command, *getattr(command, "commands", {}).values()):
            one.help = _flowing(one.help or "")
        return command

    def invoke(self, ctx: Any) -> Any:
        """Run the command; every foreseen failure becomes one line on standard error and an exit code."""
        from pvblob import errors

        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            code = EXIT_INTERRUPTED
        except BrokenPipeError:  # whoever read our output has seen enough, e.g. `pvblob ls | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = EXIT_FAILED
        except (errors.HostUnavailable, errors.HostRefused) as error:
            code = _say(error, EXIT_NO_HOST)
        except (errors.PvblobError, OSError) as error:
            code = _say(error, EXIT_FAILED)
        raise typer.Exit(code)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Host-accelerated blob access. Blobs are written CONTAINER/BLOB or pvblob://ACCOUNT/CONTAINER/BLOB.",
)


def _flowing(text: str) -> str:
    """Return a help text whose paragraphs wrap where the terminal ends, examples aside; its brackets are no markup."""
    paragraphs = (paragraph.strip("\n") for paragraph in text.split("\n\n"))
    flowing = "\n\n".join(one if one.startswith(" ") else " ".join(one.split()) for one in paragraphs)
    if "[" not in flowing:
        return flowing
    from rich.markup import escape  # a tenth of what a command takes to start

    return escape(flowing)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"pvblob {version('pvblob')}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Carry the options that come before the command."""


def _say(error: Exception, code: int) -> int:
    text = " ".join(str(error).split()) or type(error).__name__
    typer.echo(f"pvblob: {text}", err=True)
    return code


def main() -> None:
    """Run the command line and exit with its code."""
    app()


if __name__ == "__main__":
    main()
