import numpy as np
import pytest
import torch

from mvtrack.inference.tracking.flow_refine import likeness, nudged, patches, refine_by_flow
from mvtrack.inference.tracking.pipeline import VideoTracks
from mvtrack.video.reader import open_video
from mvtrack.video.video import Video
from mvtrack.video.writer import write_video

T, SIZE = 7, (101, 149)
SPEED = torch.tensor([-3.0, -2.0])  # pixels a frame


def wavy() -> np.ndarray:
    """An 8-bit picture with texture everywhere."""
    rng, ticks = np.random.default_rng(0), np.arange(200)
    rates, phases = rng.uniform(-0.4, 0.4, (40, 2)), rng.uniform(0, 6, 40)
    waves = rng.uniform(-1, 1, (40, 3))
    angles = [a * ticks[:, None] + b * ticks + c for (a, b), c in zip(rates, phases, strict=True)]
    picture = sum(w * np.sin(x)[..., None] for w, x in zip(waves, angles, strict=True))
    return (128 + 25 * picture).clip(0, 255).astype(np.uint8)


def film(folder, hidden: int = T) -> Video:
    """A window that moves over the picture; from frame `hidden` on, a grey card covers its left third."""
    picture, frames = wavy(), []
    for t in range(T):
        frames.append(picture[10 + 2 * t : 10 + 2 * t + SIZE[0], 20 + 3 * t : 20 + 3 * t + SIZE[1]].copy())
        if t >= hidden:
            frames[-1][:, :50] = 128
    return open_video(write_video(folder / "film.mp4", frames, 24, lossless=True))


def head_tracks(query, **change) -> VideoTracks:
    """What a head says that takes everything for still."""
    n = len(query)
    shape = (1, T, n)
    values = {
        "names": tuple(map(str, range(n))), "xy": query[None, None, :, 1:].expand(1, T, n, 2).contiguous(),
        "visible": torch.ones(shape, dtype=torch.bool), "score": torch.ones(shape),
        "followed": torch.ones(shape, dtype=torch.bool), "found": torch.ones(1, n, dtype=torch.bool),
        "start": query[None], "query": query, "shift": torch.zeros(n, dtype=torch.long),
        "kept": torch.zeros(n, dtype=torch.bool), "sizes": (SIZE,),
    }  # fmt: skip
    return VideoTracks(**values | change)


def test_points_follow_the_pixels_forwards_and_backwards(tmp_path):
    query = torch.tensor([[0, 90.5, 60.0], [3, 60, 50], [6, 100, 40.25]])
    refined = refine_by_flow(head_tracks(query), [film(tmp_path)])
    t = torch.arange(T)[:, None, None]
    truth = query[:, 1:] + SPEED * (t - query[:, :1])
    assert (refined.xy[0] - truth).norm(dim=-1).max() < 0.3
    assert refined.visible.all()
    torch.testing.assert_close(refined.xy[0, query[:, 0].long(), [0, 1, 2]], query[:, 1:])


def test_point_behind_a_card_is_hidden_and_the_others_are_not(tmp_path):
    query = torch.tensor([[0, 30.0, 60.0], [0, 120, 60]])
    refined = refine_by_flow(
        head_tracks(query, visible=torch.zeros(1, T, 2, dtype=torch.bool)), [film(tmp_path, hidden=4)]
    )
    assert refined.visible[0, :, 0].tolist() == [True] * 4 + [False] * 3
    assert refined.visible[0, :, 1].all()


def test_all_points_hidden_is_no_error(tmp_path):
    refined = refine_by_flow(head_tracks(torch.tensor([[0, 20.0, 60.0]])), [film(tmp_path, hidden=3)])
    assert refined.visible[0, :, 0].tolist() == [True] * 3 + [False] * 4


def test_points_that_were_not_found_stay_what_they_were(tmp_path):
    query = torch.tensor([[0, 30.0, 60.0], [0, 120, 60]])
    before = head_tracks(query, found=torch.tensor([[False, True]]))
    before.visible[0, :, 0] = False
    refined = refine_by_flow(before, [film(tmp_path)])
    torch.testing.assert_close(refined.xy[0, :, 0], before.xy[0, :, 0])
    assert not refined.visible[0, :, 0].any()


@pytest.mark.parametrize("offset", [(0.3, -0.2), (-0.45, 0.1)])
def test_nudge_takes_off_part_of_a_pixel(offset):
    picture = np.ascontiguousarray(wavy()[..., 0])
    xy = np.float32([[80.5, 70.5], [60.5, 90.5]])
    looks = patches(picture, xy, 7)
    moved = nudged(looks, picture, xy + np.float32(offset), 7)
    assert np.abs(moved - xy).max() < 0.1
    assert likeness(looks, patches(picture, xy, 7)) == pytest.approx(1)
