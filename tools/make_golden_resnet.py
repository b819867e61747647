#!/usr/bin/env python3
"""Writes tests/golden/resnet/*.json: what torchvision's ResNets compute, in double precision, for weights and images given by a formula.

The formula (see `sequence`) is repeated in tests/models/resnet_test.cpp, so that no weight needs to be stored. Of every gradient and running statistic
the file keeps its norm, its product with a fixed pseudo-random vector, and eight samples: a wrong element, a wrong layout or a wrong scale shows.

    python3 tools/make_golden_resnet.py tests/golden/resnet        (needs torch and torchvision)
"""
import json
import math
import pathlib
import sys

import numpy as np
import torch
import torchvision

CASES = [
    dict(name="resnet18_cifar", arch="resnet18", stem="cifar", px=32, batch=8, classes=100, lr=1e-3),
    dict(name="resnet18_imagenet", arch="resnet18", stem="imagenet", px=64, batch=4, classes=10, lr=1e-3),
    dict(name="resnet50_cifar", arch="resnet50", stem="cifar", px=32, batch=8, classes=10, lr=1e-5),
    dict(name="resnet50_imagenet", arch="resnet50", stem="imagenet", px=96, batch=6, classes=10, lr=1e-5),
]
STEPS, MOMENTUM, WEIGHT_DECAY = 10, 0.9, 5e-4


def sequence(count, stream):
    """Element i of stream s: the top 24 bits of a 64-bit mix of (i, s), as a double in [-1, 1)."""
    x = np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.array([stream + 1], dtype=np.uint64) * np.uint64(0xD1B54A32D192ED03)
    x ^= x >> np.uint64(32)
    x *= np.uint64(0xD6E8FEB86659FD93)
    x ^= x >> np.uint64(32)
    return (x >> np.uint64(40)).astype(np.float64) / 2**23 - 1.0


def fill(model):
    for stream, (name, p) in enumerate(model.named_parameters()):
        v = sequence(p.numel(), stream).astype(np.float32)
        if p.dim() == 4:
            v *= np.float32(math.sqrt(6.0 / (p.shape[2] * p.shape[3] * p.shape[0])))
        elif p.dim() == 2:
            v *= np.float32(1.0 / math.sqrt(p.shape[1]))
        elif name.endswith("weight"):
            v = np.float32(1.0) + np.float32(0.25) * v
        else:
            v *= np.float32(0.125)
        p.data = torch.from_numpy(v.astype(np.float64)).reshape(p.shape)


def digest(t):
    v = t.detach().double().flatten().numpy()
    probe = sequence(v.size, 777)
    at = [int(i * v.size // 8) for i in range(8)]
    return dict(norm=float(np.linalg.norm(v)), probe=float(v @ probe), samples=[float(v[i]) for i in at])


def build(case, dtype):
    model = getattr(torchvision.models, case["arch"])(num_classes=case["classes"])
    if case["stem"] == "cifar":
        model.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        model.maxpool = torch.nn.Identity()
    fill(model.train())
    return model.to(dtype)


def run(case, dtype):
    model = build(case, dtype)
    n, px = case["batch"], case["px"]
    images = sequence(n * 3 * px * px, 1000).astype(np.float32)
    x = torch.from_numpy(images).reshape(n, px, px, 3).permute(0, 3, 1, 2).contiguous().to(dtype)
    y = torch.arange(n) * 7 % case["classes"]
    optimizer = torch.optim.SGD(model.parameters(), lr=case["lr"], momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    out = dict(parameters=sum(p.numel() for p in model.parameters()), entries=len(model.state_dict()), losses=[])
    for step in range(STEPS):
        optimizer.zero_grad()
        logits = model(x)
        loss = torch.nn.functional.cross_entropy(logits, y)
        loss.backward()
        if step == 0:
            out["logits"] = logits.detach().flatten().tolist()
            out["gradients"] = {k: digest(p.grad) for k, p in model.named_parameters()}
            out["running"] = {k: digest(b) for k, b in model.named_buffers() if "running" in k}
        out["losses"].append(loss.item())
        optimizer.step()
    with torch.no_grad():
        out["eval_logits"] = model.eval()(x).flatten().tolist()
    return out


def error(a, b):
    """How far digest a is from digest b, relative to the tensor's norm."""
    parts = [a["norm"] - b["norm"], a["probe"] - b["probe"]] + [u - v for u, v in zip(a["samples"], b["samples"])]
    return max(map(abs, parts)) / b["norm"]


def main(out):
    torch.set_num_threads(2)
    out.mkdir(parents=True, exist_ok=True)
    for case in CASES:
        truth, single = run(case, torch.float64), run(case, torch.float32)
        # What PyTorch's own f32 loses: a ReLU whose input is within rounding of zero flips, and batch norm carries that to the whole batch.
        truth["torch_f32_error"] = dict(
            losses=[abs(a - b) for a, b in zip(single["losses"], truth["losses"])],
            gradients=max(error(single["gradients"][k], truth["gradients"][k]) for k in truth["gradients"]),
            eval_logits=max(abs(a - b) for a, b in zip(single["eval_logits"], truth["eval_logits"])))
        record = dict(case, steps=STEPS, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, **truth)
        (out / (case["name"] + ".json")).write_text(json.dumps(record, separators=(",", ":")).replace('},"', '},\n"') + "\n")
        print(case["name"], "losses", " ".join(f"{v:.4f}" for v in truth["losses"]), "torch f32:", truth["torch_f32_error"])


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/golden/resnet"))
