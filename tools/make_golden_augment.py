#!/usr/bin/env python3
"""Writes tests/golden/augment/*.txt: what Pillow 10.1 makes of images given by a formula, one vector per line.

  ops.txt     op value resample fill pattern height width -> hash first-bytes
  resize.txt  resample pattern height width  top left height width  out_height out_width -> hash first-bytes
  views.txt   pattern height width  top left height width  px resample flip  op value resample fill  (again)  hole's top left height width -> hash first-bytes
  imagenet_views.txt  pattern height width  top left height width  resized_height resized_width  window_top window_left  px resample flip
              number of operations  op value resample fill  (each) -> hash first-bytes
  policy.txt  row  op probability magnitude  (again): torchvision's AutoAugment table for CIFAR-10
  unit.txt    v -> (v/255 - mean)/std of the three channels, as the bits of float32

fill is a grey level or r,g,b. The input formula (see `image`) is repeated in tests/data/augment_test.cpp. The hash is 64-bit FNV-1a over the output's bytes (HWC); the first 12 bytes
are there to show what went wrong.

    python3 tools/make_golden_augment.py tests/golden/augment [FILE ...]      all files, or these; needs Pillow 10.1, policy.txt and unit.txt torch and torchvision
"""
import pathlib
import sys

import numpy as np
import PIL
from PIL import Image, ImageEnhance, ImageOps

RESAMPLE = {"nearest": Image.NEAREST, "bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}
IMAGENET_MEAN = (124, 116, 104)
SIZES = [(1, 1), (1, 5), (2, 2), (3, 3), (7, 13), (32, 32), (33, 64)]
MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)


def image(pattern, h, w):
    """Byte i of an image: noise, the top byte of a 32-bit mix of i; dim, noise in 90..121; flat; ramp; levels, one of two values by the top bit of noise."""
    i = np.arange(h * w * 3, dtype=np.uint32)
    mix = (i + np.uint32(1)) * np.uint32(2654435761)
    mix ^= mix >> np.uint32(15)
    mix *= np.uint32(2246822519)
    noise = (mix >> np.uint32(24)).astype(np.uint32)
    values = {
        "noise": noise,
        "dim": 90 + noise // 8,
        "flat": 60 + 70 * (i % 3),
        "ramp": i * 255 // max(1, h * w * 3 - 1),
        "levels": np.where(noise < 128, 40 + i % 3, 200 - i % 3),
    }[pattern]
    return Image.fromarray(values.astype(np.uint8).reshape(h, w, 3), "RGB")


def result(img):
    data = np.asarray(img).tobytes()
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x} {data[:12].hex()}"


def color(fill):
    return fill if isinstance(fill, tuple) else (fill, fill, fill)


def affine(img, matrix, resample, fill):
    return img.transform(img.size, Image.AFFINE, matrix, RESAMPLE[resample], fillcolor=color(fill))


def apply(img, op, value, resample, fill):
    if op == "none":
        return img
    if op == "brightness":
        return ImageEnhance.Brightness(img).enhance(value)
    if op == "contrast":
        return ImageEnhance.Contrast(img).enhance(value)
    if op == "color":
        return ImageEnhance.Color(img).enhance(value)
    if op == "sharpness":
        return ImageEnhance.Sharpness(img).enhance(value)
    if op == "autocontrast":
        return ImageOps.autocontrast(img)
    if op == "equalize":
        return ImageOps.equalize(img)
    if op == "invert":
        return ImageOps.invert(img)
    if op == "solarize":
        return ImageOps.solarize(img, value)
    if op == "solarize_add":
        return img.point([min(255, v + int(value)) if v < 128 else v for v in range(256)] * 3)
    if op == "posterize":
        return ImageOps.posterize(img, int(value))
    if op == "shear_x":
        return affine(img, (1, value, 0, 0, 1, 0), resample, fill)
    if op == "shear_y":
        return affine(img, (1, 0, 0, value, 1, 0), resample, fill)
    if op == "translate_x":
        return affine(img, (1, 0, value, 0, 1, 0), resample, fill)
    if op == "translate_y":
        return affine(img, (1, 0, 0, 0, 1, value), resample, fill)
    if op == "rotate":
        return img.rotate(value, RESAMPLE[resample], fillcolor=color(fill))
    raise ValueError(op)


