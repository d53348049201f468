"""What an adapter has of the base itself: whole tensors, and the rows of some tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, tensor

from llmtune.merge.layout import Layout
from llmtune.models.adapter import PREFIX, ROWS, Adapter
from llmtune.models.checkpoint import Span
from llmtune.models.packed import Stored


@dataclass(frozen=True)
class Rows:
    """Trained rows of a matrix."""

    tokens: Sequence[int]
    """Ids of the tokens, in the order of the rows."""
    span: Span


@dataclass(frozen=True)
class Beside:
    """By the base's own names of its tensors."""

    whole: Mapping[str, Span]
    rows: Mapping[str, Rows]
    tied: bool
    """What is one in the base is so here too."""

    @classmethod
    def of(cls, adapter: Adapter) -> Beside:
        """PEFT has one list of tokens for the embeddings, or a list for each of several modules."""
        own = {key.removeprefix(PREFIX): span for key, span in adapter.beside.items()}
        tokens = adapter.config.get("trainable_token_indices") or {}
        rows = {}
        for name in (name for name in own if name.endswith(f".{ROWS}")):
            module = name.removesuffix(f".{ROWS}")
            by_module = tokens if isinstance(tokens, dict) else {module: tokens}
            of_it: Sequence[int] = next((ids for key, ids in by_module.items() if f".{module}".endswith(f".{key}")), [])
            rows[f"{module}.weight"] = Rows(of_it, own[name])
        whole = {name: span for name, span in own.items() if not name.endswith(f".{ROWS}")}
        return cls(whole, rows, bool(adapter.config.get("ensure_weight_tying")))

    def problems(self, base: Mapping[str, Stored], layout: Layout) -> Iterator[str]:
        """What the base, whose tensors are given by its own names, has not, or in another shape, or as one."""
        for name, span in self.whole.items():
            where = layout.one_with.get(name, name)
            if where not in base:
                yield f"{name} is no tensor of the base"
            elif base[where].shape != span.shape:
                yield f"{name} is {list(span.shape)}, in the base {list(base[where].shape)}"
            elif name in layout.tied and not self.tied:
                yield f"{name} shares its weight with another layer"
        for name, rows in self.rows.items():
            if name not in base or name in layout.one_with:
                yield f"{name} has no rows of its own in the base"
            elif rows.span.shape != (len(rows.tokens), base[name].shape[1]):
                what = f"for {len(rows.tokens)} tokens of {base[name].shape[1]} features"
                yield f"{name} has rows of {list(rows.span.shape)} {what}"
            elif max(rows.tokens) >= base[name].shape[0]:
                yield f"{name} has no row {max(rows.tokens)}"

    def put(self, name: str, found: Tensor, rows: Tensor) -> Tensor:
        """The tensor of the base with the trained rows in it."""
        return found.index_copy(0, tensor(self.rows[name].tokens, device=found.device), rows.to(found))
