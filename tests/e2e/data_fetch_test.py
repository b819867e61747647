#!/usr/bin/env python3
"""`kd_bench data fetch`, `pack` and `verify` as a person uses them: downloads from a server on this machine that drops connections, lies and knows no
ranges; kills in the middle; damaged and hostile files.

    data_fetch_test.py PATH_TO_kd_bench
"""
import gzip
import hashlib
import http.server
import io
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import unittest
import zlib
from pathlib import Path

KD_BENCH = None


def kd_bench(*arguments, env=None, check=True):
    done = subprocess.run([KD_BENCH, *map(str, arguments)], capture_output=True, text=True, timeout=120, env=env)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, arguments))} ended with {done.returncode}: {done.stderr}")
    return done


def cifar100_archive(extra=()):
    """A tiny data set in the official archive's shape. The pixels are noise, so that it is not compressed away."""
    noise = random.Random(1)
    files = {"cifar-100-binary/fine_label_names.txt": b"".join(b"class%d\n" % i for i in range(100))}
    for name, count in (("train", 300), ("test", 100)):
        files[f"cifar-100-binary/{name}.bin"] = b"".join(bytes([i % 20, i % 100]) + noise.randbytes(3072) for i in range(count))
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in [*files.items(), *extra]:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return gzip.compress(raw.getvalue(), 1, mtime=0)


class Server:
    """Serves one archive. `cut`: bytes after which each connection breaks; `ranges`: whether a download can be continued; `slow`: seconds per 64 KiB."""

    def __init__(self, content):
        self.content, self.cut, self.ranges, self.slow, self.starts = content, None, True, 0, []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                if self.path == "/moved/cifar-100-binary.tar.gz":
                    self.send_response(302)
                    self.send_header("Location", "/cifar-100-binary.tar.gz")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                if not self.path.endswith("/cifar-100-binary.tar.gz") and not self.path.endswith("/other.tar.gz"):
                    self.send_error(404)
                    return
                start, size = 0, len(outer.content)
                if outer.ranges and self.headers.get("Range", "").startswith("bytes="):
                    start = int(self.headers["Range"][6:].split("-")[0])
                outer.starts.append(start)
                if start >= size > 0 and start > 0:
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{size}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206 if start else 200)
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
                self.send_header("Content-Length", str(size - start))
                self.end_headers()
                stop = size if outer.cut is None else min(size, start + outer.cut)
                try:
                    for at in range(start, stop, 1 << 16):
                        self.wfile.write(outer.content[at:min(at + (1 << 16), stop)])
                        self.wfile.flush()
                        time.sleep(outer.slow)
                except OSError:
                    pass  # the client was killed
                self.close_connection = True

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class WithFolder(unittest.TestCase):
    def setUp(self):
        self.dir = Path(tempfile.mkdtemp(prefix="kd_fetch_"))
        self.addCleanup(shutil.rmtree, self.dir, True)


