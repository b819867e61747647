#!/usr/bin/env python3
"""Writes tests/golden/safetensors/official.safetensors with the official package: every dtype that the reader knows, in torch's own encoding.

    tools/make_golden_safetensors.py        (needs torch and safetensors)
"""
from pathlib import Path

import torch
from safetensors.torch import save_file

root = Path(__file__).resolve().parent.parent / "tests" / "golden" / "safetensors"
root.mkdir(parents=True, exist_ok=True)
values = [0.0, -0.0, 1.0, -2.5, 65504.0, 6e-8, 6.1e-5, float("inf"), float("-inf"), float("nan"), 1 / 3]
tensors = {
    "f32": torch.tensor(values).reshape(1, 11),
    "f16": torch.tensor(values).half(),
    "bf16": torch.tensor(values).bfloat16(),
    "f64": torch.tensor(values, dtype=torch.float64),
    "i64": torch.tensor([-(2**62), 0, 2**62]),
    "i32": torch.tensor([[-(2**31)], [2**31 - 1]], dtype=torch.int32),
    "u8": torch.arange(24, dtype=torch.uint8).reshape(2, 3, 2, 2),
    "bool": torch.tensor([True, False, True]),
    "scalar": torch.tensor(7),
    "empty": torch.zeros(3, 0),
    'a "name" – é': torch.tensor([1.5]),
}
save_file(tensors, root / "official.safetensors", metadata={"format": "pt", "who": "the official writer"})
