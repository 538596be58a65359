from dataclasses import replace

import pytest
import torch

from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.geometry.trajectory import CameraPath
from mvtrack.inference.sampler import (
    Callbacks,
    LongVideo,
    SamplerOptions,
    generate,
    generate_long,
    generate_stream,
    windows,
)
from mvtrack.models.conditioning import Window
from mvtrack.models.reshoot_model import build_model, load_model, save_model

T, SIZE = 5, (24, 32)


def inputs(frames: int = T) -> tuple[torch.Tensor, Camera]:
    g = torch.Generator().manual_seed(0)
    K = intrinsics_from_fov(50.0, SIZE).expand(2, frames, 3, 3)
    poses = torch.stack([torch.eye(4).double().expand(frames, 4, 4), CameraPath("arc_left").poses(frames)]).float()
    return torch.rand(frames, 3, *SIZE, generator=g) * 2 - 1, Camera(poses, K, SIZE)


def test_same_seed_same_video(small_model):
    reference, camera = inputs()
    runs = [generate(small_model, reference, Window(camera, 4.0), SamplerOptions(2, seed=s)) for s in (1, 1, 2)]
    assert runs[0].shape == reference.shape
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    assert runs[0].abs().max() <= 1


def test_the_world_may_be_moved_and_scaled(small_model):
    """Only relative poses over the scene's depth matter."""
    reference, camera = inputs()
    plain = generate(small_model, reference, Window(camera, 4.0), SamplerOptions(2))
    world = CameraPath("pan_left").poses(3)[-1].float()
    moved = replace(camera, c2w=world @ camera.c2w).scaled(torch.tensor([3.0]))
    again = generate(small_model, reference, Window(moved, 12.0), SamplerOptions(2))
    torch.testing.assert_close(again, plain, atol=2e-2, rtol=0)  # bfloat16 products


def test_a_recammaster_model_follows_its_own_pose_input(small_model):
    """Poses reach it without this project's rays: its released convention leaves out where the target starts."""
    reference, camera = inputs()
    config = replace(small_model.config, dit=replace(small_model.config.dit, pose_encoder=True, projector=True))
    outputs = {}
    for origin in ("own", "reference"):
        native = replace(config.native_camera, origin=origin)
        model = build_model(replace(config, native_camera=native))
        model = replace(model, codec=small_model.codec)
        for name, parameter in model.dit.named_parameters():
            if ".cam_encoder." in name:
                torch.nn.init.normal_(parameter)
            elif ".camera_proj." in name:
                torch.nn.init.zeros_(parameter)
        for shift in (0.0, 1.0):
            moved = camera.c2w.clone()
            moved[1, :, 0, 3] += shift
            shot = replace(camera, c2w=moved)
            outputs[origin, shift] = generate(model, reference, Window(shot, 4.0), SamplerOptions(1))
    assert torch.equal(outputs["own", 0.0], outputs["own", 1.0])
    assert not torch.equal(outputs["reference", 0.0], outputs["reference", 1.0])


@pytest.mark.parametrize("origin", ["own", "reference"])
def test_windows_of_a_released_model_follow_one_path(small_model, monkeypatch, origin):
    """The source stands still: what conditions a frame does not depend on the window it is in."""
    import mvtrack.inference.sampler as module

    reference, camera = inputs(13)
    config = replace(small_model.config, dit=replace(small_model.config.dit, pose_encoder=True))
    config = replace(config, native_camera=replace(config.native_camera, origin=origin))
    model = replace(build_model(config), codec=small_model.codec)
    encoded = []
    make = module.encode_conditioning

    def note(*arguments, **named):
        encoded.append(make(*arguments, **named))
        return encoded[-1]

    monkeypatch.setattr(module, "encode_conditioning", note)
    spans = windows(13, 5, 1)
    generate_long(model, replace(LongVideo.in_memory(reference, camera, 4.0), spans=spans), SamplerOptions(1))
    truth = camera.c2w[1, :, :3].flatten(1)
    assert len(encoded) == len(spans) == 3
    for (start, stop), given in zip(spans, encoded, strict=True):
        torch.testing.assert_close(given.poses[0, 1], truth[start:stop:4])


def test_steps_are_announced(small_model):
    reference, camera = inputs()
    calls = []
    generate(
        small_model,
        reference,
        Window(camera, 4.0),
        SamplerOptions(3),
        callbacks=Callbacks(on_step=lambda: calls.append(1)),
    )
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("length", "window", "overlap", "expected"),
    [
        (5, 17, 5, [(0, 5)]),
        (17, 17, 5, [(0, 17)]),
        (29, 17, 5, [(0, 17), (12, 29)]),
        (30, 17, 5, [(0, 17), (12, 29), (13, 30)]),
        (100, 17, 5, [(s, s + 17) for s in (*range(0, 83, 12), 83)]),
    ],
)
def test_windows_cover_every_frame(length, window, overlap, expected):
    assert windows(length, window, overlap) == expected


@pytest.mark.parametrize("frames", [1, 3, 5, 6, 13])
def test_any_length_comes_back_whole(small_model, frames):
    reference, camera = inputs(frames)
    made = generate_long(
        small_model,
        replace(LongVideo.in_memory(reference, camera, 4.0), spans=windows(frames, 5, 2)),
        SamplerOptions(1),
    )
    assert made.shape == reference.shape
    assert made.isfinite().all()


