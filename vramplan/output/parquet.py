"""A table as a Parquet file: smaller than CSV, and with types; pandas and pyarrow write it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from typing import BinaryIO

from vramplan.errors import UsageError

SUFFIX = ".parquet"


def check_parquet(path: str | None) -> None:
    """Refuse a Parquet file that nothing here can write, before any work is done for it.

    Raises:
        UsageError: the name ends in `.parquet` and the pyarrow package is not installed.
    """
    if is_parquet(path) and find_spec("pyarrow") is None:
        raise UsageError(
            f"{path} cannot be written: Parquet needs the pyarrow package",
            hint="python3 -m pip install 'vramplan[parquet]', or name a .csv file",
        )


def is_parquet(path: str | None) -> bool:
    """Whether a file's name asks for Parquet."""
    return path is not None and path.lower().endswith(SUFFIX)


def write_parquet(file: BinaryIO, header: Sequence[str], rows: Iterable[tuple[object, ...]]) -> None:
    """One column per name of `header`, whole numbers as int64 and texts as strings.

    Raises:
        OSError: the file cannot be written.
    """
    import pandas

    frame = pandas.DataFrame.from_records(list(rows), columns=list(header))
    frame.to_parquet(file, engine="pyarrow", index=False)