def op_vectors():
    enhance = [("noise", "dim", "flat", "levels"), (0.0, 0.1, 0.4, 0.7, 1.0, 1.3, 1.9, 2.5)]
    tables = [("noise", "dim", "flat", "ramp", "levels"), (0.0,)]
    for ops, (patterns, values), sampling in [
        (("brightness", "contrast", "color", "sharpness"), enhance, [("nearest", 0)]),
        (("autocontrast", "equalize", "invert"), tables, [("nearest", 0)]),
        (("solarize",), (("noise", "ramp"), (0.0, 28.444444444444443, 113.77777777777777, 199.11111111111111, 256.0)), [("nearest", 0)]),
        (("solarize_add",), (("noise", "ramp"), (0.0, 33.0, 110.0, 200.0)), [("nearest", 0)]),
        (("posterize",), (("noise", "ramp"), tuple(float(b) for b in range(9))), [("nearest", 0)]),
        (("shear_x", "shear_y"), (("noise", "ramp"), (0.0, 0.3, -0.3, 0.26666666666666666, -0.1)), [("bicubic", 128), ("bilinear", 117)]),
        (("translate_x", "translate_y"), (("noise",), (0.0, 0.5, 1.6, -1.6, 14.501510574018127, -14.501510574018127, -4.833836858006042)), [("nearest", 128)]),
        (("rotate",), (("noise",), (0.0, 6.666666666666667, 10.0, -10.0, 14.9, -14.9, 29.5, 77.7, -123.4)), [("nearest", 0), ("nearest", 128)]),
    ]:
        for op in ops:
            for pattern in patterns:
                for h, w in SIZES:
                    for value in values:
                        for resample, fill in sampling:
                            yield op, value, resample, fill, pattern, h, w
    for op, value, resample, fill in [
        ("rotate", 12.3, "nearest", 0),
        ("shear_y", 0.2333, "bicubic", 128),
        ("sharpness", 1.9, "nearest", 0),
        ("equalize", 0.0, "nearest", 0),
    ]:
        yield op, value, resample, fill, "noise", 224, 224
    for op, values in [
        ("rotate", (0.0, 29.4, -29.4, 3.7, -123.4)),
        ("translate_x", (0.0, 0.5, -1.6, 4.32, -4.32)),
        ("translate_y", (0.0, 0.5, -1.6, 4.32, -4.32)),
    ]:
        for h, w in SIZES:
            for value in values:
                for resample in ("bilinear", "bicubic"):
                    yield op, value, resample, IMAGENET_MEAN, "noise", h, w
        for resample in ("bilinear", "bicubic"):
            yield op, 17.3, resample, IMAGENET_MEAN, "noise", 224, 224
    for op in ("shear_x", "shear_y"):
        for resample in ("bilinear", "bicubic"):
            yield op, 0.294, resample, IMAGENET_MEAN, "noise", 33, 64


def resize_vectors():
    for resample in ("bilinear", "bicubic"):
        for pattern in ("noise", "ramp", "levels"):
            for (h, w), box, out in [
                ((1, 4), (0, 0, 1, 4), (1, 8)),
                ((1, 4), (0, 0, 1, 4), (1, 2)),
                ((1, 1), (0, 0, 1, 1), (5, 7)),
                ((3, 3), (0, 0, 3, 3), (3, 8)),
                ((7, 13), (0, 0, 7, 13), (7, 13)),
                ((7, 13), (1, 2, 5, 9), (32, 32)),
                ((7, 13), (1, 2, 5, 9), (2, 3)),
                ((7, 13), (2, 3, 4, 5), (4, 11)),
                ((32, 32), (0, 0, 32, 32), (33, 31)),
                ((32, 32), (5, 7, 14, 19), (64, 64)),
                ((32, 32), (0, 0, 32, 32), (64, 96)),
                ((32, 32), (3, 0, 25, 32), (32, 32)),
                ((32, 32), (0, 0, 32, 32), (5, 5)),
                ((33, 64), (0, 0, 33, 64), (7, 64)),
                ((33, 64), (4, 9, 29, 50), (16, 16)),
                ((33, 64), (0, 0, 33, 64), (1, 1)),
                ((100, 150), (3, 5, 90, 141), (56, 48)),
                ((32, 32), (5, 8, 23, 24), (224, 224)),
            ]:
                yield resample, pattern, h, w, *box, *out


