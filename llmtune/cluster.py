"""What a cluster wants to start a run on several machines: a SLURM script, a hostfile."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from llmtune.console import Console
from llmtune.errors import Problem, RecipeError
from llmtune.recipe.load import Loaded, read
from llmtune.train.launch import split

PORT = 29500
"""Of the meeting, where the recipe names none."""

SLURM = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={processes}
#SBATCH --output={name}-%j.out
# One llmtune on each machine, {ranks} processes in all. What was stopped goes on with the same script.
set -euo pipefail
cd -- {folder}
{meet}exec srun {command}
"""
MEET = """first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)\n"""
HOSTFILE = """\
# for DeepSpeed, and for Open MPI: mpirun --hostfile THIS --map-by ppr:1:node {command}
"""


def launch(
    file: Path, out: Path | None, overrides: Sequence[str], slurm: bool, hosts: Sequence[str], console: Console
) -> None:
    """`llmtune launch`: print the SLURM script or the hostfile, and nothing else, so that it can be written to a file.

    Raises:
        RecipeError: the recipe does not say how many processes a machine has, or has other machines than are named.
    """
    loaded, misread = read(file, overrides)
    if slurm and loaded.recipe.launch.nodes > 1 and loaded.recipe.launch.rendezvous is None:
        # SLURM says which machine that is
        loaded, misread = read(file, [*overrides, f"launch.rendezvous=first:{PORT}"])
    if problems := [*misread, *loaded.broken]:
        raise RecipeError(problems)
    given = [word for override in overrides for word in ("--set", override)]
    command = ["llmtune", "run", str(file), *([] if out is None else ["--out", str(out)]), *given]
    text = slurm_script(loaded, command) if slurm else hostfile(loaded, command, hosts)
    console.plain(text)
    console.json({"text": text})


def slurm_script(loaded: Loaded, command: Sequence[str]) -> str:
    """For `sbatch`. The others meet at the first of the machines that SLURM gives."""
    wanted, processes, call = loaded.recipe.launch, _processes(loaded), shlex.join(command)
    if wanted.rendezvous is not None:
        call += f' --set launch.rendezvous="$first:{split(wanted.rendezvous)[1]}"'
    return SLURM.format(
        name=loaded.name,
        nodes=wanted.nodes,
        processes=processes,
        ranks=wanted.nodes * processes,
        folder=shlex.quote(str(Path.cwd())),
        meet="" if wanted.rendezvous is None else MEET,
        command=call,
    )


def hostfile(loaded: Loaded, command: Sequence[str], hosts: Sequence[str]) -> str:
    """A line a machine, the first one first: `node1 slots=8`."""
    wanted, slots = loaded.recipe.launch, _processes(loaded)
    first = [] if wanted.rendezvous is None else [split(wanted.rendezvous)[0]]
    named = list(dict.fromkeys([*first, *hosts]))
    if len(named) != wanted.nodes:
        what = f"{len(named)} machines are named ({', '.join(named) or 'none'}), and launch.nodes is {wanted.nodes}"
        raise RecipeError.one("--host", what, "name each of them: --host node1 --host node2")
    return HOSTFILE.format(command=shlex.join(command)) + "".join(f"{host} slots={slots}\n" for host in named)


def _processes(loaded: Loaded) -> int:
    """On each machine; this one need not be like those."""
    wanted = loaded.recipe.launch.processes
    if wanted == "auto":
        what = "launch.processes: auto is found by each machine, and this one is not asked"
        do = "write how many GPUs each has: --set launch.processes=8"
        raise RecipeError([Problem(loaded.where("launch.processes"), what, do)])
    return wanted
