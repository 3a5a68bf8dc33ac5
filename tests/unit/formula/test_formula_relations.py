"""What must hold between runs, whatever their sizes: more work never costs less, and saving memory never costs more."""

from __future__ import annotations

from dataclasses import replace

from agreement import Case, setting_of
from agreement_models import SMALL_MODELS
from hypothesis import given, settings
from hypothesis import strategies as st

from vramplan.core.run import LoadSpec, Method, Quantization, Sizes, Tuning
from vramplan.dtypes import DType
from vramplan.formula.phases import plan_phases
from vramplan.formula.setting import Setting
from vramplan.formula.static import Static

MODELS = sorted(SMALL_MODELS)
QUANTISERS = ["bf16", "nf4", "int8", "amp", "nf4-amp"]
few = settings(max_examples=30, deadline=None)

models = st.sampled_from(MODELS)
cases = st.builds(
    Case,
    model=models,
    tuning=st.just(Tuning.LORA),
    precision=st.sampled_from(QUANTISERS),
    attention=st.just("eager"),
    checkpoints=st.booleans(),
)


def sized(setting: Setting, *, rows: int = 2, tokens: int = 128, rank: int = 8) -> Setting:
    run = setting.run
    sizes = Sizes(
        per_device_batch_size=rows,
        batch_size=None,
        num_generations=1,
        rollout_rows=rows,
        max_prompt_length=tokens,
        max_completion_length=0,
    )
    training = run.training
    if training is not None and training.lora is not None:
        training = replace(training, lora=replace(training.lora, r=rank))
    return replace(setting, run=replace(run, sizes=sizes, training=training))


def peak_of(setting: Setting) -> int:
    """Bytes of the highest phase beside what is resident."""
    static = Static(setting)
    resident = static.adapters_bytes + static.gradients_bytes
    return resident + max(one.level({}).peak_bytes for plan in plan_phases(setting) for one in plan.passes)


def deeper(case: Case, layers: int) -> Setting:
    config = dict(SMALL_MODELS[case.model])
    name = "n_layer" if "n_layer" in config else "num_hidden_layers"
    config[name] = layers
    if "layer_types" in config:
        config["layer_types"] = [config["layer_types"][index % 2] for index in range(layers)]
    return setting_of(case, config=config)


@few
@given(case=cases, rows=st.integers(1, 5), more=st.integers(1, 4))
def test_more_rows_never_cost_less(case: Case, rows: int, more: int) -> None:
    setting = setting_of(case)
    assert peak_of(sized(setting, rows=rows + more)) >= peak_of(sized(setting, rows=rows))


@few
@given(case=cases, tokens=st.integers(16, 400), more=st.integers(1, 300))
def test_longer_rows_never_cost_less(case: Case, tokens: int, more: int) -> None:
    setting = setting_of(case)
    assert peak_of(sized(setting, tokens=tokens + more)) >= peak_of(sized(setting, tokens=tokens))


@few
@given(case=cases, rank=st.integers(1, 64), more=st.integers(1, 64))
def test_a_higher_rank_never_costs_less(case: Case, rank: int, more: int) -> None:
    setting = setting_of(case)
    assert peak_of(sized(setting, rank=rank + more)) >= peak_of(sized(setting, rank=rank))


@few
@given(case=cases, layers=st.integers(2, 8), more=st.integers(1, 8))
def test_more_layers_never_cost_less(case: Case, layers: int, more: int) -> None:
    few_layers, many = deeper(case, layers), deeper(case, layers + more)
    assert peak_of(many) >= peak_of(few_layers)
    assert Static(many).weights_bytes(many.run.trained) >= Static(few_layers).weights_bytes(few_layers.run.trained)


@few
@given(case=cases, tuning=st.sampled_from(list(Tuning)), rows=st.integers(1, 4), layers=st.integers(4, 12))
def test_checkpointing_never_costs_more(case: Case, tuning: Tuning, rows: int, layers: int) -> None:
    case = replace(case, tuning=tuning, precision="amp" if tuning is Tuning.FULL else case.precision)
    kept, recomputed = (sized(deeper(replace(case, checkpoints=on), layers), rows=rows) for on in (False, True))
    assert peak_of(recomputed) <= peak_of(kept)


@few
@given(model=models)
def test_fewer_bits_never_make_more_weights(model: str) -> None:
    setting = setting_of(Case(model=model, method=Method.SCORE, attention="eager"))
    role = setting.run.trained
    loads = [
        LoadSpec(dtype=DType.FP32),
        LoadSpec(dtype=DType.BF16),
        LoadSpec(dtype=DType.BF16, quantization=Quantization.INT8),
        LoadSpec(dtype=DType.BF16, quantization=Quantization.NF4),
    ]
    sizes = []
    for load in loads:
        loaded = replace(role, load=load)
        one = Setting(
            run=replace(setting.run, roles=(loaded,)), models=setting.models, stack=setting.stack, gpu=setting.gpu
        )
        sizes.append(sum(stored.num_bytes for stored in one.stored[role.name]))
    assert sizes == sorted(sizes, reverse=True)


@few
@given(model=models, prompt=st.integers(8, 200), completion=st.integers(2, 200))
def test_a_longer_completion_never_costs_less_to_decode(model: str, prompt: int, completion: int) -> None:
    setting = setting_of(Case(model=model, method=Method.INFERENCE, attention="eager"))

    def decode(length: int) -> int:
        sizes = replace(setting.run.sizes, max_prompt_length=prompt, max_completion_length=length)
        plans = plan_phases(replace(setting, run=replace(setting.run, sizes=sizes)))
        return next(plan for plan in plans if plan.name == "decode").passes[0].level({}).peak_bytes

    assert decode(completion + 1) >= decode(completion)


@few
@given(case=cases)
def test_accumulated_gradients_never_cost_less(case: Case) -> None:
    setting = setting_of(replace(case, tuning=Tuning.FULL, precision="bf16"))
    training = setting.run.training
    assert training is not None
    single = replace(setting, run=replace(setting.run, training=replace(training, gradient_accumulation_steps=1)))
    (accumulating,), (alone,) = plan_phases(setting), plan_phases(single)
    assert accumulating.gradients_alive
    assert not alone.gradients_alive
    beside = Static(setting).gradients_bytes
    assert accumulating.passes[0].level({}).peak_bytes + beside >= alone.passes[0].level({}).peak_bytes
