#!/usr/bin/env python3
"""Checks who includes whom, so that the layers stay layers.

  check_deps.py [ROOT]       every source file under ROOT (default: this repository); prints file:line of each offence, exits 1 if any
  check_deps.py --self-test  plants one violation of every rule in a scratch tree and demands exactly those offences

The linker enforces the same arrows between libraries, but not for headers.
"""
import os
import re
import sys
import tempfile
from pathlib import Path

# Layer (folder prefix) -> what it may include of ours, besides its own folder. The first match decides; {family} stands for one kernel folder.
LAYERS = [
    ("simt/", []),
    ("engine/base/", ["simt/"]),
    ("kernels/common/", ["engine/base/", "simt/"]),
    ("kernels/{family}/", ["engine/base/", "kernels/common/", "simt/"]),
    ("engine/", ["engine/base/", "kernels/"]),
    ("models/", ["engine/"]),
    ("kd/", ["engine/", "kernels/kd_loss/", "kernels/attention_loss/", "kernels/metrics/", "kernels/pointwise/", "kernels/common/"]),
    ("data/", ["engine/base/", "kernels/augment/", "kernels/common/"]),
    ("bench/", ["simt/", "engine/", "kernels/", "models/", "kd/", "data/"]),
    ("tests/", ["simt/", "engine/", "kernels/", "models/", "kd/", "data/", "bench/"]),
    ("tools/", []),
]
# The case table holds oracles: slow, and no part of the product.
CASE_TABLE = "kernels/common/cases.h"
CASE_TABLE_USERS = re.compile(r"kernels/common/cases\.cpp|kernels/.*_cases\.(cpp|cu)|tests/.*|bench/.*")
# Headers that cost seconds in every file that sees them: only in .cpp files.
HEAVY = re.compile(r"nlohmann/|CLI/|yaml-cpp/")

SUFFIXES = {".h", ".hpp", ".cuh", ".cpp", ".cc", ".cu"}
INCLUDE = re.compile(r'\s*#\s*include\s*([<"])([^">]+)[">]')


def layer_of(path):
    """(own folder, allowed prefixes) of a file, or None for a folder that no rule names."""
    for prefix, allowed in LAYERS:
        match = re.match(re.escape(prefix).replace(r"\{family\}", "[a-z0-9_]+"), path)
        if match:
            return match.group(), allowed
    return None


def offence(path, bracket, target, root):
    """What is wrong with `path` including `target`, or None."""
    own, allowed = layer_of(path)
    if HEAVY.match(target):
        return "heavy header in a header; include it in a .cpp file" if Path(path).suffix in {".h", ".hpp", ".cuh"} else None
    if not (root / target).is_file():
        return "no such file; includes are written from the repository's root" if bracket == '"' else None
    if bracket == "<":
        return "our own header in angle brackets"
    target_own = layer_of(target)[0] if layer_of(target) else target
    if target_own != own and not target.startswith(tuple(allowed)):
        return f"{own} may include {', '.join([own] + allowed)}"
    if target == CASE_TABLE and not CASE_TABLE_USERS.fullmatch(path):
        return "the case table is for *_cases files, tests and benches"
    return None


def sources(root):
    for folder, subfolders, files in os.walk(root):
        if "CMakeCache.txt" in files:  # a build folder under another name
            subfolders.clear()
            continue
        subfolders[:] = sorted(d for d in subfolders if not d.startswith((".", "build")))
        for name in sorted(files):
            if Path(name).suffix in SUFFIXES:
                yield (Path(folder) / name).relative_to(root).as_posix()


