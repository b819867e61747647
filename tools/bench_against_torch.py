#!/usr/bin/env python3
"""Times the steps of kd_bench_step and the same work in PyTorch, alternately, in one run, and prints the ratios.

    kd_bench_step --against torch [--python PYTHON] [-o PREFIX] [--case r18_train_32_b128] [--mode eager tuned]     starts this script
    tools/bench_against_torch.py build/kd_bench_step --device cuda [--mode eager compile reduce-overhead freezing] [--limit 300]

Every form of either side is a process of its own that waits for "CASE PRECISION SECONDS" and answers with the milliseconds of single steps. In every round
each is asked once, one at a time, for --seconds; the table shows medians over all rounds with p10-p90. A step is timed by the clock of the host, from an
idle device to an idle device, after an untimed one. All have the same OMP_NUM_THREADS and the same bounded spinning, so that those who wait leave the
cores alone (measured, and said where it is not so).

Ours: as it is, and on the CPU `exact`: no Winograd. PyTorch runs channels_last, bf16 training through autocast, SGD fused, in these modes:
  eager            the default
  tuned            eager, with an allocator that keeps its memory in huge pages: jemalloc where it is found, else glibc told to
  compile          torch.compile, default mode
  freezing         inference: compile, with constants folded
  tuned-compile, tuned-freezing     both at once
  reduce-overhead  compile with CUDA graphs
On CUDA: cudnn.benchmark, networks that are only evaluated in bf16 altogether, f32 products exact on both sides (no TF32).
PyTorch's best is the fastest of what was measured beside eager.
"""
import argparse
import contextlib
import csv
import ctypes.util
import glob
import io
import json
import os
import platform
import selectors
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

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
    "r18_train_32_b8": dict(arch="resnet18", stem="cifar", px=32, batch=8),
}
# By default, most telling first.
DEFAULT_CASES = {
    "cpu": ["r18_train_32_b128", "r18_train_224_b16", "r50_infer_224_b16", "kd_2xr50_r18_32_b64"],
    "cuda": ["r18_train_224_b256", "r50_infer_224_b256", "kd_2xr50_r18_224_b128", "r18_train_32_b128", "kd_2xr50_r18_32_b128", "kd_1xr50_r18_224_b128",
             "kd_3xr50_r18_224_b128", "r18_train_32_b512", "r50_train_224_b256"],
}
FORMS = {"eager": "eager", "tuned": "eager", "compile": "compile", "freezing": "freezing", "tuned-compile": "compile", "tuned-freezing": "freezing",
         "reduce-overhead": "reduce-overhead"}  # how the networks are built; "tuned" is the process's environment
DEFAULT_MODES = {"cpu": ["eager", "tuned", "compile", "freezing"], "cuda": ["eager"]}

# docs/design.md, "Goals on the CPU": PyTorch's time over ours, for its default and for its best mode; None: no goal.
GOALS = {
    ("r18_train_32_b128", "fp32"): (2.5, 2.0),
    ("r18_train_32_b128", "bf16"): (1.65, 1.5),
    ("r18_train_224_b16", "fp32"): (None, 1.7),
    ("r18_train_224_b16", "bf16"): (None, 1.4),
    ("r50_infer_224_b16", "fp32"): (2.2, 1.3),
    ("r50_infer_224_b16", "bf16"): (1.8, 1.1),
    ("kd_2xr50_r18_32_b64", "fp32"): (2.0, 1.6),
    ("kd_2xr50_r18_32_b64", "bf16"): (1.75, 1.3),
}

# The same where the CPU has AMX and the program may use it, which both sides' bf16 runs on.
GOALS_AMX = {
    ("r18_train_32_b128", "fp32"): (2.3, None),
    ("r18_train_32_b128", "bf16"): (2.0, None),
    ("r50_infer_224_b16", "bf16"): (2.5, None),
}


