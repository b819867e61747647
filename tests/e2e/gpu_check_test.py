#!/usr/bin/env python3
"""What gpu_check and tools/gpu_check.sh do where there is no GPU: the checks themselves on the emulated device, refusals, packing, and the script's promises -
a hanging or crashing part stops nothing, what was found out is used and handed back - with programs that only pretend.

    tests/e2e/gpu_check_test.py path/to/gpu_check path/to/tools/gpu_check.sh        (standard library only)
"""
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import unittest

BINARY, SCRIPT = (pathlib.Path(sys.argv.pop(1)).resolve() for _ in range(2))
PARTS = ["probe", "ceilings", "correct", "verify", "steps-equal", "kernels", "tune"]
HAS_GPU = subprocess.run([BINARY, "probe", "--out", tempfile.mkdtemp()], capture_output=True).returncode == 0

# Stands for both programs. gpu_check PART --out DIR: some parts work, one crashes, one hangs with a child of its own.
PRETENDER = """#!/usr/bin/env bash
[[ $1 == --help ]] && exit 0
part=$1; while (($# > 1)); do [[ $1 == --out ]] && out=$2; shift; done
case $part in
  probe) echo 'what,value' >"$out/probe.csv"; echo '{}' >"$out/device.json"; echo 'a card' ;;
  correct) sleep 600 & echo $! >"$CHILD"; sleep 600 ;;
  verify) echo 'stem_fprop 2026-01-31 abc A Card' >"$out/verified.txt" ;;
  kernels) echo 'kernel,us' >"$out/kernels.csv"; kill -SEGV $$ ;;
  tune) echo "verified: $(cat "$KD_VERIFIED")"; echo 'a plan' >"$out/plan_book.txt" ;;
  --device) echo "book: $(cat "$KD_PLAN_BOOK")" ;;
esac
"""


