"""The command line. Each side registers its commands as entry points, so this imports neither of them."""

from __future__ import annotations

import os
import sys
from importlib.metadata import entry_points, version
from typing import Annotated

import click
import typer

from hedgerow.errors import HedgerowError

__all__ = ["application", "main"]

_GROUP = "hedgerow.commands"


def application() -> typer.Typer:
    """All commands of the installed distribution."""
    app = typer.Typer(
        name="hedgerow",
        help="Grows one small, accurate network across many devices whose data stays where it is.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )

    @app.callback()
    def common(
        debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
        show_version: Annotated[
            bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
        ] = False,
    ) -> None:
        pass

    for entry in sorted(entry_points(group=_GROUP), key=lambda entry: entry.name):
        app.command(entry.name)(entry.load())
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hedgerow {version('hedgerow')}")
        raise typer.Exit


def main() -> None:
    """Runs a command; an error that is meant for the user is one sentence, and the exit code says so."""
    # No library may call home from a user's machine.
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
    debug = "--debug" in sys.argv[1:]
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        code = application()(args=arguments, standalone_mode=False)
    except HedgerowError as error:
        if debug:
            raise
        typer.echo(f"hedgerow: {error}", err=True)
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        typer.echo("hedgerow: stopped", err=True)
        code = 130
    except Exception as error:
        if debug:
            raise
        typer.echo(f"hedgerow: internal error, {type(error).__name__}: {error}; --debug shows where", err=True)
        code = 70
    sys.exit(code if isinstance(code, int) else 0)
