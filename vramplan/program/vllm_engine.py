"""vLLM in the trained process, as TRL's colocate mode builds and uses it: started, put to sleep, rolled out with.

Read: TRL 1.16.0 generation/vllm_generation.py and trainer/grpo_trainer.py, which take vLLM 0.22.0 to 0.31.0, and the
wheel of vLLM 0.31.0 for what their calls do. NEVER RUN against a real vLLM on a card: the tests have a stand-in that
records the calls. What differs from TRL's calls: random weights are vLLM's own (`load_format="dummy"`), there is no
tokenizer, and completions run to their full length (`ignore_eos`), since it is the longest rows that are planned for.

What torch's counters see of it (vllm/device_allocator/cumem.py): all of its tensors. In sleep mode they lie in a
`MemPool` whose segments a pluggable allocator maps and unmaps, and torch goes on counting them while they are unmapped:
only the driver's numbers show that it sleeps.
"""

from __future__ import annotations

import importlib
import os
import random
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from vramplan.core.run import Quantization, Run
from vramplan.program.load import build_config

_MAX_BATCHED_TOKENS = 4096  # vllm_generation.py line 374
_NO_ROOM = (
    "less than desired GPU memory utilization",  # vllm/v1/worker/utils.py request_memory
    "No available memory for the cache blocks",  # vllm/v1/core/kv_cache_utils.py
    "larger than the available KV cache memory",  # the same
)
"""What it says, with a ValueError, where its share of the card does not do."""


class VllmEngine:
    """One engine beside the trained model.

    Args:
        run: its rollout says the engine's share and whether it sleeps, its sizes what is generated.
        config: the trained model's parsed `config.json`.
        checkpoint: a folder or a Hub name with the trained model's weights, or None for random ones.
        folder: its own, for a config of the model where the weights are random.
        max_model_length: the longest row that it serves, or None for the model's own limit.
    """

    def __init__(
        self, run: Run, config: Mapping[str, Any], *, checkpoint: str | None, folder: Path, max_model_length: int | None
    ) -> None:
        assert run.rollout is not None
        self._rollout, self._sizes = run.rollout, run.sizes
        self._quantization = run.trained.load.quantization
        self._config = config
        self._checkpoint = checkpoint
        self._folder = folder
        self._max_model_length = max_model_length
        self._llm: Any = None

    @property
    def sleeps(self) -> bool:
        """Whether it gives its memory back outside the rollout."""
        return self._rollout.sleep

    def start(self, model: Any) -> None:
        """Builds the engine; awake.

        Args:
            model: the trained one, already on the device.

        Raises:
            torch.OutOfMemoryError: its share of the card is not free, or too small for it.
        """
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="localhost", MASTER_PORT=_free_port())
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # as external_launcher sets it: all in this process
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # a measurement reports to nobody
        random_weights = self._checkpoint is None
        four_bit = self._quantization in (Quantization.NF4, Quantization.FP4)
        try:
            self._llm = _vllm().LLM(
                model=self._written_config(model) if self._checkpoint is None else self._checkpoint,
                tensor_parallel_size=1,
                gpu_memory_utilization=self._rollout.gpu_memory_utilization,
                max_model_len=self._max_model_length,
                max_num_seqs=self._sizes.rollout_rows,
                enable_sleep_mode=self._rollout.sleep,
                model_impl="auto",
                distributed_executor_backend="external_launcher",
                seed=0,
                max_num_batched_tokens=_MAX_BATCHED_TOKENS,
                logprobs_mode="processed_logprobs",
                quantization="bitsandbytes" if four_bit else None,
                trust_remote_code=False,
                skip_tokenizer_init=True,
                **({"load_format": "dummy"} if random_weights else {}),
            )
        except ValueError as error:
            if any(words in str(error) for words in _NO_ROOM):
                raise torch.OutOfMemoryError(f"vLLM: {error}") from error
            raise

    def sleep(self) -> None:
        """Gives its memory back, weights and all, if the run has it sleep."""
        if self._rollout.sleep:
            self._llm.sleep(level=2)

    def roll_out(self, model: Any) -> None:
        """Takes the trained weights over, generates every completion of one rollout, and sleeps again.

        Args:
            model: the trained one; its adapters are merged while its weights are handed over.
        """
        if self._rollout.sleep:
            torch.cuda.empty_cache()
            self._llm.wake_up(tags=["weights"])
        self._take_weights(model)
        self._llm.reset_prefix_cache()
        if self._rollout.sleep:
            self._llm.wake_up(tags=["kv_cache"])
        sampling = _vllm().SamplingParams(
            n=1,
            repetition_penalty=1.0,
            temperature=1.0,
            top_p=1.0,
            top_k=0,
            min_p=0.0,
            max_tokens=self._sizes.max_completion_length,
            logprobs=0,
            ignore_eos=True,
            detokenize=False,
        )
        prompts = [{"prompt_token_ids": ids} for ids in self._prompts(model.config.get_text_config().vocab_size)]
        self._llm.generate(prompts, sampling_params=sampling, use_tqdm=False)
        self.sleep()

    def _prompts(self, vocabulary_size: int) -> Iterator[list[int]]:
        """Each prompt as often as it has completions, as a batch of a group method comes."""
        numbers = random.Random(0)
        ids: list[int] = []
        for row in range(self._sizes.rollout_rows):
            if row % self._sizes.num_generations == 0:
                ids = [numbers.randrange(vocabulary_size) for _ in range(self._sizes.max_prompt_length)]
            yield ids

    def _take_weights(self, model: Any) -> None:
        """vllm_generation.py sync_weights: one parameter after the other, adapters merged into them meanwhile."""
        worker = self._llm.llm_engine.model_executor.driver_worker
        served = worker.model_runner.model
        adapted = hasattr(model, "merge_adapter")
        if adapted:
            model.merge_adapter()
        try:
            for name, parameter in model.named_parameters():
                if adapted:
                    if model.prefix in name or "original_module" in name:
                        continue
                    name = name.removeprefix("base_model.model.").replace(".base_layer", "")
                name = name.replace("modules_to_save.default.", "").replace("_checkpoint_wrapped_module.", "")
                served.load_weights([(name, parameter.data)])
        finally:
            if adapted:
                model.unmerge_adapter()

    def _written_config(self, model: Any) -> str:
        """A folder with the config of the model as it is measured: of a multimodal one the text part."""
        config = build_config(self._config)
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        config.architectures = [type(base).__name__]
        self._folder.mkdir(parents=True, exist_ok=True)
        config.save_pretrained(self._folder)
        return str(self._folder)


def _vllm() -> Any:
    """The package: an import of seconds, that sets variables of its own."""
    return importlib.import_module("vllm")


def _free_port() -> str:
    with socket.socket() as door:
        door.bind(("localhost", 0))
        return str(door.getsockname()[1])
