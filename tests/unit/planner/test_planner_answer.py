"""What must hold of every answer: sums, roles, versions, verdicts."""

from __future__ import annotations

import pytest

from vramplan.core.report import Component, Verdict
from vramplan.errors import CannotTellError, UsageError
from vramplan.units import GB

SMALL = "Qwen/Qwen2.5-0.5B-Instruct"
SFT = {"model": SMALL, "method": "sft", "dtype": "bf16", "per_device_batch_size": 2, "max_seq_length": 512}


@pytest.mark.parametrize(
    "settings",
    [
        {"model": SMALL},
        {"model": SMALL, "method": "score"},
        SFT,
        {**SFT, "tuning": "lora", "quantization": "nf4"},
        {**SFT, "method": "dpo"},
        {"model": SMALL, "method": "grpo", "dtype": "bf16", "beta": 0.04},
        {"run": "rlt-85gb-conservative", "teacher": SMALL, "method": "rlt", "dtype": "bf16", "context": 256},
    ],
    ids=lambda settings: str(settings.get("method", "inference")) + str(settings.get("quantization", "")),
)
def test_sums_reconcile(ask, settings):
    report = ask(**settings)
    for phase in report.phases:
        parts = {component: phase.component_bytes(component) for component in Component}
        assert sum(parts.values()) == phase.device_used_bytes
        outside = parts[Component.ROLLOUT_ENGINE] + parts[Component.CONTEXT]
        assert phase.reserved_bytes + outside == phase.device_used_bytes
        assert phase.allocated_bytes + parts[Component.FRAGMENTATION] == phase.reserved_bytes
        assert all(entry.num_bytes >= 0 for entry in phase.entries)
    peak = report.peak
    assert peak.allocated_bytes == max(phase.allocated_bytes for phase in report.phases)
    assert peak.device_used_bytes == max(phase.device_used_bytes for phase in report.phases)
    assert peak.low_bytes <= peak.device_used_bytes <= peak.high_bytes
    assert peak.phase in {phase.name for phase in report.phases}


def test_weights_of_the_missions_models_are_exact(ask):
    report = ask(run="rlt-85gb-conservative", **_rlt("rlt-85gb-conservative"))
    for model in report.models:
        assert model.parameters == 7_615_616_512
        assert model.by_precision["bf16"] == 2 * 7_615_616_512
        # 6,525,288,448 parameters in linear layers, one fp32 scale for each of their rows.
        rows = 28 * (3584 + 512 + 512 + 3584 + 18944 + 18944 + 3584)
        assert model.by_precision["int8"] == 6_525_288_448 + 4 * rows + 2 * (7_615_616_512 - 6_525_288_448)


def test_the_documents_sums_are_caught(ask):
    report = ask(run="rlt-85gb-as-documented", gpu_mem=85, **_rlt("rlt-85gb-as-documented"))
    by_what = {one.what: one for one in report.comparisons}
    assert by_what["three models in bf16"].claimed_bytes == 42 * GB
    assert by_what["three models in bf16"].estimated_bytes == 3 * 2 * 7_615_616_512
    assert by_what["three models in 8-bit"].claimed_bytes == 21 * GB
    assert 26 * GB < by_what["three models in 8-bit"].estimated_bytes < 27 * GB
    # Their activation term is 6144 × 64 × 2 B × 4 = 3 MB; the truth is four orders of magnitude more.
    activations = by_what["activations of 64 rows"]
    assert activations.estimated_bytes > 5_000 * activations.claimed_bytes
    # research/training-memory.md §1.3: 229.5 GB of states before logits, counted by hand.
    assert by_what["the whole run in bf16"].estimated_bytes > 229 * GB
    assert report.budget is not None
    assert report.budget.verdict is Verdict.DOES_NOT_FIT


@pytest.mark.parametrize("name", ["rlt-85gb-conservative", "rlt-85gb-aggressive"])
def test_the_shipped_runs_fit_85_gb(ask, name):
    report = ask(run=name, gpu_mem=85, **_rlt(name))
    assert report.budget is not None
    assert report.budget.verdict is Verdict.FITS


