"""Damage pose files at random and read them: every outcome is cameras that are valid, or one clear error.

    python tests/geometry/pose_files/fuzz.py --minutes 10

The last line is a JSON object: counts, the slowest read, and whether everything was met. Each failure is printed with
the seed and number that make it again.
"""

import argparse
import io
import json
import math
import random
import re
import runpy
import signal
import struct
import sys
import tempfile
import time
import warnings
import zipfile
from pathlib import Path

import torch

from mvtrack.geometry.camera import Camera
from mvtrack.geometry.pose_files import FORMATS, CameraSequence, Distortion, read_cameras, write_cameras
from mvtrack.geometry.pose_files.sequence import require_valid

MAX_SECONDS = 5.0  # of this process, so that a busy machine fails nothing
MAX_WAIT_SECONDS = 60.0  # of the clock: a read that waits for something
LENS = {"size": (46, 62), "fov": 50}
OPTIONS = {"recammaster": LENS, "tum": LENS, "kitti": LENS, "realestate10k": {"size": (46, 62)}}
WORDS = [
    b"NaN", b"Infinity", b"-1e400", b"1e400", b"1e-400", b"1e12", b"-0", b"1_000", b"0x10", b"", b"null", b"true",
    b"[]", b"{}", b'""', b"9" * 5000, b"1" * 100, b"[" * 3000, b"\x00", b"\xff\xfe", b"\xe2\x80\xa8", "\u0661".encode(),
    b" ", b"\n", b"#", b",", b'"c2w"', b'"views"', b'"frames"', b'"frame0"', b"\\ud800",
]  # fmt: skip
EXTREMES = [struct.pack("<d", v) for v in (math.nan, math.inf, 1e300, 0.0)] + [b"\xff" * 4, b"\xff" * 8, b"\x00" * 8]
VALUES = [None, True, 0, -1, 1e308, "", "x", "9" * 50, [], {}, [[]], [1, 2, 3], {"a": 1}, 10**39, 0.5]
_NUMBER = re.compile(rb"-?\d+\.?\d*(?:[eE][+-]?\d+)?")


class TooSlow(BaseException):
    """A read ran into the alarm. No reader can catch it by mistake."""


def _alarm(*_) -> None:
    raise TooSlow


def sample_files(folder: Path, seed: int) -> dict[str, tuple[Path, str, dict]]:
    """One valid file or folder of every format and of every other program: path, format and options."""
    generator = torch.Generator().manual_seed(seed)
    frames = 4
    rotation, _ = torch.linalg.qr(torch.randn(frames, 3, 3, generator=generator, dtype=torch.float64))
    c2w = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    c2w[:, :3, :3] = rotation * torch.linalg.det(rotation).sign()[:, None, None]
    c2w[:, :3, 3] = torch.randn(frames, 3, generator=generator, dtype=torch.float64)
    K = torch.tensor([[53.0, 0, 31], [0, 53, 23], [0, 0, 1]], dtype=torch.float64).repeat(frames, 1, 1)
    times = torch.arange(frames, dtype=torch.float64) / 8
    names = tuple(f"f_{i}" for i in range(frames))
    plain = CameraSequence(Camera(c2w, K, (46, 62), True), names, times)
    lens = Distortion(torch.tensor([-0.1, 0.05, 0.001, -0.002, 0.01], dtype=torch.float64))
    distorted = CameraSequence(plain.camera, names, times, lens)
    valid = {}
    for name, known in FORMATS.items():
        if known.write:
            path = write_cameras(folder / f"valid_{name}", distorted if "distortion" in known.holds else plain, name)
            valid[name] = path, name, OPTIONS.get(name, {})
    for program, write in runpy.run_path(str(Path(__file__).with_name("test_programs.py")))["PROGRAMS"].items():
        own = folder / program.replace(" ", "_")
        own.mkdir()
        path, options = write(own, c2w.repeat(2, 1, 1)[:7])
        options = {**options, "focal_px": 53.0} if program == "vipe" else options  # its second file is not copied
        valid[program] = path, program.split()[0], options
    return valid


def damage(content: bytes, rng: random.Random) -> bytes:
    """Damage that knows the form of JSON and zip files, or damage of the bytes."""
    if content.startswith(b"{") and rng.random() < 0.5:
        return _damage_json(content, rng)
    if content.startswith(b"PK") and rng.random() < 0.7:
        return _damage_member(content, rng)
    return _damage_bytes(content, rng)


def _damage_json(content: bytes, rng: random.Random) -> bytes:
    """One node of the document becomes another value, or goes, or comes twice."""
    document = json.loads(content)
    node, parents = document, []
    while isinstance(node, list | dict) and node and (not parents or rng.random() < 0.8):
        key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        parents.append((node, key))
        node = node[key]
    if parents:
        parent, key = parents[-1]
        kind = rng.randrange(3)
        if kind == 0:
            del parent[key]
        elif kind == 1 and isinstance(parent, list):
            parent.insert(key, parent[key])
        else:
            parent[key] = rng.choice(VALUES)
    return json.dumps(document).encode()


