"""The second decoding inside of re-shooting: through the library, a long video, and the command."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from mvtrack.cli.main import main as cli
from mvtrack.data.synthetic.test_scenes import CaseSpec, render_case
from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.geometry.trajectory import CameraPath
from mvtrack.geometry.warp import covisible
from mvtrack.inference.pipeline import Shot, shipped_decoder, shipped_model, shot_record
from mvtrack.inference.sampler import LongVideo, SamplerOptions, generate, generate_stream
from mvtrack.metrics.image import psnr
from mvtrack.models.conditioning import Window
from mvtrack.models.decoder.decode_aligned import AlignedDecoding
from mvtrack.models.decoder.files import load_aligner, save_aligner
from mvtrack.models.decoder.small import SmallAligner
from mvtrack.models.reshoot_model import load_model, save_model
from mvtrack.video.reader import open_video

T, SIZE = 7, (24, 32)


@pytest.fixture
def aligner() -> SmallAligner:
    torch.manual_seed(3)
    aligner = SmallAligner(8)
    torch.nn.init.normal_(aligner.write.weight, std=0.2)
    for level in aligner.levels:
        torch.nn.init.normal_(level.out.weight, std=0.5)
    return aligner.eval().requires_grad_(False)


def shot(num_frames: int) -> tuple[torch.Tensor, Camera]:
    reference = torch.rand(num_frames, 3, *SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    poses = torch.stack([torch.eye(4).expand(num_frames, 4, 4), CameraPath("arc_left").poses(num_frames).float()])
    return reference, Camera(poses, intrinsics_from_fov(50.0, SIZE).expand(2, num_frames, 3, 3), SIZE)


def test_fresh_decoder_changes_nothing(small_model):
    reference, camera = shot(5)
    plain = generate(small_model, reference, Window(camera, 4.0), SamplerOptions(1))
    for depth in (None, {0: lambda _: torch.full(SIZE, 4.0)}):
        aligned = AlignedDecoding(SmallAligner(8), depth)
        found = generate(small_model, reference, Window(camera, 4.0), SamplerOptions(1), aligned=aligned)
        torch.testing.assert_close(found, plain, atol=1e-6, rtol=0)


def test_depth_frames_follow_video_frames(small_model, aligner):
    """Seven frames in windows of five: the second one begins at frame 2."""
    reference, camera = shot(T)
    asked: list[int] = []

    def depth(frame: int) -> torch.Tensor:
        asked.append(frame)
        return torch.full(SIZE, 4.0)

    aligned = AlignedDecoding(aligner, {0: depth})
    read = lambda start, stop: reference[start:stop]  # noqa: E731
    pieces = generate_stream(small_model, LongVideo(read, camera, 4.0), SamplerOptions(1), aligned=aligned)
    video = torch.cat(list(pieces))
    assert asked == [0, 1, 2, 3, 4, 2, 3, 4, 5, 6]
    plain = torch.cat(list(generate_stream(small_model, LongVideo(read, camera, 4.0), SamplerOptions(1))))
    assert (video - plain).abs().max() > 1e-3


def test_aligned_decoding_needs_the_subjects_distance(small_model, aligner):
    reference, camera = shot(5)
    config = replace(small_model.config, rays=replace(small_model.config.rays, scale="none"))
    model, decoding = replace(small_model, config=config), AlignedDecoding(aligner)
    with pytest.raises(ValueError, match="give scene_depth"):
        generate(model, reference, Window(camera), SamplerOptions(1), aligned=decoding)


def test_views_that_share_no_surface_are_left_with_a_note(small_model, aligner):
    reference, camera = shot(5)
    away = camera.c2w.clone()
    away[1, :, :3, :3] = away[1, :, :3, :3] @ torch.diag(torch.tensor([-1.0, 1.0, -1.0]))  # it looks back
    turned = replace(camera, c2w=away)
    plain = generate(small_model, reference, Window(turned, 4.0), SamplerOptions(1))
    decoding = AlignedDecoding(aligner, {0: lambda _: torch.full(SIZE, 4.0)})
    assert torch.equal(generate(small_model, reference, Window(turned, 4.0), SamplerOptions(1), decoding), plain)
    assert len(decoding.notes) == 1
    assert "no other view looks" in decoding.notes[0]
    generate(small_model, reference, Window(camera, 4.0), SamplerOptions(1), decoding)
    assert len(decoding.notes) == 1


def test_one_view_is_left_with_a_note(small_model, aligner):
    _, camera = shot(5)
    decoding, latents = AlignedDecoding(aligner), torch.zeros(1, 2, small_model.config.codec.channels, 3, 4)
    video = torch.rand(1, 5, 3, *SIZE)
    assert torch.equal(decoding.decode(small_model, latents, video, Window(camera[:1], 4.0), known=0), video)
    assert "one view alone" in decoding.notes[0]


def test_depth_in_millimetres_is_refused(small_model, aligner):
    reference, camera = shot(5)
    decoding = AlignedDecoding(aligner, {0: lambda _: torch.full(SIZE, 4000.0)})
    with pytest.raises(ValueError, match="depth has a median of 4000, the subject is at 4 "):
        generate(small_model, reference, Window(camera, 4.0), SamplerOptions(1), decoding)


def run(capsys, *arguments) -> tuple[int, str]:
    code = cli(["reshoot", *map(str, arguments)])
    return code, capsys.readouterr().err.splitlines()[-1:]


def test_depth_that_is_not_read_is_not_taken_in_silence(video, small_model, aligner, tmp_path, capsys):
    save_model(small_model, tmp_path / "m")
    save_aligner(aligner, small_model.config.codec, tmp_path / "d")
    options = ["--camera", "arc_left", "--model", tmp_path / "m", "--decoder", tmp_path / "d", "--out", tmp_path / "o"]
    code, error = run(capsys, video, *options, "--resolution", "model", "--depth", tmp_path / "missing.npy")
    assert (code, "missing.npy does not exist" in error[0]) == (2, True)
    network = Shot(CameraPath("arc_left"), sample=SamplerOptions(1), decoder=tmp_path / "d", depth="auto")
    assert shot_record(network)["decoder"]["depth"] == "estimated"  # the network's is for the source's pixels


@pytest.mark.slow
def test_command_decodes_aligned(video, small_model, aligner, tmp_path, capsys):
    save_model(small_model, tmp_path / "m")
    save_aligner(aligner, small_model.config.codec, tmp_path / "d")
    np.save(tmp_path / "depth.npy", np.full((90, 160), 4.0, np.float32))
    common = [video, "--camera", "arc_left", "--model", tmp_path / "m", "--steps", 1]
    decoder = ["--decoder", tmp_path / "d"]
    made = {}
    for name, options in {
        "plain": [],
        "estimated": decoder,
        "given": [*decoder, "--depth", tmp_path / "depth.npy"],
    }.items():
        code, error = run(capsys, *common, "--out", tmp_path / name, *options)
        assert code == 0, error
        made[name] = open_video(tmp_path / name / "video.mp4").read(0, T).float()
    assert (made["estimated"] - made["plain"]).abs().max() > 3
    assert (made["given"] - made["estimated"]).abs().max() > 3
    told = {name: json.loads((tmp_path / name / "run.json").read_text())["shot"].get("decoder") for name in made}
    assert told == {
        "plain": None,
        "estimated": {"folder": str(tmp_path / "d"), "depth": "estimated"},
        "given": {"folder": str(tmp_path / "d"), "depth": str(tmp_path / "depth.npy")},
    }
    code, error = run(capsys, *common, "--out", tmp_path / "o", "--decoder", tmp_path / "nowhere")
    assert code == 2
    assert f"no decoder at {tmp_path / 'nowhere'}" in error[0]
    unread = ["--resolution", "model", "--depth", tmp_path / "depth.npy"]
    code, error = run(capsys, *common, "--out", tmp_path / "o", *unread)
    assert code == 2
    assert "--depth has no effect, with --resolution model" in error[0]


def test_shipped_decoder_improves_shipped_model():
    """Where the reference sees the target's surface, with the reference's true depth: one rendered case."""
    model, clip = load_model(shipped_model()), render_case(CaseSpec(40_001, "arc_left", 15.0, 0.0, num_frames=9)).clip
    decoding = AlignedDecoding(
        load_aligner(shipped_decoder(), model.config.codec), {0: lambda frame: clip.depth[0, frame]}
    )
    seen = covisible(clip.depth[1], clip.depth[0], clip.camera[1], clip.camera[0])
    plain, aligned = (
        generate(model, clip.video[0], Window(clip.camera, clip.scene_depth), SamplerOptions(4), aligned=how)
        for how in (None, decoding)
    )
    assert psnr(aligned, clip.video[1], seen) > psnr(plain, clip.video[1], seen) + 0.5


@pytest.mark.slow
def test_name_tiny_opens_shipped_decoder(video, tmp_path, capsys):
    arguments = [video, "--camera", "pan_left", "--steps", 1, "--out", tmp_path / "o", "--decoder", "tiny"]
    code, error = run(capsys, *arguments)
    assert code == 0, error
    told = json.loads((tmp_path / "o/run.json").read_text())["shot"]["decoder"]
    assert told["folder"] == str(shipped_decoder())
