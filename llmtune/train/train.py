"""The training stage: an adapter by TRL, PEFT, bitsandbytes and DeepSpeed, and the proof that it is one."""

from __future__ import annotations

import gc
import os
import shutil
import time
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from peft import set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoTokenizer
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from llmtune import files
from llmtune.errors import Stopped
from llmtune.events import Events
from llmtune.heartbeat import Beat
from llmtune.lock import versions
from llmtune.models import own, reference
from llmtune.models.adapter import VIRTUAL
from llmtune.models.loading import load_base, load_with_adapter
from llmtune.models.stopping import stop_ids
from llmtune.train import attach, compiler, proof
from llmtune.train.attach import Begun
from llmtune.train.average import AVERAGE, Average, put
from llmtune.train.batches import Rows
from llmtune.train.checkpoints import ADAPTER, Checkpoint, Checkpoints, Progress, Training, read_progress
from llmtune.train.inputs import TrainInputs
from llmtune.train.kernels import Kernels
from llmtune.train.launch import LOOPBACK, interface, processes, rank, store_file
from llmtune.train.metrics import signs
from llmtune.train.noise import Noise
from llmtune.train.plain import is_plain, write_plain
from llmtune.train.pulse import Pulse
from llmtune.train.ranks import Ranks
from llmtune.train.settings import settings, stage
from llmtune.train.stopping import StopRequest
from llmtune.train.trainer import RowTrainer
from llmtune.train.watch import Watch


def train(inputs: TrainInputs, events: Events, beat: Beat | None = None) -> dict[str, Any]:
    """Train an adapter, or go on with it, and write it to `inputs.out`. Called on every rank; rank 0 returns the facts.

    Raises Stopped when asked to stop (all is saved), StageError when the loss is no number, MachineError when the
    disk is full, ProofError when what came out is not an adapter.
    """
    _meet(inputs)
    beat = beat or Beat(None)
    beat.reached("compiling DeepSpeed's operators")
    stop = StopRequest(inputs.stop_after)
    stop.install()
    began = time.monotonic()
    checkpoints = Checkpoints(Path(inputs.checkpoints), _this(inputs), inputs.keep_checkpoints)
    resumed = checkpoints.newest(events.note, inputs.changed)
    compiler.build(_operators(inputs))
    beat.reached("loading the base")
    trainer = _trainer(inputs, checkpoints, events)
    trainer.add_callback(Pulse(beat))
    begun = attach.begun(trainer.model)
    progress = resumed.progress if resumed else Progress()
    if not progress.finished:
        if resumed:
            events.note(_from_where(resumed, inputs))
        progress = _run(trainer, inputs, Watch(inputs, checkpoints, events, stop, resumed), resumed)
        proof.untouched(trainer.model, begun)
    beat.reached("handing over")
    best = checkpoints.at(progress.best_step or progress.step)
    made = checkpoints.aside / "adapter"
    model, proved = _made(trainer, inputs, best, begun, made)
    del trainer
    if rank() != 0:
        return {}
    return _hand_over(inputs, model, made, progress) | {
        "adapter": proved,
        "resumed_from": resumed.progress.step if resumed else 0,
        "seconds": round(time.monotonic() - began, 2),
    }


def _from_where(resumed: Checkpoint, inputs: TrainInputs) -> str:
    where = f"goes on from step {resumed.progress.step} of {resumed.progress.total}"
    if resumed.exactly == inputs.exactly:
        return where
    how = "the rows of a step shared out another way"
    if resumed.processes != processes():
        how = f"launch.processes {processes()} instead of {resumed.processes}"
    return f"{where} with {how}: the same rows, sums differ in their last bits"


def _this(inputs: TrainInputs) -> Training:
    """What a checkpoint of this training says of itself."""
    splits = {"train": inputs.train, "heldout": inputs.heldout}
    data = {split: files.sha256(Path(path)) for split, path in splits.items() if path}
    facts = {"data": data, "versions": versions(), "threads": inputs.base.threads}
    return Training(inputs.fingerprint, inputs.exactly, facts, processes(), inputs.anew)


def _operators(inputs: TrainInputs) -> list[str]:
    """What DeepSpeed compiles for this training; here, so that no process waits for what a killed one left."""
    zero = {} if inputs.deepspeed is None else inputs.deepspeed["zero_optimization"]
    places = [zero.get(key, {}).get("device", "none") for key in ("offload_optimizer", "offload_param")]
    return compiler.needed(inputs.base.device, stage(inputs), *places)


def _trainer(inputs: TrainInputs, checkpoints: Checkpoints, events: Events) -> RowTrainer:
    if rank() == 0:
        checkpoints.clear()
    rows = Rows.read(Path(inputs.train))
    heldout = Rows.read(Path(inputs.heldout)) if inputs.heldout else None
    arguments = settings(inputs, checkpoints.aside)
    trainer = RowTrainer(
        rows,
        heldout,
        checkpoints,
        inputs.optimizer,
        Kernels(**inputs.kernels),
        events.note,
        model=attach.attach(load_base(inputs.base), inputs),
        args=arguments,
        processing_class=AutoTokenizer.from_pretrained(inputs.tokenizer),
    )
    if inputs.start:  # not before: TRL rounds the adapter of a quantized base to bfloat16
        attach.go_on_from(trainer.model, Path(inputs.start))
    trainer.skips = inputs.watch["not_finite"] == "skip"
    if inputs.neftune is not None:
        Noise(trainer.model, inputs.neftune)
    return trainer


