"""What a base computes in where the recipe leaves it open."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmtune.plan.number_type import decided, note, of_gpu, of_processor
from llmtune.recipe.schema import Recipe

XEON = "processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_vnni avx512_bf16 amx_bf16 amx_tile\nbogomips\t: 5200\n"
ZEN3 = "processor\t: 0\nmodel name\t: AMD EPYC 7763 bf16\nflags\t\t: fpu sse2 avx2 fma\n"
GRAVITON3 = "processor\t: 0\nFeatures\t: fp asimd fphp asimdhp sve i8mm bf16 rng\n"
GRAVITON2 = "processor\t: 0\nFeatures\t: fp asimd fphp asimdhp\n"


@pytest.mark.parametrize(
    ("capability", "best"),
    [
        ((6, 1), "float32"),  # GTX 1080
        ((7, 0), "float16"),  # V100
        ((7, 5), "float16"),  # T4
        ((8, 0), "bfloat16"),  # A100
        ((8, 9), "bfloat16"),  # RTX 4090
        ((12, 0), "bfloat16"),  # RTX 5090
        (None, "bfloat16"),
    ],
)
def test_a_gpu_computes_in_what_it_multiplies_in_hardware(capability: tuple[int, int] | None, best: str) -> None:
    assert of_gpu(capability) == best


@pytest.mark.parametrize(
    ("cpuinfo", "best"),
    [(XEON, "bfloat16"), (ZEN3, "float32"), (GRAVITON3, "bfloat16"), (GRAVITON2, "float32"), ("", "float32")],
)
def test_a_processor_computes_in_bfloat16_if_it_has_instructions_for_it(
    cpuinfo: str, best: str, tmp_path: Path
) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert of_processor(tmp_path / "cpuinfo") == best
    assert of_processor(tmp_path / "none") == "float32"


def test_this_processor_is_known_as_torch_knows_it() -> None:
    import torch

    assert (of_processor() == "bfloat16") == torch.cpu._is_avx512_bf16_supported()


def test_auto_becomes_the_type_of_the_machine_and_another_stays() -> None:
    plain = {"base": "x", "data": "y"}
    found = decided(Recipe.model_validate(plain), "float16")
    assert found.quantization.compute_dtype == "float16" and found.quantization.type == "nf4"
    asked = Recipe.model_validate({**plain, "quantization": {"compute_dtype": "float32"}})
    assert decided(asked, "float16") == asked


def test_the_choice_is_told_with_its_reason() -> None:
    assert note("auto", "float16", "cuda", "float16", "NVIDIA T4").startswith(
        "computes in float16: NVIDIA T4 multiplies it in tensor cores, and no bfloat16"
    )
    assert note("bfloat16", "bfloat16", "cuda", "bfloat16", "NVIDIA A100") == "computes in bfloat16, as asked"
    assert "but float32 is quicker here" in note("bfloat16", "bfloat16", "cpu", "float32", "CPU, 2 cores")
