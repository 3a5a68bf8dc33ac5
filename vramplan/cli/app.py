"""The program's entry: commands by name, loaded when they are asked for, and errors as sentences."""

from __future__ import annotations

import gc
import io
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from vramplan import __version__
from vramplan.cli import _argv, _plain, _terminal
from vramplan.cli.exit_codes import ExitCode
from vramplan.errors import UsageError, VramplanError

# In the order of `--help`. A command is the function `NAME_command` of the module `vramplan.cli.NAME`; one whose module
# is not there is not listed. A module may set CONTEXT_SETTINGS for click, as a command that runs another one needs to.
_COMMANDS = (
    "estimate",
    "simulate",
    "measure",
    "recommend",
    "check",
    "log",
    "watch",
    "report",
    "compare",
    "accuracy",
    "calibrate",
    "doctor",
    "replay",
)


class LazyGroup(TyperGroup):
    """Commands that are imported when they run, or when help lists them: an estimate pays for no other command."""

    def get_params(self, ctx: Any) -> Any:
        """The parameters, `--help` among them."""
        return _plain.as_read(super().get_params(ctx))

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - click's signature
        """Names of the commands that this installation has."""
        return [name for name in _COMMANDS if _exists(name)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - click's signature
        """The command of that name, or None."""
        return _load(cmd_name) if _exists(cmd_name) else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The first line of each command's docstring, none cut short."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, self.get_command(ctx, name).get_short_help_str(1000)) for name in self.list_commands(ctx)]
            )

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the arguments begin with.

        Raises:
            UsageError: there is none of that name.
        """
        if not args[0].startswith("-") and not _exists(args[0]):
            import difflib

            names = self.list_commands(ctx)
            near = difflib.get_close_matches(args[0], names, n=1)
            hint = f"the nearest is {near[0]}" if near else f"the commands are {', '.join(names)}"
            raise UsageError(f"there is no command {args[0]!r}", hint=hint)
        return super().resolve_command(ctx, args)


def _print_version(asked: bool) -> None:
    if asked:
        _terminal.write_answer(f"vramplan {__version__}\n")
        raise typer.Exit


_HELP = {"help_option_names": ["-h", "--help"]}

# rich's help cuts long flags short at 80 columns, so help is plain text.
app = typer.Typer(
    cls=LazyGroup,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings=_HELP,
)


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", callback=_print_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when something goes wrong.")] = False,
) -> None:
    """Say how much GPU memory a training run takes, before it starts."""


def main() -> NoReturn:
    """Run the command line and leave with its exit code."""
    # Most of what a start makes stays: to look through it for cycles every 700 objects took 4 % of an estimate.
    gc.set_threshold(100_000)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # an encoding without × gets ?, not a traceback
    sys.exit(run(sys.argv[1:]))


def run(argv: Sequence[str]) -> int:
    """Run a command line.

    Returns:
        the exit code; nothing is raised but what `--debug` asks to see.
    """
    debug, args = _argv.take_flag(argv, "--debug")
    args = _argv.normalise(args) or ["--help"]
    try:
        result = typer.main.get_command(app)(args, prog_name="vramplan", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):  # which of them depends on typer's version; newer ones return 130
        return ExitCode.INTERRUPTED
    except Exception as error:
        if debug:
            raise
        return _explain(error, args[0])
    return result if isinstance(result, int) else ExitCode.DONE


def _explain(error: Exception, first: str) -> int:
    """Say what went wrong, and give the exit code; `first` is the first argument."""
    if isinstance(error, VramplanError):
        _terminal.say_error(error.message, error.hint)
        return error.exit_code
    if isinstance(error, BrokenPipeError):
        _terminal.drop_stdout()
        return ExitCode.DONE
    if hasattr(error, "format_message"):  # click's own: an unknown flag, a missing value
        command = f"vramplan {first}" if first in _COMMANDS else "vramplan"
        _terminal.say_error(_sentence(error.format_message()), f"`{command} --help` lists the flags")
        return ExitCode.USAGE
    if isinstance(error, OSError):
        _terminal.say_error(str(error), "--debug shows where it happened")
        return ExitCode.CRASH
    _terminal.say_error(
        f"internal error: {type(error).__name__}: {error}", "this is a defect in vramplan; --debug shows where"
    )
    return ExitCode.CRASH


def _sentence(message: str) -> str:
    text = " ".join(message.split()).rstrip(".")
    return text[:1].lower() + text[1:]


def _exists(name: str) -> bool:
    return name in _COMMANDS and find_spec(f"vramplan.cli.{name}") is not None


def _load(name: str) -> Any:
    module = import_module(f"vramplan.cli.{name}")
    function = getattr(module, f"{name}_command")
    single = typer.Typer(add_completion=False, rich_markup_mode=None)
    single.command(
        name,
        cls=_plain.PlainCommand if getattr(function, "plain_options", False) else None,
        context_settings=_HELP | getattr(module, "CONTEXT_SETTINGS", {}),
    )(function)
    return typer.main.get_command(single)


if __name__ == "__main__":
    main()
