"""Finding the reader: by name, by alias, inside a wrapper, by order, or saying clearly that there is none."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from vramplan.archs import known_model_types, read_model
from vramplan.errors import UnsupportedArchitectureError

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
# A published gemma-3 text_config, which leaves out all that equals Gemma3TextConfig's defaults.
GEMMA3_TEXT: dict[str, Any] = {
    "model_type": "gemma3_text",
    "hidden_size": 2560,
    "intermediate_size": 10240,
    "num_hidden_layers": 34,
    "sliding_window": 1024,
}


def test_knows_what_the_issue_names() -> None:
    needed = {
        "llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "mixtral", "granite", "gemma2", "gemma3", "gemma3_text",
        "phi3", "opt", "gpt2", "gpt_neox", "gpt_bigcode", "deepseek_v3", "gpt_oss", "falcon",
    }  # fmt: skip
    assert needed <= set(known_model_types())
    assert list(known_model_types()) == sorted(known_model_types())


def test_an_unknown_model_type_names_the_nearest_and_the_ways_out() -> None:
    with pytest.raises(UnsupportedArchitectureError) as caught:
        read_model({**LLAMA, "model_type": "llamo"})
    assert "'llamo'" in caught.value.message
    assert "'llama'" in caught.value.message
    assert caught.value.hint is not None
    assert "--as llama" in caught.value.hint
    assert "vramplan simulate" in caught.value.hint
    assert caught.value.exit_code == 4


def test_a_model_type_like_no_other_names_none() -> None:
    with pytest.raises(UnsupportedArchitectureError) as caught:
        read_model({"model_type": "zzzzzzzz"})
    assert "nearest" not in caught.value.message
    assert caught.value.hint is not None


@pytest.mark.parametrize("name", ["", "_config", "_decoder", "__init__", "../llama", "llama.read", "os", "LLAMA", "é"])
def test_a_model_type_never_reaches_another_module(name: str) -> None:
    with pytest.raises(UnsupportedArchitectureError):
        read_model({**LLAMA, "model_type": name})


@pytest.mark.parametrize("model_type", [None, 3, ["llama"]])
def test_a_config_without_model_type_says_so(model_type: object) -> None:
    with pytest.raises(UnsupportedArchitectureError, match="model_type"):
        read_model({**LLAMA, "model_type": model_type})


def test_architecture_overrides_the_config() -> None:
    shape = read_model({**LLAMA, "model_type": "my_own"}, architecture="llama")
    assert shape == read_model(LLAMA)
    assert shape.model_type == "llama"


def test_an_unknown_architecture_is_refused_though_the_config_is_known() -> None:
    with pytest.raises(UnsupportedArchitectureError, match="qwen9"):
        read_model(LLAMA, architecture="qwen9")


def test_a_wrapped_text_config_is_read_alone_and_says_what_it_left_out() -> None:
    wrapped = {
        "model_type": "gemma3",
        "text_config": GEMMA3_TEXT,
        "vision_config": {"hidden_size": 1152},
        "torch_dtype": "bfloat16",
        "quantization_config": {"load_in_4bit": True},
    }
    shape = read_model(wrapped)
    assert shape.num_parameters == 3_880_263_168  # google/gemma-3-4b-it, its language model
    assert shape.left_out == ("vision_config",)
    assert shape.stored_dtype == "bf16"
    assert shape.stored_quantization is not None
    assert shape.layers == read_model(GEMMA3_TEXT).layers
    assert read_model(GEMMA3_TEXT).left_out == ()


def test_what_the_text_config_says_itself_wins_over_its_wrapper() -> None:
    text = {**GEMMA3_TEXT, "torch_dtype": "float16", "tie_word_embeddings": False}
    shape = read_model({"model_type": "gemma3", "text_config": text, "dtype": None, "torch_dtype": "bfloat16"})
    assert shape.stored_dtype == "fp16"
    assert not shape.tie_word_embeddings


def test_architecture_reaches_into_a_wrapper_of_an_unknown_kind() -> None:
    shape = read_model({"model_type": "my_vlm", "text_config": LLAMA, "vision_config": {}}, architecture="llama")
    assert shape.layers == read_model(LLAMA).layers
    assert shape.left_out == ("vision_config",)


def test_a_wrapper_of_an_unknown_kind_is_not_guessed_at() -> None:
    with pytest.raises(UnsupportedArchitectureError, match="my_vlm"):
        read_model({"model_type": "my_vlm", "text_config": LLAMA, "vision_config": {}})


def test_heads_that_do_not_group_are_refused_in_a_sentence() -> None:
    with pytest.raises(UnsupportedArchitectureError, match="4 attention heads are not a multiple of 3"):
        read_model({**LLAMA, "num_key_value_heads": 3})


def test_a_stream_that_does_not_divide_is_refused() -> None:
    with pytest.raises(UnsupportedArchitectureError, match="hidden_size of 65 does not divide into 4 heads"):
        read_model({**LLAMA, "hidden_size": 65})


def test_reading_loads_one_reader_and_only_the_standard_library() -> None:
    # A process of its own: what this one has imported proves nothing.
    program = (
        "import sys; before = set(sys.modules); from vramplan.archs import read_model;"
        f"read_model({LLAMA!r});"
        "new = set(sys.modules) - before;"
        "print(*sorted(name for name in new if name.split('.')[0] not in sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert {name.split(".")[0] for name in loaded} == {"vramplan"}
    readers = {name.split(".")[2] for name in loaded if name.startswith("vramplan.archs.")}
    assert readers & set(known_model_types()) == {"llama"}