def goals():
    try:
        amx = " amx_bf16" in Path("/proc/cpuinfo").read_text() and os.environ.get("KD_CPU", "amx") == "amx"
    except OSError:
        amx = False
    return GOALS_AMX if amx else GOALS


START_LIMIT_S = 180  # to import torch, on a cold disk
LEFT_OUT = "left out"  # there is nothing of ours to compare with


# ---- PyTorch's side: a process per mode ----------------------------------------------------------------------------------------------

def torch_server(mode, device):
    """Line by line: one JSON object that says who answers; then for each request the milliseconds of its steps, or "error" and a reason."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever else prints must not look like an answer
    try:
        import torch
        import torch._inductor.config
        import torchvision
    except Exception as e:  # not installed, or broken
        answers.write(json.dumps({"no_torch": first_line(e)}) + "\n")
        return
    form = FORMS[mode]

    def build(arch, stem):
        model = getattr(torchvision.models, arch)(num_classes=100)
        if stem == "cifar":
            model.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
            model.maxpool = torch.nn.Identity()
        return model.to(device=device, memory_format=torch.channels_last)

    def compiled(model):
        if form == "eager":
            return model
        return torch.compile(model, mode="reduce-overhead" if form in ("reduce-overhead", "freezing") and device == "cuda" else None)

    def kd_loss(s, teachers, y, tau=3.0, alpha=0.6):
        hard = torch.nn.functional.cross_entropy(s, y)
        log_q = torch.log_softmax(s / tau, 1)
        soft = sum(torch.nn.functional.kl_div(log_q, torch.softmax(t / tau, 1), reduction="batchmean") for t in teachers) / len(teachers)
        return alpha * hard + (1 - alpha) * tau * tau * soft

    class Step:
        def __init__(self, case, precision):
            self.autocast = precision == "bf16"
            self.infer = case.get("infer", False)
            self.model = build(case["arch"], case["stem"]).train(not self.infer)
            self.teachers = [build("resnet50", case["stem"]).eval() for _ in range(case.get("teachers", 0))]
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
            self.model = compiled(self.model)
            self.teachers = [compiled(t) for t in self.teachers]

        def run(self):
            if form in ("reduce-overhead", "freezing"):
                torch.compiler.cudagraph_mark_step_begin()
            self.step()
            if device == "cuda":
                torch.cuda.synchronize()

        def step(self):
            autocast = torch.autocast(device, torch.bfloat16, enabled=self.autocast)
            autocast_eval = torch.autocast(device, torch.bfloat16, enabled=self.autocast and device == "cpu")
            # Freezing asks for no_grad; the two cost the same.
            with torch.no_grad() if form == "freezing" else torch.inference_mode(), autocast_eval:
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

    def sample(step, seconds):
        """Three steps or more; of slow ones as many as begin within four times the time asked for."""
        step.run()
        out, start = [], time.perf_counter()
        while True:
            begin = time.perf_counter()
            if out and begin - start >= (seconds if len(out) >= 3 else 4 * seconds):
                return out
            step.run()
            out.append(1e3 * (time.perf_counter() - begin))

    torch._inductor.config.freezing = form == "freezing"
    if device == "cuda":
        if not torch.cuda.is_available():
            answers.write(json.dumps({"no_torch": "--device cuda: PyTorch finds no GPU"}) + "\n")
            return
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        name = f"{torch.cuda.get_device_name()} · CUDA {torch.version.cuda} · cuDNN {torch.backends.cudnn.version()}"
    else:
        name = f"{cpu_name()} · {torch.get_num_threads()} threads"
    answers.write(json.dumps({"torch": str(torch.__version__), "machine": name, "jemalloc": "jemalloc" in Path("/proc/self/maps").read_text()}) + "\n")
    ready, step = None, None
    for line in sys.stdin:
        case, precision, seconds = line.split()
        try:
            if ready != (case, precision):
                ready, step = None, None  # one case at a time: activations at 224 px are gigabytes
                if form != "eager":
                    torch._dynamo.reset()
                if device == "cuda":
                    torch.cuda.empty_cache()
                step = Step(CASES[case], precision)
                for _ in range(1 if device == "cpu" else 4):  # CUDA graphs are recorded by the third run
                    step.run()
                ready = (case, precision)
            answers.write(" ".join(f"{ms:.4f}" for ms in sample(step, float(seconds))) + "\n")
        except Exception as e:  # of PyTorch's own making: the other modes still have a number
            ready, step = None, None
            answers.write(f"error {first_line(e)}\n")


def first_line(e):
    text = str(e).strip()
    return text.splitlines()[0] if text else type(e).__name__


def cpu_name():
    return next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.processor())


# ---- asking ------------------------------------------------------------------------------------------------------------------------

class Failed(Exception):
    """One line that stands in the table instead of a number."""


class Server:
    """A process that answers one line with one line. It is started when first asked, and again after it failed."""

    def __init__(self, name, command, environment):
        self.name, self.command, self.environment = name, command, environment
        self.process, self.buffer, self.hello = None, b"", None

    def start(self):
        self.errors = tempfile.TemporaryFile()
        # A session of its own: what it starts (compilers, say) ends with it.
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, env=self.environment,
                                        start_new_session=True)
        self.buffer = b""

    def read_line(self, limit):
        until = time.monotonic() + limit
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self.buffer:
                if not selector.select(max(0.0, until - time.monotonic())):
                    self.stop()
                    raise Failed(f"over {limit:g} s")
                chunk = os.read(self.process.stdout.fileno(), 1 << 16)
                if not chunk:
                    raise Failed(self.last_words())
                self.buffer += chunk
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line.decode(errors="replace").strip()

    def last_words(self):
        self.errors.seek(0)
        lines = [line for line in self.errors.read().decode(errors="replace").splitlines() if line.strip()]
        code = self.process.wait()
        self.stop()
        if code < 0:  # what it wrote before need not have to do with it
            return f"stopped by signal {-code}"
        return lines[-1].strip() if lines else f"stopped with exit status {code}"

    def ask(self, line, limit):
        """Milliseconds of single steps."""
        if self.process is None:
            self.start()
            if self.hello is not None:
                self.read_line(START_LIMIT_S)
        try:
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Failed(self.last_words()) from None
        answer = self.read_line(limit)
        if answer.startswith("error "):
            raise Failed(answer[6:])
        try:
            values = [float(v) for v in answer.split()]
        except ValueError:
            values = []
        if not values or not all(0 < v < float("inf") for v in values):
            self.stop()
            raise Failed(f"answered '{answer[:60]}'")
        return values

    def cpu_seconds(self):
        """Of the whole process so far; None where it does not run."""
        with contextlib.suppress(OSError, ValueError, IndexError, AttributeError):
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return None

    def stop(self):
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            with contextlib.suppress(OSError):
                stream.close()
        self.process = None


def find_jemalloc(named):
    if named:
        if not Path(named).is_file():
            sys.exit(f"bench_against_torch.py: --jemalloc {named}: no such file")
        return str(Path(named).resolve())
    name = ctypes.util.find_library("jemalloc")
    folders = ["/usr/lib/*-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib", f"{sys.prefix}/lib"]
    found = [path for folder in folders for path in sorted(glob.glob(f"{folder}/{name or 'libjemalloc.so.2'}"))]
    return found[0] if found else None


def environments(jemalloc):
    """(of everyone, of tuned modes)."""
    common = dict(os.environ)
    common.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    if "OMP_WAIT_POLICY" not in common:
        common.setdefault("GOMP_SPINCOUNT", "20000")
    tuned = dict(common)
    if jemalloc:
        tuned["LD_PRELOAD"] = ":".join(filter(None, [jemalloc, common.get("LD_PRELOAD")]))
        tuned["MALLOC_CONF"] = "thp:always,metadata_thp:auto,dirty_decay_ms:-1,muzzy_decay_ms:-1"
    else:  # huge pages, and no memory goes back to the system between two steps
        tuned["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1099511627776"
    return common, tuned


class Progress:
    """What happens now, on standard error; on a terminal one line that is written over."""

    def __init__(self, units):
        self.units, self.done, self.start = units, 0, time.monotonic()
        self.in_place = sys.stderr.isatty()

    def now(self, what):
        elapsed = time.monotonic() - self.start
        left = f"about {clock(elapsed / self.done * (self.units - self.done))} left" if self.done else "time left unknown"
        line = f"[{100 * self.done // max(self.units, 1):3d} %] {what} · {clock(elapsed)} elapsed, {left}"
        print(f"\r\033[K{line}" if self.in_place else line, end="" if self.in_place else "\n", file=sys.stderr, flush=True)

    def clear(self):
        if self.in_place:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def clock(seconds):
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


# ---- the table -----------------------------------------------------------------------------------------------------------------------

@dataclass
class Row:
    case: str
    precision: str
    who: str
    values: list = field(default_factory=list)
    problem: str = ""

    @property
    def median(self):
        return statistics.median(self.values) if self.values and not self.problem else None

    def percentile(self, p):
        values = sorted(self.values)
        return values[min(len(values) - 1, int(p * len(values)))]


@dataclass
class Comparison:
    """All that was measured of one case in one precision."""
    case: str
    precision: str
    rows: list

    def of(self, who):
        return next((row for row in self.rows if row.who == who), None)

    def median(self, who):
        row = self.of(who)
        return row.median if row else None

    def best(self):
        """PyTorch's fastest mode beside its default, or None."""
        rows = [row for row in self.rows if row.who.startswith("torch ") and row.who != "torch eager" and row.median]
        return min(rows, key=lambda row: row.median) if rows else None

    def ratio(self, theirs):
        ours = self.median("retort")
        return theirs / ours if ours and theirs else None


