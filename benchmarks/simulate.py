"""How fast `vramplan simulate` is: against torch's own MemTracker on the same case, and on a model of 70B.

    python benchmarks/simulate.py [--layers N] [--json]

The case is LoRA on Llama-3.1-8B under bf16 autocast with gradient checkpointing, one row of 2,048 tokens, two optimizer
steps. MemTracker (torch.distributed._tools.mem_tracker) runs it as its users do: the model of transformers and peft on
fake tensors, all of its layers, a plain loop. That takes minutes; `--layers 8` gives both programs a model of that many
layers instead, and nothing is extrapolated from it. Each run has a process of its own. Seconds are of the processor,
imports left out, so that a busy machine gives the same ratio as a quiet one; the host's peak memory is of the process.

Exits 1 when a promise is broken: 20 times MemTracker's speed on the whole case, 6 s for 8B, 15 s for 70B, 3 GiB of host
memory.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import resource
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

MODEL, LARGE_MODEL = "meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-70B"
ROWS, TOKENS, LORA_R, STEPS = 1, 2048, 16, 2
LEAST_RATIO = 20.0
MOST_SECONDS, MOST_LARGE_SECONDS = 6.0, 15.0
MOST_HOST_BYTES = 3 * 2**30


@dataclass(frozen=True)
class Cost:
    """What one run took.

    Args:
        cpu_seconds: of the processor, without imports.
        wall_seconds: on the clock, the same part.
        host_bytes: the process at its largest, imports included.
        peak_bytes: what the run says that the model's tensors take at the highest point.
    """

    cpu_seconds: float
    wall_seconds: float
    host_bytes: int
    peak_bytes: int


def measured(work: Callable[[], int]) -> Cost:
    """Run `work`, which returns the peak that it found."""
    wall, cpu = time.perf_counter(), time.process_time()
    peak_bytes = work()
    return Cost(
        cpu_seconds=time.process_time() - cpu,
        wall_seconds=time.perf_counter() - wall,
        host_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        peak_bytes=peak_bytes,
    )


def simulated(model: str, num_layers: int | None) -> Cost:
    """`vramplan simulate`, from the settings to the phases."""
    quiet()
    import accelerate  # noqa: F401
    import bitsandbytes  # noqa: F401
    import peft  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401

    from vramplan.catalog.dirs import profile_dirs
    from vramplan.planner.answer import load_model, prepare
    from vramplan.program.simulate import simulate
    from vramplan.runfiles.flat import parse_flat

    settings = {
        "model": model,
        "method": "sft",
        "tuning": "lora",
        "lora_r": LORA_R,
        "lora_target_modules": ["all-linear"],
        "adapter_dtype": "fp32",
        "dtype": "bf16",
        "mixed_precision": "bf16",
        "per_device_batch_size": ROWS,
        "max_seq_length": TOKENS,
        "gradient_checkpointing": True,
        "attn_implementation": "sdpa",
        "gpu": "h100-80gb",
    }

    def work() -> int:
        dirs = profile_dirs()
        setting = prepare(parse_flat(settings, ""), dirs)[0]
        configs = {"model": load_model(model, dirs, None).source.config}
        found = simulate(setting.run, configs, gpu=setting.gpu, stack=setting.stack, num_layers=num_layers)
        return max(phase.allocated_bytes for phase in found.phases)

    return measured(work)


def tracked(model: str, num_layers: int | None) -> Cost:
    """torch's MemTracker over the same model and loop."""
    quiet()
    import torch
    from peft import LoraConfig, get_peft_model
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.mem_tracker import MemTracker
    from transformers import AutoModelForCausalLM, LlamaConfig

    from vramplan.catalog.dirs import profile_dirs
    from vramplan.planner.answer import load_model

    class Tracker(MemTracker):  # type: ignore[misc]
        """As it is, it puts hooks on frozen parameters too, which torch refuses: it could not track LoRA at all."""

        def _track_module_params_and_buffers(self, module: Any, **_: Any) -> Any:
            return super()._track_module_params_and_buffers(module, install_grad_hooks=False)

    config = LlamaConfig.from_dict(dict(load_model(model, profile_dirs(), None).source.config))
    if num_layers is not None:
        config.num_hidden_layers = num_layers

    def work() -> int:
        with torch.device("meta"):  # peft cannot move fake tensors
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            lora = LoraConfig(r=LORA_R, target_modules="all-linear", task_type="CAUSAL_LM")
            model = get_peft_model(model, lora)
            model.train()
        with FakeTensorMode():
            for module in model.modules():
                for name, old in module._parameters.items():
                    if old is not None:
                        value = torch.empty(old.shape, dtype=old.dtype)
                        module._parameters[name] = torch.nn.Parameter(value, requires_grad=old.requires_grad)
                for name, old in module._buffers.items():
                    if old is not None:
                        module._buffers[name] = torch.empty(old.shape, dtype=old.dtype)
            model.enable_input_require_grads()
            optimizer = torch.optim.AdamW([item for item in model.parameters() if item.requires_grad])
            ids = torch.zeros((ROWS, TOKENS), dtype=torch.int64)
            mask = torch.ones_like(ids)
            tracker = Tracker()
            tracker.track_external(model, optimizer)
            with tracker:
                for _ in range(STEPS):
                    with torch.autocast("cpu", dtype=torch.bfloat16):
                        loss = model(input_ids=ids, attention_mask=mask, labels=ids, use_cache=False).loss
                    loss.backward()
                    optimizer.step()
                    optimizer.zero_grad()
                    tracker.reset_mod_stats()  # it asks for it before a second step
            snapshots = tracker.get_tracker_snapshot("peak").values()
            return sum(int(snapshot["Total"]) for snapshot in snapshots)

    return measured(work)


