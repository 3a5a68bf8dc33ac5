"""MemoryCallback: a record of a user's own training run, written by transformers' Trainer as it goes.

    trainer = Trainer(..., callbacks=[MemoryCallback()])

The record is the one that `vramplan measure` writes (`vramplan.record/1`, how `callback`), so `vramplan compare`,
`accuracy` and `calibrate` read it. Its phases are `load` (everything until training begins), `train` (forward and
backward of all micro-batches, and what a trainer does in them, as GRPO's rollout), `optimizer` and `evaluate`.

The cost is one read of the allocator's statistics at the end of a phase: nothing is synchronised, no thread runs, and
the driver is asked only where reserved memory grew. torch's peak counters begin anew with each phase. An error here is
logged once, and the training goes on without.
"""

from __future__ import annotations

import atexit
import functools
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from transformers import TrainerCallback  # noqa: TID253 - this module is for transformers

from vramplan.integrations._card import Idle, describe_card, look_at_idle_cards
from vramplan.integrations._counters import Counters, CudaCounters, NoCounters
from vramplan.integrations._ending import Ending, ending
from vramplan.integrations._meter import Meter
from vramplan.integrations._prediction import predict
from vramplan.integrations._process import allocator_of, longest_row, versions_of
from vramplan.integrations._settings import run_settings
from vramplan.planner.measured_record import now
from vramplan.records.record import Record, RecordGpu, RecordOutOfMemory
from vramplan.records.store import append_record
from vramplan.runfiles.flat import parse_flat

FILE_NAME = "vramplan-records.jsonl"
_LOG = logging.getLogger("vramplan")
_CALLBACK = TypeVar("_CALLBACK", bound=Callable[..., None])


def _harmless(hook: _CALLBACK) -> _CALLBACK:
    """A training must not end because of what watches it."""

    @functools.wraps(hook)
    def wrapper(self: MemoryCallback, *args: Any, **kwargs: Any) -> None:
        if self.is_off:
            return
        try:
            hook(self, *args, **kwargs)
        except Exception as error:
            self.is_off = True
            _LOG.warning("vramplan: no record of this run: %s: %s", type(error).__name__, error)

    return cast("_CALLBACK", wrapper)


