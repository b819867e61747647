#!/usr/bin/env python3
"""Times the steps of kd_bench_step and the same work in PyTorch, alternately, in one run, and prints the ratio.

    tools/bench_against_torch.py build/kd_bench_step [--case r18_train_32_b128] [--precision fp32] [--mode eager compile] [--rounds 5] [--csv FILE]

Every round times ours, then each PyTorch mode, each for --seconds; the table shows medians over all rounds with p10-p90. PyTorch runs channels_last (its best
layout on CPUs), bf16 through autocast, SGD fused where it has it. Needs torch and torchvision; uses as many threads as OpenMP gives both sides.
"""
import argparse
import csv
import platform
import statistics
import subprocess
import sys
import time

import torch
import torchvision

CASES = {
    "r18_train_32_b128": dict(arch="resnet18", stem="cifar", px=32, batch=128),
    "r18_train_224_b16": dict(arch="resnet18", stem="imagenet", px=224, batch=16),
    "r50_infer_224_b16": dict(arch="resnet50", stem="imagenet", px=224, batch=16, infer=True),
    "kd_2xr50_r18_32_b64": dict(arch="resnet18", stem="cifar", px=32, batch=64, teachers=2),
}


def build(arch, stem):
    model = getattr(torchvision.models, arch)(num_classes=100)
    if stem == "cifar":
        model.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        model.maxpool = torch.nn.Identity()
    return model.to(memory_format=torch.channels_last)


def kd_loss(s, teachers, y, tau=3.0, alpha=0.6):
    hard = torch.nn.functional.cross_entropy(s, y)
    log_q = torch.log_softmax(s / tau, 1)
    soft = sum(torch.nn.functional.kl_div(log_q, torch.softmax(t / tau, 1), reduction="batchmean") for t in teachers) / len(teachers)
    return alpha * hard + (1 - alpha) * tau * tau * soft


class TorchStep:
    def __init__(self, case, precision, mode):
        self.bf16 = precision == "bf16"
        self.infer = case.get("infer", False)
        self.model = build(case["arch"], case["stem"])
        self.teachers = [build("resnet50", case["stem"]).eval() for _ in range(case.get("teachers", 0))]
        self.x = torch.randn(case["batch"], 3, case["px"], case["px"]).to(memory_format=torch.channels_last)
        self.y = torch.randint(0, 100, (case["batch"],))
        self.model.train(not self.infer)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4, fused=True)
        if mode == "compile":
            self.model = torch.compile(self.model)
            self.teachers = [torch.compile(t) for t in self.teachers]

    def run(self):
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=self.bf16)
        if self.infer:
            with torch.inference_mode(), autocast:
                return self.model(self.x)
        with torch.inference_mode(), autocast:
            teachers = [t(self.x) for t in self.teachers]
        teachers = [t.clone().float() for t in teachers]
        with autocast:
            logits = self.model(self.x)
        loss = kd_loss(logits.float(), teachers, self.y) if teachers else torch.nn.functional.cross_entropy(logits.float(), self.y)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def sample_torch(step, seconds):
    out, stop = [], time.perf_counter() + seconds
    while len(out) < 3 or time.perf_counter() < stop:
        start = time.perf_counter()
        step.run()
        out.append(1e3 * (time.perf_counter() - start))
    return out


class Ours:
    def __init__(self, binary):
        self.process = subprocess.Popen([binary, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def sample(self, case, precision, seconds):
        print(case, precision, seconds, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            sys.exit("kd_bench_step stopped; its message stands above")
        return [float(v) for v in line.split()]


def spread(values):
    values = sorted(values)
    at = lambda p: values[min(len(values) - 1, int(p * len(values)))]
    return statistics.median(values), at(0.1), at(0.9)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--precision", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    parser.add_argument("--mode", nargs="+", choices=["eager", "compile"], default=["eager"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--csv")
    args = parser.parse_args()
    ours = Ours(args.binary)
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.processor())
    print(f"{cpu} · {torch.get_num_threads()} threads · torch {torch.__version__} · {time.strftime('%Y-%m-%d')} · {args.rounds} alternating rounds")
    print(f"{'case':<22} {'':<5} {'who':<14} {'median ms':>10} {'p10 - p90 ms':>21} {'ratio':>7}")
    rows = []
    for name in args.case:
        for precision in args.precision:
            steps = {mode: TorchStep(CASES[name], precision, mode) for mode in args.mode}
            for step in steps.values():
                step.run()
                step.run()
            mine, theirs = [], {mode: [] for mode in steps}
            for _ in range(args.rounds):
                mine += ours.sample(name, precision, args.seconds)
                for mode, step in steps.items():
                    theirs[mode] += sample_torch(step, args.seconds)
            median, low, high = spread(mine)
            rows.append((name, precision, "retort", median, low, high, ""))
            for mode, values in theirs.items():
                m, l, h = spread(values)
                rows.append((name, precision, "torch " + mode, m, l, h, m / median))
            for row in rows[-1 - len(theirs):]:
                ratio = f"{row[6]:.2f}x" if row[6] else ""
                print(f"{row[0]:<22} {row[1]:<5} {row[2]:<14} {row[3]:>10.1f} {row[4]:>10.1f} - {row[5]:>8.1f} {ratio:>7}", flush=True)
    if args.csv:
        with open(args.csv, "w", newline="") as f:
            writer = csv.writer(f)
            writer.writerow(["case", "precision", "who", "median_ms", "p10_ms", "p90_ms", "torch_over_retort"])
            writer.writerows([*row[:3], *(f"{v:.2f}" for v in row[3:6]), f"{row[6]:.3f}" if row[6] else ""] for row in rows)


if __name__ == "__main__":
    main()
