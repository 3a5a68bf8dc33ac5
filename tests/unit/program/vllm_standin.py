"""A package `vllm` for tests: it records what it is asked, one JSON line a call, and allocates a little.

Written as `vllm/__init__.py` into a folder on the path, beside a `vllm-0.31.0.dist-info`. Like the real one it keeps
its weights and its KV cache in torch's own allocator, asleep or not.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

WEIGHTS, CACHE, TRANSIENT = 3 << 20, 5 << 20, 1 << 20


def _say(call: str, **values: Any) -> None:
    with Path(os.environ["VLLM_STANDIN_LOG"]).open("a", encoding="utf-8") as log:
        log.write(json.dumps({"call": call, **values}) + "\n")


class SamplingParams:
    def __init__(self, **values: Any) -> None:
        self.values = values


class _Served:
    def load_weights(self, pairs: list[tuple[str, torch.Tensor]]) -> None:
        for name, value in pairs:
            _say("load_weights", name=name, shape=list(value.shape))


class LLM:
    def __init__(self, model: str, **settings: Any) -> None:
        refusal = os.environ.get("VLLM_STANDIN_REFUSES")
        config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
        variables = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "VLLM_ENABLE_V1_MULTIPROCESSING")}
        _say("LLM", model=model, config=config, settings=settings, variables=variables)
        if refusal is not None:
            raise ValueError(refusal)
        self.weights = torch.zeros(WEIGHTS, dtype=torch.uint8)
        self.cache = torch.zeros(CACHE, dtype=torch.uint8)
        runner = SimpleNamespace(model=_Served())
        executor = SimpleNamespace(driver_worker=SimpleNamespace(model_runner=runner))
        self.llm_engine = SimpleNamespace(model_executor=executor)

    def sleep(self, level: int = 1) -> None:
        _say("sleep", level=level)

    def wake_up(self, tags: list[str] | None = None) -> None:
        _say("wake_up", tags=tags)

    def reset_prefix_cache(self) -> None:
        _say("reset_prefix_cache")

    def generate(self, prompts: list[dict[str, list[int]]], *, sampling_params: Any, use_tqdm: bool) -> list[Any]:
        transient = torch.zeros(TRANSIENT, dtype=torch.uint8)
        ids = [prompt["prompt_token_ids"] for prompt in prompts]
        _say("generate", prompts=ids, sampling=sampling_params.values, use_tqdm=use_tqdm, held=transient.nbytes)
        return []
