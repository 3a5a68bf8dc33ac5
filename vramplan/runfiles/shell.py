"""The commands of a shell script, as words with their lines: comments, continuations, quotes and plain variables."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vramplan.errors import UsageError

_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_VARIABLE = re.compile(
    r"\$(?:\{(?P<braced>[A-Za-z_0-9@*#]+)(?::?[-=](?P<default>[^{}]*))?\}|(?P<plain>[A-Za-z_0-9@*#]+))"
)
_SEPARATORS = frozenset({"&&", "||", ";", "|", "&"})
_REDIRECTION = re.compile(r"\d*(>|<|>>|>&|&>)(&?\d+)?")


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a command, and the line it stands on, or None outside a file."""

    text: str
    line: int | None


Command = list[Word]


def script_commands(text: str, path: Path) -> list[Command]:
    """Every command of a script, in order, variables that the script sets filled in.

    Raises:
        UsageError: a quote is never closed.
    """
    commands: list[Command] = []
    variables: dict[str, str] = {}
    for line, logical in _logical_lines(text):
        words = _split(logical, line, path)
        for command in _cut(words):
            _assign(command, variables)
            filled = [Word(fill(word.text, variables), word.line) for word in command]
            commands.append(_without_redirections(filled))
    return [command for command in commands if command]


def line_commands(command: str | Sequence[str]) -> list[Command]:
    """The commands that were given as a text, or the one that was given as its words.

    Raises:
        UsageError: a quote is never closed.
    """
    if not isinstance(command, str):
        return [[Word(word, None) for word in command]]
    commands = script_commands(command, Path("command line"))
    return [[Word(word.text, None) for word in words] for words in commands]


def fill(text: str, variables: dict[str, str]) -> str:
    """The text with its variables; those that nobody set stay as `${NAME}`."""

    def value(match: re.Match[str]) -> str:
        name = match["braced"] or match["plain"]
        if name in variables:
            return variables[name]
        return match["default"] if match["default"] is not None else f"${{{name}}}"

    return _VARIABLE.sub(value, text)


def _logical_lines(text: str) -> list[tuple[int, str]]:
    """Lines with their continuations, each physical line kept apart by a newline so that words have theirs."""
    lines: list[tuple[int, str]] = []
    start, parts = 1, list[str]()
    for number, line in enumerate(text.splitlines(), start=1):
        if not parts:
            start = number
            if line.lstrip().startswith("#") or not line.strip():
                continue
        continued = re.search(r"(?<!\\)\\\s*$", line)
        parts.append(line[: continued.start()] if continued else line)
        if continued is None and not _open_quote("\n".join(parts)):
            lines.append((start, "\n".join(parts)))
            parts = []
    if parts:
        lines.append((start, "\n".join(parts)))
    return lines


def _open_quote(text: str) -> bool:
    try:
        shlex.split(text, comments=True)
    except ValueError:
        return True
    return False


def _split(logical: str, line: int, path: Path) -> Command:
    lexer = shlex.shlex(logical, posix=True, punctuation_chars=";&|")
    lexer.whitespace_split = True
    words: Command = []
    try:
        tokens = list(lexer)
    except ValueError as error:
        raise UsageError(f"{path}:{line}: a quote is never closed") from error
    physical, at = logical.splitlines(), 0
    for token in tokens:
        found = next((index for index in range(at, len(physical)) if token in physical[index]), at)
        at = max(at, found)
        words.append(Word(token, line + at))
    return words


def _cut(words: Command) -> list[Command]:
    commands: list[Command] = [[]]
    for word in words:
        if word.text in _SEPARATORS:
            commands.append([])
        else:
            commands[-1].append(word)
    return [command for command in commands if command]


def _assign(command: Command, variables: dict[str, str]) -> None:
    """Remember `NAME=value` and `export NAME=value`, and take them off the front of the command."""
    exported = command[0].text in ("export", "local", "readonly", "declare")
    while len(command) > exported and _ASSIGNMENT.match(command[exported].text):
        name, _, value = command.pop(exported).text.partition("=")
        variables[name] = fill(value, variables)


def _without_redirections(command: Command) -> Command:
    for index, word in enumerate(command):
        if _REDIRECTION.match(word.text):
            return command[:index]
    return command
