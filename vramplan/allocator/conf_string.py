"""The grammar of `PYTORCH_ALLOC_CONF`: `key:value,key:[a:1,b:2]`, spaces ignored (c10/core/AllocatorConfig.h)."""

from __future__ import annotations

import re

from vramplan.errors import UsageError

Value = str | list[tuple[str, str]]
"""A single value, or the pairs of a bracketed list."""

_OPTION = re.compile(r"(?P<key>[^:,\[\]]+):(?:\[(?P<items>[^\[\]]*)\]|(?P<value>[^:,\[\]]+))(?:,|$)")
_HINT = "write key:value pairs with commas between them, as in expandable_segments:True,max_split_size_mb:512"


def parse_options(text: str) -> list[tuple[str, Value]]:
    """Keys and values in the order they are written; the empty text has none.

    Raises:
        UsageError: the text does not follow the grammar.
    """
    squeezed = "".join(text.split())
    options: list[tuple[str, Value]] = []
    position = 0
    while position < len(squeezed):
        match = _OPTION.match(squeezed, position)
        if match is None:
            raise UsageError(f"allocator settings cannot be read from {squeezed[position:]!r} on", hint=_HINT)
        if match["items"] is None:
            options.append((match["key"], match["value"]))
        else:
            options.append((match["key"], [_pair(item) for item in match["items"].split(",") if item]))
        position = match.end()
    return options


def _pair(item: str) -> tuple[str, str]:
    name, colon, value = item.partition(":")
    if not (name and colon and value):
        raise UsageError(f"{item!r} is not a pair in a list of allocator settings", hint="write [256:1,512:2,>:4]")
    return name, value