def view_vectors():
    rng = np.random.RandomState(7)
    ops = [
        ("none", 0.0, "nearest", 0), ("rotate", -11.25, "nearest", 0), ("rotate", 6.666666666666667, "nearest", 128), ("color", 1.7, "nearest", 0),
        ("equalize", 0.0, "nearest", 0), ("shear_y", -0.26666666666666666, "bicubic", 128), ("translate_x", 7.25, "nearest", 128),
        ("contrast", 0.4, "nearest", 0), ("sharpness", 1.9, "nearest", 0), ("autocontrast", 0.0, "nearest", 0), ("posterize", 5.0, "nearest", 0),
    ]
    for k in range(60):
        h, w = [(32, 32), (20, 31), (32, 32)][k % 3]
        px = 32 if k % 3 == 0 else int(rng.choice([33, 48, 64]))
        if k % 3 == 0:  # a crop of the image padded by 4
            box = (int(rng.randint(-4, 5)), int(rng.randint(-4, 5)), 32, 32)
        else:
            ch, cw = int(rng.randint(1, h + 1)), int(rng.randint(1, w + 1))
            box = (int(rng.randint(0, h - ch + 1)), int(rng.randint(0, w - cw + 1)), ch, cw)
        first, second = ops[rng.randint(len(ops))], ops[rng.randint(len(ops))]
        y, x = int(rng.randint(px)), int(rng.randint(px))
        hole = [max(0, y - 8), max(0, x - 8)]
        hole += [min(px, y + 8) - hole[0], min(px, x + 8) - hole[1]]
        yield "noise", h, w, *box, px, ("bicubic", "bilinear")[k % 2], int(rng.randint(2)), *first, *second, *hole


def view(pattern, h, w, top, left, crop_h, crop_w, px, resample, flip, *rest):
    img = image(pattern, h, w).crop((left, top, left + crop_w, top + crop_h)).resize((px, px), RESAMPLE[resample])
    if flip:
        img = img.transpose(Image.FLIP_LEFT_RIGHT)
    img = apply(apply(img, *rest[:4]), *rest[4:8])
    pixels = np.array(img)
    top, left, height, width = rest[8:]
    pixels[top : top + height, left : left + width] = 0
    return pixels


