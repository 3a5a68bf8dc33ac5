"""What follows the layers in each phase: an answer, log-probabilities or a loss."""

from __future__ import annotations

from collections.abc import Callable

from vramplan.core.run import Method, Role
from vramplan.dtypes import DType
from vramplan.formula.code import code_of
from vramplan.formula.forward import Trunk
from vramplan.formula.graph import Grads, apply
from vramplan.formula.logits import causal_loss, head_logits
from vramplan.formula.logprobs import LogProbCode, token_log_probabilities
from vramplan.formula.modules import Modules
from vramplan.formula.ops import reduce, scale, to, unary
from vramplan.formula.setting import Setting
from vramplan.formula.tape import Tape, Tensor

CHUNKED_LOSS_TOKENS = 256
"""TRL sft_trainer.py chunked_nll: tokens whose logits exist at once."""

HeadOnTape = Callable[[Tape, Trunk], Tensor]
Head = Callable[[Setting, Role, Modules], HeadOnTape]


def last_logits(setting: Setting, role: Role, modules: Modules) -> HeadOnTape:
    """generate(): the last token's logits, and the fp32 copy that sampling works on."""
    model = setting.models[role.name]

    def head(tape: Tape, step: Trunk) -> Tensor:
        rows = step.batch.rows if setting.stack.generate_keeps_one_logit else step.batch.num_tokens
        logits = head_logits(tape, step.hidden, model, modules.head(model), rows=rows)
        with tape.owner("logits"):
            chosen = tape.empty(step.batch.rows * model.vocab_size, DType.FP32)
            probabilities = unary(tape, chosen)
            del chosen, logits
            return probabilities

    return head


def all_logits(setting: Setting, role: Role, modules: Modules) -> HeadOnTape:
    """A forward that returns logits of every token."""
    model = setting.models[role.name]
    return lambda tape, step: head_logits(tape, step.hidden, model, modules.head(model), rows=None)


def scorer(rows: int, tokens: int, code: LogProbCode) -> Head:
    """Log-probabilities of completions without gradients."""

    def make(setting: Setting, role: Role, modules: Modules) -> HeadOnTape:
        return _log_probabilities(setting, role, modules, rows, tokens, code)

    return make


def _log_probabilities(
    setting: Setting, role: Role, modules: Modules, rows: int, tokens: int, code: LogProbCode
) -> HeadOnTape:
    model = setting.models[role.name]

    def head(tape: Tape, step: Trunk) -> Tensor:
        hidden, step.hidden = step.hidden, Tensor(None, 0, DType.FP32)
        return token_log_probabilities(
            tape,
            hidden,
            model,
            modules.head(model),
            rows=rows,
            tokens=tokens,
            code=code,
            fp32_outputs=setting.autocast(role) is not None,
            divides_by_temperature=setting.run.method.rolls_out,
            temperature_in_place=setting.stack.temperature_in_place and setting.run.method is not Method.RLT,
        )

    return head


def full_length_scorer(setting: Setting, role: Role, modules: Modules) -> HeadOnTape:
    """RLT teacher_rewards.py: logits of the whole sequence, divided by a temperature, and their log-softmax."""
    model = setting.models[role.name]

    def head(tape: Tape, step: Trunk) -> Tensor:
        logits = head_logits(tape, step.hidden, model, modules.head(model), rows=None)
        with tape.owner("logits"):
            if setting.autocast(role) is not None:
                logits = to(tape, logits, DType.FP32)
            scaled = scale(tape, logits)
            return unary(tape, scaled)

    return head


def log_probability_loss(rows: int, tokens: int, code: LogProbCode, *, scratch: int = 0) -> Head:
    """A policy loss on token log-probabilities.

    Args:
        rows: sequences in the forward.
        tokens: scored tokens of each.
        code: how log-probabilities are taken.
        scratch: bytes that a reference model needs for a moment while the policy's graph is alive.
    """

    def make(setting: Setting, role: Role, modules: Modules) -> HeadOnTape:
        score = _log_probabilities(setting, role, modules, rows, tokens, code)

        def head(tape: Tape, step: Trunk) -> Tensor:
            values = score(tape, step)
            with tape.owner("logits"):
                reference = tape.scratch(scratch)
                del reference
            ratios = unary(tape, values, saves="result")
            return reduce(tape, ratios, 1)

        return head

    return make


def model_loss(setting: Setting, role: Role, modules: Modules) -> HeadOnTape:
    """The model's own loss on labels. A plain loop holds its outputs through the backward; a trainer does not."""
    model = setting.models[role.name]
    upcasts = setting.stack.every_loss_upcasts or not code_of(model.model_type).own_loss

    def head(tape: Tape, step: Trunk) -> Tensor:
        batch = step.batch
        logits = head_logits(tape, step.hidden, model, modules.head(model), rows=None)
        if setting.model_upcasts_logits(role):
            with tape.owner("logits"):
                logits = to(tape, logits, DType.FP32)
        loss = causal_loss(tape, logits, (batch.rows, batch.tokens), model.vocab_size, setting.stack, upcasts=upcasts)
        if not setting.trainer_named:
            step.kept.append(logits)
        elif setting.autocast(role) is not None:
            with tape.owner("logits"):
                to(tape, logits, DType.FP32)  # accelerate's convert_outputs_to_fp32, dropped with the outputs
        if setting.trainer_named:
            step.returned.clear()
        return loss

    return head


def chunked_loss(setting: Setting, role: Role, modules: Modules) -> HeadOnTape:
    """TRL SFT: chunks of tokens from 1.5, the fused head from 1.15."""
    if setting.stack.fused_lm_head:
        return _fused_loss(setting, role, modules)
    model = setting.models[role.name]

    def head(tape: Tape, step: Trunk) -> Tensor:
        weights = modules.head(model)
        hidden = step.hidden
        with tape.owner("logits"):
            # One chunk's logits in fp32 with its log-softmax and gradient, recomputed in the backward (checkpointed).
            chunk = tape.scratch(3 * min(CHUNKED_LOSS_TOKENS, step.batch.num_tokens) * model.vocab_size * 4)
            del chunk
        return reduce(tape, _through_head(tape, hidden, weights.head.weight), 1)

    return head


def _through_head(tape: Tape, hidden: Tensor, weight: Tensor) -> Tensor:
    numel, dtype, weight_numel, weight_dtype = hidden.numel, hidden.dtype, weight.numel, weight.dtype
    trains = weight.requires_grad

    def derivative(_grad: Tensor) -> Grads:
        grad_hidden = tape.empty(numel, dtype)
        return grad_hidden, tape.empty(weight_numel, weight_dtype) if trains else None

    return apply(tape, numel, dtype, (hidden, weight), (hidden, weight), derivative)


def _fused_loss(setting: Setting, role: Role, modules: Modules) -> HeadOnTape:
    model = setting.models[role.name]

    def head(tape: Tape, step: Trunk) -> Tensor:
        batch = step.batch
        hidden, step.hidden = step.hidden, Tensor(None, 0, DType.FP32)
        values = token_log_probabilities(
            tape,
            hidden,
            model,
            modules.head(model),
            rows=batch.rows,
            tokens=batch.tokens - 1,
            code=LogProbCode.FUSED,
            fp32_outputs=False,
            divides_by_temperature=False,
            temperature_in_place=True,
        )
        return reduce(tape, values, 1)

    return head