def test_fused_experts_stay_in_16_bits_from_transformers_5_on(ask):
    model = "Qwen/Qwen3-30B-A3B"
    new = ask(model=model, quantization="nf4", stack={"transformers": "5.23.0"})
    old = ask(model=model, quantization="nf4", stack={"transformers": "4.57.6"})
    assert new.models[0].weights_bytes > 2 * 28_991_029_248
    assert old.models[0].weights_bytes < new.models[0].weights_bytes / 3
    assert "VP013" in {finding.rule for finding in new.warnings}
    assert "VP013" not in {finding.rule for finding in old.warnings}


def test_a_reference_costs_nothing_under_lora_or_zero_beta_in_trl(ask):
    common = {"model": SMALL, "method": "grpo", "dtype": "bf16", "max_completion_length": 64, "max_prompt_length": 64}
    full = ask(**common, beta=0.04)
    lora = ask(**common, beta=0.04, tuning="lora")
    none = ask(**common, beta=0.0)
    weights = {model.role: model.weights_bytes for model in full.models}
    assert weights["reference"] == weights["model"]
    assert {model.role: model.weights_bytes for model in lora.models}["reference"] == 0
    assert [model.role for model in none.models] == ["model"]


def test_rlt_always_loads_its_reference(ask):
    report = ask(teacher=SMALL, method="rlt", dtype="bf16", beta=0, context=128)
    assert [model.role for model in report.models] == ["teacher", "reference"]
    assert "VP011" in {finding.rule for finding in report.warnings}


def test_an_offloaded_role_is_on_the_device_in_its_own_phase_only(ask):
    common = {"teacher": SMALL, "student": "Qwen/Qwen2.5-0.5B", "method": "rlt", "dtype": "bf16", "context": 128}
    stays, goes = ask(**common), ask(**common, offload=["student", "reference"])
    for name in ("train", "optimizer"):
        saved = stays.phase(name).component_bytes(Component.WEIGHTS) - goes.phase(name).component_bytes(
            Component.WEIGHTS
        )
        assert saved > 2 * 2 * 494_032_768 - 1
    assert goes.phase("score").component_bytes(Component.WEIGHTS) > goes.phase("train").component_bytes(
        Component.WEIGHTS
    )


def test_gradients_are_alive_in_the_forward_only_when_they_accumulate(ask):
    once = ask(**SFT, gradient_accumulation_steps=1)
    twice = ask(**SFT, gradient_accumulation_steps=2)
    assert twice.peak.allocated_bytes > once.peak.allocated_bytes
    assert once.phase("optimizer").allocated_bytes == twice.phase("optimizer").allocated_bytes


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": SMALL, "method": "sft", "tuning": "full", "quantization": "int8"}, "VP001"),
        ({"model": SMALL, "method": "sft", "batch_size": 7, "per_device_batch_size": 2}, "VP002"),
        ({"method": "sft"}, "no model"),
        ({"model": SMALL, "teacher": SMALL}, "both"),
        ({"model": SMALL, "method": "grpo", "max_seq_length": 128}, "prompt and completion"),
        ({"model": SMALL, "gpu": "h1000"}, "h1000"),
        ({"model": SMALL, "stack": {"transformers": "new"}}, "version"),
    ],
)
def test_impossible_runs_are_refused_in_one_sentence(ask, settings, words):
    with pytest.raises(UsageError, match=words):
        ask(**settings)


def test_an_unknown_model_is_no_guess(ask):
    with pytest.raises(CannotTellError, match="no-such-model"):
        ask(model="nobody/no-such-model")


def _rlt(name: str) -> dict[str, object]:
    from vramplan.catalog.dirs import ProfileDirs, shipped_profiles
    from vramplan.catalog.runs import load_run

    return dict(load_run(name, ProfileDirs(shipped=shipped_profiles())).settings)


@pytest.mark.parametrize("strategy", ["ddp", "zero1", "zero2", "zero3", "fsdp_full_shard"])
def test_accumulation_never_lowers_a_sharded_peak(ask, strategy):
    common = {**SFT, "tuning": "full", "num_gpus": 4, "sharding": strategy}
    once, twice = ask(**common, gradient_accumulation_steps=1), ask(**common, gradient_accumulation_steps=2)
    assert once.peak.allocated_bytes <= twice.peak.allocated_bytes


