"""`python benchmarks/video_input.py [--clips 300]`: are the frames of any video file the right ones, in any order?

Makes random clips (codec, container, rate, GOP, B-frames, open GOPs, edit lists, cut streams, rotation, mirror, pixel
aspect, start offsets, uneven times, sound shorter or longer) with a barcode in every frame, and reads them from front
to back and in random pieces. A frame with another number than the file's own decoder shows there is wrong.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from bench import report

from mvtrack.video.reader import ffmpeg, open_video

BITS, CELL = 8, 16
HEIGHT, WIDTH = 64, BITS * CELL  # as stored; H.263 has sizes of its own, 128x96 among them
MOST_FRAMES = 60
# codec: (containers, encoder options)
CODECS = {
    "libx264": (("mp4", "mov", "mkv", "ts", "flv", "3gp", "mts"), ("-preset", "veryfast", "-crf", "23")),
    "libx265": (("mp4", "mkv", "mov"), ("-preset", "ultrafast", "-crf", "20", "-x265-params", "log-level=none")),
    "libvpx-vp9": (("webm", "mkv", "mp4"), ("-cpu-used", "8", "-deadline", "realtime", "-b:v", "800k")),
    "libvpx": (("webm", "mkv"), ("-cpu-used", "8", "-auto-alt-ref", "1", "-lag-in-frames", "10", "-b:v", "800k")),
    "libsvtav1": (("mp4", "mkv"), ("-preset", "12", "-crf", "15", "-svtav1-params", "avif=0")),
    "mpeg4": (("avi", "mp4", "mkv", "mov"), ("-q:v", "3")),
    "mpeg2video": (("mpg", "ts", "mkv", "vob"), ("-q:v", "3")),
    "mpeg1video": (("mpg",), ("-q:v", "3")),
    "wmv2": (("wmv", "avi"), ("-q:v", "3")),
    "msmpeg4v2": (("avi", "wmv"), ("-q:v", "3")),
    "flv1": (("flv",), ("-q:v", "3")),
    "mjpeg": (("avi", "mov", "mkv"), ("-q:v", "3")),
    "prores_ks": (("mov",), ()),
    "ffv1": (("mkv", "avi"), ()),
    "gif": (("gif",), ()),
    "apng": (("apng",), ("-plays", "0")),
    "libwebp_anim": (("webp",), ("-quality", "90")),
}
B_FRAMES = {"libx264", "libx265", "mpeg4", "mpeg2video", "mpeg1video"}
RATES = ("24", "25", "30", "30000/1001", "15", "60", "24000/1001", "50")
MPEG_RATES = ("24", "25", "30", "30000/1001", "60", "24000/1001", "50")
MPEG_ASPECTS = ("2/3", "8/9", "1/1")  # of pixels, so that the picture is 4:3, 16:9 or as stored
PICTURES = {"gif", "apng", "webp"}


@dataclass(frozen=True)
class Clip:
    """codes: of every frame that is presented. gap: frames left out before one, by its place. size: (H, W) shown.
    turn, flip: what the file tells players to do with its pictures, degrees counterclockwise, then a mirror."""

    path: Path
    codes: list[int]
    fps: float
    size: tuple[int, int]
    kind: str
    gap: tuple[int, int] | None = None
    turn: int = 0
    flip: str = ""

    @property
    def ticks(self) -> list[int]:
        """The code that each tick shows: the frame before a gap stays on."""
        if self.gap is None:
            return self.codes
        at, missing = self.gap
        return self.codes[:at] + [self.codes[at - 1]] * missing + self.codes[at:]


def barcode(code: int) -> np.ndarray:
    """A grey frame (H, W) with its number at the top, least significant bit left, and a mark at the lower left."""
    frame = np.full((HEIGHT, WIDTH), 90, np.uint8)
    bits = np.array([235 if code >> bit & 1 else 20 for bit in range(BITS)], np.uint8)
    frame[: HEIGHT // 2] = np.repeat(bits, CELL)[None]
    frame[HEIGHT * 3 // 4 :, : WIDTH // 4] = 235
    return frame


def read_codes(frames: np.ndarray) -> list[int]:
    """Numbers of frames (T, 3, H, W) of any size; -1 where the mark is not at the lower left."""
    grey = frames.astype(np.float32).mean(1)
    _, height, width = grey.shape
    y, x = height // 4, ((np.arange(BITS) + 0.5) * width / BITS).astype(int)
    bits = grey[:, y - 1 : y + 2].mean(1)[:, x] > 128
    marked = grey[:, int(height * 0.88), width // 8] - grey[:, int(height * 0.88), width * 7 // 8] > 60
    return np.where(marked, (bits << np.arange(BITS)).sum(1), -1).tolist()


def run_ffmpeg(*arguments: object, stdin: bytes | None = None) -> bytes:
    """Run the bundled ffmpeg quietly; its standard output."""
    command = [ffmpeg(), "-y", "-nostdin", "-loglevel", "error", *map(str, arguments)]
    command = [part for part in command if stdin is None or part != "-nostdin"]
    done = subprocess.run(command, input=stdin, capture_output=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.decode(errors='replace')[-500:]}")
    return done.stdout


def make_clip(seed: int, folder: Path) -> Clip:
    """A random clip; the same one for the same seed."""
    rng = np.random.default_rng(seed)
    codec = str(rng.choice([*CODECS, *["libx264"] * 6, *["libx265"] * 2]))
    containers, options = CODECS[codec]
    container = str(rng.choice(containers))
    rates = MPEG_RATES if codec.startswith("mpeg") and codec != "mpeg4" else RATES
    rate = "25" if container in PICTURES else str(rng.choice(rates))
    count, base = int(rng.integers(12, MOST_FRAMES + 1)), int(rng.integers(0, 180))
    codes = list(range(base, base + count))
    gap = _gap(rng, codec, container, count)
    kind = f"{codec} {container} {rate} {count} frames"
    coded = [*options, "-g", rng.choice([1, 6, 12, 30, 250]), "-c:v", codec]
    if codec in B_FRAMES:
        coded += ["-bf", rng.choice([0, 2, 3])]
    if codec == "libx264" and rng.random() < 0.4:
        special = str(rng.choice(["open-gop=1", "intra-refresh=1", "interlaced=1", "full-range"]))
        kind += f" {special}"
        coded += ["-color_range", "pc"] if special == "full-range" else ["-x264-params", special]
    pixels = "yuv422p10le" if codec == "prores_ks" else "yuvj420p" if codec == "mjpeg" else "yuv420p"
    coded += ["-pix_fmt", "rgb24" if container == "apng" else "bgra" if container == "webp" else pixels]
    coded = coded if container != "gif" else ["-c:v", "gif"]
    size, filters = (HEIGHT, WIDTH), []
    if rng.random() < 0.25 and container in ("mp4", "mov", "mkv", "ts", "avi", "webm") and codec != "libsvtav1":
        aspect = Fraction(str(rng.choice(MPEG_ASPECTS if codec == "mpeg2video" else ["4/3", "3/4", "2/1"])))
        filters, kind = [f"setsar={aspect.numerator}/{aspect.denominator}"], f"{kind} pixels {aspect}"
        size = (HEIGHT, round(WIDTH * aspect)) if aspect > 1 else (round(HEIGHT / aspect), WIDTH)
    whole = folder / f"{seed}_whole.{container}"
    source = _gapped_source(folder, rate, codes, gap)
    timing = ["-fps_mode", "passthrough"] if gap else []
    video = ["-f", "nut", "-i", source, *timing, *(["-vf", ",".join(filters)] if filters else [])]
    with_sound = container in ("mp4", "mov", "mkv", "ts", "avi", "wmv", "mpg") and rng.random() < 0.5
    shift = []
    if with_sound:
        seconds = count / float(Fraction(rate)) * float(rng.choice([0.4, 1.0, 1.8]))
        can_shift = gap is None and container in ("mp4", "mov", "mkv", "ts")  # others repeat frames instead
        shift = ["-itsoffset", round(float(rng.uniform(0, 0.6)), 3)] if rng.random() < 0.4 and can_shift else []
        sound = ["-f", "lavfi", "-t", f"{seconds:.3f}", "-i", "sine=440:r=44100"]
        sound_codec = {"wmv": "wmav2", "mpg": "mp2", "ts": "mp2", "avi": "mp2"}.get(container, "aac")
        video = [*shift, *video[:4], *sound, *video[4:], "-c:a", sound_codec, "-map", "0:v", "-map", "1:a"]
        kind += f" sound {seconds:.2f} s {'shifted' if shift else ''}"
    run_ffmpeg(*video, *coded, *(["-f", "mpegts"] if container == "mts" else []), whole)
    path, kind, is_cut = _rewrapped(rng, whole, container, gap or shift, kind)
    if is_cut:
        codes = _reference_codes(path)
        if not codes:  # no keyframe is left
            codes, path = list(range(base, base + count)), whole
    path, turn, flip = _orientation(rng, path, container)
    size = size[::-1] if turn % 180 else size
    return Clip(path, codes, float(Fraction(rate)), size, f"{kind} {turn or ''}{flip}".strip(), gap, turn, flip)


def _gap(rng: np.random.Generator, codec: str, container: str, count: int) -> tuple[int, int] | None:
    """Where frames are left out, and how many, in containers that can say so."""
    if container not in ("mp4", "mov", "mkv", "webm") or codec in ("libsvtav1", "mpeg4") or rng.random() > 0.2:
        return None
    return int(rng.integers(4, count - 4)), int(rng.integers(2, 15))


def _gapped_source(folder: Path, rate: str, codes: list[int], gap: tuple[int, int] | None) -> Path:
    """The frames, lossless, with their times."""
    path = folder / "source.nut"
    raw = b"".join(barcode(code).tobytes() for code in codes)
    times = []
    if gap is not None:
        times = ["-vf", f"settb=1/90000,setpts='round((N+gte(N,{gap[0]})*{gap[1]})/({rate})/TB)'"]
    run_ffmpeg("-f", "rawvideo", "-pix_fmt", "gray", "-s", f"{WIDTH}x{HEIGHT}", "-r", rate, "-i", "-", *times,
               "-fps_mode", "passthrough", "-c:v", "ffv1", path, stdin=raw)  # fmt: skip
    return path


def _rewrapped(rng, whole: Path, container: str, keep: object, kind: str) -> tuple[Path, str, bool]:
    """Turned, mirrored, cut or moved in time without encoding: (file, kind, whether frames may be missing)."""
    choice, path = rng.random(), whole.with_name(whole.name.replace("_whole", ""))
    stream = ["-c", "copy", "-map", "0", *(["-f", "mpegts"] if container == "mts" else []), path]
    if container in ("mp4", "mov", "ts", "mts", "mkv") and choice < 0.5 and not keep:
        start = round(float(rng.uniform(0.05, 0.4)), 3)
        run_ffmpeg("-ss", start, "-i", whole, *stream)
        return path, f"{kind} cut at {start}", True
    if container in ("mp4", "mov", "mkv") and choice < 0.65 and not keep:
        run_ffmpeg("-i", whole, "-output_ts_offset", "-0.2", *stream)
        return path, f"{kind} begins 0.2 s early", True
    return whole, kind, False


def _orientation(rng, path: Path, container: str) -> tuple[Path, int, str]:
    """(file, degrees counterclockwise, mirror) as players show it."""
    if container not in ("mp4", "mov") or rng.random() > 0.35:
        return path, 0, ""
    turn, flip = int(rng.choice([0, 90, 180, 270])), str(rng.choice(["", "hflip", "vflip"]))
    turned = path.with_name(f"turned_{path.name}")
    mirror = [f"-display_{flip}"] if flip else []
    run_ffmpeg("-display_rotation", turn, *mirror, "-i", path, "-c", "copy", "-map", "0", turned)
    return turned, turn, flip


def _reference_codes(path: Path) -> list[int]:
    """What the bundled ffmpeg presents; nothing where it cannot decode."""
    try:
        raw = run_ffmpeg("-noautorotate", "-i", path, "-map", "0:v:0", "-fps_mode", "passthrough", "-f", "rawvideo",
                         "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}", "-")  # fmt: skip
    except RuntimeError:
        return []
    return read_codes(np.frombuffer(raw, np.uint8).reshape(-1, HEIGHT, WIDTH, 3).transpose(0, 3, 1, 2))


def count_wrong(clip: Clip, rng: np.random.Generator) -> list[str]:
    """What is wrong with a clip as `open_video` reads it, in order and in pieces; empty when it is right."""
    video, wrong = open_video(clip.path), []
    if len(video) != len(clip.ticks):
        return [f"{len(video)} frames, not {len(clip.ticks)}"]
    if abs(video.fps / clip.fps - 1) > 2e-3:
        wrong.append(f"{video.fps} fps, not {clip.fps}")
    if video.size != clip.size:
        wrong.append(f"size {video.size}, not {clip.size}")

    def read(start: int, stop: int, opened) -> list[int]:
        frames = opened.read(start, stop).numpy()
        frames = frames[..., ::-1] if clip.flip == "hflip" else frames[..., ::-1, :] if clip.flip else frames
        return read_codes(np.rot90(frames, -clip.turn // 90, (2, 3)))

    whole = read(0, len(video), video)
    if whole != clip.ticks:
        at = int(np.argmax(np.array(whole) != clip.ticks))
        wrong.append(f"in order: frame {at} shows {whole[at]}, not {clip.ticks[at]}")
    sought = open_video(clip.path)
    for _ in range(6):
        start = int(rng.integers(0, len(video)))
        stop = min(len(video), start + int(rng.integers(1, 9)))
        got = read(start, stop, sought)
        if got != clip.ticks[start:stop]:
            wrong.append(f"by seeking: frames {start}..{stop} show {got}, not {clip.ticks[start:stop]}")
    first, again = int(rng.integers(0, len(video))), open_video(clip.path)
    if not np.array_equal(again.read(first, first + 1).numpy(), video.read(first, first + 1).numpy()):
        wrong.append(f"frame {first} differs by the way to it")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0, help="of the first clip")
    options = parser.parse_args()
    bad, kinds, opened = [], Counter(), []
    for seed in range(options.seed, options.seed + options.clips):
        with tempfile.TemporaryDirectory() as folder:
            clip = make_clip(seed, Path(folder))
            began = time.perf_counter()
            video = open_video(clip.path)
            opened.append(time.perf_counter() - began)
            kinds[type(video).__name__] += 1
            wrong = count_wrong(clip, np.random.default_rng(seed))
        if wrong:
            bad.append(seed)
            sys.stdout.write(f"clip {seed}, {clip.kind}: {'; '.join(wrong)}\n")
    sys.stdout.write(f"readers: {dict(kinds)}\n")
    figures = {"clips": options.clips, "wrong clips": len(bad), "median opening, s": float(np.median(opened))}
    return report(figures, {"wrong clips": ("<=", 0)})


if __name__ == "__main__":
    sys.exit(main())
