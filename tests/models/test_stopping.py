"""Answers end where training taught them to, whatever the tokenizer calls its end of sequence (pain 1)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LogitsProcessor, LogitsProcessorList

from llmtune.data.conversation import Conversation, Message
from llmtune.data.layout import Said
from llmtune.data.render import render
from llmtune.events import Events
from llmtune.export.adapter import unknown_stop
from llmtune.merge.merge import write_merged
from llmtune.models.stopping import eos_ids, stop_ids
from llmtune.models.tokenizer import load
from llmtune.serve.chat import Speaker
from tests.merge.test_merge import asked
from tests.tiny_models import TURN_AND_TEXT_END
from tests.trained_models import Trained, write_trained

END_OF_TEXT, END_OF_TURN = 0, 2


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A base that ends a turn with one token and a text with another, and whose own files know the latter alone."""
    return write_trained(tmp_path_factory.mktemp("phi"), template=TURN_AND_TEXT_END, eos="<|endoftext|>")


class Says(LogitsProcessor):
    """Makes any model say these tokens."""

    def __init__(self, prompt: int, tokens: list[int]) -> None:
        self.prompt, self.tokens = prompt, tokens

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        forced = torch.full_like(scores, float("-inf"))
        forced[:, self.tokens[input_ids.shape[1] - self.prompt]] = 0.0
        return forced


def test_the_end_of_the_turn_is_what_is_trained(trained: Trained) -> None:
    rows = [Conversation((Message("user", "Do you repair lamps?"), Message("assistant", "Yes.")), "rows.jsonl:1")]
    (sample,) = render(rows, load(Path(trained.base.path)), Said()).samples
    assert [token for token, flag in zip(sample.ids, sample.supervised, strict=True) if flag][-1] == END_OF_TURN
    assert sample.ids[-1] == END_OF_TEXT


def test_the_merged_model_stops_there_by_its_own_files(trained: Trained, tmp_path: Path) -> None:
    assert eos_ids(Path(trained.base.path) / "generation_config.json") == [END_OF_TEXT]
    write_merged(asked(trained, tmp_path), tmp_path, Events(None))
    assert eos_ids(tmp_path / "generation_config.json") == [END_OF_TEXT, END_OF_TURN]
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    prompt = torch.tensor([[50, 51, 52]])
    for stop in (END_OF_TEXT, END_OF_TURN):
        says = LogitsProcessorList([Says(3, [60, 61, stop, 62, 63])])
        said = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=5, logits_processor=says)
        assert said[0, 3:].tolist() == [60, 61, stop]


def test_chat_and_evaluation_stop_there(trained: Trained) -> None:
    assert stop_ids(Path(trained.tokenizer), END_OF_TEXT) == [END_OF_TEXT, END_OF_TURN]
    speaker = Speaker(trained.base, trained.adapter, None, Path(trained.tokenizer), lambda text: None)
    assert speaker.stops == [END_OF_TEXT, END_OF_TURN]


def test_who_serves_the_adapter_on_the_base_is_told(trained: Trained) -> None:
    assert unknown_stop(Path(trained.base.path), Path(trained.tokenizer)) == ("<|im_end|>", END_OF_TURN)


@pytest.mark.parametrize(("found", "ids"), [({}, []), (None, []), (7, [7]), ([5, 0], [5, 0])])
def test_a_configuration_may_name_none_one_or_several(tmp_path: Path, found: object, ids: list[int]) -> None:
    file = tmp_path / "generation_config.json"
    assert eos_ids(file) == []
    file.write_text(json.dumps({} if found == {} else {"eos_token_id": found}))
    assert eos_ids(file) == ids