def test_the_deciding_phase_is_the_highest(ask):
    for settings in (SFT, {**SFT, "optim": "adamw_8bit"}, {"model": SMALL}, {"model": SMALL, "method": "grpo"}):
        report = ask(**settings)
        assert report.phase(report.peak.phase).device_used_bytes == report.peak.device_used_bytes


def test_an_offloaded_role_is_not_there_to_load(ask):
    common = {"teacher": SMALL, "student": "Qwen/Qwen2.5-0.5B", "method": "rlt", "dtype": "bf16", "context": 128}
    stays, goes = ask(**common), ask(**common, offload=["student"])
    assert goes.phase("load").component_bytes(Component.WEIGHTS) < stays.phase("load").component_bytes(
        Component.WEIGHTS
    )


def test_an_adapter_aimed_at_nothing_is_refused(ask):
    with pytest.raises(UsageError, match="q_proj"):
        ask(model="openai-community/gpt2", method="sft", tuning="lora", lora_target_modules=["q_proj"])


QLORA = {"model": SMALL, "tuning": "lora", "quantization": "nf4", "per_device_batch_size": 2}


@pytest.mark.parametrize("method", ["sft", "dpo", "grpo"])
def test_trl_passes_float32_to_quantised_loads_too(ask, method):
    """TRL >= 0.29: what bitsandbytes leaves alone (136,178,560 embeddings, 92,800 norms and biases) takes 4 B each."""
    sizes = {"max_seq_length": 512} if method == "sft" else {}
    silent = ask(**QLORA, **sizes, method=method, stack={"trl": "1.16.0"})
    half = ask(**QLORA, **sizes, method=method, stack={"trl": "1.16.0"}, dtype="bf16")
    difference = silent.models[0].weights_bytes - half.models[0].weights_bytes
    rest = 494_032_768 - 24 * (896 * 896 * 2 + 2 * 896 * 128 + 3 * 896 * 4864)
    assert difference == 2 * rest
    assert any("what is not quantised loads in fp32" in one for one in silent.assumptions)
    older = ask(**QLORA, **sizes, method=method, stack={"trl": "0.28.0"})
    assert any("what is not quantised loads in bf16" in one for one in older.assumptions)


def test_adapters_of_a_quantised_model_stay_bf16_in_trl(ask):
    """grpo_trainer.py casts what trains to bf16 whatever the rest was loaded in: two moments of 2 B each."""
    silent = ask(**QLORA, method="grpo", stack={"trl": "1.16.0"})
    half = ask(**QLORA, method="grpo", stack={"trl": "1.16.0"}, dtype="bf16")

    def adapters(report):
        return next(phase for phase in report.phases if phase.name == "load").component_bytes(Component.ADAPTERS)

    assert adapters(silent) == adapters(half) > 0


def test_a_trainer_keeps_the_states_of_embeddings_in_fp32_under_8_bit_optimizers(ask):
    run = {
        "model": "Qwen/Qwen2.5-0.5B",
        "method": "sft",
        "tuning": "full",
        "dtype": "bf16",
        "context": 128,
        "gpu": "l4",
    }
    plain = ask(**run, optim="adamw_8bit")
    trainer = ask(**run, optim="adamw_8bit", stack={"accelerate": "1.15.0"})
    more = [report.phase("optimizer").component_bytes(Component.OPTIMIZER) for report in (trainer, plain)]
    embeddings = 151_936 * 896
    # two moments of 4 B for 1 B and a 256th of an fp32 scale
    assert more[0] - more[1] == pytest.approx(2 * embeddings * (4 - 1 - 4 / 256), rel=2e-3)
    lora = run | {"tuning": "lora", "optim": "adamw_8bit"}
    adapters = [ask(**lora), ask(**lora, stack={"accelerate": "1.15.0"})]
    assert len({report.phase("optimizer").component_bytes(Component.OPTIMIZER) for report in adapters}) == 1
