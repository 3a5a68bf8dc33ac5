"""A run as our own TOML, which `--run FILE` reads: everything can be said."""

from __future__ import annotations

import json
from dataclasses import replace

from vramplan import __version__
from vramplan.runfiles.draft import Text
from vramplan.runfiles.flat import FlatRun


def write_toml(flat: FlatRun) -> Text:
    """The file for `vramplan estimate --run FILE`."""
    settings = replace(flat, run=None).to_dict()
    trained = flat.teacher or flat.model or "a model"
    what = f"{flat.method or 'a run'} of {trained}"
    lines = [
        f"# Written by vramplan {__version__}.",
        "# Run: vramplan estimate --run FILE",
        f"description = {_value(what)}",
        f"source = {_value('written by vramplan ' + __version__)}",
        "",
        *(f"{key} = {_value(value)}" for key, value in settings.items()),
    ]
    return Text(text="\n".join(lines) + "\n", left_out=())


def _value(value: object) -> str:
    """A value as TOML. Its basic strings are JSON's but for DEL, which must be escaped too (TOML 1.0, "String")."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(one)}" for key, one in value.items()) + " }" if value else "{}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(one) for one in value) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)  # ints, and floats in a spelling that TOML has too
