#!/usr/bin/env python3
"""Times the steps of kd_bench_step and the same work in PyTorch, alternately, in one run, and prints the ratio.

    tools/bench_against_torch.py build/kd_bench_step [--case r18_train_32_b128] [--precision fp32] [--mode eager compile] [--rounds 5] [--csv FILE]
    tools/bench_against_torch.py build/kd_bench_step --device cuda [--mode eager compile reduce-overhead freezing] [--limit 300]

Every round times ours, then each PyTorch mode, each for --seconds; the table shows medians over all rounds with p10-p90. A step is timed by the clock of the
host, from an idle device to an idle device. PyTorch runs channels_last, bf16 training through autocast, SGD fused. On CUDA: cudnn.benchmark, networks that
are only evaluated in bf16 altogether, f32 products exact on both sides (no TF32). Modes: eager; compile; reduce-overhead, which is compile with CUDA
graphs; freezing, for inference, which also folds constants. Needs torch and torchvision; on the CPU both sides use as many threads as OpenMP gives.
"""
import argparse
import csv
import platform
import statistics
import subprocess
import sys
import time

import torch
import torch._inductor.config
import torchvision

# As in bench/kd_bench_step.cpp; teachers are ResNet-50 in evaluation mode.
CASES = {
    "r18_train_32_b128": dict(arch="resnet18", stem="cifar", px=32, batch=128),
    "r18_train_224_b16": dict(arch="resnet18", stem="imagenet", px=224, batch=16),
    "r50_infer_224_b16": dict(arch="resnet50", stem="imagenet", px=224, batch=16, infer=True),
    "kd_2xr50_r18_32_b64": dict(arch="resnet18", stem="cifar", px=32, batch=64, teachers=2),
    "r18_train_224_b256": dict(arch="resnet18", stem="imagenet", px=224, batch=256),
    "r50_infer_224_b256": dict(arch="resnet50", stem="imagenet", px=224, batch=256, infer=True),
    "r50_train_224_b256": dict(arch="resnet50", stem="imagenet", px=224, batch=256),
    "r18_train_32_b512": dict(arch="resnet18", stem="cifar", px=32, batch=512),
    "kd_1xr50_r18_224_b128": dict(arch="resnet18", stem="imagenet", px=224, batch=128, teachers=1),
    "kd_2xr50_r18_224_b128": dict(arch="resnet18", stem="imagenet", px=224, batch=128, teachers=2),
    "kd_3xr50_r18_224_b128": dict(arch="resnet18", stem="imagenet", px=224, batch=128, teachers=3),
    "kd_2xr50_r18_32_b128": dict(arch="resnet18", stem="cifar", px=32, batch=128, teachers=2),
}
# By default, most telling first.
DEFAULT_CASES = {
    "cpu": ["r18_train_32_b128", "r18_train_224_b16", "r50_infer_224_b16", "kd_2xr50_r18_32_b64"],
    "cuda": ["r18_train_224_b256", "r50_infer_224_b256", "kd_2xr50_r18_224_b128", "r18_train_32_b128", "kd_2xr50_r18_32_b128", "kd_1xr50_r18_224_b128",
             "kd_3xr50_r18_224_b128", "r18_train_32_b512", "r50_train_224_b256"],
}
MODES = ["eager", "compile", "reduce-overhead", "freezing"]


def build(arch, stem, device):
    model = getattr(torchvision.models, arch)(num_classes=100)
    if stem == "cifar":
        model.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        model.maxpool = torch.nn.Identity()
    return model.to(device=device, memory_format=torch.channels_last)


def kd_loss(s, teachers, y, tau=3.0, alpha=0.6):
    hard = torch.nn.functional.cross_entropy(s, y)
    log_q = torch.log_softmax(s / tau, 1)
    soft = sum(torch.nn.functional.kl_div(log_q, torch.softmax(t / tau, 1), reduction="batchmean") for t in teachers) / len(teachers)
    return alpha * hard + (1 - alpha) * tau * tau * soft


def compiled(model, mode):
    if mode == "eager":
        return model
    return torch.compile(model, mode=None if mode == "compile" else "reduce-overhead")


