"""Keeps away what a library prints and a user can do nothing about; it still reaches the run's log.

Each switch is one that the library offers. What each one silences is said beside it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import warnings
from importlib import metadata
from pathlib import Path


def search_path() -> str:
    """PATH with this environment's bin folder, where pip puts the ninja that DeepSpeed compiles with."""
    bin_folder, path = str(Path(sys.executable).parent), os.environ.get("PATH", "")
    return path if bin_folder in path.split(os.pathsep) else bin_folder + os.pathsep + path


QUANTIZING = {"MALLOC_MMAP_THRESHOLD_": "1048576"}
"""Environment of the process that quantizes a base: what a tensor needed meanwhile goes back to the system at once.
glibc would keep it between the weights: 1.1 GB held for 0.4 GB of int8 weights, measured."""


def operators() -> str:
    """Folder of the operators that DeepSpeed compiles: one for each environment, as their flags name its path.

    In the one that torch has for all, two checkouts would each compile anew after the other. Torch's own variable is
    left as it is.
    """
    known = os.environ.get("TORCH_EXTENSIONS_DIR")
    if known is not None:
        return known
    mark = hashlib.sha256(f"{sys.prefix} {metadata.version('torch')}".encode()).hexdigest()[:12]
    return str(Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "llmtune" / "operators" / mark)


def environment(device: str, threads: int) -> dict[str, str]:
    """Environment of a stage's process, on top of today's."""
    switches = {
        "PATH": search_path(),
        "TORCH_EXTENSIONS_DIR": operators(),
        "OMP_NUM_THREADS": str(threads),
        # A waiting thread soon sleeps instead of spinning on: beside one other busy process a training on two cores
        # made 760 tokens a second with libgomp's default and 1,700 with this; alone 3,600 with either
        "GOMP_SPINCOUNT": "2000",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TQDM_DISABLE": "1",
        # cuBLAS is deterministic only with a workspace of fixed size
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }
    if device == "cpu":
        # "Setting accelerator to CPU. If you have GPU or other accelerator, we were unable to detect it."
        switches["DS_ACCELERATOR"] = "cpu"
    return switches


def hush() -> None:
    """Call in a stage's process before the libraries are imported."""
    # "Failed to load CPU gemm_4bit_forward from kernels-community": a kernel that is not needed
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    # "MatMul8bitLt: inputs will be cast": what LLM.int8 does in each layer, told at each
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    # raised inside transformers and TRL about their own attribute
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    # PEFT, at every answer of a model with virtual tokens, of what transformers' generation hands it
    warnings.filterwarnings("ignore", message="Position ids are not supported for parameter efficient tuning")
    # DeepSpeed's own calls of older collectives
    warnings.filterwarnings("ignore", message=r"`torch\.distributed\.", category=FutureWarning)
