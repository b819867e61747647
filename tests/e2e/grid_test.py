#!/usr/bin/env python3
"""The 28 students of the published tables, as small as can be, as a person runs them: killed in the middle, finished by two processes at once, then tables,
figures, verdicts and report.

    tests/e2e/grid_test.py path/to/kd_bench path/to/recipes/ci_grid28.yaml        (standard library only)
"""
import csv
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest

BINARY, RECIPE = (pathlib.Path(sys.argv.pop(1)).resolve() for _ in range(2))
TEACHERS = [f"T{i}{view}" for i in (1, 2, 3) for view in "ws"]


def students():
    names = ["only_Sw", "only_Ss"]
    for n in (1, 2, 3):
        for bits in range(2 ** n):
            teachers = [f"T{i + 1}{'ws'[bits >> i & 1]}" for i in range(n)]
            names += ["_".join(teachers + [view]) for view in ("Sw", "Ss")]
    return names


def kd_bench(*args, check=True):
    result = subprocess.run([BINARY, *map(str, args)], capture_output=True, text=True, timeout=600)
    if check and result.returncode != 0:
        raise AssertionError(f"kd_bench {' '.join(map(str, args))}\n{result.stdout}\n{result.stderr}")
    return result


class Grid28(unittest.TestCase):
    def test_from_the_recipe_to_the_report(self):
        with tempfile.TemporaryDirectory() as folder:
            self.out = pathlib.Path(folder) / "runs"
            self.plan()
            self.train()
            self.tables(pathlib.Path(folder) / "tables")
            self.figures(pathlib.Path(folder))

    def plan(self):
        self.assertEqual(len(students()), 30)
        text = kd_bench("grid", RECIPE, "--dry-run", "--out", self.out).stdout
        for name in TEACHERS + students():
            self.assertIn(f"\n{name} ", text)
        self.assertIn("12 teacher forwards a batch instead of 68", text)
        self.assertFalse(self.out.exists(), "a dry run changes nothing")

    def done(self):
        return sorted(p.parent.parent.name for p in self.out.glob("shapes/*/seed*/DONE"))

    def train(self):
        command = [BINARY, "grid", RECIPE, "--quiet", "--out", self.out]
        process = subprocess.Popen(command)
        deadline = time.time() + 300
        while process.poll() is None and len(self.done()) < 7 and time.time() < deadline:
            time.sleep(0.02)
        self.assertIsNone(process.poll(), "the grid was over before it could be killed")
        process.send_signal(signal.SIGKILL)
        process.wait()
        before = {p: p.read_bytes() for p in self.out.glob("shapes/*/seed*/ckpt/best.safetensors") if (p.parent.parent / "DONE").exists()}
        self.assertGreaterEqual(len(before), 7)

        one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
        both = [subprocess.Popen(command, env=one_thread, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        for process in both:
            _, errors = process.communicate(timeout=900)
            self.assertEqual((process.returncode, errors), (0, ""))
        self.assertEqual(self.done(), sorted(TEACHERS + students()))
        for path, content in before.items():
            self.assertEqual(path.read_bytes(), content, f"{path} was finished and has changed")
        self.assertEqual(list(self.out.rglob("claim")), [])
        for path in self.out.glob("shapes/*/seed*/analysis/eval.json"):
            self.assertEqual(json.loads(path.read_text())["format"], 2)
        self.assertEqual(len(list(self.out.glob("shapes/*/seed*/analysis/eval.json"))), 36)

    def tables(self, folder):
        kd_bench("table", self.out, "--which", "all", "-o", folder)
        made = {p.stem for p in folder.glob("*.csv")}
        self.assertTrue({"r1", "r2", "r3", "r4", "r5", "r6", "r7", "r9", "r10", "r11"} <= made, made)
        for path in folder.glob("*.csv"):
            with open(path, newline="") as file:
                rows = list(csv.DictReader(file))
            self.assertGreater(len(rows), 0, path)
            self.assertNotIn("nan", path.read_text().lower(), path)
            if path.stem == "r2":
                self.assertTrue(set(students()) <= {row["name"] for row in rows})
            if path.stem == "r10":
                self.assertTrue({"H1", "H2", "H3", "H5", "E1", "E2", "N2"} <= {row["id"] for row in rows}, "a verdict is missing")
                words = {row["verdict"].split(":")[0] for row in rows}
                self.assertTrue(words <= {"supported", "contradicted", "undecided", "not measured"}, words)
                self.assertIn("undecided", words, "one seed decides nothing")

    def figures(self, folder):
        kd_bench("report", self.out, "-o", folder / "report.html", "--figures", folder / "figures")
        for i in range(1, 9):
            svg = (folder / "figures" / f"f{i}.svg").read_text()
            self.assertTrue(svg.startswith("<svg") and svg.rstrip().endswith("</svg>"), i)
            text = re.sub(r"base64,[A-Za-z0-9+/=]*", "", svg)  # the letters of an embedded picture spell any word now and then
            self.assertNotIn("nan", text.lower(), i)
        html = (folder / "report.html").read_text()
        self.assertLess(len(html), 3_000_000)
        self.assertIn("T1s_T2s_T3s_Ss", html.replace("<wbr>", ""))


if __name__ == "__main__":
    unittest.main(verbosity=1)
