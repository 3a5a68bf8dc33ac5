"""Configs and safetensors headers from the Hugging Face cache and the Hub. No other module imports huggingface_hub.

Everything the library reads from the environment holds here too: HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN and the saved
token, HF_HOME and HF_HUB_CACHE, proxies and timeouts. Weights are never downloaded: of each weight file only the
header is read, by a range request. Code from a repository is never run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vramplan.errors import CannotTellError, UnknownModelError
from vramplan.sources.json_file import read_json_object
from vramplan.sources.safetensors_header import INDEX_FILE, SINGLE_FILE, read_folder_headers, shard_names
from vramplan.sources.source import StoredTensors

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CONFIG_FILE = "config.json"
_NUM_PARALLEL_HEADERS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class HubModel:
    """What the cache or the Hub knows about a repository.

    Args:
        config: the content of its `config.json`.
        revision: the commit it was read at.
        headers: its stored tensors, or None.
        note: why there are no headers, where that is not plain.
    """

    config: dict[str, Any]
    revision: str
    headers: StoredTensors | None
    note: str | None


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) is set."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def from_cache(repo_id: str, *, offline: bool) -> HubModel | None:
    """The cached config, or None where there is none.

    Headers come from cached weights, else from the Hub unless `offline`.

    Raises:
        UsageError: a cached file is damaged.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(repo_id, CONFIG_FILE)
    except HFValidationError:
        return None
    if not isinstance(cached, str):  # None, or the mark of a file known not to exist
        return None
    path = Path(cached)
    config, revision = read_json_object(path), path.parent.name
    headers, note = read_folder_headers(path.parent)
    if headers is None and offline:
        note = f"the weights of {repo_id} are not in the cache, so the dtype they are stored in was not read"
    elif headers is None:
        headers, note = _read_headers(repo_id, revision)
    return HubModel(config=config, revision=revision, headers=headers, note=note)


def from_hub(repo_id: str) -> HubModel:
    """Config and headers from the Hub; the config stays in the cache.

    Raises:
        UnknownModelError: no such repository, or a private one.
        CannotTellError: it is gated, has no config, or the Hub was not reached.
    """
    path = _download_config(repo_id)
    revision = path.parent.name
    headers, note = _read_headers(repo_id, revision)
    return HubModel(config=read_json_object(path), revision=revision, headers=headers, note=note)


def _download_config(repo_id: str) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        # hf_hub_download repeats a refused connection five times, for 23 seconds (2.4.0); this asks once.
        get_hf_file_metadata(hf_hub_url(repo_id, CONFIG_FILE))
        return Path(hf_hub_download(repo_id, CONFIG_FILE))
    except HFValidationError as error:
        raise UnknownModelError(
            f"{repo_id!r} is not a name that a model can have",
            hint="name it as organisation/name, or give a folder or a config.json",
        ) from error
    except GatedRepoError as error:  # before its base class RepositoryNotFoundError
        raise CannotTellError(
            f"{repo_id} is gated, and your account may not read it",
            hint="accept its terms on its page, then run `hf auth login` or set HF_TOKEN",
        ) from error
    except RepositoryNotFoundError as error:
        raise UnknownModelError(
            f"the Hub has no model called {repo_id!r}, or it is private",
            hint="for a private model run `hf auth login` or set HF_TOKEN",
        ) from error
    except LocalEntryNotFoundError as error:  # not reached; before its base class EntryNotFoundError
        raise _unreachable(repo_id, error.__cause__ or error) from error
    except EntryNotFoundError as error:
        raise CannotTellError(
            f"{repo_id} has no {CONFIG_FILE}",
            hint="a repository of GGUF files or of an adapter: name the model it was made from",
        ) from error
    except HfHubHTTPError as error:
        raise CannotTellError(
            f"the Hub refused the {CONFIG_FILE} of {repo_id}: {_first_line(error)}",
            hint="check HF_TOKEN and HF_ENDPOINT, or try again later",
        ) from error
    # A refused connection, a timeout, an HF_ENDPOINT that is no address: errors of the HTTP client, and which client
    # that is changes with the library's version (requests below 1.0, then httpx, then httpx2).
    except Exception as error:
        raise _unreachable(repo_id, error) from error


def _unreachable(repo_id: str, cause: BaseException) -> CannotTellError:
    return CannotTellError(
        f"{repo_id} is not in the cache, and the Hub was not reached: {_first_line(cause)}",
        hint="check the connection, set HF_ENDPOINT to a mirror, or name a config.json",
    )


def _read_headers(repo_id: str, revision: str) -> tuple[StoredTensors | None, str | None]:
    """Stored tensors by range requests, or None and the reason."""
    from huggingface_hub import HfApi

    try:
        return _fetch_headers(HfApi(), repo_id, revision), None
    except Exception as error:  # of the HTTP client, as above: headers refine an answer, so nothing here ends it
        return None, f"the headers of {repo_id}'s weights could not be read: {_first_line(error)}"


def _fetch_headers(api: HfApi, repo_id: str, revision: str) -> StoredTensors | None:
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    def fetch(file_name: str) -> dict[str, tuple[str, tuple[int, ...]]]:
        metadata = api.parse_safetensors_file_metadata(repo_id, file_name, revision=revision)
        return {name: (str(tensor.dtype), tuple(tensor.shape)) for name, tensor in metadata.tensors.items()}

    try:  # this one first: unlike the download of the index, it does not repeat a refused connection
        return StoredTensors(tensors=fetch(SINGLE_FILE), num_files=1)
    except EntryNotFoundError:
        pass
    try:
        index = api.hf_hub_download(repo_id, INDEX_FILE, revision=revision)
    except LocalEntryNotFoundError:  # not reached; before its base class EntryNotFoundError
        raise
    except EntryNotFoundError:
        return None  # no safetensors checkpoint
    return _fetch_shards(fetch, shard_names(read_json_object(Path(index)), INDEX_FILE))


def _fetch_shards(
    fetch: Callable[[str], dict[str, tuple[str, tuple[int, ...]]]], files: Sequence[str]
) -> StoredTensors:
    from concurrent.futures import ThreadPoolExecutor

    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    with ThreadPoolExecutor(_NUM_PARALLEL_HEADERS) as pool:
        for part in pool.map(fetch, files):
            tensors.update(part)
    return StoredTensors(tensors=tensors, num_files=len(files))


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
