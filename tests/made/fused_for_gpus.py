"""Compiles the kernel of `methods.fused` for a GPU that need not be there: in the interpreter all Python is allowed."""

from __future__ import annotations

import itertools

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from methods.fused import BLOCK
from methods.fused_kernel import timesteps

NUMBERS = {
    "size": "i32",
    "images": "i32",
    "steps": "i32",
    "threshold": "fp32",
    "fire_at": "fp32",
    "retract_below": "fp32",
    "most": "fp32",
}
CHOICES = ("RETRACTS", "BOUNDED", "MASKED", "COUNTED", "CONSTANT")


def main() -> None:
    """Every variant, for compute capability 9.0."""
    for chosen, current in itertools.product(itertools.product((False, True), repeat=5), ("*fp32", "*bf16")):
        if chosen[-1] and current == "*bf16":
            continue  # several timesteps at once are for float32
        constants = {**dict(zip(CHOICES, chosen, strict=True)), "BLOCK": BLOCK}
        types = {name: NUMBERS.get(name, "*fp32") for name in timesteps.arg_names} | dict.fromkeys(
            constants, "constexpr"
        )
        types["current"] = current
        if constants["COUNTED"]:
            types |= {"fan_out": "*i32", "totals": "*i64"}
        compiled = triton.compile(ASTSource(timesteps, types, constants), target=GPUTarget("cuda", 90, 32))
        # Sums over an image that lies in several blocks meet in memory.
        assert ("atom" in compiled.asm["ptx"] or "red." in compiled.asm["ptx"]) == constants["COUNTED"]
    print("all compiled")  # noqa: T201


if __name__ == "__main__":
    main()
