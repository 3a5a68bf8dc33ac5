"""Commands whose options are texts, lists of texts or switches only, and so need no conversion by typer.

typer 0.29 builds a pydantic adapter for each parameter, given or not (typer/_coercion.py, build_runtime_param), which
takes longer than an estimate. Older versions have no such step, and none is skipped.
"""

from __future__ import annotations

import functools
from typing import Any

from typer.core import TyperCommand

from vramplan.errors import UsageError


class PlainCommand(TyperCommand):
    """A command all of whose options are texts, lists of texts or switches."""

    def get_params(self, ctx: Any) -> Any:
        """The parameters, `--help` among them."""
        return as_read(super().get_params(ctx))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Flags under their panels' names, none cut short."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                panels.setdefault(getattr(param, "rich_help_panel", None) or "General", []).append(record)
        for name, records in panels.items():
            with formatter.section(name):
                formatter.write_dl(records)


def as_read(params: list[Any]) -> list[Any]:
    """Make parameters take what the command line's parser has read, and nothing more."""
    for param in params:
        if hasattr(param, "get_runtime_param"):
            param.process_value = functools.partial(_as_read, param)
    return params


def _as_read(param: Any, ctx: Any, value: Any) -> Any:
    if value is None and (param.multiple or param.nargs == -1):
        value = ()
    if value is None and param.required:
        raise UsageError(
            f"{param.metavar or param.name} is missing", hint=f"`{ctx.command_path} --help` says what it is"
        )
    return value if param.callback is None else param.callback(ctx, param, value)
