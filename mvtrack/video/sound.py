"""The sound of a source laid under a result, so that both stay together as they were."""

import subprocess
from pathlib import Path

from mvtrack.video.reader import ffmpeg
from mvtrack.video.video import Video

_CODECS = ("copy", "aac")


def copy_audio(silent: Path, source: Video, out: Path) -> str:
    """Lay the sound of `source` under a silent video of its frames; returns what happened.

    The result keeps its length: sound of before the first frame and after the last is left out, sound that begins later
    or ends earlier stays where it was. `out` is written only on success.
    """
    if not source.has_sound:
        return "none: the input has no sound"
    seconds = len(source) / source.fps
    shift = ["-ss", f"{source.start_s:.6f}"] if source.start_s > 0 else []
    for codec in _CODECS:
        command = [ffmpeg(), "-nostdin", "-y", "-loglevel", "error", "-i", str(silent), *shift]
        command += ["-t", f"{seconds:.6f}", "-i", f"file:{source.path}", "-map", "0:v:0", "-map", "1:a:0"]
        command += ["-c:v", "copy", "-c:a", codec, "-movflags", "+faststart", str(out)]
        done = subprocess.run(command, capture_output=True)
        if done.returncode == 0 and _has_sound(out):
            return "copied" if codec == "copy" else "re-encoded as AAC"
        out.unlink(missing_ok=True)
    if _ends_before(source):
        return "none: the sound ends before the first frame"
    return "lost: ffmpeg could not carry it over"


def _has_sound(path: Path) -> bool:
    import av

    with av.open(str(path)) as container:
        return any(packet.size for packet in container.demux(audio=0)) if container.streams.audio else False


def _ends_before(source: Video) -> bool:
    """Whether nothing of the sound falls into the picture's time."""
    import av

    with av.open(f"file:{source.path}") as container:
        stream, start = container.streams.audio[0], (container.start_time or 0) / 1e6 + source.start_s
        times = (packet.pts for packet in container.demux(stream) if packet.size and packet.pts is not None)
        return all(float(pts * stream.time_base) < start for pts in times)