def quiet() -> None:
    """Without the libraries' remarks."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


def apart(function: Callable[[str, int | None], Cost], model: str, num_layers: int | None) -> Cost:
    """The function in a process of its own."""
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, model, num_layers).result()


def least(model: str, num_layers: int | None, times: int) -> Cost:
    """The cheapest of several simulations, with the most host memory of any."""
    costs = [apart(simulated, model, num_layers) for _ in range(times)]
    return replace(min(costs, key=lambda cost: cost.cpu_seconds), host_bytes=max(cost.host_bytes for cost in costs))


def main() -> int:
    """Measure, print, and say by the exit code whether the promises hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--layers", type=int, help="compare on a model of that many layers, not on the whole one")
    parser.add_argument("--times", type=int, default=3, help="simulations of each model; the cheapest counts")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    asked = parser.parse_args()
    whole, large = least(MODEL, None, asked.times), least(LARGE_MODEL, None, asked.times)
    same = whole if asked.layers is None else least(MODEL, asked.layers, asked.times)
    tracker = apart(tracked, MODEL, asked.layers)
    ratio = tracker.cpu_seconds / same.cpu_seconds
    layers = "all layers" if asked.layers is None else f"{asked.layers} layers"
    if asked.json:
        costs = {"whole": asdict(whole), "large": asdict(large), "same": asdict(same), "mem_tracker": asdict(tracker)}
        print(json.dumps({**costs, "layers": asked.layers, "ratio": round(ratio, 1), "num_cores": os.cpu_count()}))
    else:
        print(f"{'':44}{'cpu s':>8}{'wall s':>8}{'host GiB':>10}{'peak GB':>9}")
        rows = [
            (f"vramplan simulate, 8B (at most {MOST_SECONDS:.0f} s)", whole),
            (f"vramplan simulate, 70B (at most {MOST_LARGE_SECONDS:.0f} s)", large),
            (f"vramplan simulate, 8B, {layers}", same),
            (f"MemTracker, 8B, {layers}", tracker),
        ]
        for name, cost in rows:
            print(
                f"{name:44}{cost.cpu_seconds:8.1f}{cost.wall_seconds:8.1f}{cost.host_bytes / 2**30:10.2f}"
                f"{cost.peak_bytes / 1e9:9.2f}"
            )
        promise = f"at least {LEAST_RATIO:.0f}" if asked.layers is None else "of fewer layers: no promise"
        print(f"MemTracker takes {ratio:.0f} times the processor time, {layers} ({promise})")
    slow = whole.cpu_seconds > MOST_SECONDS or large.cpu_seconds > MOST_LARGE_SECONDS
    heavy = max(whole.host_bytes, large.host_bytes) > MOST_HOST_BYTES
    return int(slow or heavy or (asked.layers is None and ratio < LEAST_RATIO))


if __name__ == "__main__":
    sys.exit(main())