@unittest.skipUnless(shutil.which("curl"), "curl is not installed")
class Fetch(WithFolder):
    @classmethod
    def setUpClass(cls):
        cls.archive = cifar100_archive()

    def setUp(self):
        super().setUp()
        self.server = Server(self.archive)
        self.addCleanup(self.server.close)

    def fetch(self, *more, path="/cifar-100-binary.tar.gz", md5=None, check=True, env=None):
        md5 = hashlib.md5(self.archive).hexdigest() if md5 is None else md5
        return kd_bench("data", "fetch", "cifar100", "--root", self.dir / "root", "--url", self.server.url + path, *(["--md5", md5] if md5 else []), *more, check=check, env=env)

    def refused(self, *says, **how):
        done = self.fetch(check=False, **how)
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        for part in says:
            self.assertIn(part, done.stderr)

    def part(self):
        return self.dir / "root" / "cifar-100-binary.tar.gz.part"

    def assert_complete(self):
        self.assertEqual(sorted(p.name for p in (self.dir / "root").iterdir()), ["cifar-100-binary", "cifar-100-binary.tar.gz"])
        out = kd_bench("data", "verify", "--name", "cifar100", "--root", self.dir / "root").stdout
        self.assertIn("every record is valid", out)
        self.assertIn("100 images", out)

    def test_downloads_checks_and_unpacks(self):
        out = self.fetch().stdout
        self.assertIn("downloaded, checksum right, unpacked", out)
        self.assertIn("Use it with: data.name=cifar100", out)
        self.assert_complete()
        self.assertIn("is there already", self.fetch().stdout)
        shutil.rmtree(self.dir / "root" / "cifar-100-binary")
        self.assertIn("checksum right, unpacked", self.fetch().stdout)  # from the archive that lies there
        self.assertEqual(len(self.server.starts), 1)

    def test_follows_redirections(self):
        self.fetch(path="/moved/cifar-100-binary.tar.gz")
        self.assert_complete()

    def test_connections_that_break_are_continued(self):
        self.server.cut = len(self.archive) * 2 // 5
        self.fetch()
        self.assert_complete()
        self.assertEqual(self.server.starts, [0, self.server.cut, 2 * self.server.cut])

    def test_a_parent_that_ignores_ended_children_changes_nothing(self):  # the system then keeps no exit status for whoever waits
        self.server.cut = len(self.archive) * 2 // 5
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        try:
            process = subprocess.Popen([KD_BENCH, "data", "fetch", "cifar100", "--root", self.dir / "root", "--url", self.server.url + "/cifar-100-binary.tar.gz",
                                        "--md5", hashlib.md5(self.archive).hexdigest()], stdout=subprocess.DEVNULL)
        finally:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self.assertEqual(process.wait(timeout=120), 0)
        self.assert_complete()

    def test_a_killed_download_is_continued(self):
        self.server.slow = 0.2
        process = subprocess.Popen([KD_BENCH, "data", "fetch", "cifar100", "--root", str(self.dir / "root"), "--url", self.server.url + "/cifar-100-binary.tar.gz",
                                    "--md5", hashlib.md5(self.archive).hexdigest()], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and not (self.part().exists() and self.part().stat().st_size > 200_000):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(0.5)  # curl goes too, and does not write on
        have = self.part().stat().st_size
        time.sleep(0.5)
        self.assertEqual(self.part().stat().st_size, have)
        self.assertGreater(have, 0)
        self.assertLess(have, len(self.archive))
        self.server.slow = 0
        self.fetch()
        self.assert_complete()
        self.assertEqual(self.server.starts, [0, have])

    def test_a_server_without_ranges_starts_over(self):
        (self.dir / "root").mkdir()
        self.part().write_bytes(self.archive[:1000])
        self.server.ranges = False
        self.fetch()
        self.assert_complete()

    def test_a_wrong_beginning_is_replaced(self):
        (self.dir / "root").mkdir()
        for wrong in (b"<html>please log in</html>", self.archive + b"too long"):
            self.part().write_bytes(wrong)
            self.fetch()
            self.assert_complete()
            shutil.rmtree(self.dir / "root" / "cifar-100-binary")
            (self.dir / "root" / "cifar-100-binary.tar.gz").unlink()

    def test_wrong_content_is_refused_and_removed(self):
        self.refused("md5 " + hashlib.md5(self.archive).hexdigest(), "03b5dce01913d631647c71ecec9e9cb8", "removed", md5="")  # not the official bytes
        self.assertEqual(list((self.dir / "root").iterdir()), [])
        (self.dir / "root" / "cifar-100-binary.tar.gz").write_bytes(b"something")
        self.refused("cifar-100-binary.tar.gz: its md5 is", "remove it")

    def test_errors_are_one_line(self):
        self.refused("404", "--url", path="/missing/cifar-100-binary.tar.gz.nowhere", md5="0" * 32)
        self.refused("not the name of an official archive", "--md5", path="/other.tar.gz", md5="")
        self.refused("32 hexadecimal digits", md5="abc")
        self.refused("does not end in a file name", path="/")
        self.refused("curl is not installed", "apt install curl", env={**os.environ, "PATH": str(self.dir)})
        done = kd_bench("data", "fetch", "imagenet", "--root", self.dir, check=False)
        self.assertIn("cifar10 and cifar100 can", done.stderr)
        self.server.close()
        self.refused("download failed", "check the address")

    def test_hostile_archives(self):
        for name, what in (("../evil", "outside"), ("/tmp/kd_evil_absolute", "outside"), ("cifar-100-binary/../../evil", "outside")):
            self.server.content = cifar100_archive([(name, b"x")])
            self.refused(what, md5=hashlib.md5(self.server.content).hexdigest())
            self.assertFalse((self.dir / "evil").exists())
            self.assertEqual([p.name for p in (self.dir / "root").iterdir()], ["cifar-100-binary.tar.gz"])
            (self.dir / "root" / "cifar-100-binary.tar.gz").unlink()
        self.server.content = gzip.compress(b"\0" * 1024, mtime=0)
        self.refused("holds neither cifar-100-binary nor cifar-100-python", md5=hashlib.md5(self.server.content).hexdigest())


def png(seed, width, height):
    noise = random.Random(seed)
    rows = b"".join(b"\0" + noise.randbytes(3 * width) for _ in range(height))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")


class Pack(WithFolder):
    def setUp(self):
        super().setUp()
        self.root = self.dir / "root"
        self.source = ("--name", "images", "--root", self.root)

    def make(self, train, side=40):
        for i in range(train):
            self.put(f"train/c{i % 4}/{i:05}.png", png(i, side + i % 5, side))
        for i in range(8):
            self.put(f"val/c{i % 4}/{i}.png", png(10_000 + i, side, side + 1))

    def put(self, name, data):
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_bytes(data)

    def refused(self, verb, *says):
        done = kd_bench("data", verb, *self.source, check=False)
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        for part in says:
            self.assertIn(part, done.stdout + done.stderr)

    def test_pack_verify_show(self):
        self.make(60)
        self.refused("show", "not made yet", f"kd_bench data pack --name images --root {self.root}")
        out = kd_bench("data", "pack", *self.source).stdout
        self.assertIn("train.kdpack: 60 images, 4 classes", out)
        self.assertIn("Use it with: data.name=images", out)
        self.assertIn("every file and every record is valid", kd_bench("data", "verify", *self.source).stdout)
        kd_bench("data", "show", *self.source, "--px", "64", "--count", "5", "-o", self.dir / "views.png")
        self.assertEqual((self.dir / "views.png").read_bytes()[:4], b"\x89PNG")

    def test_verify_lists_what_is_wrong(self):
        self.make(40)
        kd_bench("data", "pack", *self.source)
        self.put("train/c1/00001.png", png(1, 41, 40)[:-20])
        self.put("train/c2/00002.png", b"GIF89a")
        self.put("val/c0/0.png", png(3, 9, 9))
        self.refused("verify", "00001.png: truncated PNG", "00002.png: neither PNG nor JPEG", "val/c0/0.png has changed since", "problems, named above")
        self.put("train/c2/00002.png", b"")
        self.refused("verify", "1 of 40 images are empty files: train/c2/00002.png")

    def test_a_killed_pack_goes_on(self):
        self.make(1500, side=150)
        kd_bench("data", "pack", *self.source)
        want = {p.name: p.read_bytes() for p in (self.root / "packs").iterdir()}
        kills = 0
        for attempt in range(50):
            shutil.rmtree(self.root / "packs")
            process = subprocess.Popen([KD_BENCH, "data", "pack", *map(str, self.source)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(0.05 + 0.03 * attempt)
            process.send_signal(signal.SIGKILL)
            unfinished = process.wait() != 0
            self.assertEqual({p.suffix for p in (self.root / "packs").glob("*")} - {".kdpack", ".part", ".journal"}, set())
            kills += unfinished
            kd_bench("data", "pack", *self.source)
            self.assertEqual({p.name: p.read_bytes() for p in (self.root / "packs").iterdir()}, want)
            if not unfinished or kills == 4:
                break
        self.assertGreater(kills, 0)


def main():
    global KD_BENCH
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    KD_BENCH = sys.argv.pop(1)
    unittest.main(verbosity=1)


if __name__ == "__main__":
    sys.exit(main())
