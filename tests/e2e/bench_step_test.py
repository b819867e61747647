#!/usr/bin/env python3
"""KD_VERBOSE=1 kd_bench_step: the table of ops adds up, and explains a training step.

    tests/e2e/bench_step_test.py path/to/kd_bench_step        (standard library only)
"""
import os
import pathlib
import re
import subprocess
import sys
import unittest

BINARY = pathlib.Path(sys.argv.pop(1)).resolve()
# op or "  what", calls, ms, share, GFLOP/s, GB/s
ROW = re.compile(r"(?P<name> {0,2}\S.*?) +(?P<calls>[0-9.e+]+) +(?P<ms>[0-9.]+) +(?P<share>[0-9.]+) % +(?P<gflops>[0-9.]+|-) +(?P<gbps>[0-9.]+|-)")
LAST = re.compile(r"explained: ([0-9.]+) % of ([0-9.]+) ms a step, ([0-9]+) steps? counted")


def run(**more):
    environment = {k: v for k, v in os.environ.items() if k != "KD_VERBOSE"} | more
    command = [BINARY, "--device", "cpu", "--case", "r18_train_32_b8", "--precision", "fp32", "--seconds", "0.5"]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


class Profile(unittest.TestCase):
    def test_rows_add_up_to_the_step(self):
        result = run(KD_VERBOSE="1")
        self.assertEqual(result.returncode, 0, result.stderr)
        lines = result.stdout.splitlines()
        last = LAST.fullmatch(lines[-1])
        self.assertTrue(last, lines[-1])
        explained, wall, steps = float(last[1]), float(last[2]), int(last[3])
        self.assertGreaterEqual(explained, 95)
        self.assertLessEqual(explained, 100)
        self.assertGreaterEqual(steps, 5)
        rows = [match for line in lines if (match := ROW.fullmatch(line))]
        ops = [row for row in rows if not row["name"].startswith(" ")]
        self.assertAlmostEqual(sum(float(row["share"]) for row in ops), explained, delta=0.005 * (len(ops) + 1))
        self.assertAlmostEqual(sum(float(row["ms"]) for row in ops), explained / 100 * wall, delta=0.0005 * len(ops) + 1e-4 * wall)
        # Each op is the sum of what stands under it.
        at = 0
        for i, row in enumerate(rows):
            if row["name"].startswith(" "):
                continue
            under = []
            for below in rows[i + 1:]:
                if not below["name"].startswith(" "):
                    break
                under.append(below)
            if under:
                at += 1
                self.assertAlmostEqual(sum(float(r["ms"]) for r in under), float(row["ms"]), delta=0.001 * (len(under) + 1))
                self.assertEqual(sum(float(r["calls"]) for r in under), float(row["calls"]))
        self.assertGreater(at, 4)
        # ResNet-18 has 20 convolutions, 20 norms, one update; the images need no gradient.
        calls = {row["name"]: float(row["calls"]) for row in ops}
        want = {"conv_fprop": 20, "conv_dgrad": 19, "conv_wgrad": 20, "batchnorm_train": 20, "batchnorm_bwd": 20, "sgd_step": 1}
        self.assertEqual({op: calls[op] for op in want}, want)
        shape = next(row for row in rows if "n8h32w32c64k64r3s3st1p1" in row["name"])
        self.assertRegex(shape["name"], r"^  f32 n8h32w32c64k64r3s3st1p1 \S+")  # with the algorithm that did it
        # Four of them in a step: 2 * 8*32*32 * 64*64*9 flops each.
        self.assertAlmostEqual(float(shape["gflops"]) * float(shape["ms"]) / 1e3, 4 * 2 * 8 * 32 * 32 * 64 * 64 * 9 / 1e9, delta=0.02)

    def test_refusals_are_one_line_before_anything_is_timed(self):
        for flags, words in ((["--seconds", "nan"], ["--seconds is nan", "above 0"]),
                             (["--seconds", "-1"], ["--seconds is -1", "above 0"]),
                             (["--seconds", "inf"], ["--seconds is inf", "up to"]),
                             (["--seconds", "soon"], ["--seconds", "soon", "--help"]),
                             (["--rounds", "0", "--against", "torch"], ["--rounds is 0"]),
                             (["--case", "r18_train_32_b8", "r19"], ["unknown case 'r19'", "r18_train_32_b8"]),
                             (["--case", "r18_train_32_b8", "--precision", "fp32", "fp8"], ["unknown precision 'fp8'"])):
            result = subprocess.run([BINARY, "--device", "cpu", *flags], capture_output=True, text=True, timeout=60)
            self.assertNotEqual(result.returncode, 0, flags)
            self.assertEqual(result.stdout, "", flags)
            self.assertRegex(result.stderr, r"\Akd_bench_step: [^\n]+\n\Z")
            for word in words:
                self.assertIn(word, result.stderr)

    def test_silent_by_default(self):
        for more in ({}, {"KD_VERBOSE": "0"}):
            result = run(**more)
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertNotIn("explained", result.stdout)
            self.assertEqual(len(result.stdout.splitlines()), 3)


if __name__ == "__main__":
    unittest.main()
