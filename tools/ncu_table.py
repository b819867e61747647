#!/usr/bin/env python3
"""From Nsight Compute's list of launches to a table: which kernels a step's time goes to.

    ncu --csv --metrics gpu__time_duration.sum,dram__bytes.sum kd_bench_step --no-graph --case NAME ... > launches
    tools/ncu_table.py launches [--case NAME] [--csv FILE] [--rows 40]        (standard library only)

Launches of one kernel with one grid and block share a row. A step is found by its period: the optimizer's kernel runs once in it, or, where nothing is
trained, the kernel that ran last of all. Shares are of a step's summed kernel times; GB/s counts the bytes that memory saw.
"""
import argparse
import collections
import csv
import io
import re
import sys

UNITS = {"ns": 1e-3, "us": 1.0, "usecond": 1.0, "nsecond": 1e-3, "ms": 1e3, "msecond": 1e3, "s": 1e6, "second": 1e6,
         "byte": 1.0, "Kbyte": 1e3, "Mbyte": 1e6, "Gbyte": 1e9}
WARM_UP = 3  # steps that kd_bench_step runs before it times any; the first also builds the networks


def short(name):
    """kd::cuda::(anonymous namespace)::sum_kernel<bf16, true>(...) -> sum_kernel<bf16, true>; of a library's names the telling start."""
    name = re.sub(r"\(anonymous namespace\)::|<unnamed>::|\bkd::|\bcuda::|\bgpu::|^void ", "", name)
    name = re.sub(r"\((?!int\)|bool\)).*$", "", name)
    return name if len(name) <= 90 else name[:87] + "..."


def launches(text):
    """Of each launch, in order: (kernel, grid, block), microseconds, bytes."""
    start = text.find('"ID"')
    if start < 0:
        raise ValueError("no table by ncu --csv in it")
    found = collections.OrderedDict()
    for row in csv.DictReader(io.StringIO(text[start:])):
        if row.get("Metric Name") is None:
            continue
        entry = found.setdefault(row["ID"], {"key": (short(row["Kernel Name"]), row["Grid Size"], row["Block Size"])})
        entry[row["Metric Name"]] = float(row["Metric Value"].replace(",", "")) * UNITS[row["Metric Unit"]]
    return [(e["key"], e["gpu__time_duration.sum"], e.get("dram__bytes.sum", 0.0)) for e in found.values()]


def last_steps(all_launches):
    """The launches of the whole steps behind the warm-up, and how many steps that is."""
    if not all_launches:
        raise ValueError("no launch in it")
    trained = [key for key, _, _ in all_launches if key[0].startswith("sgd")]
    mark = trained[-1] if trained else all_launches[-1][0]
    ends = [i for i, (key, _, _) in enumerate(all_launches) if key == mark]
    if len(ends) <= WARM_UP:
        raise ValueError(f"{len(ends)} steps in it; more than {WARM_UP} are needed")
    return all_launches[ends[WARM_UP - 1] + 1:ends[-1] + 1], len(ends) - WARM_UP


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("launches")
    parser.add_argument("--case", default="")
    parser.add_argument("--csv")
    parser.add_argument("--rows", type=int, default=40)
    args = parser.parse_args()
    try:
        with open(args.launches, encoding="utf-8", errors="replace") as file:
            steady, steps = last_steps(launches(file.read()))
    except (OSError, ValueError, KeyError) as e:
        sys.exit(f"ncu_table.py: {args.launches}: {e if not isinstance(e, KeyError) else f'no column or unit {e}'}")
    rows = collections.OrderedDict()
    for key, us, moved in steady:
        row = rows.setdefault(key, [0, 0.0, 0.0])
        row[0], row[1], row[2] = row[0] + 1, row[1] + us, row[2] + moved
    total = sum(us for _, us, _ in rows.values())
    ordered = sorted(rows.items(), key=lambda item: -item[1][1])
    print(f"{args.case}: {len(steady) / steps:.0f} launches and {total / steps * 1e-3:.3f} ms of kernels a step; mean of {steps} steps")
    print(f"{'us/step':>9} {'%':>5} {'runs':>5} {'us each':>9} {'GB/s':>6}  kernel, grid, block")
    lines = []
    for (name, grid, block), (count, us, moved) in ordered:
        lines.append([args.case, name, grid.replace(" ", ""), block.replace(" ", ""), f"{count / steps:g}", f"{us / steps:.2f}", f"{us / count:.2f}",
                      f"{moved / us * 1e-3:.0f}", f"{100 * us / total:.2f}"])
    for case, name, grid, block, count, step_us, each, rate, share in lines[:args.rows]:
        print(f"{step_us:>9} {share:>5} {count:>5} {each:>9} {rate:>6}  {name} {grid} {block}")
    if args.csv:
        with open(args.csv, "w", newline="", encoding="utf-8") as file:
            out = csv.writer(file)
            out.writerow(["case", "kernel", "grid", "block", "runs a step", "us a step", "us each", "GB/s", "%"])
            out.writerows(lines)


if __name__ == "__main__":
    main()
