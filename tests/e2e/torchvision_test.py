#!/usr/bin/env python3
"""Weights to and from torchvision: our file loads strictly there, theirs loads here, bit for bit. Exits 77 (skip) without torch and torchvision.

    tests/e2e/torchvision_test.py path/to/kd_bench
"""
import json
import pathlib
import struct
import subprocess
import sys
import tempfile
import unittest

try:
    import torch
    import torchvision
except ImportError:
    print("skipped: torch and torchvision are not installed")
    sys.exit(77)

BINARY = pathlib.Path(sys.argv.pop(1)).resolve()
TYPES = {"F32": torch.float32, "I64": torch.int64}


def read(path):  # the format in ten lines, so that no library of ours or theirs is trusted with it
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    header.pop("__metadata__")
    out = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        out[name] = torch.frombuffer(bytearray(raw[8 + length + begin : 8 + length + end]), dtype=TYPES[entry["dtype"]]).reshape(entry["shape"])
    return out


def write(path, tensors):
    header, data = {}, b""
    for name, t in tensors.items():
        blob = t.contiguous().numpy().tobytes()
        header[name] = {"dtype": "F32" if t.dtype == torch.float32 else "I64", "shape": list(t.shape), "data_offsets": [len(data), len(data) + len(blob)]}
        data += blob
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


class Torchvision(unittest.TestCase):
    def test_round_trip(self):
        for arch, classes in (("resnet18", 100), ("resnet50", 10)):
            with self.subTest(arch), tempfile.TemporaryDirectory() as folder:
                folder = pathlib.Path(folder)
                torch.manual_seed(1)
                model = getattr(torchvision.models, arch)(num_classes=classes)
                for b in model.modules():
                    if isinstance(b, torch.nn.BatchNorm2d):
                        b.running_mean.uniform_(-1, 1), b.running_var.uniform_(0.5, 2), b.num_batches_tracked.fill_(7)
                theirs = model.state_dict()
                write(folder / "theirs.safetensors", theirs)
                subprocess.run([BINARY, "convert", folder / "theirs.safetensors", "-o", folder / "ours.safetensors"], check=True, capture_output=True)
                ours = read(folder / "ours.safetensors")
                self.assertEqual(set(ours), set(theirs))
                for name in theirs:
                    self.assertTrue(torch.equal(ours[name], theirs[name]), name)
                getattr(torchvision.models, arch)(num_classes=classes).load_state_dict(ours, strict=True)


if __name__ == "__main__":
    unittest.main(verbosity=2)
