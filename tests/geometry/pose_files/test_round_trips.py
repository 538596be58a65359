"""Through every format and back: poses to 1e-6, projected points to 0.01 px."""

from dataclasses import replace

import pytest
import torch

from mvtrack.geometry.camera import project
from mvtrack.geometry.pose_files import FORMATS, read_cameras, write_cameras
from mvtrack.geometry.pose_files.distortion import distort_pixels

WRITABLE = [name for name, known in FORMATS.items() if known.write]


def pixels(sequence, points):
    xy, _ = project(points, sequence.camera)
    return xy if sequence.distortion is None else distort_pixels(xy, sequence.camera.K, sequence.distortion)


@pytest.mark.parametrize("name", WRITABLE)
def test_poses_and_projections_come_back(tmp_path, sequence, points, read_options, name):
    path = write_cameras(tmp_path / "poses", sequence, name)
    back = read_cameras(path, **read_options.get(name, {}))
    torch.testing.assert_close(back.camera.c2w, sequence.camera.c2w, atol=1e-9, rtol=0)
    assert (pixels(back, points) - pixels(sequence, points)).abs().max() < 1e-6
    assert back.camera.size == sequence.camera.size


@pytest.mark.parametrize("name", ["nerfstudio", "colmap_text", "colmap_binary", "dycheck", "json", "npz"])
def test_changing_and_distorted_lenses_come_back(tmp_path, odd_lens, points, name):
    back = read_cameras(write_cameras(tmp_path / "poses", odd_lens, name))
    torch.testing.assert_close(back.camera.K, odd_lens.camera.K, atol=1e-9, rtol=0)
    torch.testing.assert_close(back.distortion.per_frame(5), odd_lens.distortion.per_frame(5), atol=1e-12, rtol=0)
    assert (pixels(back, points) - pixels(odd_lens, points)).abs().max() < 1e-6
    assert back.names == odd_lens.names


SKEWED = ("nerfstudio", "colmap_text", "colmap_binary", "realestate10k")
REFUSED = [("distortion", name) for name in ("recammaster", "realestate10k")]
REFUSED += [("time", name) for name in ("tum", "realestate10k")] + [("skew", name) for name in SKEWED]


@pytest.mark.parametrize(("what", "name"), REFUSED)
def test_what_a_format_cannot_hold_and_changes_the_picture_is_refused(tmp_path, sequence, odd_lens, what, name):
    K = sequence.camera.K + torch.tensor([[0, 0.4, 0], [0, 0, 0], [0, 0, 0]])
    skewed = replace(sequence, camera=replace(sequence.camera, K=K))
    cases = {"distortion": odd_lens, "time": replace(sequence, timestamps_s=None), "skew": skewed}
    with pytest.raises(ValueError, match=what):
        write_cameras(tmp_path / "poses", cases[what], name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["tum", "realestate10k", "json", "npz"])
def test_times_come_back(tmp_path, sequence, read_options, name):
    back = read_cameras(write_cameras(tmp_path / "poses", sequence, name), **read_options.get(name, {}))
    torch.testing.assert_close(back.timestamps_s, sequence.timestamps_s, atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", WRITABLE)
def test_the_unit_is_known_or_said_to_be_unknown(tmp_path, sequence, read_options, name):
    back = read_cameras(write_cameras(tmp_path / "poses", sequence, name), **read_options.get(name, {}))
    assert back.camera.scale_known == ("unit" in FORMATS[name].holds)
    assert back.unit == ("metres" if back.camera.scale_known else "unknown")


@pytest.mark.parametrize("name", [name for name in WRITABLE if "metric" in FORMATS[name].options])
def test_the_caller_may_know_the_unit(tmp_path, sequence, read_options, name):
    unknown = replace(sequence, camera=replace(sequence.camera, scale_known=False))
    path = write_cameras(tmp_path / "poses", unknown, name)
    assert read_cameras(path, metric=True, **read_options.get(name, {})).unit == "metres"


@pytest.mark.parametrize("name", WRITABLE)
def test_a_rotation_rounded_to_four_digits_keeps_its_projections(tmp_path, sequence, points, read_options, name):
    c2w = sequence.camera.c2w.clone()
    c2w[:, :3, :3] = (c2w[:, :3, :3] * 1e4).round() / 1e4
    rounded = replace(sequence, camera=replace(sequence.camera, c2w=c2w))
    back = read_cameras(write_cameras(tmp_path / "poses", rounded, name), **read_options.get(name, {}))
    assert (pixels(back, points) - pixels(rounded, points)).abs().max() < 0.01
