#!/usr/bin/env python3
"""Looks for code of one instruction set that the linker could hand to the whole program.

  isa_symbols_test.py NM SOURCES OBJECT...  objects of SOURCES (with commas: what kd_isa in CMakeLists.txt gave flags of their own) among OBJECT...;
                                         prints each offence, exits 1 if any
  isa_symbols_test.py --self-test NM CXX  compiles two sources, of which one offends, and demands exactly its offences

An inline function or template is defined in every object that uses it, and the linker keeps any one of them. One kept from an AVX-512 object stops every
machine without AVX-512. So such an object may define shared symbols only for templates of a type that stands for its own set; types of lesser sets
may come along.
"""
import re
import subprocess
import sys
import tempfile
from pathlib import Path

OBJECT_OF_SET = re.compile(r"_(avx2|avx512|avx512_bf16|amx)\.cpp\.o(bj)?$")
TYPES = {"kd::simd::Avx2": "avx2", "kd::simd::Avx512": "avx512", "kd::tiles::Dot": "avx512_bf16", "kd::tiles::Narrowing": "avx512_bf16",
         "kd::tiles::Amx": "amx"}
TYPE = re.compile(r"\bkd::(?:simd|tiles)::\w+")
SHARED = {"W", "V", "u"}  # weak function, weak object, unique global: defined here, merged with others of that name


def shared_symbols(nm, path):
    output = subprocess.run([nm, "--demangle", "--defined-only", str(path)], check=True, capture_output=True, text=True).stdout
    for line in output.splitlines():
        match = re.match(r"[0-9a-fA-F]+ (\S) (.*)", line)
        if match and match[1] in SHARED:
            yield match[2]


def offences(nm, path):
    """(number of shared symbols, those that are no template of the object's set)."""
    isa = OBJECT_OF_SET.search(str(path))[1]
    order = list(TYPES.values())
    lesser = set(order[: order.index(isa) + 1])
    symbols = list(shared_symbols(nm, path))

    def is_own(name):
        sets = {TYPES.get(t) for t in TYPE.findall(name)}
        return isa in sets and sets <= lesser

    return len(symbols), [s for s in symbols if not is_own(s)]


def self_test(nm, cxx):
    header = """
namespace kd::simd { struct Avx512 {}; struct Avx2 {}; }
namespace kd { template <class V> struct Kernel { static int run(int x); };
template <class V> int Kernel<V>::run(int x) { return x + 1; } }
"""
    good = header + "int (*use)(int) = kd::Kernel<kd::simd::Avx512>::run;\n"
    bad = good + """
namespace other { inline int shared = 1; template <class T> T larger(T a, T b) { return a < b ? b : a; } }
int* data = &other::shared;
int (*function)(int, int) = other::larger<int>;
int (*foreign)(int) = kd::Kernel<kd::simd::Avx2>::run;
"""
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for name, text in {"good": good, "bad": bad}.items():
            source = Path(folder) / f"{name}_avx512.cpp"
            source.write_text(text)
            subprocess.run([cxx, "-std=c++20", "-O1", "-c", source, "-o", f"{source}.o"], check=True)
            found[name] = offences(nm, f"{source}.o")
    assert found["good"] == (1, []), found["good"]
    count, names = found["bad"]
    assert count == 4 and len(names) == 3, found["bad"]
    for part in ("other::shared", "other::larger<int>", "kd::simd::Avx2"):
        assert any(part in name for name in names), (part, names)
    print("isa_symbols_test: finds what was planted")


def main(arguments):
    if arguments[0] == "--self-test":
        return self_test(*arguments[1:3])
    nm, sources = arguments[0], [Path(s).name for s in arguments[1].split(",") if s]
    objects = [a for a in arguments[2:] if OBJECT_OF_SET.search(a) and any(Path(a).name.startswith(s + ".") for s in sources)]
    if not objects or len(objects) != len(sources):
        sys.exit(f"isa_symbols_test: {len(objects)} objects for the sources {sources}; has their naming changed?")
    failed = False
    for path in objects:
        count, names = offences(nm, path)
        print(f"{Path(path).name}: {count} shared symbols, {len(names)} that are not its own")
        for name in names:
            print(f"{path}: defines for everybody: {name}")
        failed |= bool(names)
    sys.exit(failed)


if __name__ == "__main__":
    main(sys.argv[1:])
