"""The order in which a model is looked for: path, profile, cache, Hub."""

from __future__ import annotations

from pathlib import Path

from vramplan.errors import CannotTellError, UnknownModelError, UsageError
from vramplan.sources.local import from_path
from vramplan.sources.profile import ModelProfiles, load_model_profile, model_ids
from vramplan.sources.source import ModelSource


def resolve_model(reference: str, *, profiles: ModelProfiles, offline: bool | None = None) -> ModelSource:
    """Find a model's config.

    Args:
        reference: a path to a `config.json` or a checkpoint folder, a profile's name, or a name on the Hub.
        profiles: where profiles lie, as `catalog.profile_dirs()` returns it.
        offline: True never asks the Hub; None and False leave that to HF_HUB_OFFLINE.

    Raises:
        UsageError: a file is there but is not a config.
        UnknownModelError: nothing has this name; the hint names the nearest profile.
        CannotTellError: it may exist, but is gated or out of reach.
    """
    if not reference.strip():
        raise UsageError("the model's name is empty", hint="name a Hub model, a folder or a config.json")
    path = _existing_path(reference)
    if path is not None:
        return from_path(reference, path)
    profile = load_model_profile(reference, profiles)
    if profile is not None:
        notes = () if profile.note is None else (profile.note,)
        return ModelSource(reference=reference, id=profile.id, origin="profile", config=profile.config, notes=notes)
    if _looks_like_a_path(reference):
        raise UsageError(f"there is no file or folder {reference}")
    return _from_cache_or_hub(reference, profiles, offline)


def _from_cache_or_hub(reference: str, profiles: ModelProfiles, offline: bool | None) -> ModelSource:
    # Imported here, as huggingface_hub inside it: a profile or a file must answer without either.
    from vramplan.sources import hub

    stay_offline = bool(offline) or hub.is_offline()
    model, found = hub.from_cache(reference, offline=stay_offline), "cache"
    if model is None:
        nearest = _nearest(reference, profiles)
        if stay_offline:
            why = "offline was asked for" if offline else "HF_HUB_OFFLINE is set"
            raise CannotTellError(
                f"{reference} is not a profile and not in the cache, and {why}",
                hint=_join(nearest, "name a config.json, or allow the Hub once"),
            )
        try:
            model, found = hub.from_hub(reference), "hub"
        except UnknownModelError as error:
            raise UnknownModelError(error.message, hint=_join(nearest, error.hint)) from error
        except CannotTellError as error:
            raise CannotTellError(error.message, hint=_join(nearest, error.hint)) from error
    return ModelSource(
        reference=reference,
        id=reference,
        origin="cache" if found == "cache" else "hub",
        config=model.config,
        headers=model.headers,
        revision=model.revision,
        notes=() if model.note is None else (model.note,),
    )


def _existing_path(reference: str) -> Path | None:
    try:
        path = Path(reference).expanduser()
        return path if path.exists() else None
    except (OSError, ValueError, RuntimeError):  # too long for a path, a null byte, an unknown ~user
        return None


def _looks_like_a_path(reference: str) -> bool:
    return reference.startswith(("/", "./", "../", "~", ".\\", "..\\")) or reference.endswith((".json", "/", "\\"))


def _nearest(reference: str, profiles: ModelProfiles) -> str | None:
    """The profile whose name, without organisation and case, is most like the reference's."""
    import difflib

    known = {model_id.lower(): model_id for model_id in model_ids(profiles)}
    by_name = {model_id.partition("/")[2]: model_id for model_id in known}
    wanted = reference.lower()
    near = difflib.get_close_matches(wanted, known, n=1, cutoff=0.8)
    if not near:
        names = difflib.get_close_matches(wanted.rpartition("/")[2], by_name, n=1, cutoff=0.7)
        near = [by_name[name] for name in names]
    return f"the nearest profile is {known[near[0]]}" if near else None


def _join(first: str | None, second: str | None) -> str | None:
    return "; ".join(part for part in (first, second) if part) or None