def ms(value):
    return "–" if value is None else f"{value:.1f}" if value >= 100 else f"{value:.2f}"


def shown(row):
    """A cell: the number, or why there is none, if that is short."""
    if row is None or row.problem == LEFT_OUT:
        return "–"
    return ms(row.median) if row.median else row.problem if row.problem.startswith("over ") else "failed"


def times(ratio):
    return "–" if ratio is None else f"{ratio:.2f}x"


def goal_cell(comparison, device):
    parts = []
    best = comparison.best()
    ratios = (comparison.ratio(comparison.median("torch eager")), comparison.ratio(best.median if best else None))
    for goal, ratio, name in zip(goals().get((comparison.case, comparison.precision), ()) if device == "cpu" else (), ratios, ("default", "best")):
        if goal is not None:
            parts.append(f"{name} {goal:g}: {'?' if ratio is None else 'reached' if ratio >= goal else 'missed'}")
    return ", ".join(parts) or "–"


HEADINGS = ["case", "", "ours ms", "ours exact ms", "PyTorch ms", "its best ms", "ratio", "to its best", "goal"]


def summary(comparisons, device):
    rows = []
    for c in comparisons:
        best = c.best()
        rows.append([c.case, c.precision, shown(c.of("retort")), shown(c.of("retort exact")), shown(c.of("torch eager")),
                     f"{ms(best.median)} ({best.who[6:]})" if best else "–", times(c.ratio(c.median("torch eager"))),
                     times(c.ratio(best.median if best else None)), goal_cell(c, device)])
    return rows