def _run(trainer: RowTrainer, inputs: TrainInputs, watch: Watch, resumed: Checkpoint | None) -> Progress:
    """Train to the end, or until asked to stop."""
    watch.trainer = trainer
    trainer.add_callback(watch)
    if inputs.average is not None:
        trainer.average = Average(trainer.model, inputs.average, resumed.folder if resumed else None)
    if inputs.adapter["config"] == "AdaLoraConfig":
        trainer.ranks = Ranks(trainer.model, resumed.folder if resumed else None)
        trainer.add_callback(trainer.ranks)
    trainer.train(resume_from_checkpoint=str(resumed.folder) if resumed else None)
    if watch.stopped:
        watch.stop.settle()
        step = f"step {watch.progress.step} of {watch.progress.total}"
        raise Stopped.one(step, f"{watch.stopped}, and saved", "the same command goes on from here")
    return watch.progress


def _with_best(trainer: RowTrainer, inputs: TrainInputs, best: Path) -> Any:
    """The model that was trained, with the adapter of the checkpoint `best`; of use on rank 0 alone.

    Under ZeRO-3 no rank has a whole model to answer with, so rank 0 loads one.
    """
    if own.is_in(best):
        own.put_in_place(trainer.model, _own_weights(inputs, best), getattr(torch, inputs.base.dtype))
        return trainer.model
    if stage(inputs) < 3:
        result = set_peft_model_state_dict(trainer.model, load_file(best / ADAPTER[0]))
        assert not set(result.unexpected_keys) - {VIRTUAL}  # noqa: S101
        if inputs.average is not None:
            put(trainer.model, best)
        return trainer.model
    _let_go(trainer)
    return load_with_adapter(inputs.base, best) if rank() == 0 else None


def _let_go(trainer: RowTrainer) -> None:
    """Make room for another model."""
    trainer.model = trainer.model_wrapped = None
    gc.collect()
    unset_hf_deepspeed_config()


def _own_weights(inputs: TrainInputs, best: Path) -> Path:
    """Trained weights of the base's own, or their average: both have the same names."""
    return best / (own.FILE if inputs.average is None else AVERAGE)


def _made(trainer: RowTrainer, inputs: TrainInputs, best: Path, begun: Begun, made: Path) -> tuple[Any, dict[str, Any]]:
    """Write the trained adapter into the folder `made` and prove it; gives the model that answers with it.

    What is no plain LoRA yet is made so, and answers on the base as it is. Of use on rank 0 alone.
    """
    waiting = trainer.waiting(read_progress(best).step)
    model = _with_best(trainer, inputs, best)
    if rank() != 0:
        return None, {}
    made.mkdir(parents=True)
    if own.is_in(best):
        shutil.copyfile(_own_weights(inputs, best), made / own.FILE)
    elif inputs.average is None:
        for name in ADAPTER:
            shutil.copyfile(best / name, made / name)
    else:
        model.save_pretrained(made)
    proved = asdict(proof.prove(made, begun, waiting))
    if not own.is_in(made) and not is_plain(made):
        del model
        _let_go(trainer)
        write_plain(made, begun.first, begun.scales)
        model = load_with_adapter(inputs.base, made)
    return model, proved


def _hand_over(inputs: TrainInputs, model: Any, made: Path, progress: Progress) -> dict[str, Any]:
    """Write the result as a whole, and say what it is."""
    with files.atomic_folder(Path(inputs.out), fingerprint=inputs.fingerprint, step=progress.best_step) as folder:
        adapter = folder / "adapter"
        adapter.mkdir()
        for name in (own.FILE,) if own.is_in(made) else ADAPTER:
            shutil.copyfile(made / name, adapter / name)
        asked = Path(inputs.heldout or inputs.train)
        tokenizer = AutoTokenizer.from_pretrained(inputs.tokenizer)
        stops = stop_ids(Path(inputs.tokenizer), model.generation_config.eos_token_id)
        answered = reference.write(model, asked, stops, tokenizer.pad_token_id or 0, inputs.base.threads, folder)
    return {
        "steps": progress.step,
        "total_steps": progress.total,
        "stopped_early": progress.stopped_early,
        "best_step": progress.best_step or progress.step,
        "heldout_loss": progress.best_loss,
        "skipped_steps": progress.skipped,
        "micro_batch": inputs.sft["per_device_train_batch_size"],
        "signs": [asdict(sign) for sign in signs(Path(inputs.metrics))],
        "reference_prompts": answered,
    }


def _meet(inputs: TrainInputs) -> None:
    """Let the ranks find one another: on one machine by a file, and nothing listens but on the loopback interface."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", interface(LOOPBACK))
    file = store_file(Path(inputs.beats))
    if file is None or dist.is_initialized():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    backend = "gloo" if inputs.base.device == "cpu" else "cuda:nccl,cpu:gloo"
    patience = timedelta(seconds=inputs.sft.get("ddp_timeout", 1800))
    store = dist.FileStore(str(file), processes())  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=rank(), world_size=processes(), timeout=patience)