def check(root):
    """(number of files, offences as 'file:line: what')."""
    files, found = 0, []
    for path in sources(root):
        files += 1
        if layer_of(path) is None:
            found.append(f"{path}:1: no layer is defined for this folder; add it to LAYERS in tools/check_deps.py")
            continue
        for number, line in enumerate((root / path).read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            match = INCLUDE.match(line)
            if match and (wrong := offence(path, *match.groups(), root)):
                found.append(f"{path}:{number}: includes {match.group(2)}: {wrong}")
    return files, found


def self_test():
    good = {
        "engine/base/tensor.h": "<vector>",
        "engine/tape.h": '"engine/base/tensor.h"',
        "engine/ops.cpp": '"engine/tape.h" "kernels/conv/conv.h"',
        "kernels/common/cases.h": '"engine/base/tensor.h"',
        "kernels/common/parallel.h": "<omp.h>",
        "kernels/conv/conv.h": '"engine/base/tensor.h"',
        "kernels/conv/conv_cases.cpp": '"kernels/conv/conv.h" "kernels/common/cases.h"',
        "kernels/kd_loss/kd_loss.h": '"engine/base/tensor.h"',
        "kernels/augment/augment.h": '"engine/base/tensor.h"',
        "models/resnet.h": '"engine/tape.h"',
        "kd/losses.cpp": '"engine/tape.h" "kernels/kd_loss/kd_loss.h" <yaml-cpp/yaml.h>',
        "data/loader.h": '"kernels/augment/augment.h"',
        "bench/report.h": '"kd/losses.cpp"',
        "tests/report_test.cpp": '"bench/report.h" "kernels/common/cases.h" <gtest/gtest.h>',
    }
    bad = {
        "simt/bad.h": '"engine/base/tensor.h"',  # the executor stands alone
        "engine/base/bad.h": '"engine/tape.h"',  # the floor looks up
        "kernels/common/bad.h": '"kernels/conv/conv.h"',  # the common folder knows a family
        "kernels/conv/bad.cpp": '"kernels/kd_loss/kd_loss.h"',  # one family uses another
        "kernels/kd_loss/bad.h": '"engine/tape.h"',  # a kernel knows Var
        "kernels/augment/augment_cpu.cpp": '"kernels/common/cases.h"',  # the product uses the case table
        "engine/bad.cpp": '"models/resnet.h"',
        "models/bad.cpp": '"kernels/conv/conv.h"',
        "models/bad2.cpp": '"kd/losses.cpp"',
        "kd/bad.cpp": '"kernels/conv/conv.h"',
        "kd/bad2.cpp": '"data/loader.h"',
        "data/bad.cpp": '"engine/tape.h"',  # autograd in the input path
        "kd/bad3.cpp": '"bench/report.h"',
        "bench/bad.cpp": '"tests/report_test.cpp"',
        "engine/bad2.cpp": '"tape.h"',  # not from the root
        "engine/bad3.cpp": "<engine/tape.h>",
        "engine/bad4.h": "<nlohmann/json.hpp>",
        "tools/bad.cpp": '"engine/tape.h"',
        "extra/bad.cpp": "<vector>",  # no layer
    }
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)

        def write(files):
            for path, includes in files.items():
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_text("// a comment\n" + "".join(f"#include {i}\n" for i in includes.split()))

        write(good)
        assert check(root) == (len(good), []), check(root)[1]
        write(bad)
        files, found = check(root)
        assert files == len(good) + len(bad)
        reported = sorted(line.split(": ")[0] for line in found)
        expected = sorted(f"{path}:{1 if path.startswith('extra/') else 2}" for path in bad)
        assert reported == expected, f"missed {set(expected) - set(reported)}, invented {set(reported) - set(expected)}"
    print(f"self-test: all {len(bad)} planted violations found, {len(good)} good files passed")


def main():
    if sys.argv[1:] == ["--self-test"]:
        self_test()
        return 0
    if len(sys.argv) > 2 or sys.argv[1:2] and not Path(sys.argv[1]).is_dir():
        print(__doc__, file=sys.stderr)
        return 2
    root = Path(sys.argv[1]) if len(sys.argv) == 2 else Path(__file__).resolve().parent.parent
    files, found = check(root)
    for line in found:
        print(line)
    if files == 0:
        print(f"{root}: no source file found")
        return 1
    print(f"{files} files, {len(found)} forbidden includes")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