class TorchStep:
    def __init__(self, case, precision, mode, device):
        self.device, self.mode = device, mode
        self.autocast = precision == "bf16"
        self.infer = case.get("infer", False)
        if mode != "eager":
            torch._inductor.config.freezing = mode == "freezing"  # read when the network first runs
        self.model = build(case["arch"], case["stem"], device).train(not self.infer)
        self.teachers = [build("resnet50", case["stem"], device).eval() for _ in range(case.get("teachers", 0))]
        self.x = torch.randn(case["batch"], 3, case["px"], case["px"], device=device).to(memory_format=torch.channels_last)
        self.x_eval = self.x
        if self.autocast and device == "cuda":  # spares the casts of weights and activations that autocast would make at every step
            self.x_eval = self.x.bfloat16()
            self.teachers = [t.bfloat16() for t in self.teachers]
            if self.infer:
                self.model.bfloat16()
        self.y = torch.randint(0, 100, (case["batch"],), device=device)
        if not self.infer:
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4, fused=True)
        self.model = compiled(self.model, mode)
        self.teachers = [compiled(t, mode) for t in self.teachers]

    def run(self):
        if self.mode in ("reduce-overhead", "freezing"):
            torch.compiler.cudagraph_mark_step_begin()
        self.step()
        if self.device == "cuda":
            torch.cuda.synchronize()

    def step(self):
        autocast = torch.autocast(self.device, torch.bfloat16, enabled=self.autocast)
        autocast_eval = torch.autocast(self.device, torch.bfloat16, enabled=self.autocast and self.device == "cpu")
        # Freezing asks for no_grad; the two cost the same.
        with torch.no_grad() if self.mode == "freezing" else torch.inference_mode(), autocast_eval:
            if self.infer:
                return self.model(self.x_eval)
            teachers = [t(self.x_eval) for t in self.teachers]
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
    def __init__(self, binary, device):
        self.process = subprocess.Popen([binary, "--serve", "--device", device], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def sample(self, case, precision, seconds):
        try:
            print(case, precision, seconds, file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            sys.exit("kd_bench_step stopped; its message stands above")
        return [float(v) for v in line.split()]


def spread(values):
    values = sorted(values)
    at = lambda p: values[min(len(values) - 1, int(p * len(values)))]
    return statistics.median(values), at(0.1), at(0.9)


def machine(device):
    if device == "cuda":
        return f"{torch.cuda.get_device_name()} · CUDA {torch.version.cuda} · cuDNN {torch.backends.cudnn.version()}"
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.processor())
    return f"{cpu} · {torch.get_num_threads()} threads"


def compare(name, precision, args, ours):
    """Rows (case, precision, who, median, p10, p90, theirs over ours) of one case."""
    case = CASES[name]
    modes = [mode for mode in args.mode if mode != "freezing" or case.get("infer")]
    steps = {}
    for mode in modes:
        try:
            step = TorchStep(case, precision, mode, args.device)
            for _ in range(2 if args.device == "cpu" else 5):  # compiled before the next mode is set; CUDA graphs are recorded by the third run
                step.run()
            steps[mode] = step
        except Exception as e:  # of PyTorch's own making: the other modes still have a number
            print(f"{name:<22} {precision:<5} torch {mode:<15} failed: {str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__}", flush=True)
    mine, theirs = [], {mode: [] for mode in steps}
    for _ in range(args.rounds):
        mine += ours.sample(name, precision, args.seconds)
        for mode, step in steps.items():
            theirs[mode] += sample_torch(step, args.seconds)
    median, low, high = spread(mine)
    rows = [(name, precision, "retort", median, low, high, "")]
    for mode, values in theirs.items():
        m, l, h = spread(values)
        rows.append((name, precision, "torch " + mode, m, l, h, m / median))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    defaults = "; ".join(f"{device}: {' '.join(cases)}" for device, cases in DEFAULT_CASES.items())
    parser.add_argument("--case", nargs="+", choices=CASES, metavar="CASE", help=f"default on {defaults}")
    parser.add_argument("--precision", nargs="+", choices=["fp32", "bf16"], help="default: both on the CPU, bf16 on CUDA")
    parser.add_argument("--mode", nargs="+", choices=MODES, default=["eager"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--limit", type=float, help="begin no case after this many seconds")
    parser.add_argument("--csv")
    args = parser.parse_args()
    if args.device == "cuda":
        if not torch.cuda.is_available():
            sys.exit("bench_against_torch.py: --device cuda: PyTorch finds no GPU")
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    names = args.case or DEFAULT_CASES[args.device]
    precisions = args.precision or (["fp32", "bf16"] if args.device == "cpu" else ["bf16"])
    start = time.monotonic()
    ours = Ours(args.binary, args.device)
    print(f"{machine(args.device)} · torch {torch.__version__} · {time.strftime('%Y-%m-%d')} · {args.rounds} alternating rounds")
    print(f"{'case':<22} {'':<5} {'who':<21} {'median ms':>10} {'p10 - p90 ms':>21} {'ratio':>7}", flush=True)
    table = open(args.csv, "w", newline="") if args.csv else None
    writer = csv.writer(table) if table else None
    if writer:
        writer.writerow(["case", "precision", "who", "median_ms", "p10_ms", "p90_ms", "torch_over_retort"])
    for name in names:
        for precision in precisions:
            if args.limit and time.monotonic() - start > args.limit:
                print(f"{name:<22} {precision:<5} left out: no time")
                continue
            for row in compare(name, precision, args, ours):
                ratio = f"{row[6]:.2f}x" if row[6] else ""
                digits = 1 if row[3] >= 100 else 2
                print(f"{row[0]:<22} {row[1]:<5} {row[2]:<21} {row[3]:>10.{digits}f} {row[4]:>10.{digits}f} - {row[5]:>8.{digits}f} {ratio:>7}", flush=True)
                if writer:
                    writer.writerow([*row[:3], *(f"{v:.3f}" for v in row[3:6]), f"{row[6]:.3f}" if row[6] else ""])
                    table.flush()
            if args.device == "cuda":
                torch._dynamo.reset()
                torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
