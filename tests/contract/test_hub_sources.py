"""The Hub, twice: a stand-in that serves real configs and headers, and a server that says no, nonsense or nothing."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

# The client runs in a process of its own: huggingface_hub reads its environment once, at import.
CLIENT = """
import json, sys
from vramplan.errors import VramplanError
from vramplan.sources import resolve_model, stored_dtype_label

class Profiles:
    def lookup(self, kind, name): return None
    def names(self, kind): return ("Qwen__Qwen2.5-7B", "facebook__opt-125m")

for reference in sys.argv[1:]:
    try:
        found = resolve_model(reference, profiles=Profiles())
    except VramplanError as error:
        print(json.dumps({"error": type(error).__name__, "exit_code": error.exit_code, "message": str(error),
                          "hint": error.hint}))
        continue
    headers = found.headers
    print(json.dumps({
        "origin": found.origin, "config": found.config, "revision": found.revision, "notes": found.notes,
        "dtype": stored_dtype_label(headers),
        "elements": headers and headers.num_elements, "files": headers and headers.num_files,
        "first": headers and next(iter(headers.tensors.items())),
    }))
"""


def ask(endpoint: str, home: Path, *references: str, **environ: str) -> list[dict[str, Any]]:
    """What `resolve_model` says of each reference in a fresh process."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, *references],
        env={**inherited, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", **environ},
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


@dataclass(kw_only=True)
class StandIn:
    endpoint: str
    log: Path
    process: subprocess.Popen[str]

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(10)

    def requests(self) -> list[tuple[str, str, int, str]]:
        """(method, path, status, range) of every request so far."""
        line = re.compile(r'"(?P<method>\w+) (?P<path>\S+) HTTP/1\.1" (?P<status>\d+) - ?(?P<range>.*)$')
        found = [line.search(text) for text in self.log.read_text(encoding="utf-8").splitlines()]
        return [(hit["method"], hit["path"], int(hit["status"]), hit["range"].strip()) for hit in found if hit]


@pytest.fixture
def hub(shared: Path, tmp_path: Path) -> Iterator[StandIn]:
    log = tmp_path / "requests.log"
    log.touch()
    command = [sys.executable, str(shared / "hub" / "hub.py"), "--port", "0", "--max-seconds", "120", "--log", str(log)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    address = re.search(r"http://[\d.:]+", process.stdout.readline())
    assert address is not None
    stand_in = StandIn(endpoint=address[0], log=log, process=process)
    yield stand_in
    stand_in.stop()
    process.stdout.close()


def test_configs_and_headers_come_whole_and_weights_do_not(hub: StandIn, shared: Path, tmp_path: Path) -> None:
    asked = {
        "openai-community/gpt2": ("fp32", 1),
        "facebook/opt-125m": ("fp16", 1),
        "Qwen/Qwen2.5-0.5B": ("bf16", 1),
        "Qwen/Qwen2.5-7B-Instruct": ("bf16", 4),
        "meta-llama/Llama-3.1-8B": ("bf16", 4),
    }
    with (shared / "models" / "parameters.csv").open(encoding="utf-8") as file:
        parameters = {row["model"]: int(row["parameters"]) for row in csv.DictReader(file)}
    home = tmp_path / "home"
    answers = dict(zip(asked, ask(hub.endpoint, home, *asked), strict=True))
    for model, (dtype, num_files) in asked.items():
        answer = answers[model]
        config = json.loads((shared / "models" / f"{model.replace('/', '__')}.json").read_text(encoding="utf-8"))
        assert answer["config"] == config, model
        assert (answer["origin"], answer["notes"]) == ("hub", []), model
        assert re.fullmatch("[0-9a-f]{40}", answer["revision"]), model
        assert (answer["dtype"], answer["files"]) == (dtype, num_files), model
        assert answer["elements"] == parameters[model], model
    assert answers["openai-community/gpt2"]["first"][1] == ["F32", [50257, 768]]

    weights = [request for request in hub.requests() if request[1].endswith(".safetensors")]
    read = [request for request in weights if request[2] in (200, 206)]
    assert len(read) == sum(num_files for _, num_files in asked.values())
    for method, path, status, asked_range in read:
        assert (method, status) == ("GET", 206), path
        first, last = map(int, asked_range.removeprefix("bytes=").split("-"))
        assert 0 <= last - first < 1_000_000, path
    assert not list(home.rglob("*.safetensors"))
    assert sum(file.stat().st_size for file in home.rglob("*") if file.is_file()) < 1_000_000


def test_an_unknown_name_gets_the_nearest_profile(hub: StandIn, tmp_path: Path) -> None:
    near, far, bad = ask(hub.endpoint, tmp_path / "home", "Qwen/Qwen2.5-7b-x", "no-one/nothing", "not a name")
    assert (near["error"], near["exit_code"]) == ("UnknownModelError", 4)
    assert near["hint"].startswith("the nearest profile is Qwen/Qwen2.5-7B; ")
    assert "hf auth login" in near["hint"]
    assert "the Hub has no model called 'no-one/nothing'" in far["message"]
    assert "nearest" not in far["hint"]
    assert bad["error"] == "UnknownModelError"


def test_the_cache_answers_when_the_hub_is_gone(hub: StandIn, tmp_path: Path) -> None:
    home, model = tmp_path / "home", "Qwen/Qwen2.5-7B-Instruct"
    (first,) = ask(hub.endpoint, home, model)
    (again,) = ask(hub.endpoint, home, model)
    assert (first["origin"], again["origin"]) == ("hub", "cache")
    assert {**again, "origin": "hub"} == first
    before = len(hub.requests())
    (offline,) = ask(hub.endpoint, home, model, HF_HUB_OFFLINE="1")
    assert len(hub.requests()) == before
    hub.stop()
    (gone,) = ask(hub.endpoint, home, model)
    for answer in (offline, gone):
        assert (answer["origin"], answer["config"]) == ("cache", first["config"])
        assert answer["revision"] == first["revision"]
        assert (answer["elements"], answer["dtype"]) == (None, None)
        assert len(answer["notes"]) == 1
    assert "are not in the cache" in offline["notes"][0]
    assert "could not be read" in gone["notes"][0]


def test_cached_weights_give_the_headers_offline(hub: StandIn, tmp_path: Path) -> None:
    home, model = tmp_path / "home", "openai-community/gpt2"
    (first,) = ask(hub.endpoint, home, model)
    (snapshot,) = home.glob("hub/models--*/snapshots/*")
    header = json.dumps({"wte.weight": {"dtype": "F16", "shape": [3, 5], "data_offsets": [0, 30]}}).encode()
    (snapshot / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(30))
    (cached,) = ask(hub.endpoint, home, model, HF_HUB_OFFLINE="1")
    assert (cached["origin"], cached["config"], cached["notes"]) == ("cache", first["config"], [])
    assert (cached["elements"], cached["dtype"]) == (15, "fp16")


def test_offline_with_an_empty_cache_asks_nobody(hub: StandIn, tmp_path: Path) -> None:
    (answer,) = ask(hub.endpoint, tmp_path / "home", "facebook/opt-125M", HF_HUB_OFFLINE="1")
    assert (answer["error"], answer["exit_code"]) == ("CannotTellError", 4)
    assert "HF_HUB_OFFLINE is set" in answer["message"]
    assert answer["hint"].startswith("the nearest profile is facebook/opt-125m; ")
    assert hub.requests() == []


REVISION = "0123456789abcdef0123456789abcdef01234567"
CONFIG = b'{"model_type": "llama"}'


class _Hub(BaseHTTPRequestHandler):
    """Each repository misbehaves in its own way."""

    protocol_version = "HTTP/1.1"
    seen: ClassVar[list[tuple[str, str, str | None]]] = []

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing on stderr."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.seen.append((self.command, self.path, self.headers.get("Authorization")))
        repository, _, file_name = self.path.strip("/").partition("/resolve/")
        file_name = file_name.partition("/")[2]
        if repository == "org/gated":
            self.answer(403, error="GatedRepo")
        elif repository == "org/refuses":
            self.answer(418, error="Teapot")
        elif repository == "org/gguf" or (file_name != "config.json" and repository == "org/no-safetensors"):
            self.answer(404, error="EntryNotFound")
        elif file_name == "config.json":
            self.answer(200, b"{broken" if repository == "org/broken" else CONFIG)
        elif repository == "org/bad-header":
            self.answer(206, (5).to_bytes(8, "little") + b"{bad}")
        else:
            self.answer(404, error="EntryNotFound")

    def answer(self, status: int, body: bytes = b"", error: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"abc"')
        self.send_header("X-Repo-Commit", REVISION)
        if error is not None:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def endpoint() -> Iterator[str]:
    _Hub.seen.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join(10)


def test_each_refusal_is_one_sentence_and_a_way_out(endpoint: str, tmp_path: Path) -> None:
    gated, refuses, gguf, broken = ask(endpoint, tmp_path, "org/gated", "org/refuses", "org/gguf", "org/broken")
    assert gated["error"] == refuses["error"] == gguf["error"] == "CannotTellError"
    assert gated["message"] == "org/gated is gated, and your account may not read it"
    assert "hf auth login" in gated["hint"]
    assert "HF_TOKEN" in gated["hint"]
    assert refuses["message"].startswith("the Hub refused the config.json of org/refuses: ")
    assert "418" in refuses["message"]
    assert "\n" not in refuses["message"]
    assert gguf["message"] == "org/gguf has no config.json"
    assert broken["error"] == "UsageError"
    assert "config.json, line 1: " in broken["message"]


def test_a_model_without_readable_headers_still_has_a_config(endpoint: str, tmp_path: Path) -> None:
    without, damaged = ask(endpoint, tmp_path, "org/no-safetensors", "org/bad-header")
    assert (without["config"], without["elements"], without["notes"]) == ({"model_type": "llama"}, None, [])
    assert damaged["config"] == {"model_type": "llama"}
    assert damaged["elements"] is None
    assert damaged["notes"][0].startswith("the headers of org/bad-header's weights could not be read: ")


def test_the_token_is_sent(endpoint: str, tmp_path: Path) -> None:
    ask(endpoint, tmp_path, "org/no-safetensors", HF_TOKEN="hf_secret")
    asked = [authorization for _, path, authorization in _Hub.seen if "/resolve/" in path]
    assert asked
    assert set(asked) == {"Bearer hf_secret"}


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "no address"])
def test_a_hub_that_is_not_there_is_told_at_once(endpoint: str, tmp_path: Path) -> None:
    start = time.monotonic()
    (answer,) = ask(endpoint, tmp_path, "org/name")
    assert answer["error"] == "CannotTellError"
    assert answer["message"].startswith("org/name is not in the cache, and the Hub was not reached: ")
    assert "HF_ENDPOINT" in answer["hint"]
    assert time.monotonic() - start < 15  # the library's own retries take 23 seconds


def test_a_hub_that_says_nothing_is_a_timeout(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        (answer,) = ask(endpoint, tmp_path, "org/name", HF_HUB_ETAG_TIMEOUT="1")
    assert answer["error"] == "CannotTellError"
    assert "imeout" in answer["message"]