def as_text(rows):
    widths = [max(len(row[i]) for row in [HEADINGS, *rows]) for i in range(len(HEADINGS))]
    def line(row):
        return "  ".join(cell.ljust(w) if i in (0, 1, 8) else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths))).rstrip() + "\n"
    return "".join(map(line, [HEADINGS, *rows]))


def as_markdown(rows):
    line = lambda cells: "| " + " | ".join(cells) + " |"
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join([line(HEADINGS), "|---|---|" + "---:|" * 6 + "---|", *(line([f"`{row[0]}`", *row[1:]]) for row in escaped)]) + "\n"


def long_heading():
    return f"{'case':<22} {'':<5} {'who':<21} {'median ms':>10} {'p10 - p90 ms':>21} {'steps':>6} {'ratio':>7}"


def long_row(row, ours):
    head = f"{row.case:<22} {row.precision:<5} {row.who:<21}"
    if not row.median:
        return f"{head} {row.problem}"
    digits = 1 if row.median >= 100 else 2
    ratio = times(row.median / ours) if ours and row.who.startswith("torch ") else ""
    return f"{head} {row.median:>10.{digits}f} {row.percentile(.1):>10.{digits}f} - {row.percentile(.9):>8.{digits}f} {len(row.values):>6} {ratio:>7}".rstrip()


