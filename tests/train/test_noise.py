"""NEFTune on flattened rows: the noise of a row depends on its own length, whatever it is computed with."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llmtune.train.noise import Noise, lengths

WIDTH = 256


class Model(nn.Module):
    """An embedding of zeros: what comes out is the noise."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(2, WIDTH)
        nn.init.zeros_(self.embedding.weight)

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def forward(self, input_ids: Tensor, position_ids: Tensor | None = None) -> Any:
        return self.embedding(input_ids)


def test_each_token_knows_the_length_of_its_row() -> None:
    positions = torch.tensor([[0, 1, 2, 0, 1, 0, 0]])  # the last one fills up the block
    assert lengths(positions).tolist() == [[3, 3, 3, 2, 2, 1, 1]]


def test_the_noise_of_a_row_is_that_of_the_paper_whatever_lies_beside_it() -> None:
    """Uniform in +-alpha / sqrt(L d) (Jain et al. 2023, algorithm 1), so with that over sqrt(3) as its deviation."""
    model = Model()
    Noise(model, 5.0)
    positions = torch.cat([torch.arange(64), torch.arange(16)]).unsqueeze(0)
    torch.manual_seed(0)
    noise = model(torch.zeros_like(positions), position_ids=positions)[0]
    for part, length in ((noise[:64], 64), (noise[64:], 16)):
        size = 5.0 / math.sqrt(length * WIDTH)
        assert part.abs().max() <= size
        assert part.std().item() == pytest.approx(size / math.sqrt(3), rel=0.05)


def test_there_is_no_noise_where_nothing_is_trained() -> None:
    model = Model().eval()
    Noise(model, 5.0)
    assert not model(torch.zeros(1, 4, dtype=torch.int64), position_ids=torch.arange(4).unsqueeze(0)).any()
