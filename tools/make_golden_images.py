#!/usr/bin/env python3
"""Writes tests/golden/images: small PNG and JPEG files of every kind that data/image.h reads, and what Pillow makes of them.

    pip install 'pillow==10.1.0' && tools/make_golden_images.py

images.txt has a line per file: name, width, height and the md5 of the 8-bit RGB pixels of Image.open(name).convert("RGB"). Lines "shrink-N name ..." are
of the image resized to a short side of N, bicubic. The one deviation from Pillow is 16-bit grey, see data/image.h.
"""
import hashlib
import math
import struct
import zlib
from pathlib import Path

import PIL
from PIL import Image

OUT = Path(__file__).resolve().parent.parent / "tests" / "golden" / "images"
W, H = 37, 29  # no multiple of a JPEG block


def picture(width, height, channels):
    """Smooth, with one hard edge, so that chroma upsampling and block borders show."""
    rows = []
    for y in range(height):
        for x in range(width):
            edge = 90 if x + 2 * y > width else 0
            rows.append(tuple(int(110 + 60 * math.sin(0.21 * x + c) * math.cos(0.17 * y - 0.5 * c) + (edge if c != 1 else -edge)) % 256 for c in range(channels)))
    return rows


def image(mode, width=W, height=H):
    channels = len(Image.new(mode, (1, 1)).getbands())
    made = Image.new(mode, (width, height))
    pixels = picture(width, height, channels)
    made.putdata([p[0] for p in pixels] if channels == 1 else pixels)
    return made


def raw_png(name, bit_depth, colour_type, rows, extra=b""):
    """A PNG of a kind that Pillow does not write: `rows` are bytes without filter byte."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", W, H, bit_depth, colour_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    (OUT / name).write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b""))


def main():
    assert PIL.__version__ == "10.1.0", f"Pillow {PIL.__version__}, the files were made with 10.1.0"
    OUT.mkdir(parents=True, exist_ok=True)
    rgb = image("RGB")
    rgb.save(OUT / "420.jpg", quality=90)
    rgb.save(OUT / "422.jpg", quality=85, subsampling="4:2:2")
    rgb.save(OUT / "444.jpg", quality=95, subsampling="4:4:4")
    rgb.save(OUT / "progressive.jpg", quality=80, progressive=True)
    image("L").save(OUT / "grey.jpg", quality=90)
    image("CMYK").save(OUT / "cmyk.jpg", quality=90)
    rgb.save(OUT / "rgb.png")
    rgb.save(OUT / "png_named.jpg", format="PNG")
    image("L").save(OUT / "grey.png")
    image("1").save(OUT / "bits.png")
    image("LA").save(OUT / "grey_alpha.png")
    image("RGBA").save(OUT / "rgba.png")
    rgb.quantize(13).save(OUT / "palette.png")
    rgb.quantize(13).save(OUT / "palette_alpha.png", transparency=bytes(range(0, 130, 10)))
    wide = [[v * 257 + 13 & 0xFFFF for p in picture(W, H, 3)[y * W:(y + 1) * W] for v in p] for y in range(H)]
    raw_png("rgb16.png", 16, 2, [struct.pack(f">{3 * W}H", *row) for row in wide])
    raw_png("grey16.png", 16, 0, [struct.pack(f">{W}H", *row[::3]) for row in wide])
    image("RGB", 100, 64).save(OUT / "large.jpg", quality=90)

    lines = []

    def add(name, pixels, label=None):
        lines.append(f"{label or name} {pixels.width} {pixels.height} {hashlib.md5(pixels.tobytes()).hexdigest()}\n")

    for path in sorted(p for p in OUT.iterdir() if p.suffix in (".png", ".jpg")):
        if path.name == "grey16.png":
            grey = Image.new("L", (W, H))
            grey.putdata([v >> 8 for row in wide for v in row[::3]])
            add(path.name, grey.convert("RGB"))
        else:
            add(path.name, Image.open(path).convert("RGB"))
    large = Image.open(OUT / "large.jpg").convert("RGB")
    for short in (23, 48):
        add("large.jpg", large.resize((int(short * large.width / large.height), short), Image.BICUBIC), f"shrink-{short}")
    (OUT / "images.txt").write_text("".join(lines))
    print("".join(lines), end="")


if __name__ == "__main__":
    main()
