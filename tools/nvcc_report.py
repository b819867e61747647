#!/usr/bin/env python3
"""Compiler launcher for nvcc: one line a kernel with what it takes of a multiprocessor, and no kernel that spills registers to memory.

  nvcc_report.py nvcc ARGUMENTS...     (CMake: CMAKE_CUDA_COMPILER_LAUNCHER)

Adds -Xptxas -v to every compilation and turns ptxas's notes into
  sm_90   64 registers  16384 B shared  void kd::cuda::add_kernel<float>(...)
A spill costs a round trip to memory in an inner loop and says nothing at run time, so it fails the build here.
"""
import re
import subprocess
import sys

ENTRY = re.compile(r"Compiling entry function '(\S+)' for '(sm_\w+)'")
SPILL = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")


def demangle(name):
    result = subprocess.run(["c++filt", name], capture_output=True, text=True)
    return result.stdout.strip() if result.returncode == 0 else name


def main():
    command = sys.argv[1:]
    if not command:
        print(__doc__, file=sys.stderr)
        return 2
    compiles = "-c" in command or "-dc" in command
    run = subprocess.run(command + (["-Xptxas", "-v"] if compiles else []), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    kernel = arch = None
    spills = 0
    spilled = []
    for line in run.stdout.splitlines():
        if match := ENTRY.search(line):
            kernel, arch, spills = match.group(1), match.group(2), 0
        elif match := SPILL.search(line):
            spills = int(match.group(1)) + int(match.group(2))
        elif (match := USED.search(line)) and kernel:
            shared = SHARED.search(line)
            text = f"{arch:<8}{match.group(1):>4} registers{int(shared.group(1)) if shared else 0:>8} B shared  {demangle(kernel)}"
            print(text + (f"  SPILLS {spills} B" if spills else ""))
            if spills:
                spilled.append(text)
            kernel = None
        elif "ptxas info" not in line and "Function properties for" not in line and line.strip():
            print(line)
    if run.returncode == 0 and spilled:
        print(f"error: {len(spilled)} kernel(s) spill registers", file=sys.stderr)
        return 1
    return run.returncode


if __name__ == "__main__":
    sys.exit(main())