def _damage_member(content: bytes, rng: random.Random) -> bytes:
    """A whole archive with one damaged or missing member."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(out, "w") as target:
        victim = rng.choice(archive.namelist())
        for name in archive.namelist():
            member = archive.read(name)
            if name != victim:
                target.writestr(name, member)
            elif rng.random() < 0.9:
                target.writestr(name, _damage_bytes(member, rng))
    return out.getvalue()


def _damage_bytes(content: bytes, rng: random.Random) -> bytes:
    """One to four random changes: cut, overwrite, insert, repeat, remove, swap lines, replace a number, flip a bit."""
    for _ in range(rng.randint(1, 4)):
        if not content:
            return content
        start, stop = sorted((rng.randrange(len(content) + 1), rng.randrange(len(content) + 1)))
        stop = min(stop, start + rng.choice([1, 8, 64, 100_000]))
        kind = rng.randrange(9)
        if kind == 0:
            content = content[: rng.randrange(len(content))]
        elif kind == 1:
            content = content[:start] + bytes(rng.randrange(256) for _ in range(min(stop - start, 64))) + content[stop:]
        elif kind == 2:
            content = content[:start] + rng.choice(WORDS) + content[stop:]
        elif kind == 3:
            content = content[:start] + content[start:stop] * rng.randint(2, 5) + content[stop:]
        elif kind == 4:
            content = content[:start] + content[stop:]
        elif kind == 5:
            lines = content.split(b"\n")
            rng.shuffle(lines)
            content = b"\n".join(lines[: rng.randint(1, len(lines))])
        elif kind == 6:
            numbers = list(_NUMBER.finditer(content))
            if numbers:
                found = rng.choice(numbers)
                content = content[: found.start()] + rng.choice(WORDS) + content[found.end() :]
        elif kind == 7:
            content = content[:start] + rng.choice(EXTREMES) + content[start + 8 :]
        else:
            at = rng.randrange(len(content))
            content = content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :]
    return content


def damaged_copy(valid: Path, target: Path, rng: random.Random) -> None:
    """A copy with one damaged file, or, of a folder, sometimes one missing."""
    if valid.is_file():
        target.write_bytes(damage(valid.read_bytes(), rng))
        return
    target.mkdir()
    files = sorted(valid.iterdir())
    victim = rng.choice(files)
    for file in files:
        if file != victim:
            (target / file.name).write_bytes(file.read_bytes())
        elif rng.random() < 0.95:
            (target / file.name).write_bytes(damage(file.read_bytes(), rng))


def outcome(path: Path, name: str | None, options: dict) -> str:
    """refused, accepted, or what went wrong."""
    signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, MAX_WAIT_SECONDS)
    try:
        sequence = read_cameras(path, name, **options)
        require_valid(sequence, "read cameras")
        return "accepted"
    except (ValueError, OSError) as error:
        text = str(error)
        known = isinstance(error, OSError) or (path.name in text or text.startswith(("option", "unknown", "format ")))
        good = type(error) is ValueError or isinstance(error, OSError)
        return "refused" if good and known and "\n" not in text and len(text) < 2000 else f"unclear error: {error!r}"
    except TooSlow:
        return "too slow"
    except BaseException as error:  # noqa: BLE001 everything else is what is looked for
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"traceback: {type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


def fuzz(seconds: float, seed: int = 0) -> dict:
    """Damage and read for so long. Returns the counts."""
    warnings.simplefilter("error")
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, _alarm)
    counts = {"refused": 0, "accepted": 0, "failures": 0}
    slowest, number, began = 0.0, 0, time.monotonic()
    with tempfile.TemporaryDirectory() as root:
        valid = sample_files(Path(root), seed)
        target = Path(root) / "damaged"
        while time.monotonic() - began < seconds:
            rng = random.Random(f"{seed} {number}")
            name = rng.choice(list(valid))
            path, format_name, options = valid[name]
            damaged_copy(path, target, rng)
            given = format_name if rng.random() < 0.7 else None
            start = time.process_time()
            result = outcome(target, given, options)
            slowest = max(slowest, time.process_time() - start)
            counts[result if result in counts else "failures"] += 1
            if result not in counts:
                sys.stdout.write(f"seed {seed}, number {number}, format {name} (given {given}): {result[:500]}\n")
            _remove(target)
            number += 1
    met = counts["failures"] == 0 and number > 0 and slowest < MAX_SECONDS
    return {
        "files": number,
        **counts,
        "slowest_s": round(slowest, 3),
        "seconds": round(seconds, 1),
        "seed": seed,
        "met": met,
    }


def _remove(path: Path) -> None:
    if path.is_file():
        path.unlink()
        return
    for file in path.iterdir():
        file.unlink()
    path.rmdir()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Damage pose files at random and read them.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    counts = fuzz(options.minutes * 60, options.seed)
    sys.stdout.write(json.dumps(counts) + "\n")
    return 0 if counts["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
