"""Each method as a program: which phases, in which order, with which models on the device.

The order is that of TRL's trainers and of RLT's (SakanaAI/RLT 86a3f5c), see their `_generate_and_score_completions`,
`compute_loss` and `training_step`. Two cycles are run: the optimizer's states exist from the second on.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch

from vramplan.core.run import Method, RolloutBackend, Run
from vramplan.program.cast import Actor, Cast
from vramplan.program.logprobs import (
    Scoring,
    SftLoss,
    chunked_sft_loss,
    completion_logprobs,
    full_length_logprobs,
    fused_sft_loss,
)
from vramplan.program.watch import Watch
from vramplan.program.workload import Batch, Loop, Trainer, generate, score, sft_loss, wrap_forward


def micro_steps_per_update(run: Run) -> int:
    """Forwards with a backward that are run for an update: the third is like the second. 0 where nothing trains."""
    return 0 if run.training is None else min(run.training.gradient_accumulation_steps, 2)


class RolloutEngine(Protocol):
    """What generates beside the trained model, in the same process."""

    def roll_out(self, model: Any) -> None:
        """Takes the model's weights over and generates every completion of one rollout."""


class Program:
    """A run on its cast.

    Args:
        run: what is done.
        cast: the models.
        watch: looks on.
        loop: how the training loop is written.
        scoring: how log-probabilities are taken.
        engine: generates where the run has a colocated one; without it that phase is passed through.
    """

    def __init__(
        self,
        run: Run,
        cast: Cast,
        watch: Watch,
        loop: Loop,
        scoring: Scoring,
        engine: RolloutEngine | None = None,
    ) -> None:
        self._run = run
        self._cast = cast
        self._watch = watch
        self._loop = loop
        self._scoring = scoring
        self._engine = engine

    def load(self, *, warms_up: bool) -> None:
        """All models that stay on the device, the trained one first."""
        self._watch.mark("load")
        for actor in self._cast.actors.values():
            if not actor.role.offloaded:
                actor.enter(self._watch, warms_up=warms_up)

    def play(self, num_micro_steps: int) -> None:
        """The phases of the method.

        Args:
            num_micro_steps: forwards with a backward in all.
        """
        sizes, method = self._run.sizes, self._run.method
        rows, tokens = sizes.per_device_batch_size, sizes.sequence_length
        if method is Method.INFERENCE:
            generate(
                self._cast[self._run.trained.name].model,
                rows,
                sizes.max_prompt_length,
                sizes.max_completion_length,
                self._watch,
            )
            return
        if method is Method.SCORE:
            for role in self._run.roles:
                phase = "score" if len(self._run.roles) == 1 else f"score_{role.name}"
                self._on_stage(role.name, partial(self._score, rows=rows, tokens=tokens, phase=phase))
            return
        self._train(num_micro_steps)

    def _score(self, actor: Actor, *, rows: int, tokens: int, phase: str) -> None:
        score(actor.model, rows, tokens, self._watch, phase)

    def _train(self, num_micro_steps: int) -> None:
        training = self._run.training
        assert training is not None
        sizes = self._run.sizes
        trained = self._cast[self._run.trained.name]
        trainer = Trainer(trained.model, training, self._watch, loop=self._loop)
        losses = {Method.SFT: self._sft, Method.DPO: self._dpo, Method.GRPO: self._grpo, Method.RLT: self._grpo}
        loss_of = losses[self._run.method](trained)
        steps_per_update = micro_steps_per_update(self._run)
        for micro_step in range(num_micro_steps):
            if micro_step % steps_per_update == 0 and self._run.method.rolls_out:
                self._roll_out(trained, trainer.forward)
            if self._run.method is Method.RLT:
                self._score_reference(sizes.max_completion_length, use_cache=True)
            trainer.micro_step(loss_of, updates=(micro_step + 1) % steps_per_update == 0)

    def _sft(self, trained: Actor) -> Callable[..., Any]:
        sizes = self._run.sizes

        def batch() -> Batch:
            return Batch(sizes.per_device_batch_size, sizes.sequence_length, self._watch)

        if self._scoring.sft is SftLoss.MODEL:
            return sft_loss(batch)
        loss = fused_sft_loss if self._scoring.sft is SftLoss.FUSED else chunked_sft_loss
        return lambda forward: (None, loss(forward, trained.model, batch()))

    def _dpo(self, trained: Actor) -> Callable[..., Any]:
        sizes = self._run.sizes
        rows, tokens = 2 * sizes.per_device_batch_size, sizes.sequence_length

        def loss_of(forward: Callable[..., Any]) -> Any:
            batch = Batch(rows, tokens, self._watch)
            logprobs = completion_logprobs(forward, trained.model, batch, tokens - 1, self._scoring).sum(-1)
            reference = torch.zeros_like(logprobs)
            if self._cast.get("reference") is not None:
                reference = self._no_grad("reference", batch, tokens - 1).sum(-1)
            chosen, rejected = (logprobs - reference).chunk(2)
            return None, -torch.nn.functional.logsigmoid(chosen - rejected).mean()

        return loss_of

    def _grpo(self, trained: Actor) -> Callable[..., Any]:
        sizes = self._run.sizes

        def loss_of(forward: Callable[..., Any]) -> Any:
            batch = Batch(sizes.per_device_batch_size, sizes.sequence_length, self._watch)
            logprobs = completion_logprobs(forward, trained.model, batch, sizes.max_completion_length, self._scoring)
            ratio = torch.exp(logprobs - logprobs.detach())
            clipped = torch.clamp(ratio, 0.8, 1.2)
            advantages = torch.zeros((logprobs.shape[0], 1), device=logprobs.device)
            return None, -torch.min(ratio * advantages, clipped * advantages).mean()

        return loss_of

    def _roll_out(self, trained: Actor, forward: Callable[..., Any]) -> None:
        sizes, rollout, watch = self._run.sizes, self._run.rollout, self._watch
        if rollout is not None and rollout.backend is RolloutBackend.HF:
            trained.model.eval()
            generate(
                trained.model,
                sizes.rollout_rows,
                sizes.max_prompt_length,
                sizes.max_completion_length,
                watch,
                phases=("rollout", "rollout"),
                through=forward,
            )
            trained.model.train()
        elif rollout is not None:
            watch.mark("rollout")
            if self._engine is not None:
                self._engine.roll_out(trained.model)
        if self._run.method is Method.RLT:
            student = "student" if self._cast.get("student") is not None else "reference"
            for phase, name in (("score", student), ("teacher_score", self._run.trained.name)):
                watch.mark(phase)
                one = Batch(1, sizes.sequence_length, watch)
                self._no_grad(name, one, None, use_cache=phase == "score")
            return
        if rollout is not None and rollout.backend is not RolloutBackend.HF:
            watch.mark("old_logprobs")
            batch = Batch(sizes.per_device_batch_size, sizes.sequence_length, self._watch)
            self._no_grad(self._run.trained.name, batch, sizes.max_completion_length)
        self._score_reference(sizes.max_completion_length)

    def _score_reference(self, num_tokens: int, *, use_cache: bool = False) -> None:
        if self._cast.get("reference") is None:
            return
        self._watch.mark("reference")
        sizes = self._run.sizes
        batch = Batch(sizes.per_device_batch_size, sizes.sequence_length, self._watch)
        self._no_grad("reference", batch, num_tokens, use_cache=use_cache)

    def _no_grad(self, name: str, batch: Batch, num_tokens: int | None, *, use_cache: bool = False) -> Any:
        """Log-probabilities of one role without gradients; of all tokens, as rewards take them, without a number."""

        def run(actor: Actor) -> Any:
            fp32_outputs = self._loop.fp32_outputs
            device_type = self._watch.device.type
            forward = wrap_forward(actor.model, self._run.training, device_type, fp32_outputs=fp32_outputs)
            caches = use_cache and not actor.model.training
            with torch.no_grad():
                if num_tokens is None:
                    return full_length_logprobs(forward, batch, use_cache=caches)
                return completion_logprobs(forward, actor.model, batch, num_tokens, self._scoring, use_cache=caches)

        return self._on_stage(name, run)

    def _on_stage(self, name: str, run: Callable[[Actor], Any]) -> Any:
        actor = self._cast[name]
        actor.enter(self._watch)
        result = run(actor)
        actor.rest()
        return result