def as_csv(comparisons):
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["case", "precision", "who", "median_ms", "p10_ms", "p90_ms", "torch_over_retort", "steps", "problem"])
    for c in comparisons:
        ours = c.median("retort")
        for row in c.rows:
            numbers = ["", "", ""] if not row.median else [f"{v:.3f}" for v in (row.median, row.percentile(.1), row.percentile(.9))]
            ratio = f"{row.median / ours:.3f}" if row.median and ours and row.who.startswith("torch ") else ""
            writer.writerow([row.case, row.precision, row.who, *numbers, ratio, len(row.values) if row.median else 0, row.problem])
    return out.getvalue()


class Files:
    """What is written: under a temporary name, then renamed, again after every case, so that a reader never finds half a table."""

    def __init__(self, prefix, csv_path):
        self.paths = {kind: Path(f"{prefix}.{kind}") for kind in ("txt", "csv", "md")} if prefix else {}
        self.extra = Path(csv_path) if csv_path else None
        for path in self.all():  # before an hour of measuring rather than after
            try:
                self.temporary(path).write_text("")
                self.temporary(path).unlink()
            except OSError as e:
                sys.exit(f"bench_against_torch.py: {path}: cannot be written there: {e.strerror}")

    def all(self):
        return [*self.paths.values(), *([self.extra] if self.extra else [])]

    @staticmethod
    def temporary(path):
        return path.with_name(path.name + ".part")

    def write(self, texts):
        for kind, path in [*self.paths.items(), *([("csv", self.extra)] if self.extra else [])]:
            self.temporary(path).write_text(texts[kind])
            os.replace(self.temporary(path), path)


# ---- the run -------------------------------------------------------------------------------------------------------------------------

def introduce(servers, args, jemalloc):
    """Starts PyTorch's processes side by side; the lines above the table."""
    theirs = [s for s in servers if s.name.startswith("torch ")]
    for server in theirs:
        server.start()
    for server in theirs:
        try:
            server.hello = json.loads(server.read_line(START_LIMIT_S))
        except (Failed, ValueError) as e:
            sys.exit(f"bench_against_torch.py: {server.name}: {sys.executable} did not start: {e}")
        if why := server.hello.get("no_torch"):
            sys.exit(f"bench_against_torch.py: {sys.executable}: {why}; it needs torch and torchvision: {sys.executable} -m pip install torch torchvision, "
                     "or kd_bench_step --against torch --python PYTHON with one that has them")
    hello = theirs[0].hello
    rounds = "1 round" if args.rounds == 1 else f"{args.rounds} alternating rounds"
    lines = [f"# {args.shown_command}",
             f"{hello['machine']} · torch {hello['torch']} · {time.strftime('%Y-%m-%d')} · {rounds} of {args.seconds:g} s"]
    for server in theirs:
        if "tuned" in server.name:
            if server.hello["jemalloc"]:
                lines.append(f"{server.name[6:]}: jemalloc, huge pages, nothing given back")
            elif jemalloc:
                lines.append(f"{server.name[6:]}: {jemalloc} could not be loaded: glibc's allocator untuned")
            else:
                lines.append(f"{server.name[6:]}: jemalloc was not found (Debian: libjemalloc2): glibc's allocator with huge pages, nothing given back")
    return lines


