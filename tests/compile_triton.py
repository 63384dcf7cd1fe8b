"""Compiles launches of the Triton kernels for a GPU that is not here; run by test_triton_launches.py in a fresh process.

The interpreter, once used, leaves Triton's language patched, so that nothing compiles in its process any more.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

PROGRAM = Path(__file__).parents[1] / "lightning_adam" / "statistics" / "triton_program.py"
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


def compiled(kernel: Any, launch: dict[str, Any], capability: int) -> Any:
    """As launched with arguments of these types, on a GPU of this capability."""
    types = launch["types"]
    names = dict(zip(kernel.arg_names, types, strict=False))
    constants = {key: triton.language.dtype(value) if key in "PGMV" else value for key, value in launch["constants"].items()}
    signature = {name: names.get(name, "constexpr") for name in kernel.arg_names}
    aligned = {(index,): [["tt.divisibility", 16]] for index, of in enumerate(types) if of.startswith("*")}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=launch["options"])


def resources(cubin: bytes) -> tuple[int, int]:
    """Registers per thread, and bytes of stack, which is where spilled ones go."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(cubin)
        file.flush()
        printed = subprocess.run([CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    fields = dict(field.split(":", 1) for field in printed.split() if ":" in field)
    return int(fields["REG"]), int(fields["STACK"])


def main() -> None:
    """From stdin launches as JSON, to stdout what became of them."""
    spec = importlib.util.spec_from_file_location("triton_program", PROGRAM)
    assert spec is not None and spec.loader is not None
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    found = []
    for launch in json.load(sys.stdin):
        made = compiled(getattr(program, launch["kernel"]), launch, int(sys.argv[1]))
        registers, stack = resources(made.asm["cubin"])
        found.append({"wide": made.asm["ptx"].count(".v4.b32"), "registers": registers, "stack": stack})
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
