"""TRL's SFTTrainer on flattened rows.

Written for trl 1.16 and transformers 5.23: `compute_loss`, `evaluate` and `floating_point_ops` are theirs to override,
`_get_grad_norm` is a step of their loop that has no hook.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import datasets
import torch
import torch.distributed as dist
from peft import PeftModel
from peft.optimizers.lorafa import LoraFAOptimizer
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llmtune.errors import RecipeError
from llmtune.models import virtual
from llmtune.plan.order import Order
from llmtune.train import freezing, optimiser
from llmtune.train.batches import BLOCK, IGNORED, Batch, MicroBatches, Rows, only
from llmtune.train.checkpoints import Checkpoints
from llmtune.train.counts import Counts
from llmtune.train.finite import broken
from llmtune.train.halves import GradientScale
from llmtune.train.kernels import Kernels
from llmtune.train.saving import SavingTrainer
from llmtune.train.ways import Ways

EVALUATED_AT_ONCE = 512
"""Tokens of a held-out micro-batch; one longer row is a micro-batch of its own. Small, so that an evaluation needs less
memory than the training around it, and stays cheap where attention is computed on all pairs of its tokens."""


class Epoch(TrainerCallback):
    """Says which epoch it is, as transformers is shown one long one; does what must be done when all is loaded."""

    def __init__(self, steps_per_epoch: int, ready: Callable[[], None]) -> None:
        self._steps = steps_per_epoch
        self._ready = ready

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._ready()

    def on_step_end(self, _: TrainingArguments, state: TrainerState, __: TrainerControl, **___: Any) -> None:
        state.epoch = state.global_step / self._steps


class RowTrainer(SavingTrainer):
    """Trains on flattened rows, without padding; see `batches`.

    Only the supervised positions get logits, and a chunk of them at a time. The experts of a mixture are not balanced:
    that the recipe does not ask for.
    """

    control: TrainerControl
    aux_loss_enabled: bool
    optimizer: Optimizer | None
    optimizer_cls_and_kwargs: tuple[type[Optimizer], dict[str, Any]] | None

    def __init__(
        self,
        rows: Rows,
        heldout: Rows | None,
        checkpoints: Checkpoints,
        optimizer: dict[str, Any],
        kernels: Kernels,
        note: Callable[[str], None],
        **given: Any,
    ) -> None:
        self._asked = optimizer
        self._note = note
        self._rows = rows
        self._heldout = heldout
        self.counts = Counts()
        self.skips = False
        """Whether a step that is not finite is left out; else it is the last one anyway."""
        numbers = datasets.Dataset.from_dict({"row": range(len(rows))})
        super().__init__(checkpoints, train_dataset=numbers, data_collator=only, **given)
        self.model_accepts_loss_kwargs = True  # compute_loss does, whatever the base says of its own loss (Qwen-VL)
        ranks, args = self.args.world_size, self.args
        batch_size = args.per_device_train_batch_size * args.gradient_accumulation_steps * ranks
        self._order = Order(len(rows), batch_size, args.data_seed)
        self.remove_callback(PrinterCallback)
        self.add_callback(Epoch(self._order.steps_per_epoch, self._ready))
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                # TRL casts the adapter of a 4-bit base to bfloat16, where AdamW loses small updates, and resuming makes
                # it float32 again without a word; float32 from first to last
                parameter.data = parameter.data.float()
        if optimizer["lora_fa"]:
            optimiser.freeze_a(self.model)
        self.joins = self._joins()
        """First step, from 0, of what has so many layers behind it; empty where all trains from the start."""
        adapted = isinstance(self.model, PeftModel)
        self.own = {} if adapted else {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self._gradients = GradientScale(self.model)
        self._base = self.model.get_base_model() if adapted else self.model
        self.ways = Ways(self._base, kernels, note)
        if self.aux_loss_enabled:  # TRL's default, where transformers' is to balance nothing
            self.aux_loss_enabled = False
            self._base.config.get_text_config().output_router_logits = False
        if virtual.tokens(self.model) and not self.ways.picks_positions:
            what = "the loss of this base cannot be told from behind virtual tokens"
            raise RecipeError.one("adapter.method", what, "choose another method")

    @property
    def sources(self) -> Sequence[str]:
        """Where each training row comes from."""
        return self._rows.sources

    def train(self, *given: Any, **named: Any) -> Any:
        """As TRL does, in the ways of computing that `ways` chooses when all is loaded and wrapped."""
        with self.ways.lent():
            return super().train(*given, **named)

    def _ready(self) -> None:
        meet, in_front = self.args.per_device_train_batch_size > 1, virtual.tokens(self.model) > 0
        self.ways.choose(self.model_wrapped, self._rows, self.args.device, meet=meet, in_front=in_front)

    @property
    def remedy(self) -> str:
        """What to do first where a number is not finite, of this base; mostly nothing."""
        return self._gradients.remedy

    @property
    def heldout_tokens(self) -> int:
        """Tokens that are computed at each measurement."""
        return 0 if self._heldout is None else len(self._heldout.ids)

    @property
    def micro_batches(self) -> MicroBatches:
        """This rank's micro-batches of all steps."""
        args = self.args
        return MicroBatches(
            self._rows,
            self._order,
            steps=args.max_steps,
            accumulation=args.gradient_accumulation_steps,
            processes=args.world_size,
            process=args.process_index,
        )

    def get_train_dataloader(self) -> DataLoader[Batch]:
        """This rank's micro-batches of all steps, as if of one epoch: so a resumed training skips exactly what it had.

        accelerate would share them out among the ranks once more, so it does not get to see them. Nothing is drawn
        from torch's own random numbers, which a resumed training must find as they were.
        """
        return DataLoader(
            self.micro_batches,
            collate_fn=only,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            generator=torch.Generator(),
        )

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        """transformers' own choice of the class, over the groups of `optimiser`."""
        first = self.optimizer is None
        if first:
            model, args = model or self.model, self.args
            groups = optimiser.groups(model, self._asked, args.learning_rate, args.weight_decay, self.joins)
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, model)
            if self._asked["lora_fa"]:
                kind, groups = LoraFAOptimizer, optimiser.in_pairs(model, groups)
            self.optimizer_cls_and_kwargs = kind, {**options, "params": groups}
        made: Optimizer = super().create_optimizer(model)
        if first and self.joins:
            freezing.hold(made, lambda: int(self.state.global_step))
            self._note(f"trains {freezing.told(self.joins, self._base.config.get_text_config().num_hidden_layers)}")
        return made

    def _joins(self) -> dict[int, int]:
        asked = self._asked["unfreezing"]
        if asked is None:
            return {}
        return freezing.joining([place.behind for place in optimiser.places(self.model)], self.args.max_steps, **asked)

    def waiting(self, steps: int) -> set[str]:
        """Names of the parameters that none of the first `steps` trains."""
        late = {behind for behind, joins in self.joins.items() if joins >= steps}
        return {place.name for place in optimiser.places(self.model) if place.behind in late}

    def compute_loss(
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """Cross-entropy summed over the supervised tokens, divided by their number in the whole step on all ranks."""
        assert not return_outputs  # noqa: S101
        rows = inputs.pop("rows")
        self.counts.rows.append(rows)
        self.counts.tokens += sum(self._rows.length(row) for row in rows.tolist())
        self.counts.supervised.append(int((inputs["labels"] != IGNORED).sum()))
        loss: Tensor
        if self.ways.picks_positions:
            loss = self._summed_loss(model, inputs) / num_items_in_batch * self.accelerator.num_processes
        else:
            loss = super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
            self._metrics["train"].clear()
        self.counts.losses.append(loss.detach())
        if self.ranks is not None:
            loss = loss + self.ranks.regulariser() / self.args.gradient_accumulation_steps
        return self._gradients(loss, num_items_in_batch)

    def training_step(self, *given: Any, **named: Any) -> Tensor:
        """The loss to be added up; one that is no number would spoil every sum after it, and is told otherwise."""
        return torch.nan_to_num(super().training_step(*given, **named), nan=0.0, posinf=0.0, neginf=0.0)

    def _summed_loss(self, model: nn.Module, inputs: Batch) -> Tensor:
        """Sum of the cross-entropies at the supervised positions of one flattened micro-batch, float32 scalar."""
        labels = inputs["labels"][0]
        positions = (labels[1:] != IGNORED).nonzero().squeeze(-1)  # each predicts the token after it
        targets = labels[positions + 1]
        fill = (0, -len(positions) % BLOCK)  # as the tokens are: see BLOCK
        positions, targets = functional.pad(positions, fill), functional.pad(targets, fill, value=IGNORED)
        given = virtual.asked(self.model, inputs["input_ids"], inputs["position_ids"], positions)
        head = self.ways.head
        if head is None:
            logits = model(**given, use_cache=False).logits[0]
            return functional.cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="sum")
        with head.states() as states:
            model(**given, use_cache=False)
        return head.summed_loss(states[0][0], targets)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Held-out loss: mean over all supervised tokens of all held-out rows, whatever rank they are on.

        No random number is drawn and no weight is touched, so the training around it is the same with and without.
        """
        with nullcontext() if self.average is None else self.average.in_place():
            metrics = {"heldout_loss": self._heldout_loss()}
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _heldout_loss(self) -> float:
        assert self._heldout is not None  # noqa: S101
        groups = self._heldout.evenly(EVALUATED_AT_ONCE if self.ways.rows_meet else 1)
        ranks, rank = self.args.world_size, self.args.process_index
        total = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        model = self.model_wrapped
        model.eval()  # DeepSpeed's engine returns nothing here
        with torch.no_grad():
            for turn in range(math.ceil(len(groups) / ranks)):  # every rank as often: ZeRO-3 gathers weights together
                mine = turn * ranks + rank
                inputs = self._prepare_inputs(self._heldout.batch(groups[min(mine, len(groups) - 1)]))
                if mine < len(groups):
                    total += self._measured(model, inputs)
                else:
                    self._measured(model, inputs)
                self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        if ranks > 1:
            dist.all_reduce(total)
        return (total[0] / total[1]).item()

    @torch.no_grad()
    def losses_of(self, rows: Sequence[int]) -> list[float]:
        """Of each of these training rows by itself its mean loss; every rank is to ask for the same ones."""
        self.model_wrapped.eval()
        batches = (self._prepare_inputs(self._rows.batch([row])) for row in rows)
        sums = [self._measured(self.model_wrapped, batch).tolist() for batch in batches]
        return [total / count for total, count in sums]

    def _measured(self, model: nn.Module, inputs: Batch) -> Tensor:
        """Sum of the losses and number of the supervised tokens, float64 [2]."""
        inputs.pop("rows")
        count = (inputs["labels"] != IGNORED).sum()
        if self.ways.picks_positions:
            loss = self._summed_loss(model, inputs)
        else:
            loss = super().compute_loss(model, inputs) * count
            self._metrics["eval"].clear()
        return torch.stack([loss.double(), count.double()])

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The norm before clipping; checked here, as this is the last step before the optimiser's.

        DeepSpeed skips a step that is not finite by itself, on all ranks; torch's optimisers pass over a parameter
        without a gradient. `watch` decides whether the training goes on.
        """
        norm = super()._get_grad_norm(model, grad_norm)
        self.counts.broken = broken(self.counts.rows, self.counts.losses, norm, self.args)
        if self.skips and self.counts.broken is not None and not self.is_deepspeed_enabled:
            model.zero_grad()
        return norm

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """TRL writes a card into every checkpoint; a checkpoint is not for others."""

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: it would walk over every parameter at every micro-batch."""
        del inputs
        return 0
