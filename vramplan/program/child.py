"""One run on a real device, in a process of its own: `python -m vramplan.program.child TASK RESULTS`.

TASK is a pickled `Task`. RESULTS gets one JSON line for each thing that becomes known, at once, so that a process that
is ended leaves the phases that it finished.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vramplan.core.run import RolloutBackend
from vramplan.errors import VramplanError
from vramplan.program.task import Task

if TYPE_CHECKING:
    from vramplan.program.vllm_engine import VllmEngine

Tell = Callable[[Mapping[str, Any]], None]
_WATCH_PARENT_SECONDS = 1.0
_TALKATIVE = (
    "bitsandbytes.autograd._functions",
    "bitsandbytes.nn.modules",
)  # a line for every product of an int8 model


def run_task(task: Task, tell: Tell) -> None:
    """Does what is asked, and tells.

    Raises:
        VramplanError: torch reaches no device, or a setting is wrong. An out-of-memory is told, not raised.
    """
    tell({"event": "begin", "time": time.monotonic()})
    import torch

    from vramplan.formula.setting import warms_up
    from vramplan.program.cast import Cast
    from vramplan.program.device_watch import DeviceWatch
    from vramplan.program.logprobs import scoring_of
    from vramplan.program.methods import Program, micro_steps_per_update
    from vramplan.program.older_loss import LogitsCode
    from vramplan.program.phase_names import empties_before
    from vramplan.program.simulate import default_loop

    run = task.run
    torch.manual_seed(0)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    tell({"event": "versions", "torch": str(torch.__version__), "cuda": torch.version.cuda})
    checkpoints = {**task.checkpoints, **_written(task)}
    counters = _counters(task)
    tell({"event": "context", "gpu": dict(counters.describe()), **_settled(task)})
    watch = DeviceWatch(
        counters,
        tell,
        empties=empties_before(run.method),
        settle_seconds=task.settle_seconds,
        vocabulary_size=min(int(_text(config)["vocab_size"]) for config in task.configs.values()),
    )
    loop = default_loop(run, task.stack)
    scoring = scoring_of(task.stack, run.method)
    try:
        with counters:
            cast = Cast(
                run,
                task.configs,
                num_layers=None,
                every_layer=True,
                lora_dropout=0.0,
                logits_code=LogitsCode(),
                checkpoints=checkpoints,
            )
            engine = _engine(task, checkpoints)
            program = Program(run, cast, watch, loop, scoring, engine)
            program.load(warms_up=warms_up(run, task.stack, in_trainer=loop.style == "trainer"))
            if engine is not None:  # after every model and before the optimizer, as TRL's trainer does it
                with watch.starting_engine():
                    engine.start(cast[run.trained.name].model)
                engine.sleep()
            program.play(task.steps * micro_steps_per_update(run))
            watch.close()
            counters.empty_cache()
            left = counters.read()
            tell(
                {
                    "event": "emptied",
                    "allocated_bytes": left.end_allocated_bytes,
                    "reserved_bytes": left.end_reserved_bytes,
                    **_settled(task),
                }
            )
    except (RuntimeError, MemoryError) as error:
        failure = _out_of_memory(error, watch.phase or "load", counters)
        if failure is None:
            raise
        tell(failure)
        return
    tell({"event": "end", "outcome": "done"})


def _engine(task: Task, checkpoints: Mapping[str, str]) -> VllmEngine | None:
    """The colocated engine that the run asks for, not yet started."""
    from vramplan.program.vllm_engine import VllmEngine

    rollout, trained = task.run.rollout, task.run.trained.name
    if rollout is None or rollout.backend is not RolloutBackend.VLLM_COLOCATE:
        return None
    return VllmEngine(
        task.run,
        task.configs[trained],
        checkpoint=checkpoints.get(trained),
        folder=Path(task.folder) / "engine",
        max_model_length=task.max_model_length,
    )


def _settled(task: Task) -> dict[str, float]:
    """A stretch of time in which nothing happens, for whoever samples the card."""
    begin = time.monotonic()
    time.sleep(task.settle_seconds)
    return {"time": begin, "settled": time.monotonic()}


def _counters(task: Task) -> Any:
    if task.device == "cuda":
        from vramplan.program.cuda import CudaCounters

        return CudaCounters(task.snapshot)
    from vramplan.allocator.config import AllocatorConfig
    from vramplan.program.capped import CappedCpu

    return CappedCpu(task.capacity_bytes, AllocatorConfig.parse(task.allocator_conf), task.snapshot)


def _written(task: Task) -> dict[str, str]:
    """Random checkpoints, one for each role with weights of its own."""
    if not task.writes_checkpoints:
        return {}
    from vramplan.program.checkpoint_folder import write_random_checkpoint

    written: dict[str, str] = {}
    for role in task.run.roles:
        if role.shares is None:
            folder = Path(task.folder) / f"checkpoint-{role.name}"
            write_random_checkpoint(task.configs[role.name], role.load, folder)
            written[role.name] = str(folder)
    return written


def _out_of_memory(error: BaseException, phase: str, counters: Any) -> dict[str, Any] | None:
    """The event of an out-of-memory, or None where it is another error.

    torch's own error has a type; libraries that allocate past it (cuBLAS, bitsandbytes) say it in words.
    """
    import torch

    from vramplan.program.cuda import asked_for, first_line

    text = str(error)
    if not isinstance(error, torch.OutOfMemoryError) and not any(
        words in text for words in ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
    ):
        return None
    refusal = counters.refusal()
    return {
        "event": "end",
        "outcome": "out_of_memory",
        "phase": phase,
        "message": first_line(error),
        "requested_bytes": refusal.requested_bytes if refusal.requested_bytes is not None else asked_for(text),
        "allocated_bytes": refusal.allocated_bytes,
        "reserved_bytes": refusal.reserved_bytes,
        "has_snapshot": refusal.has_snapshot,
    }


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    text = config.get("text_config")
    return text if isinstance(text, Mapping) else config


def _end_with_parent(parent: int) -> None:
    """Ends this process soon after the one that started it: nobody would read its results, and it holds a card."""
    while os.getppid() == parent:
        time.sleep(_WATCH_PARENT_SECONDS)
    os._exit(1)


def main(task_file: str, results_file: str) -> int:
    """Run a task; the exit code is 0 where everything that came of it was told."""
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    with Path(results_file).open("a", encoding="utf-8", buffering=1) as results:

        def tell(event: Mapping[str, Any]) -> None:
            results.write(json.dumps(event) + "\n")

        try:
            with Path(task_file).open("rb") as file:
                task: Task = pickle.load(file)
            run_task(task, tell)
        except VramplanError as error:
            tell(
                {
                    "event": "end",
                    "outcome": "refused",
                    "message": error.message,
                    "hint": error.hint,
                    "exit_code": error.exit_code,
                }
            )
        except Exception as error:  # whatever a library throws is an outcome of this run
            traceback.print_exc()
            words = " ".join(str(error).split()) or "no message"
            tell({"event": "end", "outcome": "failed", "message": f"{type(error).__name__}: {words[:500]}"})
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