class Temporary(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.dir = pathlib.Path(folder.name)

    def gpu_check(self, *args):
        return subprocess.run([BINARY, *args, "--out", self.dir], capture_output=True, text=True, timeout=300)

    def script(self, *args, script=SCRIPT, **environment):
        return subprocess.run(["bash", script, *map(str, args)], capture_output=True, text=True, timeout=300, cwd=self.dir,
                              env=os.environ | {k: str(v) for k, v in environment.items()})


class Program(Temporary):
    def test_kernels_are_checked_on_the_emulated_device(self):
        result = self.gpu_check("correct", "--device", "emulated", "--filter", "^(sgd:|zoo:f32:n4h4w4c512k512r3)")
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        rows = [line.split(",") for line in (self.dir / "correct.csv").read_text().splitlines()]
        self.assertEqual(rows[0][:4], ["family", "cases", "outputs", "failed"])
        self.assertEqual([row[0] for row in rows[1:]], ["sgd", "zoo"])
        for row in rows[1:]:
            self.assertGreater(int(row[1]), 0)
            self.assertEqual(row[3], "0")
            self.assertLess(float(row[4]), 100)  # per cent of the tolerance

    def test_every_timed_kernel_accepts_its_call(self):
        result = self.gpu_check("kernels", "--device", "emulated", "--tiny")
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        self.assertIn("0 failed", result.stdout)

    def test_verify_writes_a_line_for_each_kernel_that_passed(self):
        result = self.gpu_check("verify", "--device", "emulated", "--tiny", "--commit", "0a1b2c3")
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        lines = (self.dir / "verified.txt").read_text().splitlines()
        self.assertEqual([line.split()[0] for line in lines], ["stem_fprop", "stem_infer", "stem_wgrad"])
        for line in lines:
            self.assertEqual(line.split()[2:], ["0a1b2c3", "emulated"])

    def test_small_steps_on_the_emulated_device(self):
        result = self.gpu_check("steps-equal", "--device", "emulated", "--tiny")
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        self.assertEqual((self.dir / "steps_equal.csv").read_text().count("identical"), 4)

    @unittest.skipIf(HAS_GPU, "there is a GPU")
    def test_refusals_are_one_line(self):
        calls = [[part] for part in PARTS] + [["kernels", "--device", "emulated"], ["correct", "--device", "emulated", "--filter", "("],
                                              ["correct", "--device", "emulated", "--filter", "no such case"]]
        for call in calls:
            with self.subTest(call):
                result = self.gpu_check(*call)
                self.assertEqual(result.returncode, 1)
                self.assertRegex(result.stderr, r"\Agpu_check: [^\n]+\n\Z")


class Script(Temporary):
    def setUp(self):
        super().setUp()
        self.bin = self.dir / "bin"
        self.bin.mkdir()
        for name in ("gpu_check", "kd_bench_step", "kd_bench"):
            (self.bin / name).write_text(PRETENDER)
            (self.bin / name).chmod(0o755)

    def result_of(self, result, part):
        return next(line for line in result.stdout.splitlines() if line.startswith(part + " "))[12:23].strip()

    def test_no_part_stops_the_next(self):
        shorter = self.dir / "gpu_check.sh"  # the parts' limits are for a GPU
        text = SCRIPT.read_text()
        self.assertIn("[correct]=90", text)
        shorter.write_text(text.replace("[correct]=90", "[correct]=10"))
        child = self.dir / "child"
        start = time.monotonic()
        result = self.script("--bin", self.bin, script=shorter, OUT=self.dir / "out", CHILD=child)
        self.assertLess(time.monotonic() - start, 120)
        self.assertEqual(result.returncode, 1)
        expected = {"probe": "ok", "correct": "TIME OUT", "verify": "ok", "kernels": "FAILED 139", "tune": "ok"}
        self.assertEqual({part: self.result_of(result, part) for part in expected}, expected, result.stdout)
        status = pathlib.Path(f"/proc/{child.read_text().strip()}/status")  # what a part started ends with it
        self.assertTrue(not status.exists() or "State:\tZ" in status.read_text())
        log = (self.dir / "out" / "log.txt").read_text()
        self.assertIn("verified: stem_fprop", log)  # later parts use what earlier ones found
        files = sorted(path.name for path in (self.dir / "out").iterdir())
        self.assertEqual(files, ["checks.csv", "device.json", "kernels.csv", "log.txt", "plan_book.txt", "profile.csv", "steps.csv", "summary.txt", "verified.txt"])
        self.assertIn((self.dir / "out" / "summary.txt").read_text(), result.stdout)

    def test_only_and_budget(self):
        result = self.script("--bin", self.bin, "--only", "probe", "--only", "tune", OUT=self.dir / "out")
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        self.assertEqual(len((self.dir / "out" / "summary.txt").read_text().splitlines()), 3)
        result = self.script("--bin", self.bin, "--only", "probe", "--budget", "5", OUT=self.dir / "out")
        self.assertEqual((result.returncode, self.result_of(result, "probe")), (1, "left out"))

    def test_programs_that_do_not_start(self):
        (self.bin / "gpu_check").write_text("#!/usr/bin/env bash\necho 'libfmt.so.9: cannot open shared object file' >&2; exit 127\n")
        alone = self.dir / "gpu_check.sh"  # no source tree beside it
        shutil.copy(SCRIPT, alone)
        result = self.script("--bin", self.bin, script=alone, OUT=self.dir / "out")
        self.assertEqual(result.returncode, 1)
        self.assertIn("libfmt.so.9", result.stdout)
        self.assertIn("cannot be built here", result.stdout)

    def test_bad_arguments(self):
        for arguments in (["--only", "nothing"], ["--budget", "0"], ["--budget", "soon"], ["--pack"], ["--pack", self.dir / "p", "--bin", self.dir], ["more"]):
            with self.subTest(arguments):
                result = self.script(*arguments)
                self.assertEqual(result.returncode, 2)
                self.assertRegex(result.stderr, r"\Agpu_check.sh: [^\n]+\n\Z")

    def test_a_pack_runs_elsewhere(self):
        programs = BINARY.parent
        if not (programs / "kd_bench_step").exists():
            self.skipTest("kd_bench_step is not built")
        pack = self.dir / "pack"
        result = self.script("--pack", pack, "--bin", programs)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        with tarfile.open(pack / "programs.tar.gz") as archive:
            names = [pathlib.Path(name).name for name in archive.getnames() if not name.startswith("lib/compiler")]
        self.assertTrue({"gpu_check", "kd_bench_step", "kd_bench"} <= set(names))
        self.assertTrue(any(name.startswith("libdnnl") for name in names), names)
        self.assertFalse([name for name in names if name.startswith(("libc.", "libcuda", "libcudnn", "libcublas", "libstdc++"))])
        result = self.script("--only", "probe", script=pack / "gpu_check.sh", OUT=self.dir / "out")
        self.assertEqual(result.returncode, 0 if HAS_GPU else 1)
        self.assertRegex(self.result_of(result, "probe"), "ok" if HAS_GPU else "FAILED 1")
        self.assertNotIn("does not start here", result.stdout)


if __name__ == "__main__":
    unittest.main(verbosity=2)
