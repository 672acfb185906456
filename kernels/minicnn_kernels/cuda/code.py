"""What every kernel becomes on the GPU, told without one: `python -m minicnn_kernels.cuda.code`.

Each kernel is compiled by numba-cuda to PTX for sm_90 and assembled by ptxas, both of which need no GPU. The
table shows registers, shared memory, bytes that a thread keeps in slow memory (the stack, where spilled
registers and local arrays with unknown indices go) and double-precision instructions; the command fails if a
kernel has a stack, computes in double precision or takes more registers than it declares.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from numba import types
from numba.core import sigutils
from numba.cuda import dispatcher

from minicnn_kernels import cuda as kernels
from minicnn_kernels.cuda.driver import KERNELS, SIMULATED, Kernel, cuda
from minicnn_kernels.ladder import cuda_convolution, cuda_matmul  # noqa: F401  (their kernels count, too)

ARCHITECTURE = (9, 0)
# Where the argument is large the library reduces it modulo pi by one product in double precision.
DOUBLE_PRECISION_IN_THE_LIBRARY = frozenset({"sin", "cos", "tan"})


@dataclass(frozen=True)
class Code:
    """One kernel's machine code in numbers. registers, shared and stack are None without ptxas."""

    name: str
    doubles: int
    registers: int | None
    shared: int | None
    stack: int | None

    def complaints(self, allowed: int) -> list[str]:
        """What is wrong with it; `allowed`: registers that it may use."""
        wrong = []
        if self.doubles and self.name.partition(" ")[0] not in DOUBLE_PRECISION_IN_THE_LIBRARY:
            wrong.append(f"{self.doubles} double-precision instructions")
        if self.stack:
            wrong.append(f"{self.stack} bytes of a stack in slow memory")
        if self.registers is not None and self.registers > allowed:
            wrong.append(f"{self.registers} registers, declared {allowed}")
        return wrong


class _Hopper:
    """Stands in for the device of this machine, of which a kernel's helpers are compiled for."""

    compute_capability = ARCHITECTURE


def machine_code(kernel: Kernel) -> Code:
    """Compile one kernel. Raises RuntimeError with ptxas' words if it refuses."""
    dispatcher.get_current_device = _Hopper  # else numba-cuda asks a driver, which is not here
    arguments, _ = sigutils.normalize_signature(f"void({kernel.signature})")
    ptx, _ = cuda.compile(
        kernel.function,
        types.void(*arguments),
        cc=ARCHITECTURE,
        output="ptx",
        device=False,
        abi="numba",
        **kernel.options,
    )
    doubles = len(re.findall(r"^\s*(?:@\S+\s+)?[a-z][\w.]*\.f64\S*\s", ptx, re.MULTILINE))
    if shutil.which("ptxas") is None:
        return Code(kernel.name, doubles, None, None, None)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(ptx)
        command = [
            "ptxas",
            f"-arch=sm_{ARCHITECTURE[0]}{ARCHITECTURE[1]}",
            "-v",
            str(source),
            "-o",
            f"{source}.cubin",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{kernel.name}: ptxas: {done.stderr}")
    stack = sum(int(number) for number in re.findall(r"(\d+) bytes stack frame", done.stderr))
    shared = re.search(r"(\d+) bytes smem", done.stderr)
    registers = re.search(r"Used (\d+) registers", done.stderr)
    assert registers is not None, done.stderr
    return Code(kernel.name, doubles, int(registers[1]), int(shared[1]) if shared else 0, stack)


def _numbered(i: int) -> Code:
    """`machine_code` of the i-th kernel, whose number can be sent to another process."""
    return machine_code(KERNELS[i])


def main(arguments: list[str] | None = None) -> int:
    """Print the table; the number of kernels that break a rule is the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="only kernels whose name contains one of these")
    names = parser.parse_args(arguments).names
    if SIMULATED:
        raise SystemExit("the simulator compiles nothing: unset NUMBA_ENABLE_CUDASIM")
    chosen = [
        i for i, kernel in enumerate(KERNELS) if not names or any(name in kernel.name for name in names)
    ]
    print(f"{'kernel':44} {'registers':>9} {'shared':>7} {'stack':>7} {'doubles':>7}")
    broken = 0
    with ProcessPoolExecutor() as pool:
        for i, code in zip(chosen, pool.map(_numbered, chosen), strict=True):
            wrong = code.complaints(KERNELS[i].registers)
            cells = ("-" if n is None else n for n in (code.registers, code.shared, code.stack))
            registers, shared, stack = cells
            mark = f"  <- {', '.join(wrong)}" if wrong else ""
            print(f"{code.name:44} {registers:>9} {shared:>7} {stack:>7} {code.doubles:>7}{mark}", flush=True)
            broken += bool(wrong)
    print(f"{len(KERNELS)} kernels of {kernels.__name__}, {broken} of those shown break a rule")
    return min(broken, 1)


if __name__ == "__main__":
    sys.exit(main())