def test_one_window_is_plain_generation(small_model):
    reference, camera = inputs()
    long = generate_long(small_model, LongVideo.in_memory(reference, camera, 4.0), SamplerOptions(2))
    torch.testing.assert_close(long, generate(small_model, reference, Window(camera, 4.0), SamplerOptions(2)))


def test_latents_are_handed_out_before_they_are_decoded(small_model):
    """Of every window: the reference as it is encoded, and what decodes to the generated frames."""
    reference, camera = inputs(8)
    kept: dict[int, torch.Tensor] = {}
    spans = [(0, 5), (4, 8)]
    pieces = generate_stream(
        small_model,
        LongVideo(lambda a, b: reference[a:b], camera, 4.0, spans=spans),
        SamplerOptions(1),
        callbacks=Callbacks(on_latents=kept.__setitem__),
    )
    made = torch.cat(list(pieces))
    assert list(kept) == [0, 1]
    assert torch.equal(kept[0][:1], small_model.codec.encode(reference[None, None, :5])[0])
    decoded = small_model.codec.decode(kept[0][None, 1:])[0, 0].clamp(-1, 1)
    torch.testing.assert_close(decoded[:4], made[:4])


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([(0, 5), (3, 8)], [0, 0, 0, 1 / 3, 2 / 3, 1, 1, 1]),
        ([(0, 5), (4, 9), (5, 10)], [0, 0, 0, 0, 0.5, 1.2, 1.4, 1.6, 1.8, 2]),
    ],
)
def test_windows_are_cross_faded(small_model, monkeypatch, spans, expected):
    """With a model that answers its window's number, frames pass evenly from one to the next."""
    import mvtrack.inference.sampler as module

    numbers = iter(range(10))

    def answer(model, reference, *_):
        return torch.full_like(reference, float(next(numbers)))

    monkeypatch.setattr(module, "generate", answer)
    reference, camera = inputs(len(expected))
    made = generate_long(small_model, replace(LongVideo.in_memory(reference, camera), spans=spans))[:, 0, 0, 0]
    torch.testing.assert_close(made, torch.tensor(expected))


def test_a_stream_holds_one_window_at_a_time(small_model, monkeypatch):
    """Frames are asked for window by window and given out as soon as they are final."""
    import mvtrack.inference.sampler as module

    def echo(model, reference, *_):
        return reference

    monkeypatch.setattr(module, "generate", echo)
    reference, camera = inputs(20)
    asked = []

    def read(start: int, stop: int) -> torch.Tensor:
        asked.append((start, stop))
        return reference[start:stop]

    given = []
    for part in generate_stream(small_model, LongVideo(read, camera, spans=windows(20, 5, 2))):
        given.append(part)
        assert asked[-1][1] - sum(map(len, given)) <= 2
    assert asked == windows(20, 5, 2)
    torch.testing.assert_close(torch.cat(given), reference)


@pytest.mark.usefixtures("unchecked")
def test_wrong_inputs_are_refused(small_model):
    reference, camera = inputs()
    with pytest.raises(ValueError, match=r"camera must be \(2, 5\)"):
        generate(small_model, reference, Window(camera[:1], 4.0))
    with pytest.raises(ValueError, match=r"camera is for images of \(24, 32\), the reference is \(24, 28\)"):
        generate(small_model, reference[..., :28], Window(camera, 4.0))
    with pytest.raises(ValueError, match="takes no captions"):
        generate(small_model, reference, Window(camera, 4.0), SamplerOptions(2, guidance=3.0))
    with pytest.raises(ValueError, match=r"4n \+ 1 frames, got 4"):
        generate(small_model, reference[:4], Window(camera[:, :4], 4.0))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        SamplerOptions(0)


def test_a_saved_model_generates_the_same(small_model, tmp_path):
    reference, camera = inputs()
    save_model(small_model, tmp_path / "m")
    loaded = load_model(tmp_path / "m")
    assert loaded.config == small_model.config
    weights = zip(small_model.dit.state_dict().items(), loaded.dit.state_dict().items(), strict=True)
    assert all(name == other and torch.equal(x, y) for (name, x), (other, y) in weights)
    before, after = (generate(m, reference, Window(camera, 4.0), SamplerOptions(2)) for m in (small_model, loaded))
    torch.testing.assert_close(before, after, atol=1e-5, rtol=0)  # where weights lie in memory may choose the kernel


def test_bad_model_files_are_named(small_model, tmp_path):
    path = save_model(small_model, tmp_path / "m")
    with pytest.raises(ValueError, match="no model at .*nowhere"):
        load_model(tmp_path / "nowhere")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_model(tmp_path / "m")
    other = replace(small_model.config, dit=replace(small_model.config.dit, ffn_dim=40))
    save_model(replace(small_model, config=other), tmp_path / "other")
    with pytest.raises(ValueError, match="holds another architecture: blocks.0.ffn.0.bias is"):
        load_model(tmp_path / "other")
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match="is no model of this project"):
        load_model(tmp_path / "foreign.safetensors")
