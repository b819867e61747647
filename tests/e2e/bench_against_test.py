#!/usr/bin/env python3
"""kd_bench_step --against torch with a torch that only pretends: what is asked, what is written, and what happens when PyTorch is missing, fails, crashes
or hangs.

    tests/e2e/bench_against_test.py path/to/kd_bench_step path/to/tools/bench_against_torch.py        (standard library only)
"""
import csv
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest

BINARY, TOOL = (pathlib.Path(sys.argv.pop(1)).resolve() for _ in range(2))

# A step sleeps as long as FAKE_TORCH_MS says for the mode; FAKE_TORCH_<FAILS|CRASHES|HANGS> names a mode.
FAKE_TORCH = """
import os, sys, time
from unittest.mock import MagicMock
mode = sys.argv[2]
__version__ = "0.fake"
print("a library that talks")          # must not be taken for an answer
_inductor, _dynamo, compiler, optim = MagicMock(), MagicMock(), MagicMock(), MagicMock()
randn = randint = autocast = no_grad = inference_mode = MagicMock()
bfloat16 = channels_last = log_softmax = softmax = MagicMock()
def get_num_threads(): return 1
def compile(model, mode=None):
    if os.environ.get("FAKE_TORCH_FAILS") == globals()["mode"]: raise RuntimeError("no compiler here\\nand a long story")
    return model
def cross_entropy(*args):
    if os.environ.get("FAKE_TORCH_CRASHES") == mode: os.abort()
    if os.environ.get("FAKE_TORCH_HANGS") == mode: time.sleep(600)
    time.sleep(float(dict(pair.split("=") for pair in os.environ.get("FAKE_TORCH_MS", "").split()).get(mode, 1)) / 1e3)
    return MagicMock()
nn = MagicMock()
nn.functional.cross_entropy = cross_entropy
"""

# Answers like kd_bench_step --serve; writes what it was asked.
FAKE_OURS = """#!/usr/bin/env python3
import os, sys
who = "exact" if "--exact" in sys.argv else "default"
for line in sys.stdin:
    with open(os.environ["FAKE_OURS_LOG"], "a") as log:
        log.write(who + " " + line)
    if "bf16" in line:
        print("error precision bf16 needs another CPU", flush=True)
    else:
        print("30.0 31.0 32.0" if who == "exact" else "20.0 21.0 40.0", flush=True)
"""


