"""Which servers load what a recipe hands on. The facts were measured on the servers themselves."""

from __future__ import annotations

from typing import Any

import pytest

from llmtune.recipe.low_rank import Lora
from llmtune.recipe.methods import METHODS, block
from llmtune.recipe.servers import SERVERS, handed_rank, refusals, told


def taken(**keys: Any) -> set[str]:
    return {name for name, why in refusals(Lora.model_validate(keys)).items() if why is None}


@pytest.mark.parametrize(
    "keys", [{}, {"rslora": True}, {"rank_pattern": {"q_proj": 64}}, {"init": "pissa"}, {"alpha": 12.5}]
)
def test_pain_40_plain_lora_is_taken_by_all_as_is_what_is_made_plain(keys: dict[str, Any]) -> None:
    assert taken(**keys) == set(SERVERS)
    assert told(Lora.model_validate(keys)) == "the adapter is for PEFT, vLLM, SGLang, llama.cpp, Ollama, LMDeploy"


def test_pain_26_what_a_server_refuses_is_known_before() -> None:
    assert taken(dora=True) == set()
    assert taken(modules_to_save=["embed_tokens"]) == taken(token_rows=["<|tool|>"]) == set()
    assert taken(experts=True) == set()
    assert taken(init="loftq") == set()  # on a base in 16 bits it would add the rounding of 4 bits
    assert "vLLM" not in taken(rank=513)
    assert "vLLM" not in taken(rank=257, init="pissa")  # which is handed on at twice its rank
    assert taken(target_modules=["q_proj"]) == set(SERVERS) - {"SGLang"}
    assert taken(layers=[0]) == set(SERVERS) - {"LMDeploy"}
    said = told(Lora(rank=513))
    assert said == "the adapter is for PEFT, SGLang, llama.cpp, Ollama, LMDeploy; not vLLM: its highest rank is 512"


def test_the_adapter_of_a_base_that_reads_pictures_is_for_vllm_and_the_merged_model_for_all() -> None:
    said = told(Lora(), pictures="Gemma3ForConditionalGeneration")
    assert said.startswith("the adapter is for PEFT, vLLM; not SGLang, llama.cpp, Ollama, LMDeploy: it is not known to")
    said = told(Lora(), pictures="Gemma3nForConditionalGeneration")
    assert said == "the adapter is for PEFT alone: no server loads it; serve the merged model"


def test_adalora_is_handed_on_as_lora_of_at_most_its_first_rank() -> None:
    assert told(block({"method": "adalora"})) == told(Lora())
    assert "not vLLM" in told(block({"method": "adalora", "rank": 512}))
    assert "not LMDeploy" in told(block({"method": "adalora", "layers": [0]}))


def test_the_rank_that_is_handed_on() -> None:
    assert handed_rank(Lora(rank=8)) == 8
    assert handed_rank(Lora(rank=8, rank_pattern={"q_proj": 32})) == 32
    assert handed_rank(Lora(rank=8, init="olora")) == 16


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("lora", "adalora")])
def test_no_server_loads_another_method(method: str) -> None:
    assert told(block({"method": method})).startswith("the adapter is for PEFT alone")