class Run:
    def __init__(self, args, servers):
        self.args, self.servers, self.progress = args, servers, None
        self.idle_seconds, self.watched_seconds = {}, 0.0

    def applicable(self, case):
        return [s for s in self.servers if not (s.name.startswith("torch ") and "freezing" in s.name and not CASES[case].get("infer"))]

    @staticmethod
    def compiles(server):
        return FORMS.get(server.name.removeprefix("torch "), "eager") != "eager"

    def limit(self, server):
        """Without our time a row says nothing, so ours is waited for longer."""
        return self.args.limit_per_row if server.name.startswith("torch ") else max(self.args.limit_compile, self.args.limit_per_row)

    def ask(self, server, row, what, seconds, limit):
        self.progress.now(f"{row.case} {row.precision} · {what} · {server.name}")
        others = {s.name: (s, s.cpu_seconds()) for s in self.servers if s is not server}
        begin = time.monotonic()
        try:
            return server.ask(f"{row.case} {row.precision} {seconds:g}", limit)
        except Failed as e:
            row.problem = str(e)
            return []
        finally:
            self.progress.done += 1
            self.watched_seconds += time.monotonic() - begin
            for name, (other, before) in others.items():
                after = other.cpu_seconds()
                if before is not None and after is not None:
                    self.idle_seconds[name] = self.idle_seconds.get(name, 0.0) + after - before

    def compare(self, case, precision):
        args = self.args
        servers = self.applicable(case)
        rows = {server.name: Row(case, precision, server.name) for server in servers}
        for server in servers:  # built, compiled and warm; these times do not count
            if rows["retort"].problem and server.name != "retort":  # nothing to compare with
                self.progress.done += 1 + args.rounds
                rows[server.name].problem = LEFT_OUT
                continue
            self.ask(server, rows[server.name], "warm-up", 0.01, args.limit_compile if self.compiles(server) else self.limit(server))
        for r in range(args.rounds):
            for server in servers:
                row = rows[server.name]
                if not row.problem:
                    row.values += self.ask(server, row, f"round {r + 1}/{args.rounds}", args.seconds, self.limit(server))
                elif row.problem != LEFT_OUT:
                    self.progress.done += 1
        return Comparison(case, precision, list(rows.values()))

    def idle_line(self):
        """Whether those who waited were quiet: the busiest of them."""
        if not self.idle_seconds or self.watched_seconds < 1:
            return None
        name, seconds = max(self.idle_seconds.items(), key=lambda item: item[1])
        share = 100 * seconds / self.watched_seconds
        verdict = "waiting processes were quiet" if share < 2 else "WARNING: a waiting process took time from the others"
        return f"{verdict}: the busiest, {name}, used {share:.1f} % of a core"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.error = lambda message: sys.exit(f"bench_against_torch.py: {message}")
    parser.add_argument("binary", help="kd_bench_step")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    defaults = "; ".join(f"{device}: {' '.join(cases)}" for device, cases in DEFAULT_CASES.items())
    parser.add_argument("--case", nargs="+", choices=CASES, metavar="CASE", help=f"default on {defaults}")
    parser.add_argument("--precision", nargs="+", choices=["fp32", "bf16"], help="default: both on the CPU, bf16 on CUDA")
    parser.add_argument("--mode", nargs="+", choices=FORMS, help=f"default on cpu: {' '.join(DEFAULT_MODES['cpu'])}; on cuda: eager")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each mode in each round (2)")
    parser.add_argument("--limit", type=float, help="begin no case after this many seconds")
    parser.add_argument("--limit-per-row", type=float, default=60, metavar="S", help="a mode whose answer takes longer is given up for that case (60)")
    parser.add_argument("--limit-compile", type=float, default=600, metavar="S", help="the same for the first answer of a compiled mode, and for ours (600)")
    parser.add_argument("--jemalloc", metavar="FILE", help="the library that tuned modes preload (default: where the system has it)")
    parser.add_argument("--csv", metavar="FILE", help="also write the rows there")
    parser.add_argument("-o", "--out", metavar="PREFIX", help="also write PREFIX.txt, PREFIX.csv and PREFIX.md (a table for a README)")
    args = parser.parse_args()
    for name in ("rounds", "seconds", "limit_per_row", "limit_compile"):
        if not getattr(args, name) > 0:
            parser.error(f"--{name.replace('_', '-')} {getattr(args, name):g}: expected a number above 0")
    args.case = args.case or DEFAULT_CASES[args.device]
    args.mode = list(dict.fromkeys(args.mode or DEFAULT_MODES[args.device]))
    args.precision = args.precision or (["fp32", "bf16"] if args.device == "cpu" else ["bf16"])
    words = [shlex.quote(w) for w in sys.argv[2:]]
    args.shown_command = " ".join(["tools/bench_against_torch.py", "build/kd_bench_step", *words]) if sys.argv[1:2] == [args.binary] else \
        " ".join(["tools/bench_against_torch.py", *map(shlex.quote, sys.argv[1:])])
    return args