class Temporary(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.dir = pathlib.Path(folder.name)
        self.modules = self.dir / "modules"
        for name, text in {"torch/__init__.py": FAKE_TORCH, "torch/_inductor/__init__.py": "", "torch/_inductor/config.py": "freezing = False",
                           "torchvision/__init__.py": "from unittest.mock import MagicMock\nmodels = MagicMock()"}.items():
            (self.modules / name).parent.mkdir(parents=True, exist_ok=True)
            (self.modules / name).write_text(text)
        self.ours = self.dir / "ours"
        self.ours.write_text(FAKE_OURS)
        self.ours.chmod(0o755)
        self.log = self.dir / "asked"

    def environment(self, **more):
        return os.environ | {"PYTHONPATH": str(self.modules), "OMP_NUM_THREADS": "1", "FAKE_OURS_LOG": str(self.log)} | more

    def tool(self, *args, **more):
        return subprocess.run([sys.executable, TOOL, self.ours, "--seconds", "0.01", *map(str, args)], capture_output=True, text=True, timeout=300,
                              env=self.environment(**more))

    def binary(self, *args, **more):
        return subprocess.run([BINARY, *map(str, args)], capture_output=True, text=True, timeout=300, env=self.environment(**more))

    def rows(self, path):
        with open(path) as file:
            return {(row["case"], row["precision"], row["who"]): row for row in csv.DictReader(file)}

    def assertOneLine(self, result, *parts):
        self.assertNotEqual(result.returncode, 0, result.stdout)
        self.assertEqual(len(result.stderr.strip().splitlines()), 1, result.stderr)
        self.assertNotIn("Traceback", result.stderr)
        for part in parts:
            self.assertIn(part, result.stderr)

    def assertNothingLeft(self):
        self.assertEqual([p.name for p in self.dir.rglob("*.part")], [])
        # Waiting processes have the folder in their environment.
        deadline = time.monotonic() + 10
        while left := [p for p in pathlib.Path("/proc").glob("[0-9]*/environ") if self.mine(p)]:
            self.assertLess(time.monotonic(), deadline, f"still running: {left}")
            time.sleep(0.05)

    def mine(self, environ):
        try:
            return environ.parent.name != str(os.getpid()) and str(self.modules).encode() in environ.read_bytes()
        except OSError:
            return False


class OneCommand(Temporary):
    """The real program from its flag to its files."""

    def test_writes_the_tables(self):
        prefix = self.dir / "cpu"
        result = self.binary("--against", "torch", "--python", sys.executable, "--case", "r18_train_32_b8", "--precision", "fp32",
                             "--mode", "eager", "tuned", "--rounds", 1, "--seconds", 0.01, "-o", prefix, FAKE_TORCH_MS="eager=40 tuned=10")
        self.assertEqual(result.returncode, 0, result.stderr)
        rows = self.rows(f"{prefix}.csv")
        self.assertEqual([who for _, _, who in rows], ["retort", "retort exact", "torch eager", "torch tuned"])
        for row in rows.values():
            self.assertGreater(float(row["median_ms"]), 0, row)
            self.assertLessEqual(float(row["p10_ms"]), float(row["median_ms"]))
            self.assertLessEqual(float(row["median_ms"]), float(row["p90_ms"]))
            self.assertGreaterEqual(int(row["steps"]), 3 if row["who"].startswith("retort") else 1)
        self.assertGreaterEqual(float(rows["r18_train_32_b8", "fp32", "torch eager"]["median_ms"]), 40)
        text = pathlib.Path(f"{prefix}.txt").read_text()
        self.assertIn("torch 0.fake", text)
        self.assertIn("(tuned)", text)
        self.assertNotIn("a library that talks", text)
        self.assertRegex(pathlib.Path(f"{prefix}.md").read_text(),
                         r"\| case \|.*\n\|---.*\n\| `r18_train_32_b8` \| fp32 (\| [0-9.]+ ){3}\| [0-9.]+ \(tuned\) \|")
        self.assertIn("round 1/1 · torch tuned", result.stderr)
        self.assertNothingLeft()

    def test_a_python_that_cannot_be_started(self):
        self.assertOneLine(self.binary("--against", "torch", "--python", "/no/such/python"), "--python /no/such/python: No such file", "torch and torchvision")

    def test_a_python_without_torch(self):
        (self.modules / "torch/__init__.py").write_text("raise ImportError(\"No module named 'torch'\")")
        result = self.binary("--against", "torch", "--python", sys.executable, "--case", "r18_train_32_b8")
        self.assertOneLine(result, "No module named 'torch'", "-m pip install torch torchvision")
        self.assertNothingLeft()

    def test_a_place_that_cannot_be_written(self):
        result = self.binary("--against", "torch", "--python", sys.executable, "-o", self.dir / "no such folder" / "cpu")
        self.assertOneLine(result, "cannot be written there", "no such folder")

    def test_flags_that_do_not_go_together(self):
        self.assertOneLine(self.binary("--rounds", 2), "--rounds goes with --against torch")
        self.assertOneLine(self.binary("--against", "torch", "--exact"), "leave out --serve, --no-graph and --exact")
        self.assertOneLine(self.binary("--against", "torch", "--case", "r19"), "unknown case 'r19'; known: r18_train_32_b128")
        self.assertOneLine(self.binary("--against", "torch", "--python", sys.executable, "--mode", "eagre"), "--mode", "'eagre'", "tuned")

    def test_serving_goes_on_after_a_wrong_request(self):
        requests = "r19 fp32 0.01\nr18_train_32_b8 fp33 0.01\nr18_train_32_b8 fp32 0.01\n"
        result = subprocess.run([BINARY, "--serve", "--device", "cpu"], input=requests, capture_output=True, text=True, timeout=300, env=self.environment())
        self.assertEqual(result.returncode, 0, result.stderr)
        lines = result.stdout.splitlines()
        self.assertEqual(len(lines), 3)
        self.assertIn("error unknown case 'r19'", lines[0])
        self.assertIn("error unknown precision 'fp33'", lines[1])
        self.assertGreaterEqual(len([float(v) for v in lines[2].split()]), 3)


class Comparison(Temporary):
    """The script alone, against a program that answers at once."""
    CASE = ("r18_train_32_b8", "fp32")

    def test_numbers(self):
        result = self.tool("--case", "r18_train_32_b8", "--precision", "fp32", "--mode", "eager", "tuned", "compile", "--rounds", 2,
                           "--csv", self.dir / "rows.csv", FAKE_TORCH_MS="eager=60 tuned=40 compile=50")
        self.assertEqual(result.returncode, 0, result.stderr)
        rows = self.rows(self.dir / "rows.csv")
        self.assertEqual(float(rows[(*self.CASE, "retort")]["median_ms"]), 21)  # of 20 21 40 twice
        self.assertEqual(rows[(*self.CASE, "retort")]["steps"], "6")
        self.assertEqual(float(rows[(*self.CASE, "retort exact")]["median_ms"]), 31)
        for mode in ("eager", "tuned", "compile"):
            row = rows[(*self.CASE, f"torch {mode}")]
            self.assertAlmostEqual(float(row["torch_over_retort"]), float(row["median_ms"]) / 21, places=2)
        last = result.stdout.splitlines()[-1]
        self.assertIn("(tuned)", last)
        shown = [float(ratio) for ratio in re.findall(r"([0-9.]+)x", last)]  # the file has a digit more, and was rounded by itself
        self.assertAlmostEqual(shown[0], float(rows[(*self.CASE, "torch eager")]["torch_over_retort"]), delta=0.0051)
        # The warm-up, then each round once; both of ours.
        self.assertEqual(self.log.read_text().splitlines(), [f"{who} r18_train_32_b8 fp32 0.01" for _ in range(3) for who in ("default", "exact")])

    def test_goals(self):
        result = self.tool("--case", "r18_train_32_b128", "--precision", "fp32", "--mode", "eager", "tuned", "--rounds", 1, FAKE_TORCH_MS="eager=100 tuned=25",
                           KD_CPU="avx2")  # where there is AMX the goals are others
        self.assertIn("default 2.5: reached, best 2: missed", result.stdout)

    def test_what_fails_crashes_or_hangs_is_said_and_stops_nothing(self):
        start = time.monotonic()
        result = self.tool("--case", "r18_train_32_b8", "--precision", "fp32", "--mode", "eager", "tuned", "compile", "tuned-compile",
                           "--rounds", 2, "--limit-per-row", 3, "--out", self.dir / "out",
                           FAKE_TORCH_FAILS="compile", FAKE_TORCH_CRASHES="tuned-compile", FAKE_TORCH_HANGS="tuned")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertLess(time.monotonic() - start, 120)
        rows = self.rows(self.dir / "out.csv")
        self.assertGreater(float(rows[(*self.CASE, "torch eager")]["median_ms"]), 0)
        self.assertEqual(rows[(*self.CASE, "torch tuned")]["problem"], "over 3 s")
        self.assertEqual(rows[(*self.CASE, "torch compile")]["problem"], "no compiler here")
        self.assertIn("stopped by signal 6", rows[(*self.CASE, "torch tuned-compile")]["problem"])
        for mode in ("tuned", "compile", "tuned-compile"):
            self.assertEqual(rows[(*self.CASE, f"torch {mode}")]["median_ms"], "")
        self.assertIn("over 3 s", result.stdout)
        self.assertNothingLeft()

    def test_a_mode_that_hung_is_asked_again_for_the_next_case(self):
        result = self.tool("--case", "r18_train_32_b8", "r18_train_32_b128", "--precision", "fp32", "--mode", "eager", "tuned", "--rounds", 1,
                           "--limit-per-row", 1, "--csv", self.dir / "rows.csv", FAKE_TORCH_HANGS="tuned")
        self.assertEqual(result.returncode, 0, result.stderr)
        problems = [row["problem"] for (_, _, who), row in self.rows(self.dir / "rows.csv").items() if who == "torch tuned"]
        self.assertEqual(problems, ["over 1 s"] * 2)

    def test_ours_that_refuses_leaves_nothing_to_compare(self):
        result = self.tool("--case", "r18_train_32_b8", "--precision", "bf16", "--mode", "eager", "--rounds", 1, "--csv", self.dir / "rows.csv")
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("nothing of ours was timed", result.stderr)
        rows = self.rows(self.dir / "rows.csv")
        self.assertEqual(rows["r18_train_32_b8", "bf16", "retort"]["problem"], "precision bf16 needs another CPU")
        self.assertEqual(rows["r18_train_32_b8", "bf16", "torch eager"]["problem"], "left out")

    def test_freezing_is_for_inference(self):
        result = self.tool("--case", "r18_train_32_b8", "r50_infer_224_b16", "--precision", "fp32", "--mode", "eager", "freezing", "--rounds", 1,
                           "--csv", self.dir / "rows.csv")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual([case for case, _, who in self.rows(self.dir / "rows.csv") if who == "torch freezing"], ["r50_infer_224_b16"])

    def test_stopped_half_way_it_leaves_whole_tables_of_what_is_done(self):
        command = [sys.executable, TOOL, self.ours, "--seconds", "0.01", "--case", "r18_train_32_b8", "r18_train_32_b128", "--precision", "fp32",
                   "--mode", "eager", "--rounds", "1000", "--out", self.dir / "out"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=self.environment(FAKE_TORCH_MS="eager=1"))
        for line in process.stderr:
            if "r18_train_32_b128 fp32 · round" in line:
                break
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        self.assertNotEqual(process.returncode, 0)
        self.assertEqual({case for case, _, _ in self.rows(self.dir / "out.csv")}, {"r18_train_32_b8"})
        self.assertEqual(len((self.dir / "out.md").read_text().splitlines()), 3)
        self.assertNothingLeft()

    def test_earlier_results_survive_a_run_that_cannot_start(self):
        (self.dir / "out.txt").write_text("earlier")
        (self.modules / "torchvision/__init__.py").write_text("raise ImportError('no torchvision')")
        self.assertOneLine(self.tool("--out", self.dir / "out"), "no torchvision")
        self.assertEqual((self.dir / "out.txt").read_text(), "earlier")


if __name__ == "__main__":
    unittest.main()
