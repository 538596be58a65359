import pytest
import torch

from mvtrack.config.run import load_config
from mvtrack.geometry.camera import project, unproject
from mvtrack.video.resize import fit_to, plan_fit, still_camera

CONFIG = load_config("configs/tiny_wide.yaml").model


@pytest.mark.parametrize("source", [(90, 160), (160, 90), (64, 64), (1080, 1920), (37, 211), (100, 101)])
@pytest.mark.parametrize("mode", ["crop", "pad", "stretch"])
def test_the_pictures_and_the_cameras_agree(source, mode):
    """A point of the source lands on the same feature of the fitted picture that its fitted camera says."""
    fit = plan_fit(source, CONFIG, mode)
    assert fit.model in CONFIG.sizes
    y, x = torch.meshgrid(torch.arange(fit.scaled[0]), torch.arange(fit.scaled[1]), indexing="ij")
    frames = torch.stack([x % 256, y % 256, x * 0])[None].to(torch.uint8)
    picture = (fit.apply(frames)[0] + 1) * 127.5
    camera = still_camera(50.0, source, 1)
    xy = torch.tensor([[source[1] * 0.5, source[0] * 0.5], [source[1] * 0.45, source[0] * 0.55]])
    landed, _ = project(unproject(xy, torch.tensor([3.0, 3.0]), camera[0]), fit.camera(camera)[0])
    for (sx, sy), (px, py) in zip(xy.tolist(), landed.tolist(), strict=True):
        expected = (sx / source[1] * fit.scaled[1], sy / source[0] * fit.scaled[0])
        value = picture[:, int(py), int(px)]
        assert abs(float(value[0]) - expected[0] % 256) <= 1
        assert abs(float(value[1]) - expected[1] % 256) <= 1
    assert fit.undo(fit.apply(frames)).shape[-2:] == fit.content


@pytest.mark.parametrize("mode", ["crop", "pad", "stretch"])
def test_points_go_where_the_cameras_say_and_back(mode):
    source = (90, 211)
    fit, camera = plan_fit(source, CONFIG, mode), still_camera(50.0, source, 1)
    xy = torch.tensor([[7.0, 11.0], [199.5, 83.25]])
    landed, _ = project(unproject(xy, torch.tensor([3.0, 5.0]), camera[0]), fit.camera(camera)[0])
    torch.testing.assert_close(fit.to_picture(xy), landed, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(fit.to_source(fit.to_picture(xy)), xy)


def test_crop_covers_and_pad_keeps_everything():
    crop, pad = plan_fit((90, 160), CONFIG, "crop", (64, 64)), plan_fit((90, 160), CONFIG, "pad", (64, 64))
    assert crop.scaled == (64, 114)
    assert crop.content == (64, 64)
    assert crop.cut == (0, 25)
    assert pad.content == pad.scaled == (36, 64)
    assert pad.place == (14, 0)


def test_a_size_between_tokens_is_padded_and_trimmed():
    fit = plan_fit((90, 160), CONFIG, "crop", (62, 110))
    assert fit.model == (64, 112)
    assert fit.content == (62, 110)
    frames = torch.randint(0, 256, (2, 3, *fit.scaled), dtype=torch.uint8)
    assert fit.apply(frames).shape == (2, 3, 64, 112)
    assert fit.undo(fit.apply(frames)).shape == (2, 3, 62, 110)


@pytest.mark.parametrize("mode", ["crop", "pad"])
def test_pictures_in_8_bits_are_the_same_ones(mode):
    fit = plan_fit((90, 211), CONFIG, mode)
    frames = torch.randint(0, 256, (2, 3, *fit.scaled), dtype=torch.uint8)
    (height, width), (top, left), (above, before) = fit.content, fit.cut, fit.place
    inner = frames[..., top : top + height, left : left + width].float() / 127.5 - 1
    borders = (before, fit.model[1] - before - width, above, fit.model[0] - above - height)
    expected = torch.nn.functional.pad(inner, borders, mode="replicate")
    assert torch.equal(fit.apply(frames), expected)
    assert torch.equal(fit.apply_bytes(frames).float() / 127.5 - 1, expected)


def test_the_nearest_aspect_is_chosen():
    assert plan_fit((1080, 1920), CONFIG).model == (64, 112)
    assert plan_fit((1000, 1100), CONFIG).model == (64, 64)


@pytest.mark.parametrize(
    ("arguments", "message"), [(("zoom",), "fit must be .*'zoom'"), (("crop", (2, 90)), "smaller than one token")]
)
def test_bad_fits(unchecked, arguments, message):
    with pytest.raises(ValueError, match=message):
        plan_fit((90, 160), CONFIG, *arguments)


def test_frames_of_another_size_are_refused():
    with pytest.raises(ValueError, match="must be scaled to"):
        plan_fit((90, 160), CONFIG).apply(torch.zeros(1, 3, 90, 160, dtype=torch.uint8))


@pytest.mark.parametrize("mode", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("source", [(37, 53), (53, 37), (16, 28)])
def test_maps_follow_the_pictures(source, mode):
    """A mask of the picture's bright half stays on it; what was padded belongs to no mask."""
    fit = fit_to(source, (16, 28), mode)
    bright = torch.zeros(1, *source)
    bright[..., source[1] // 2 :] = 1
    scaled = torch.nn.functional.interpolate(bright[None].expand(1, 3, -1, -1), fit.scaled, mode="area")
    picture = fit.apply((scaled * 255).to(torch.uint8))[0, 0]
    mask = fit.nearest(bright.bool())[0]
    inside = torch.zeros(16, 28, dtype=torch.bool)
    (top, left), (height, width) = fit.place, fit.content
    inside[top : top + height, left : left + width] = True
    assert not mask[~inside].any()
    sure = inside & (picture.abs() > 0.99)
    assert sure.float().mean() > 0.3
    assert torch.equal(mask[sure], picture[sure] > 0)
    with pytest.raises(ValueError, match="must be of the source's size"):
        fit.nearest(torch.zeros(1, 5, 7))


@pytest.mark.parametrize(
    ("source", "mode", "model"),
    [
        ((1080, 1920), "crop", (64, 112)),
        ((1920, 1080), "crop", (112, 64)),  # on its side rather than cut to a square
        ((1000, 1050), "crop", (64, 64)),
        ((480, 640), "pad", (64, 112)),
        ((300, 1000), "pad", (64, 112)),
    ],
)
def test_by_default_no_more_than_a_tenth_is_cut_off(source, mode, model):
    fit = plan_fit(source, CONFIG)
    assert (fit.mode, fit.model) == (mode, model)
    assert fit.content[0] * fit.content[1] >= 0.9 * fit.scaled[0] * fit.scaled[1]


def test_what_is_cut_or_added_is_said():
    assert plan_fit((90, 160), CONFIG, "crop", (64, 64)).notes == [
        "44 % of the picture is cut off left and right (--fit pad keeps it)"
    ]
    assert "fills 36x64 of the model's 64x64" in plan_fit((90, 160), CONFIG, "pad", (64, 64)).notes[0]
    assert "stretched to 0.56 times" in plan_fit((90, 160), CONFIG, "stretch", (64, 64)).notes[0]
    assert plan_fit((64, 112), CONFIG).notes == []
