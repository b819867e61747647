#!/usr/bin/env python3
"""The kd_bench binary as a person uses it: runs, resumption, evaluation, tables, report, and what bad input is told.

    tests/e2e/kd_bench_test.py path/to/kd_bench        (standard library only)
"""
import json
import math
import os
import pathlib
import shlex
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest

BINARY = pathlib.Path(sys.argv.pop(1)).resolve()
SMALL = ["data.train_size=400", "data.test_size=120", "optim.batch=32", "model.width=0.125", "optim.epochs=3", "optim.warmup=0", "optim.lr=0.05"]


def kd_bench(*args, cwd=None, check=True, env=None):
    result = subprocess.run([BINARY, *map(str, args)], cwd=cwd, capture_output=True, text=True, timeout=600, env=os.environ | (env or {}))
    if check and result.returncode != 0:
        raise AssertionError(f"kd_bench {' '.join(map(str, args))}\n{result.stdout}\n{result.stderr}")
    return result


def epochs(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == "epoch"]


class Temporary(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.dir = pathlib.Path(self.folder.name)
        self.addCleanup(self.folder.cleanup)

    def train(self, out, *settings, verb="train"):
        kd_bench(verb, "--quiet", "--out", self.dir / out, *SMALL, *settings)
        return next(run for run in sorted((self.dir / out).glob("*/*/seed*")) if (run / "DONE").exists() and self.named(run, settings))

    def refused(self, *args, says=(), env=None):
        result = kd_bench(*args, check=False, env=env)
        self.assertNotEqual(result.returncode, 0, args)
        lines = result.stderr.strip().splitlines()
        self.assertEqual(len(lines), 1, f"{args}: {result.stderr}")
        for word in says:
            self.assertIn(str(word), lines[0], args)

    @staticmethod
    def named(run, settings):
        names = [s.split("=")[1] for s in settings if s.startswith("name=")]
        return not names or run.parent.name == names[0]


class Runs(Temporary):
    def test_same_seed_same_bits_other_seed_other_bits(self):
        a = self.train("a", "name=T1w", "seed=5")
        b = self.train("b", "name=T1w", "seed=5")
        c = self.train("c", "name=T1w", "seed=6")
        weights = [(run / "ckpt" / "last.safetensors").read_bytes() for run in (a, b, c)]
        self.assertEqual(weights[0], weights[1])
        self.assertNotEqual(weights[0], weights[2])

    def test_killed_run_goes_on_with_the_same_bits(self):
        self.kill_and_go_on("name=T1s", "view=strong")

    def test_killed_run_beside_a_reference_goes_on_with_the_same_bits(self):
        first = self.train("first", "name=T1w", "optim.epochs=1")
        record = self.kill_and_go_on("name=T2w_apart", "seed=2", "attention.mode=similarity", "attention.weight=0.5", f"attention.references=[{first}]")
        self.assertTrue(all(0 < e["attention"] < 1 for e in record), record)
        self.assertLess(record[-1]["attention"], record[0]["attention"], "it was to look elsewhere")
        self.assertTrue(all(abs(e["loss"] - e["ce"] - 0.5 * e["attention"]) < 1e-6 for e in record), record)

    def test_killed_student_of_a_teacher_in_training_mode_goes_on_with_the_same_bits(self):
        teacher = self.train("teacher", "name=T1w", "optim.epochs=1")
        self.kill_and_go_on("name=of_T1w", f"teachers=[{teacher}]", "teacher_bn=batch", verb="distill")

    def kill_and_go_on(self, *what, verb="train"):
        settings = [*what, "optim.epochs=6", "data.train_size=1500", "precision=fp32"]
        whole = self.train("whole", *settings, verb=verb)
        run = self.dir / "killed" / whole.relative_to(self.dir / "whole")
        command = [BINARY, verb, "--quiet", "--out", self.dir / "killed", *SMALL, *settings]
        kills = 0
        for target in (1, 3):  # kill -9 somewhere after these epochs
            process = subprocess.Popen(command)
            deadline = time.time() + 120
            while process.poll() is None and time.time() < deadline:
                if (run / "metrics.jsonl").exists() and (run / "metrics.jsonl").read_text().count('"event":"epoch"') >= target:
                    break
                time.sleep(0.01)
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
            process.wait()
        self.assertGreater(kills, 0, "the run was over before it could be killed")
        self.assertFalse((run / "DONE").exists())
        subprocess.run(command, check=True, timeout=300)
        self.assertEqual((run / "ckpt" / "last.safetensors").read_bytes(), (whole / "ckpt" / "last.safetensors").read_bytes())
        self.assertEqual((run / "ckpt" / "best.safetensors").read_bytes(), (whole / "ckpt" / "best.safetensors").read_bytes())
        def learned(r):
            return [{k: v for k, v in e.items() if k not in ("img_per_s", "seconds", "time")} for e in epochs(r)]

        self.assertEqual(learned(run), learned(whole))
        self.assertEqual([e["epoch"] for e in epochs(run)], list(range(6)))
        return epochs(run)

    def test_verbose_says_where_the_training_time_went(self):
        command = [BINARY, "train", "--device", "cpu", "--quiet", "--out", self.dir / "a", *SMALL, "name=T1w"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=600, env=os.environ | {"KD_VERBOSE": "1"})
        self.assertEqual(result.returncode, 0, result.stderr)
        # Three epochs of 360 images, a tenth being held out, in batches of 32.
        self.assertRegex(result.stderr, r"explained: [0-9.]+ % of [0-9.]+ ms a step, 36 steps counted\n$")
        for op in ("conv_fprop", "conv_wgrad", "batchnorm_bwd", "augment_records", "kd_loss", "sgd_step"):
            self.assertRegex(result.stderr, rf"(?m)^{op} +[0-9.]+ +[0-9.]+ +[0-9.]+ %")

    def test_choice_of_convolutions_is_part_of_a_run(self):
        fixed = self.train("fixed", "name=T1w", "--device", "cpu", "--no-tune")
        lines = (fixed / "conv_choices.txt").read_text().splitlines()
        self.assertGreater(len(lines), 20)
        for line in lines:
            self.assertRegex(line, r"^(fprop|fprop\+add|dgrad|dgrad\+add|wgrad) f32 n\d+h\d+w\d+c\d+k\d+r\d+s\d+st\d+p\d+ fast [a-z0-9._]+$")
        exact = self.train("exact", "name=T1w", "--device", "cpu", "--no-tune", "conv=exact")
        self.assertNotIn("winograd", (exact / "conv_choices.txt").read_text())
        # A run that goes on takes what it took, or says why it cannot.
        (fixed / "DONE").unlink()
        (fixed / "conv_choices.txt").write_text("\n".join([lines[0], lines[1].rsplit(" ", 1)[0] + " winograd.of_tomorrow"]) + "\n")
        self.refused("train", "--quiet", "--out", self.dir / "fixed", *SMALL, "name=T1w", "--device", "cpu",
                     says=["conv_choices.txt:2", "winograd.of_tomorrow", "delete the file"])

    def test_finished_run_is_left_alone(self):
        run = self.train("a", "name=T1w")
        before = {p: p.stat().st_mtime_ns for p in run.rglob("*.safetensors")}
        result = kd_bench("train", "--out", self.dir / "a", *SMALL, "name=T1w")
        self.assertIn("finished before", result.stdout)
        self.assertEqual(before, {p: p.stat().st_mtime_ns for p in run.rglob("*.safetensors")})

    def test_recorded_command_is_one_that_a_shell_takes(self):
        out = self.dir / "it's & <odd>; $HOME"
        run = self.train(out.name, "name=T1w", "optim.epochs=1")
        for file in ("env.json", "summary.json"):
            words = shlex.split(json.loads((run / file).read_text())["command"])
            self.assertEqual(words, ["kd_bench", "train", "--quiet", "--out", str(out), *SMALL, "name=T1w", "optim.epochs=1"])

    def test_whole_path_on_cifar_format(self):
        """generate -> train two teachers -> distil -> eval -> table -> report, from files in the CIFAR-100 binary format."""
        kd_bench("data", "generate", "--name", "shapes", "--train", "1200", "--test", "300", "-o", self.dir / "cifar")
        self.assertEqual((self.dir / "cifar" / "train.bin").stat().st_size, 1200 * 3074)
        source = ["data.name=cifar100", f"data.root={self.dir / 'cifar'}", "optim.epochs=4", "model.width=0.25"]
        t1 = self.train("runs", "name=T1w", "view=weak", "seed=1", *source)
        t2 = self.train("runs", "name=T2s", "view=strong", "seed=2", *source)
        for combine in ("mean_logits", "log_mean_prob"):
            self.train("other", f"name={combine}", f"loss.combine={combine}", "loss.zscore=true", f"teachers=[{t1}, {t2}]", "optim.epochs=1", *source[:2], verb="distill")
        student = self.train("runs", "view=weak", "seed=3", f"teachers=[{t1}, {t2}]", *source, verb="distill")
        student = self.dir / "runs" / "cifar100" / "T1w_T2s_Sw" / "seed3"
        self.assertTrue((student / "DONE").exists())
        record = epochs(student)
        self.assertLess(record[-1]["loss"], record[0]["loss"])
        self.assertTrue(all(math.isfinite(e["kd"]) and e["kd"] > 0 for e in record))
        kd_bench("eval", t1, t2, student)
        self.recomputed_offline(student, (t1, t2))
        result = json.loads((student / "analysis" / "eval.json").read_text())
        models, pairs = (result["views"]["test"][k] for k in ("models", "pairs"))
        self.assertEqual(set(models), {"S", "T1", "T2", "Ens"})
        self.assertTrue({"T1-S", "T2-S", "Ens-S", "T1-T2"} <= set(pairs))
        self.assertTrue(0 <= pairs["Ens-S"]["agreement"] <= 1 and pairs["Ens-S"]["kl_ab"] >= 0)
        self.assertEqual(sum(b["n"] for b in models["S"]["reliability"]), 300)
        self.assertIn("random_projection", result["attention"]["views"]["train_view"])
        summary = json.loads((student / "summary.json").read_text())
        self.assertEqual(summary["teachers"], ["T1w", "T2s"])
        self.assertAlmostEqual(summary["test_top1_selected"], models["S"]["top1"], places=9)
        for format in ("text", "md", "csv", "tsv", "latex", "html"):
            self.assertIn("T1w", kd_bench("table", self.dir / "runs", "--format", format).stdout)
        for id in ("r1", "r2", "r4", "r5", "r6", "r7", "r10", "r11"):
            self.assertIn(id.upper(), kd_bench("table", self.dir / "runs", "--which", id, "--trace").stdout)
        kd_bench("table", self.dir / "runs", "--which", "all", "-o", self.dir / "tables")
        self.assertIn("test_top1_selected", (self.dir / "tables" / "r2.csv").read_text())
        kd_bench("report", self.dir / "runs", "-o", self.dir / "r.html")
        html = (self.dir / "r.html").read_text()
        self.assertIn("T1w_T2s_Sw", html.replace("<wbr>", ""))
        self.assertTrue(html.rstrip().endswith("</html>"))

    def test_published_metrics_while_learning(self):
        """The published code's numbers appear in the epoch lines from one epoch before the first drop on, and change no bit of the run."""
        teacher = self.train("t", "name=T1w", "optim.epochs=1")
        settings = [f"teachers=[{teacher}]", "optim.milestones=[2,3]", "seed=4"]
        runs = {mode: self.train(mode, f"published_metrics={mode}", *settings, verb="distill") for mode in ("never", "always", "from_first_drop")}
        have = {mode: ["1Tand1S_f" in line for line in epochs(run)] for mode, run in runs.items()}
        self.assertEqual(have, {"never": [False] * 3, "always": [True] * 3, "from_first_drop": [False, True, True]})
        def tensors(path):  # without the header, which names the recipe
            data = path.read_bytes()
            return data[8 + struct.unpack("<Q", data[:8])[0]:]
        self.assertEqual(len({tensors(run / "ckpt" / "last.safetensors") for run in runs.values()}), 1)
        last, also = epochs(runs["always"])[-1], epochs(runs["from_first_drop"])[-1]
        for key in ("1Tand1S_f", "1Tand1S_kl", "1Tand1S_mi", "1Tand1S_mis", "T1_entropy", "S_entropy"):
            self.assertTrue(math.isfinite(last[key]) and last[key] == also[key], key)
        # One teacher: its mean logits are its logits, and 360 images make 12 batches of which 11 are whole; equal weights move the mean by little.
        self.assertAlmostEqual(last["1Tand1S_f"], last["train_agreement"], delta=0.05)
        self.assertNotIn("T1T2_f", last)

    def recomputed_offline(self, student, teachers):
        """eval.json comes from pred.safetensors alone: the same bytes again with every network and image out of reach."""
        analysis = student / "analysis"
        before = (analysis / "eval.json").read_bytes()
        away = [(run / "ckpt").rename(run / "away") for run in (student, *teachers)]
        (analysis / "eval.json").unlink()
        kd_bench("eval", "--offline", student)
        self.assertEqual((analysis / "eval.json").read_bytes(), before)
        kd_bench("eval", "--offline", "--threshold", "0.6", student)
        self.assertNotEqual((analysis / "eval.json").read_bytes(), before)
        dump = (analysis / "pred.safetensors").read_bytes()
        (analysis / "pred.safetensors").write_bytes(dump[:len(dump) // 2])
        self.refused("eval", "--offline", student, says=["pred.safetensors"])
        (analysis / "pred.safetensors").write_bytes(dump)
        (analysis / "eval.json").write_bytes(before)
        for folder in away:
            folder.rename(folder.parent / "ckpt")

    def test_learns_from_shapes(self):
        run = self.train("a", "name=T1w", "data.train_size=3000", "data.test_size=500", "optim.epochs=10", "optim.batch=64", "optim.warmup=2", "optim.schedule=cosine",
                         "model.width=0.25")
        self.assertGreater(json.loads((run / "summary.json").read_text())["test_top1_last"], 20.0, "chance is 10, and its spread over 500 images 1.3")

    def test_emulated_device_runs_the_whole_path(self):
        """The CUDA kernels on the CPU: teacher, student, evaluation; the same seed on the CPU ends close by, and a run does not change its device."""
        tiny = ["data.train_size=48", "data.test_size=24", "optim.batch=16", "optim.epochs=1", "data.holdout=0"]
        teacher = self.train("emulated", *tiny, "name=T1w", "--device", "emulated")
        student = self.train("emulated", *tiny, "name=T1w_Sw", f"teachers=[{teacher}]", "--device", "emulated", verb="distill")
        kd_bench("eval", "--quiet", "--device", "emulated", student)
        self.assertEqual(json.loads((student / "summary.json").read_text())["device"], "emulated")
        cpu = self.train("cpu", *tiny, "name=T1w")
        self.assertAlmostEqual(epochs(teacher)[0]["loss"], epochs(cpu)[0]["loss"], delta=2e-3)
        (teacher / "DONE").unlink()
        result = kd_bench("train", "--quiet", "--out", self.dir / "emulated", *SMALL, *tiny, "name=T1w", "--device", "cpu", check=False)
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("was trained on 'emulated' so far and would go on on 'cpu'; give --device emulated", result.stderr)

    def test_enlarged_views_and_bf16(self):
        """The paper's geometry (224 px, ImageNet stem) and bf16 where the CPU has it: finite, and not the same numbers as fp32."""
        precisions = ["fp32"] + (["bf16"] if "fp32, bf16" in kd_bench("doctor").stdout else [])
        losses = []
        for precision in precisions:
            run = self.train(precision, "name=T1w", "data.px=224", "model.stem=imagenet", "data.train_size=60", "data.test_size=20", "optim.batch=16", "optim.epochs=1",
                             f"precision={precision}")
            losses.append(epochs(run)[0]["loss"])
            kd_bench("eval", run)
            self.assertEqual(json.loads((run / "analysis" / "gallery.json").read_text())["cam_side"], 7)
        self.assertTrue(all(math.isfinite(v) and 1 < v < 6 for v in losses), losses)
        self.assertEqual(len(set(losses)), len(losses))

    def test_first_progress_line_comes_soon(self):
        start = time.time()
        process = subprocess.Popen([BINARY, "demo", "--out", self.dir / "demo"], stdout=subprocess.PIPE, text=True)
        try:
            self.assertTrue(process.stdout.readline().strip())
            self.assertLess(time.time() - start, 3.0)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


class BadInput(Temporary):
    def train_refused(self, *settings, says, verb="train"):
        self.refused(verb, "--quiet", "--out", self.dir / "runs", *SMALL, *settings, says=says)
        leftovers = [p for p in self.dir.rglob("*") if p.suffix == ".tmp"]
        self.assertEqual(leftovers, [])

    def recipe(self, text):
        path = self.dir / "recipe.yaml"
        path.write_text(text)
        return path

    def test_recipes(self):
        self.train_refused(self.recipe("optim:\n  lr: 0.1\n  lrr: 0.2\n"), says=["recipe.yaml:3", "lrr", "optim.lr"])
        self.train_refused(self.recipe("seed: 1\nview: weak\nseed: 2\n"), says=["recipe.yaml:3", "seed"])
        self.train_refused(self.recipe("optim:\n  lr: fast\n"), says=["recipe.yaml:2", "fast"])
        self.train_refused(self.recipe("optim: [unclosed\n"), says=["recipe.yaml"])
        self.train_refused(self.dir / "nowhere.yaml", says=["nowhere.yaml"])
        self.train_refused("optim.batch=0", says=["optim.batch"])
        self.train_refused("view=sideways", says=["sideways", "weak"])
        self.train_refused("model.arch=resnet19", says=["resnet19", "resnet18"])

    def test_corrected_settings(self):
        """What a refusal advises can be done: a run without an epoch does not stand in the way of the next try under its name."""
        self.train_refused("name=T1w", "data.px=16", says=["px", "32"])
        self.train_refused("name=T1w", "optim.lr=100", "optim.weight_decay=1", "optim.epochs=1", "--no-tune", says=["the loss became", "lower optim.lr"])
        self.train("runs", "name=T1w", "optim.epochs=1")
        self.train_refused("name=T1w", "optim.epochs=1", "optim.lr=0.01", says=["another recipe", "optim.lr is 0.05 and 0.01"])

    def test_data(self):
        root = self.dir / "cifar"
        root.mkdir()
        good = bytes([0, 5]) + bytes(3072)
        source = ("data.name=cifar100", f"data.root={root}")
        self.train_refused(*source, says=[root])
        for content, says in ((good * 3 + b"x", ["train.bin", "byte 9222"]), (b"", ["train.bin"]), (good + bytes([0, 100]) + bytes(3072), ["train.bin", "3075", "100"])):
            (root / "train.bin").write_bytes(content)
            (root / "test.bin").write_bytes(good)
            self.train_refused(*source, says=says)

    def test_teachers(self):
        self.train_refused(f"teachers=[{self.dir / 'nobody'}]", verb="distill", says=["nobody"])
        self.train_refused(verb="distill", says=["no teachers"])
        teacher = self.train("t", "name=T1w")
        self.train_refused(f"teachers=[{teacher}]", says=["distill"])
        reference = ["name=T2w", "attention.mode=similarity", "attention.weight=1"]
        self.train_refused(*reference, says=["T2w", "attention.references"])
        self.train_refused(*reference, f"attention.references=[{self.dir / 'nobody'}]", says=["attention reference", "nobody"])
        self.train_refused(*reference, f"attention.references=[{teacher}]", "model.stem=imagenet", says=["T1w", "4x4 positions", "1x1", "model.stem"])
        kd_bench("data", "generate", "--train", "200", "--test", "100", "-o", self.dir / "c")
        (self.dir / "c" / "fine_label_names.txt").unlink()  # without names the format's 100 classes are taken
        self.train_refused(f"teachers=[{teacher}]", "data.name=cifar100", f"data.root={self.dir / 'c'}", verb="distill", says=["T1w", "10 classes"])
        checkpoint = teacher / "ckpt" / "best.safetensors"
        whole = checkpoint.read_bytes()
        length = struct.unpack("<Q", whole[:8])[0]
        header = json.loads(whole[8 : 8 + length])
        self.assertEqual(header["__metadata__"]["format"], "pt")
        for damage, says in ((whole[: len(whole) // 2], ["best.safetensors"]), (struct.pack("<Q", 1 << 60) + whole[8:], ["best.safetensors"]), (b"", ["best.safetensors"])):
            checkpoint.write_bytes(damage)
            self.train_refused(f"teachers=[{teacher}]", verb="distill", says=says)

    def test_machine(self):
        self.refused("doctor", env={"KD_CPU": "abacus"}, says=["KD_CPU=abacus", "avx512_bf16"])
        if "for amx" not in kd_bench("doctor").stdout:
            self.refused("doctor", env={"KD_CPU": "amx"}, says=["KD_CPU=amx", "at most"])
        self.assertIn("for none, as KD_CPU says", kd_bench("doctor", env={"KD_CPU": "none"}).stdout)
        self.refused("train", "--device", "cpu", *SMALL, "precision=bf16", env={"KD_CPU": "none"}, says=["bf16", "precision=fp32"])
        many = kd_bench("doctor", env={"OMP_NUM_THREADS": str(os.cpu_count() + 3)})
        self.assertEqual(len(many.stderr.splitlines()), 1, many.stderr)
        self.assertIn(f"OMP_NUM_THREADS={len(os.sched_getaffinity(0))}", many.stderr)

    def test_flags(self):
        self.refused(says=["kd_bench: ", "subcommand is required", "'kd_bench --help'"])
        self.refused("tarin", says=["kd_bench: 'tarin' is no verb", "'kd_bench --help'"])
        self.refused("data", "shwo", says=["kd_bench: 'shwo' is no verb", "'kd_bench data --help'"])
        self.refused("train", "--fast", says=["kd_bench: ", "--fast", "'kd_bench train --help'"])
        self.refused("eval", says=["kd_bench: runs is required", "'kd_bench eval --help'"])
        self.refused("data", "generate", "-o", self.dir, "--train", "many", says=["--train", "many", "'kd_bench data generate --help'"])

    def test_outputs(self):
        (self.dir / "file").write_text("in the way")
        self.refused("train", "--quiet", "--out", self.dir / "file", *SMALL, says=["file"])
        self.refused("eval", self.dir / "nothing", says=["nothing"])
        self.refused("eval", self.dir, says=[self.dir, "not a run directory", "config.yaml"])
        kd_bench("data", "generate", "--train", "20", "--test", "20", "-o", self.dir / "set")
        before = (self.dir / "set" / "train.bin").read_bytes()
        (self.dir / "photos" / "class").mkdir(parents=True)
        for making in (["generate", "--train", "30"], ["import", self.dir / "photos"]):
            self.refused("data", *making, "-o", self.dir / "set", says=["set", "holds a dataset already"])
        self.assertEqual((self.dir / "set" / "train.bin").read_bytes(), before)
        self.refused("table", self.dir, says=[self.dir])
        self.refused("report", self.dir / "nothing", says=["nothing"])
        self.refused("train", "--device", "cuda", *SMALL, says=["CUDA"])
        self.refused("convert", self.dir / "file", says=["file"])
        self.refused("convert", self.dir / "two\nlines", says=["two\\x0alines"])

    def test_full_disk(self):
        """A run on a file system with no room left ends in one line, with nothing half-written under a final name."""
        mount = self.dir / "small"
        mount.mkdir()
        if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "none", mount], capture_output=True).returncode != 0:
            self.skipTest("needs the right to mount a tmpfs")
        try:
            self.refused("train", "--quiet", "--out", mount, *SMALL, says=["No space left", "safetensors"])
            self.assertEqual([p.name for p in mount.rglob("*.safetensors")] + [p.name for p in mount.rglob("*.tmp")], [])
            self.assertEqual(list(mount.rglob("DONE")), [])
        finally:
            subprocess.run(["umount", mount], check=True)

    def test_output_that_does_not_arrive(self):
        for args in (["config", "keys"], ["config", "diff", "clean", "smoke"], ["--help"]):
            with open("/dev/full", "w") as full:
                result = subprocess.run([BINARY, *args], stdout=full, stderr=subprocess.PIPE, text=True, timeout=600)
            self.assertEqual(result.returncode, 1, args)
            self.assertRegex(result.stderr, r"\Akd_bench: [^\n]*cannot write[^\n]*No space left on device\n\Z")

    def test_file_size_limit(self):
        """Beyond `ulimit -f` a write fails like one on a full disk; the signal that comes with it does not end the process first."""
        command = ["bash", "-c", 'ulimit -f 40; exec "$@"', "-", BINARY, "train", "--quiet", "--no-tune", "--out", self.dir / "runs", *SMALL]
        result = subprocess.run(command, capture_output=True, text=True, timeout=600)
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertRegex(result.stderr, r"\Akd_bench: [^\n]*\.safetensors\.tmp: cannot write: File too large\n\Z")
        self.assertEqual([p.name for p in self.dir.rglob("*.tmp")], [])


if __name__ == "__main__":
    unittest.main(verbosity=2)
