#!/usr/bin/env python3
"""tools/ncu_table.py on listings written here: steps are found by the optimizer or by the last kernel, units are read, what is no listing is refused.

    tests/e2e/ncu_table_test.py path/to/tools/ncu_table.py        (standard library only)
"""
import csv
import pathlib
import subprocess
import sys
import tempfile
import unittest

TOOL = pathlib.Path(sys.argv.pop(1)).resolve()
HEADER = '"ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size","Grid Size","Device","CC","Section Name","Metric Name",' \
         '"Metric Unit","Metric Value"'


def listing(launches):
    """launches: (kernel, grid, time, time's unit, bytes, bytes' unit)"""
    lines = ["==PROF== Connected to process 1", "case    median ms", HEADER]
    for i, (kernel, grid, time, time_unit, moved, moved_unit) in enumerate(launches):
        start = f'"{i}","1","p","h","{kernel}","1","7","(256, 1, 1)","({grid}, 1, 1)","0","9.0","Command line profiler metrics"'
        lines += [f'{start},"dram__bytes.sum","{moved_unit}","{moved}"', f'{start},"gpu__time_duration.sum","{time_unit}","{time}"']
    return "\n".join(lines) + "\n"


CONV = ("void kd::cuda::(anonymous namespace)::conv_kernel<bf16, (int)2>(Args)", 132, "1,500", "ns", "3", "Mbyte")
NORM = ("norm_kernel(int)", 64, "2", "us", "8", "Kbyte")
SGD = ("void kd::cuda::sgd_step_kernel<4>(Args)", 10, "0.6", "us", "0", "byte")
LAST = ("head_kernel(int)", 1, "1", "us", "0", "byte")
ONCE = ("fold_kernel(int)", 9, "70", "us", "0", "byte")


class NcuTable(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.dir = pathlib.Path(folder.name)

    def table(self, text):
        (self.dir / "launches").write_text(text)
        result = subprocess.run([sys.executable, TOOL, self.dir / "launches", "--case", "a_case", "--csv", self.dir / "out.csv"], capture_output=True, text=True)
        if result.returncode:
            return result, None
        with open(self.dir / "out.csv", newline="") as file:
            return result, {row["kernel"]: row for row in csv.DictReader(file)}

    def test_training(self):
        result, rows = self.table(listing([ONCE] + [CONV, CONV, NORM, SGD] * 5))
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("a_case: 4 launches and 0.006 ms of kernels a step; mean of 2 steps", result.stdout)
        self.assertEqual(set(rows), {"conv_kernel<bf16, (int)2>", "norm_kernel(int)", "sgd_step_kernel<4>"})
        conv = rows["conv_kernel<bf16, (int)2>"]
        self.assertEqual((conv["runs a step"], float(conv["us each"]), float(conv["us a step"]), float(conv["GB/s"])), ("2", 1.5, 3.0, 2000))
        self.assertAlmostEqual(sum(float(row["%"]) for row in rows.values()), 100, delta=0.1)
        self.assertEqual(float(rows["norm_kernel(int)"]["GB/s"]), 4)

    def test_inference_has_no_optimizer(self):
        result, rows = self.table(listing([ONCE] * 6 + [CONV, NORM, LAST] * 4))
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("3 launches", result.stdout)
        self.assertIn("mean of 1 steps", result.stdout)
        self.assertEqual(rows["head_kernel(int)"]["runs a step"], "1")

    def test_one_line_for_what_is_no_listing(self):
        for text in ("", "==ERROR== no permission\n", HEADER + "\n", listing([CONV, SGD] * 3), listing([CONV, ("x", 1, "1", "fortnight", "0", "byte")] * 9)):
            result, _ = self.table(text)
            self.assertEqual(result.returncode, 1, text[:80])
            self.assertRegex(result.stderr, r"\Ancu_table.py: [^\n]+\n\Z")


if __name__ == "__main__":
    unittest.main(verbosity=2)