class MemoryCallback(TrainerCallback):  # type: ignore[misc]
    """Write a record of the memory that a training takes.

    Make it before the model is loaded, and the record also says what the card held before: then what the driver shows
    can be told apart from what other processes hold.

    Args:
        path: the JSON lines file that the record is appended to, or None for `vramplan-records.jsonl` in the
            trainer's output_dir.
        run: settings of the run that cannot be read from the trainer, as `estimate --jsonl` spells them; they replace
            what was found.
        estimate: whether an estimate of the run is made when it ends, for the record.

    Raises:
        UsageError: `run` holds what is no setting of a run.
    """

    def __init__(
        self, path: str | Path | None = None, *, run: Mapping[str, Any] | None = None, estimate: bool = True
    ) -> None:
        self.is_off = False
        self._path, self._given, self._estimates = path, dict(run or {}), estimate
        parse_flat(self._given, "MemoryCallback(run=…)")  # said now, not when the training has ended
        self._meter: Meter | None = None
        self._counters: Counters = NoCounters()
        self._card = RecordGpu(name="cpu")
        self._idle = Idle()
        self._longest = [0]
        self._hook: Any = None
        self._trainer: tuple[Any, Any, Any] | None = None
        self._note_idle_cards()

    @_harmless
    def _note_idle_cards(self) -> None:
        import torch

        if torch.version.cuda is not None:
            self._idle = look_at_idle_cards(has_context=torch.cuda.is_initialized())

    @_harmless
    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """The model is on its device."""
        self._start(args)

    @_harmless
    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
        """Everything until here is the load."""
        if not state.is_world_process_zero:
            self.is_off = True  # one record of a run: the first process's card
            return
        meter = self._start(args)
        meter.end("load", is_timed=False)
        self._trainer = (args, state, model)
        if model is not None and not getattr(args, "torch_compile", False):
            self._hook = model.register_forward_pre_hook(longest_row(self._longest), with_kwargs=True)
        atexit.register(self._leave)

    @_harmless
    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """The first micro-batch of an update."""
        self._started.begin("train")

    @_harmless
    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Gradients are whole, and clipped."""
        self._started.end("train")
        self._started.begin("optimizer")

    @_harmless
    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Weights are updated; what comes until the next step is an evaluation, or is not a phase."""
        self._started.end("optimizer")
        self._started.begin("evaluate", is_sure=False)

    @_harmless
    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """What came after the last step is an evaluation."""
        if self._meter is not None and self._trainer is not None:
            self._meter.current = "evaluate"

    @_harmless
    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """An evaluation is over; one outside of a training is none of its phases."""
        if self._meter is None:
            return
        if self._trainer is not None:
            self._meter.end("evaluate")
        else:
            self._meter.begin("load")

    @_harmless
    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Write the record."""
        if self._trainer is not None:
            self._write(None)

    @property
    def _started(self) -> Meter:
        if self._meter is None:
            raise RuntimeError("a step came before the training began")
        return self._meter

    def _start(self, args: Any) -> Meter:
        if self._meter is not None:
            return self._meter
        used_by_free = None
        if args.device.type == "cuda":
            import torch

            index = args.device.index or 0
            properties = torch.cuda.get_device_properties(index)
            self._counters = CudaCounters(index)
            self._card = describe_card(properties, self._idle)
            total = int(properties.total_memory)
            used_by_free = functools.partial(_used, total)
        self._meter = Meter(self._counters, used_by_free=used_by_free)
        self._meter.current = "load"  # its peaks are those since the process began: nothing is reset
        return self._meter

    @_harmless
    def _leave(self) -> None:
        if self._trainer is not None:
            self._write(ending())

    def _write(self, end: Ending | None) -> None:
        args, state, model = cast("tuple[Any, Any, Any]", self._trainer)
        self._trainer = None
        atexit.unregister(self._leave)
        if self._hook is not None:
            self._hook.remove()
        path = Path(args.output_dir) / FILE_NAME if self._path is None else Path(self._path)
        append_record(path, self._record(args, state, model, end))

    def _record(self, args: Any, state: Any, model: Any, end: Ending | None) -> Record:
        meter = self._started
        versions = versions_of(self._card.driver)
        rows = {} if not self._longest[0] else {"max_seq_length": self._longest[0]}
        if type(args).__name__ == "GRPOConfig":
            rows = {}  # its rows are prompts and completions, and its arguments say how long they are
        run, notes = run_settings(args, model, versions, rows | self._given)
        if self._card.profile is not None and "gpu_mem" not in run:
            run.setdefault("gpu", self._card.profile)
        prediction, why = None, ""
        config = getattr(model, "config", None)
        if self._estimates and end is None and config is not None:
            prediction, why = predict(run, config.to_dict(), self._card.profile)
        stopped_in = None if end is None else meter.current
        return Record(
            run=run,
            how="callback",
            device="cpu" if isinstance(self._counters, NoCounters) else "cuda",
            weights="checkpoint",
            steps=int(state.global_step),
            versions=versions,
            gpu=self._card,
            allocator=allocator_of(args.device.type),
            phases=meter.phases(),
            outcome="done" if end is None else end.outcome,
            stopped_in=stopped_in,
            message=None if end is None else end.message,
            out_of_memory=self._out_of_memory(end, stopped_in),
            estimate=prediction,
            notes=(
                "seconds are the host's: nothing was synchronised",
                *(("the train phase holds the rollout and its scores too",) if run["method"] == "grpo" else ()),
                *notes,
                *((f"no estimate: {why}",) if why else ()),
            ),
            when=now(),
        )

    def _out_of_memory(self, end: Ending | None, stopped_in: str | None) -> RecordOutOfMemory | None:
        if end is None or end.outcome != "out_of_memory":
            return None
        reading = self._counters.read()
        return RecordOutOfMemory(
            phase=stopped_in or "train",
            requested_bytes=end.requested_bytes,
            allocated_bytes=None if reading is None else reading.allocated_bytes,
            reserved_bytes=None if reading is None else reading.reserved_bytes,
        )


def _used(total_bytes: int, free_bytes: int) -> int:
    return total_bytes - free_bytes
