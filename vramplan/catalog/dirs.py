"""Where profiles lie: the shipped folder first, then the user's, each later one shadowing those before it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from vramplan.core.quick import dataclass
from vramplan.errors import UsageError

ENVIRONMENT_VARIABLE = "VRAMPLAN_PROFILES"

# What people write is TOML, what machines write is JSON (DESIGN.md, "Data files").
SUFFIXES = {
    "gpus": ".toml",
    "matrices": ".toml",
    "measurements": ".jsonl",
    "models": ".json",
    "runs": ".toml",
    "stacks": ".toml",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileFile:
    """One profile on disk.

    Args:
        kind: the folder it is in (`gpus`, `models`, `runs`, …).
        name: its file name without the suffix.
        path: the file that counts.
        shadows: the shipped file it hides, or None.
    """

    kind: str
    name: str
    path: Path
    shadows: Path | None = None

    @property
    def note(self) -> str | None:
        """The sentence the program owes its user when a profile hides a shipped one, else None."""
        if self.shadows is None:
            return None
        return f"{self.path} is used in place of the {self.kind} profile {self.name!r} that vramplan ships"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileDirs:
    """The folders to look in.

    Args:
        shipped: the folder that comes with vramplan.
        user: the user's folders, later ones shadowing earlier ones.
    """

    shipped: Path
    user: tuple[Path, ...] = ()

    def lookup(self, kind: str, name: str) -> ProfileFile | None:
        """The profile of that name, or None."""
        file_name = name + SUFFIXES[kind]
        if file_name != Path(file_name).name:  # "../x" is not a profile's name
            return None
        shipped = self.shipped / kind / file_name
        in_shipped = _is_file(shipped)
        for folder in reversed(self.user):
            path = folder / kind / file_name
            if _is_file(path):
                return ProfileFile(kind=kind, name=name, path=path, shadows=shipped if in_shipped else None)
        return ProfileFile(kind=kind, name=name, path=shipped) if in_shipped else None

    def find(self, kind: str, name: str) -> ProfileFile:
        """The profile of that name.

        Raises:
            UsageError: there is none; the hint names the nearest one.
        """
        found = self.lookup(kind, name)
        if found is None:
            raise UsageError(
                f"there is no {kind} profile called {name!r}", hint=suggestion(name, self.names(kind), "profiles")
            )
        return found

    def names(self, kind: str) -> tuple[str, ...]:
        """Names of all profiles of a kind, sorted, each once."""
        return tuple(sorted(set(self._stems(kind))))

    def _stems(self, kind: str) -> Iterator[str]:
        for folder in (self.shipped, *self.user):
            for path in (folder / kind).glob("*" + SUFFIXES[kind]):
                yield path.name.removesuffix(SUFFIXES[kind])


def profile_dirs(extra: Sequence[Path] = (), environ: Mapping[str, str] | None = None) -> ProfileDirs:
    """The shipped folder, the user's config folder, `VRAMPLAN_PROFILES`, then `extra` (`--profile-dir`).

    Raises:
        UsageError: a folder that was named, on the command line or in the variable, is not there.
    """
    named = (os.environ if environ is None else environ).get(ENVIRONMENT_VARIABLE, "")
    user = [folder for folder in [user_config_folder()] if folder.is_dir()]
    for text in filter(None, named.split(os.pathsep)):
        user.append(_existing(Path(text).expanduser(), ENVIRONMENT_VARIABLE))
    user.extend(_existing(folder.expanduser(), "--profile-dir") for folder in extra)
    return ProfileDirs(shipped=shipped_profiles(), user=tuple(user))


def shipped_profiles() -> Path:
    """`vramplan/_profiles` in an installed wheel, `profiles/` beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "_profiles"
    return installed if installed.is_dir() else package.parent / "profiles"


def suggestion(name: str, known: Sequence[str], what: str) -> str:
    """A hint: names that `name` begins, else the nearest one, else all of them."""
    import difflib

    near = [other for other in known if name and other.startswith(name)]
    near = near or difflib.get_close_matches(name, known, n=2, cutoff=0.6)
    if near:
        return f"the nearest {'is' if len(near) == 1 else 'are'} {' and '.join(near)}"
    return f"the {what} are {', '.join(known)}" if known else f"there are no {what} of this kind"


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long for a file, or with a null byte: someone else's name for a model
        return False


def _existing(folder: Path, named_by: str) -> Path:
    if not folder.is_dir():
        raise UsageError(f"the profile folder {folder} is not there", hint=f"{named_by} names it")
    return folder


def user_config_folder() -> Path:
    """The user's own profiles, whether or not the folder is there yet."""
    # It follows XDG_CONFIG_HOME and the roaming folder of Windows.
    import platformdirs

    return platformdirs.user_config_path("vramplan", appauthor=False, roaming=sys.platform == "win32")