def imagenet_view_vectors():
    """ColorJitter and RandAugment as rand-m10-n2-mstd0.5 draws them, on crops and on test views of images larger and smaller than the view."""
    rng = np.random.RandomState(11)
    enhance = ("brightness", "contrast", "color", "sharpness")
    ops = ("none", "autocontrast", "equalize", "invert", "rotate", "posterize", "solarize", "solarize_add") + enhance + ("shear_x", "shear_y", "translate_x", "translate_y")

    def call(op, px):
        level, sign = min(1.0, rng.normal(10, 0.5) / 10), float(rng.choice([-1, 1]))
        most = {"rotate": 30, "shear_x": 0.3, "shear_y": 0.3, "translate_x": 0.45 * px, "translate_y": 0.45 * px}
        if op in most:
            return op, sign * most[op] * level, ("bilinear", "bicubic")[rng.randint(2)], IMAGENET_MEAN
        whole = {"posterize": 4, "solarize": 256, "solarize_add": 110}
        value = float(int(whole[op] * level)) if op in whole else 1 + sign * 0.9 * level if op in enhance else 0.0
        return op, value, "nearest", 0

    for k in range(72):
        h, w = [(90, 120), (50, 37), (200, 150), (64, 64)][k % 4]
        px = (48, 64, 96)[k % 3]
        if k % 5 == 4:
            side = (px * 256 + 112) // 224
            resized = (side, side * w // h) if h < w else (side * h // w, side)
            yield "noise", h, w, 0, 0, h, w, *resized, *(round((n - px) / 2) for n in resized), px, ("bilinear", "bicubic")[k % 4 // 2], 0, 0
            continue
        ch, cw = int(rng.randint(h // 4, h + 1)), int(rng.randint(w // 4, w + 1))
        box = int(rng.randint(0, h - ch + 1)), int(rng.randint(0, w - cw + 1)), ch, cw
        jitter = [(op, float(np.float32(rng.uniform(0.6, 1.4))), "nearest", 0) for op in rng.permutation(["brightness", "contrast", "color"])]
        calls = jitter + [call(op, px) for op in (ops[k % len(ops)], ops[rng.randint(len(ops))])]
        yield "noise", h, w, *box, px, px, 0, 0, px, "bilinear", int(rng.randint(2)), len(calls), *(field for c in calls for field in c)


def imagenet_view(pattern, h, w, top, left, crop_h, crop_w, resized_h, resized_w, window_top, window_left, px, resample, flip, calls, *rest):
    img = image(pattern, h, w).crop((left, top, left + crop_w, top + crop_h)).resize((resized_w, resized_h), RESAMPLE[resample])
    img = img.crop((window_left, window_top, window_left + px, window_top + px))
    if flip:
        img = img.transpose(Image.FLIP_LEFT_RIGHT)
    for k in range(calls):
        img = apply(img, *rest[4 * k : 4 * k + 4])
    return img


def policy():
    import torchvision

    table = torchvision.transforms.AutoAugment(torchvision.transforms.AutoAugmentPolicy.CIFAR10).policies
    names = {"AutoContrast": "autocontrast", "ShearX": "shear_x", "ShearY": "shear_y", "TranslateX": "translate_x", "TranslateY": "translate_y"}
    for row, steps in enumerate(table):
        yield row, *(x for name, p, magnitude in steps for x in (names.get(name, name.lower()), p, magnitude or 0))


def unit():
    import torch

    x = torch.arange(256).to(torch.uint8).view(256, 1, 1).to(torch.float32).div(255).expand(256, 3, 1)
    y = x.clone().sub_(torch.tensor(MEAN).view(3, 1)).div_(torch.tensor(STD).view(3, 1)).numpy().view(np.uint32)
    for v in range(256):
        yield v, *(f"{bits:08x}" for bits in y[v, :, 0])


def line(*fields):
    def text(f):
        return repr(f) if isinstance(f, float) else ",".join(map(str, f)) if isinstance(f, tuple) else str(f)

    return " ".join(map(text, fields)) + "\n"


def main():
    out = pathlib.Path(sys.argv[1])
    if PIL.__version__ != "10.1.0":
        sys.exit(f"Pillow 10.1.0 expected, this is {PIL.__version__}")
    files = {
        "ops.txt": lambda: ((*v, result(apply(image(*v[4:]), *v[:4]))) for v in op_vectors()),
        "resize.txt": lambda: (
            (*v, result(image(*v[1:4]).crop((v[5], v[4], v[5] + v[7], v[4] + v[6])).resize((v[9], v[8]), RESAMPLE[v[0]]))) for v in resize_vectors()
        ),
        "views.txt": lambda: ((*v, result(view(*v))) for v in view_vectors()),
        "imagenet_views.txt": lambda: ((*v, result(imagenet_view(*v))) for v in imagenet_view_vectors()),
        "policy.txt": policy,
        "unit.txt": unit,
    }
    out.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:] or files:
        (out / name).write_text("".join(line(*fields) for fields in files[name]()))


if __name__ == "__main__":
    main()
