#!/usr/bin/env python3
"""Times image operations and training views: ours, Pillow's and torchvision v2's on uint8 tensors, alternately, in one run, each on one thread.

    tools/bench_augment.py build/kd_bench_augment [--case REGEX] [--rounds 7] [--seconds 0.2] [--before OTHER_BINARY] [--csv FILE]

kd_bench_augment says which images and decisions a case is made of; the others then make the same views from the same decoded pixels (torchvision without a
flip, a crop or an operation that the record does not ask for, as its random transforms would). Views *_f32 end normalised: Pillow's through NumPy into a
torch tensor. Times are processor time, so that neighbours on the core do not count; the table shows images a second at the median over all passes of all
rounds, with p10-p90 of ours, and how many of the views that Pillow makes have exactly our bytes (it is bit-equal at Pillow 10.1). --before times another
build of kd_bench_augment in the same rounds. Needs Pillow, torch and torchvision.
"""
import argparse
import csv
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image, ImageEnhance, ImageOps
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

PILLOW = {"nearest": Image.NEAREST, "bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}
TORCH = {"nearest": InterpolationMode.NEAREST, "bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}


def solarize_add(amount):
    return [min(255, v + int(amount)) if v < 128 else v for v in range(256)] * 3


class Pillow:
    name = f"Pillow {PIL.__version__}"

    def __init__(self, case, images):
        self.case = case
        self.images = [Image.fromarray(image) for image in images]
        self.mean, self.std = (torch.tensor(case[key]).view(3, 1, 1) for key in ("mean", "std"))

    def op(self, image, call):
        op, value = call["op"], call["value"]
        if op in ("brightness", "contrast", "color", "sharpness"):
            return getattr(ImageEnhance, op.capitalize())(image).enhance(value)
        if op in ("autocontrast", "equalize", "invert"):
            return getattr(ImageOps, op)(image)
        if op == "solarize":
            return ImageOps.solarize(image, math.ceil(value))
        if op == "posterize":
            return ImageOps.posterize(image, int(value)) if int(value) > 0 else image.point([0] * 768)
        if op == "solarize_add":
            return image.point(solarize_add(value))
        resample, fill = PILLOW[call["resample"]], tuple(call["fill"])
        if op == "rotate":
            return image.rotate(value, resample, fillcolor=fill)
        matrix = {"shear_x": (1, value, 0, 0, 1, 0), "shear_y": (1, 0, 0, value, 1, 0), "translate_x": (1, 0, value, 0, 1, 0), "translate_y": (1, 0, 0, 0, 1, value)}
        return image.transform(image.size, Image.AFFINE, matrix[op], resample, fillcolor=fill)

    def view(self, record):
        image, px = self.images[record["image"]], self.case["px"]
        top, left, height, width = record["crop"]
        if (height, width) != (image.height, image.width):
            image = image.crop((left, top, left + width, top + height))
        if record["resized"] != [image.height, image.width]:
            image = image.resize((record["resized"][1], record["resized"][0]), PILLOW[record["resample"]])
        top, left = record["window"]
        if (top, left, image.height, image.width) != (0, 0, px, px):
            image = image.crop((left, top, left + px, top + px))
        if record["flip"]:
            image = image.transpose(Image.FLIP_LEFT_RIGHT)
        for call in record["ops"]:
            image = self.op(image, call)
        top, left, height, width = record["cutout"]
        if height * width:
            image = image.copy()
            image.paste(0, (left, top, left + width, top + height))
        return image

    def run(self):
        for record in self.case["records"]:
            view = self.view(record)
            if self.case["f32"]:
                F.normalize_image(F.to_dtype(torch.from_numpy(np.array(view)).permute(2, 0, 1), torch.float32, scale=True), self.case["mean"], self.case["std"])
            else:
                view.load()

    def views(self):
        return np.stack([np.asarray(self.view(record)) for record in self.case["records"]])


class Torchvision:
    name = f"torchvision {torchvision.__version__}"

    def __init__(self, case, images):
        self.case = case
        self.images = [torch.from_numpy(image).permute(2, 0, 1).contiguous() for image in images]

    def op(self, image, call):
        op, value, px = call["op"], call["value"], self.case["px"]
        if op in ("brightness", "contrast", "sharpness"):
            return getattr(F, f"adjust_{op}_image")(image, value)
        if op == "color":
            return F.adjust_saturation_image(image, value)
        if op in ("autocontrast", "equalize", "invert"):
            return getattr(F, f"{op}_image")(image)
        if op == "solarize":
            return F.solarize_image(image, min(value, 255))
        if op == "posterize":
            return F.posterize_image(image, int(value))
        if op == "solarize_add":
            return torch.where(image < 128, (image.short() + int(value)).clamp_(0, 255).to(torch.uint8), image)
        mode, fill = TORCH[call["resample"]], [float(v) for v in call["fill"]]
        # Its affine and rotate sample bicubically with PIL images only; bilinear instead is less work, in its favour.
        mode = InterpolationMode.BILINEAR if mode == InterpolationMode.BICUBIC else mode
        if op == "rotate":
            return F.rotate_image(image, value, interpolation=mode, fill=fill)
        shear, move = [0.0, 0.0], [0, 0]
        if op.startswith("shear"):
            shear["xy".index(op[-1])] = math.degrees(math.atan(value))
        else:
            move["xy".index(op[-1])] = -round(value)
        return F.affine_image(image, 0.0, move, 1.0, shear, interpolation=mode, fill=fill, center=[0.0, 0.0] if op.startswith("shear") else None)

    def run(self):
        px = self.case["px"]
        for record in self.case["records"]:
            image = self.images[record["image"]]
            top, left, height, width = record["crop"]
            if record["resized"] != [height, width]:
                image = F.resized_crop_image(image, top, left, height, width, record["resized"], TORCH[record["resample"]], antialias=True)
            elif [height, width] != list(image.shape[1:]):
                image = F.crop_image(image, top, left, height, width)
            top, left = record["window"]
            if (top, left, *image.shape[1:]) != (0, 0, px, px):
                image = F.crop_image(image, top, left, px, px)  # pads where it leaves the image
            if record["flip"]:
                image = F.horizontal_flip_image(image)
            for call in record["ops"]:
                image = self.op(image, call)
            top, left, height, width = record["cutout"]
            if height * width:
                image = F.erase_image(image, top, left, height, width, torch.zeros(1, 1, 1, dtype=torch.uint8))
            if self.case["f32"]:
                image = F.normalize_image(F.to_dtype_image(image, torch.float32, scale=True), self.case["mean"], self.case["std"])


class Ours:
    def __init__(self, binary):
        environment = dict(os.environ, OMP_NUM_THREADS="1")
        self.process = subprocess.Popen([binary], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def ask(self, *words):
        try:
            print(*words, file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            sys.exit("kd_bench_augment stopped; its message stands above")
        return line


def sample(library, seconds):
    """Processor microseconds an image, one number a pass."""
    images, each, total = len(library.case["records"]), [], 0
    while not each or total < seconds:
        start = time.process_time()
        library.run()
        took = time.process_time() - start
        total += took
        each.append(1e6 * took / images)
    return each


def spread(values):
    values = sorted(values)
    return statistics.median(values), values[int(0.1 * len(values))], values[min(len(values) - 1, int(0.9 * len(values)))]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--case", default="", metavar="REGEX")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.2)
    parser.add_argument("--before", metavar="BINARY")
    parser.add_argument("--csv")
    args = parser.parse_args()
    torch.set_num_threads(1)
    ours, before = Ours(args.binary), Ours(args.before) if args.before else None
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.processor())
    print(f"{cpu} · one thread · {Pillow.name} · {Torchvision.name} · {time.strftime('%Y-%m-%d')} · {args.rounds} alternating rounds")
    columns = ["case", "ours img/s", "p10", "p90", "before", "Pillow", "torchvision", "/ before", "/ Pillow", "/ torchvision", "as Pillow"]
    print("".join(f"{c:>{28 if i == 0 else 14}}" for i, c in enumerate(columns)), flush=True)
    rows = [columns]
    for name in ours.ask("list").split():
        if not re.search(args.case, name):
            continue
        with tempfile.NamedTemporaryFile() as file:
            case = json.loads(ours.ask("describe", name, file.name))
            data = np.fromfile(file.name, np.uint8)
        count = case["n"] * case["h"] * case["w"] * 3
        images = data[:count].reshape(case["n"], case["h"], case["w"], 3)
        views = data[count:].reshape(len(case["records"]), case["px"], case["px"], 3)
        others = [Pillow(case, images), Torchvision(case, images)]
        equal = int((others[0].views() == views).all(axis=(1, 2, 3)).sum())
        for library in others:
            library.run()
        times = [[] for _ in range(4)]
        for _ in range(args.rounds):
            times[0] += [float(v) for v in ours.ask("time", name, args.seconds).split()]
            if before:
                times[1] += [float(v) for v in before.ask("time", name, args.seconds).split()]
            for library, passes in zip(others, times[2:]):
                passes += sample(library, args.seconds)
        median, low, high = spread(times[0])
        medians = [statistics.median(t) if t else None for t in times[1:]]
        rows.append([name, 1e6 / median, 1e6 / high, 1e6 / low, *(1e6 / m if m else "" for m in medians), *(m / median if m else "" for m in medians),
                     f"{equal}/{len(case['records'])}"])
        cells = [f"{v:.1f}x" if 7 <= i <= 9 and v else f"{v:.0f}" if isinstance(v, float) else v for i, v in enumerate(rows[-1])]
        print("".join(f"{c:>{28 if i == 0 else 14}}" for i, c in enumerate(cells)), flush=True)
    if args.csv:
        with open(args.csv, "w", newline="") as file:
            csv.writer(file).writerows(rows)


if __name__ == "__main__":
    main()