def main():
    args = arguments()
    files = Files(args.out, args.csv)
    jemalloc = find_jemalloc(args.jemalloc) if any("tuned" in mode for mode in args.mode) else None
    common, tuned = environments(jemalloc)
    ours = [args.binary, "--serve", "--device", args.device]
    servers = [Server("retort", ours, common)]
    if args.device == "cpu":
        servers.append(Server("retort exact", [*ours, "--exact"], common))
    servers += [Server(f"torch {mode}", [sys.executable, __file__, "--torch-server", mode, args.device], tuned if "tuned" in mode else common)
                for mode in args.mode]

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    comparisons = []
    pairs = [(case, precision) for case in args.case for precision in args.precision]
    run = Run(args, servers)
    run.progress = Progress(sum(len(run.applicable(case)) for case, _ in pairs) * (1 + args.rounds))
    try:
        heading = introduce(servers, args, jemalloc)
        print("\n".join([*heading, long_heading()]), flush=True)
        for case, precision in pairs:
            if args.limit and time.monotonic() - run.progress.start > args.limit:
                print(f"{case:<22} {precision:<5} left out: no time", flush=True)
                continue
            comparison = run.compare(case, precision)
            comparisons.append(comparison)
            run.progress.clear()
            rows = [long_row(row, c.median("retort")) for c in comparisons for row in c.rows]
            print("\n".join(rows[-len(comparison.rows):]), flush=True)
            table = summary(comparisons, args.device)
            note = list(filter(None, [run.idle_line()]))
            text = "\n".join([*heading, *note, "", as_text(table), long_heading(), *rows]) + "\n"
            files.write({"txt": text, "csv": as_csv(comparisons), "md": as_markdown(table)})
        if comparisons:
            print("\n" + "\n".join([*note, as_text(table)]), end="", flush=True)
        for path in files.all():
            print(f"wrote {path}", file=sys.stderr)
    except FileNotFoundError as e:
        sys.exit(f"bench_against_torch.py: {e.filename}: {e.strerror}")
    except KeyboardInterrupt:
        sys.exit("bench_against_torch.py: interrupted" + (f"; {len(comparisons)} comparisons were finished" if comparisons else ""))
    finally:
        run.progress.clear()
        for server in servers:
            server.stop()
    if not any(c.median("retort") for c in comparisons):
        sys.exit("bench_against_torch.py: nothing of ours was timed; the reasons stand above")
    if not any(row.median for c in comparisons for row in c.rows if row.who.startswith("torch ")):
        sys.exit("bench_against_torch.py: nothing of PyTorch was timed; the reasons stand above")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--torch-server"]:
        torch_server(*sys.argv[2:])
    else:
        main()
