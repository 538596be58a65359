"""Files as phones, editors, broadcasters and old programs write them, made here: the frames that players show."""

import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mvtrack.video.images import AnimatedImage
from mvtrack.video.reader import DecordVideo, ffmpeg, open_video
from mvtrack.video.writer import write_video

T, H, W = 60, 180, 320
CORNERS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "yellow": (220, 220, 30)}
PLAIN = ["red", "green", "blue", "yellow"]  # top left, top right, bottom left, bottom right


def run_ffmpeg(*arguments: object) -> None:
    done = subprocess.run([ffmpeg(), "-y", "-loglevel", "error", *map(str, arguments)], capture_output=True)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-500:]


def numbered_frame(code: int) -> np.ndarray:
    """Coloured corners, an 8-bit number at the top middle (least significant bit left), a circle of 90 pixels."""
    frame = np.full((H, W, 3), 90, np.uint8)
    for (y, x), color in zip(((0, 0), (0, W - 36), (H - 36, 0), (H - 36, W - 36)), CORNERS.values(), strict=True):
        frame[y : y + 36, x : x + 36] = color
    for bit in range(8):
        frame[4:32, 44 + 29 * bit : 69 + 29 * bit] = 235 if code >> bit & 1 else 20
    return cv2.circle(frame, (W // 2, 100), 45, (235, 235, 235), 2)


def codes(frames: torch.Tensor) -> list[int]:
    bits = frames.float().mean(1)[:, 14:22].mean(1)[:, 56 : 56 + 29 * 8 : 29] > 128
    return (bits.long() << torch.arange(8)).sum(1).tolist()


def corners(frame: torch.Tensor, inset: int = 12) -> list[str]:
    """Names of the colours in the four corners."""
    picked = frame[:, [inset, inset, -inset, -inset], [inset, -inset, inset, -inset]].T.float()
    distance = torch.cdist(picked, torch.tensor(list(CORNERS.values())).float())
    assert distance.min(1).values.max() < 40
    return [list(CORNERS)[i] for i in distance.argmin(1).tolist()]


def pieces(path: Path, count: int) -> list[int]:
    """Codes read from the end to the front, in pieces of three: every read seeks."""
    video, found = open_video(path), []
    for start in range(count - count % 3, -1, -3):
        if start < count:
            found = codes(video.read(start, min(start + 3, count))) + found
    return found


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """60 frames at 30 fps, GOPs of 20, B-frames, SD, no colour tags."""
    folder = tmp_path_factory.mktemp("base")
    write_video(folder / "lossless.mp4", [numbered_frame(i) for i in range(T)], 30.0, lossless=True)
    run_ffmpeg("-i", folder / "lossless.mp4", "-vf", "format=yuv420p", "-c:v", "libx264", "-g", 20, "-bf", 2, "-crf",
               18, folder / "base.mp4")  # fmt: skip
    return folder / "base.mp4"


def with_sound(base: Path, out: Path, seconds: float, *before_video: object) -> Path:
    run_ffmpeg(*before_video, "-i", base, "-f", "lavfi", "-t", seconds, "-i", "sine=440:r=44100", "-map", "0:v", "-map",
               "1:a", "-c:v", "copy", "-c:a", "aac", out)  # fmt: skip
    return out


def test_a_trimmed_end_is_left_out(base, tmp_path):
    """An edit list that ends before the packets do, as phones write it."""
    path = with_sound(base, tmp_path / "trimmed.mp4", 2)
    data = bytearray(path.read_bytes())
    at = 0
    while (at := data.find(b"elst", at + 1)) > 0:  # both tracks play half as long
        duration = int.from_bytes(data[at + 12 : at + 16], "big")
        data[at + 12 : at + 16] = (duration // 2).to_bytes(4, "big")
    path.write_bytes(bytes(data))
    assert codes(open_video(path).read(0, 30)) == list(range(30))
    assert len(open_video(path)) == 30
    assert pieces(path, 30) == list(range(30))


def test_a_cut_inside_a_gop_begins_where_the_edit_list_says(base, tmp_path):
    run_ffmpeg("-ss", 0.75, "-i", base, "-c", "copy", tmp_path / "cut.mp4")
    assert len(open_video(tmp_path / "cut.mp4")) == 37
    assert (
        codes(open_video(tmp_path / "cut.mp4").read(0, 37)) == list(range(23, 60)) == pieces(tmp_path / "cut.mp4", 37)
    )


@pytest.mark.parametrize("suffix", ["ts", "MTS", "m2ts"])
def test_a_transport_stream_begins_at_its_first_keyframe(base, tmp_path, suffix):
    run_ffmpeg("-i", base, "-c", "copy", "-f", "mpegts", "-output_ts_offset", 5, tmp_path / "whole.ts")
    data = (tmp_path / "whole.ts").read_bytes()
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(data[188 * (len(data) // 188 // 5) :])  # starts amid the first GOP
    found = codes(open_video(path).read(0, len(open_video(path))))
    assert found[0] in (20, 40)
    assert found == list(range(found[0], T)) == pieces(path, len(found))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("c.wmv", ["-c:v", "wmv2", "-q:v", 2, "-g", 15]),
        ("c.avi", ["-c:v", "mpeg4", "-q:v", 2, "-bf", 2]),
        ("packed.avi", ["-c:v", "mpeg4", "-q:v", 2, "-bf", 2, "-bsf:v", "mpeg4_unpack_bframes"]),
        ("c.mpg", ["-c:v", "mpeg2video", "-q:v", 2, "-bf", 2]),
        ("c.vob", ["-c:v", "mpeg2video", "-q:v", 2, "-bf", 2]),
        ("c.flv", ["-c:v", "flv1", "-q:v", 2]),
        ("c.3gp", ["-c:v", "mpeg4", "-q:v", 2]),
        ("c.MKV", ["-c:v", "libx265", "-x265-params", "log-level=none:open-gop=1:keyint=20", "-f", "matroska"]),
        ("early.mkv", ["-c", "copy", "-output_ts_offset", -0.3]),
        ("refreshed.mp4", ["-c:v", "libx264", "-x264-params", "intra-refresh=1:keyint=10"]),
        ("hidden.webm", ["-c:v", "libvpx", "-b:v", "2M", "-auto-alt-ref", 1, "-lag-in-frames", 16]),
        ("full.mp4", ["-c:v", "libx264", "-vf", "scale=out_range=pc", "-color_range", "pc"]),
    ],
)
def test_every_container_gives_all_frames_in_any_order(base, tmp_path, name, options):
    run_ffmpeg("-i", base, *options, tmp_path / name)
    video = open_video(tmp_path / name)
    assert (len(video), video.fps) == (T, 30.0)
    frames = video.read(0, T)
    assert codes(frames) == list(range(T)) == pieces(tmp_path / name, T)
    assert corners(frames[0]) == PLAIN
    assert (frames[7, :, 12, 12].float() - torch.tensor([220.0, 30, 30])).abs().max() < 12


@pytest.mark.parametrize(
    ("turn", "mirror", "expected"),
    [
        (0, "hflip", ["green", "red", "yellow", "blue"]),
        (0, "vflip", ["blue", "yellow", "red", "green"]),
        (90, "", ["green", "yellow", "red", "blue"]),
        (180, "", ["yellow", "blue", "green", "red"]),
        (270, "", ["blue", "red", "yellow", "green"]),
        (90, "hflip", ["yellow", "green", "blue", "red"]),
    ],
)
def test_turned_and_mirrored_pictures_are_upright(base, tmp_path, turn, mirror, expected):
    flags = ["-display_rotation", turn, *([f"-display_{mirror}"] if mirror else [])]
    run_ffmpeg(*flags, "-i", base, "-c", "copy", tmp_path / "turned.mov")
    video = open_video(tmp_path / "turned.mov")
    assert video.size == ((W, H) if turn % 180 else (H, W))
    assert corners(video.read(3, 4)[0]) == expected


@pytest.mark.parametrize(("aspect", "stored"), [("4/3", (240, 180)), ("1/2", (320, 90))])
def test_pixels_are_made_square(base, tmp_path, aspect, stored):
    run_ffmpeg("-i", base, "-vf", f"scale={stored[0]}:{stored[1]},setsar={aspect}", "-g", 250, tmp_path / "sar.mp4")
    video = open_video(tmp_path / "sar.mp4")
    assert video.size == (H, W)
    assert "made square" in video.notes[0]
    frame = video.read(30, 31)[0].float().mean(0)
    bright = (frame > 180).nonzero()
    ring = bright[((bright - torch.tensor([100, 160])).float().norm(dim=1) - 45).abs() < 8]
    extent = ring.max(0).values - ring.min(0).values + 1
    assert abs(int(extent[0]) - int(extent[1])) <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_upright(tmp_path, orientation):
    from PIL import Image, ImageOps

    stored = np.rot90(numbered_frame(5), 1) if orientation > 4 else numbered_frame(5)
    image, exif = Image.fromarray(np.ascontiguousarray(stored)), Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "photo.jpg", exif=exif, quality=95)
    with Image.open(tmp_path / "photo.jpg") as saved:
        expected = np.array(ImageOps.exif_transpose(saved).convert("RGB"))
    found = open_video(tmp_path / "photo.jpg").read(0, 1)[0].permute(1, 2, 0).numpy()
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 12


def hdr_codes(color: tuple[int, int, int], transfer: str) -> np.ndarray:
    """10-bit limited-range Y, Cb, Cr of BT.2020 for an sRGB colour whose white has 203 nits, by BT.2100's equations."""
    code = np.array(color) / 255
    light = np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4) * 203
    light = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]) @ light
    if transfer == "smpte2084":
        y = (light / 10000) ** 0.1593017578125
        signal = ((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375
    else:
        luminance = [0.2627, 0.6780, 0.0593] @ light / 1000
        scene = light / 1000 * luminance ** (1 / 1.2 - 1)
        curve = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
        signal = np.where(scene <= 1 / 12, np.sqrt(3 * scene), curve)
    luma = [0.2627, 0.6780, 0.0593] @ signal
    parts = np.array(
        [luma * 876 + 64, (signal[2] - luma) / 1.8814 * 896 + 512, (signal[0] - luma) / 1.4746 * 896 + 512]
    )
    return parts.round().astype("<u2")


@pytest.mark.parametrize(("transfer", "name"), [("arib-std-b67", "HLG"), ("smpte2084", "PQ")])
def test_hdr_is_tone_mapped(tmp_path, transfer, name):
    """Patches of SDR colours, as HDR at 203 nits: they come back; what is brighter is not clipped to one value."""
    colors = [(220, 30, 30), (30, 200, 30), (30, 30, 220), (235, 235, 235), (90, 90, 90)]
    patches = np.stack([hdr_codes(color, transfer) for color in colors], 1)  # (3, 5)
    luma, chroma = patches[:1].repeat(32, 1).repeat(64, 0), patches[1:].repeat(16, 1)[:, None].repeat(32, 1)
    raw = (luma.tobytes() + chroma.tobytes()) * 3
    (tmp_path / "raw.yuv").write_bytes(raw)
    tags = ["-color_primaries", "bt2020", "-color_trc", transfer, "-colorspace", "bt2020nc", "-color_range", "tv"]
    run_ffmpeg("-f", "rawvideo", "-pix_fmt", "yuv420p10le", "-s", "160x64", "-r", 30, *tags, "-i", tmp_path / "raw.yuv",
               "-c:v", "libx265", "-x265-params", "log-level=none:lossless=1", *tags, tmp_path / "hdr.mov")  # fmt: skip
    video = open_video(tmp_path / "hdr.mov")
    assert video.notes == [f"{name} is tone-mapped to BT.709"]
    found = video.read(0, 1)[0, :, 32, 16::32].T.float()
    assert (found - torch.tensor(colors).float()).abs().max() < 8


def test_transparency_lies_over_black(tmp_path):
    frames = np.full((5, H, W, 4), 200, np.uint8)
    frames[:, :, : W // 2, 3] = 0
    frames[:, :, W // 2 :, 3] = 255
    (tmp_path / "raw").write_bytes(frames.tobytes())
    source = ["-f", "rawvideo", "-pix_fmt", "rgba", "-s", f"{W}x{H}", "-r", 30, "-i", tmp_path / "raw"]
    for name, options in {
        "a.webm": ["-c:v", "libvpx-vp9", "-pix_fmt", "yuva420p"],
        "b.webm": ["-c:v", "libvpx", "-pix_fmt", "yuva420p", "-auto-alt-ref", 0],
        "c.mov": ["-c:v", "prores_ks", "-profile:v", 4, "-pix_fmt", "yuva444p10le"],
        "d.mov": ["-c:v", "qtrle", "-pix_fmt", "argb"],
        "wide.mov": ["-vf", "setparams=color_primaries=bt2020:color_trc=bt709", "-c:v", "prores_ks", "-profile:v", 4,
                     "-pix_fmt", "yuva444p10le"],
    }.items():  # fmt: skip
        run_ffmpeg(*source, *options, tmp_path / name)
        video = open_video(tmp_path / name)
        frame = video.read(2, 3)[0].float()
        assert frame[..., : W // 2 - 8].max() < 8, name
        assert (frame[..., W // 2 + 8 :] - 200).abs().max() < 8, name
        assert video.notes[0] == "transparent parts lie over black"
        assert len(video.notes) == (2 if name == "wide.mov" else 1)


def test_interlaced_frames_are_deinterlaced(tmp_path):
    """A bar that moves by 16 pixels a field: the two positions no longer alternate from row to row."""
    frames = []
    for t in range(16):
        frame = np.full((H, W), 40, np.uint8)
        frame[:, 16 * t : 16 * t + 16] = 220
        frames.append(frame.tobytes())
    (tmp_path / "raw").write_bytes(b"".join(frames))
    run_ffmpeg("-f", "rawvideo", "-pix_fmt", "gray", "-s", f"{W}x{H}", "-r", 30, "-i", tmp_path / "raw", "-vf",
               "interlace=scan=tff:lowpass=0,format=yuv420p", "-c:v", "libx264", "-x264-params", "tff=1:keyint=4",
               tmp_path / "fields.mp4")  # fmt: skip
    video = open_video(tmp_path / "fields.mp4")
    assert len(video) == 8
    assert "deinterlaced" in video.notes[0]
    frames = video.read(0, 8)
    combed = (frames[3, 0, 40:140, :].float().diff(dim=0).abs() > 90).float().mean()
    assert combed < 0.01
    again = open_video(tmp_path / "fields.mp4")
    for i in (6, 3, 5, 1):
        assert torch.equal(again.read(i, i + 1)[0], frames[i])


def test_animated_images_are_read(tmp_path):
    from PIL import Image

    images = [Image.fromarray(numbered_frame(i)) for i in range(9)]
    images[0].save(tmp_path / "a.webp", save_all=True, append_images=images[1:], duration=60, quality=95)
    images[0].save(tmp_path / "a.png", save_all=True, append_images=images[1:], duration=40)
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=[110, 30, 70] * 3)
    for name, fps in (("a.webp", 1000 / 60), ("a.png", 25.0)):
        video = open_video(tmp_path / name)
        assert isinstance(video, AnimatedImage)
        assert (len(video), video.fps) == (9, pytest.approx(fps))
        assert codes(video.read(0, 9)) == list(range(9))
        assert codes(video.read(2, 4)) == [2, 3]
    gif = open_video(tmp_path / "a.gif")
    shown = codes(gif.read(0, len(gif)))
    assert sorted(set(shown)) == list(range(9))
    assert len(gif) / gif.fps == pytest.approx(0.63, abs=0.08)  # a tick
    assert "uneven frame times" in gif.notes[0]
    assert len(open_video(tmp_path / "a.gif", fps=10)) == 9


def vfr_gap(base: Path, out: Path) -> Path:
    """Frames 20 to 39 are left out, and their time with them: 19 stays on screen."""
    run_ffmpeg("-i", base, "-vf", "select='not(between(n,20,39))'", "-fps_mode", "passthrough", "-g", 250, out)
    return out


def test_a_gap_in_time_is_a_pause(base, tmp_path):
    video = open_video(vfr_gap(base, tmp_path / "gap.mp4"))
    assert (len(video), video.fps, video.own_frames) == (T, 30.0, 40)
    assert codes(video.read(0, T)) == [*range(20), *[19] * 20, *range(40, 60)]
    assert video.notes == ["uneven frame times: 40 frames shown on 60 even ticks at 30 fps"]
    assert video.of_ticks(40, "x").tolist() == video.frame_of.tolist()
    assert video.of_ticks(60, "x").tolist() == list(range(60))
    with pytest.raises(ValueError, match=r"x is for 41 frames, .* has 60 \(40 in the file, at uneven times\)"):
        video.of_ticks(41, "x")


@pytest.mark.parametrize("kind", ["overwritten", "cut off"])
def test_damage_is_found_when_the_file_is_opened(base, tmp_path, kind):
    path = tmp_path / "bad.mp4"
    if kind == "overwritten":
        data = bytearray(base.read_bytes())
        start = data.find(b"mdat") + (data.find(b"moov") - data.find(b"mdat")) * 3 // 4
        data[start : start + 2000] = b"Z" * 2000
    else:
        run_ffmpeg("-i", base, "-c", "copy", "-movflags", "+faststart", tmp_path / "front.mp4")
        data = (tmp_path / "front.mp4").read_bytes()[:-3000]
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"bad\.mp4 is damaged: .*--damaged use-good-part"):
        open_video(path)
    video = open_video(path, damaged="use-good-part")
    assert 10 < len(video) < T
    assert codes(video.read(0, len(video))) == list(range(len(video)))
    assert f"its first {len(video)} of 60 frames are good" in video.notes[0]


def test_damage_inside_packets_is_found_by_decoding_everything(base, tmp_path):
    data, rng = bytearray(base.read_bytes()), np.random.default_rng(3)
    at = data.find(b"mdat") + len(data) // 2
    data[at : at + 40] = rng.bytes(40)
    (tmp_path / "bits.mp4").write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"bits\.mp4 is damaged"):
        open_video(tmp_path / "bits.mp4", decode_all=True)


@pytest.mark.parametrize(
    "address", ["https://example.org/a.mp4", "s3://bucket/a.mp4", Path("http://example.org/a.mp4")]
)
def test_addresses_are_refused_in_words(address):
    with pytest.raises(ValueError, match=r"^\w+://\w.*/a\.mp4 is an address: only files are read, download it first"):
        open_video(address)


def test_what_macos_keeps_beside_files_is_named(base, tmp_path):
    (tmp_path / "._clip.mp4").write_bytes(b"\0\5\26\7" + bytes(100))
    with pytest.raises(ValueError, match=r"is what macOS keeps beside a file, no video: give clip\.mp4"):
        open_video(tmp_path / "._clip.mp4")


def test_hd_without_colour_tags_says_how_it_is_read(tmp_path):
    run_ffmpeg("-f", "lavfi", "-i", "color=red:size=1280x720:rate=10:duration=0.3", "-pix_fmt", "yuv420p",
               tmp_path / "hd.mp4")  # fmt: skip
    assert open_video(tmp_path / "hd.mp4").notes == [
        "the file does not say its colour matrix: read as BT.601, as ffmpeg does"
    ]


def test_written_colours_come_back_in_a_reader_that_respects_tags(tmp_path):
    """720p, where untagged files would be shown as BT.709: the tag and the matrix agree."""
    frame = np.full((720, 1280, 3), (220, 30, 30), np.uint8)
    path = write_video(tmp_path / "red.mp4", [frame] * 3, 30.0)
    run_ffmpeg("-i", path, "-frames:v", 1, "-f", "rawvideo", "-pix_fmt", "rgb24", tmp_path / "raw")
    shown = np.fromfile(tmp_path / "raw", np.uint8).reshape(720, 1280, 3)[300, 300]
    assert np.abs(shown.astype(int) - (220, 30, 30)).max() <= 3
    probe = subprocess.run([ffmpeg(), "-i", str(path)], capture_output=True, text=True).stderr
    assert "yuv420p(tv, bt709" in probe
    video = open_video(path)
    assert isinstance(video, DecordVideo)
    assert (video.read(0, 1)[0, :, 300, 300].float() - torch.tensor([220.0, 30, 30])).abs().max() <= 3
