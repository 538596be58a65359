import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from mvtrack.evaluation.benchmarks.iphone import IPhone
from mvtrack.evaluation.methods.baselines import warp_and_fill
from mvtrack.geometry.camera import relative_pose
from mvtrack.geometry.keyframe_path import rotation_matrix
from mvtrack.metrics.image import psnr


@pytest.fixture
def own(iphone, tmp_path):
    """A copy of the rendered benchmark that a test may damage."""
    shutil.copytree(iphone.root, tmp_path / "iphone")
    return replace(iphone, root=tmp_path / "iphone")


def test_reference_and_target_are_joined_on_time(iphone):
    """Frame 6 of camera 1 and frame 5 of camera 2 are bad, hence missing, in the miniature."""
    assert iphone.case_keys() == ["scene-00--camera1", "scene-00--camera2"]
    for key, times in zip(iphone.case_keys(), [(0, 1, 2, 3, 4, 5, 7), (0, 1, 2, 3, 4, 6, 7)], strict=True):
        inputs = iphone.load(key)
        assert inputs.target_frames == times
        assert inputs.target.shape == (7, 3, 28, 24)
        assert inputs.covisible.shape == (7, 28, 24)
    later = replace(iphone, start=1, stride=3, num_frames=3).load("scene-00--camera2")  # times 1, 4, 7
    assert later.target_frames == (0, 1, 2)
    torch.testing.assert_close(later.reference[1], iphone.load("scene-00--camera2").reference[4])
    torch.testing.assert_close(later.target[2], iphone.load("scene-00--camera2").target[6])


def test_cameras_depth_and_targets_belong_together(iphone):
    for key in iphone.case_keys():
        inputs = iphone.load(key)
        index = list(inputs.target_frames)
        warped = warp_and_fill(inputs.reference, inputs.depth, inputs.camera)[index]
        copied = psnr(inputs.reference[index], inputs.target, inputs.covisible)
        assert psnr(warped, inputs.target, inputs.covisible) > copied + 3
        assert 0.2 < inputs.covisible.float().mean() <= 1
        still = inputs.camera.c2w[1]
        assert (still - still[0]).abs().max() == 0
        assert (relative_pose(still[0], inputs.camera.c2w[0]) - torch.eye(4)).abs().max() > 0.3
        assert inputs.subject_distance == pytest.approx(float(inputs.depth[0].median()), rel=1e-5)


def test_the_portrait_picture_is_cropped_with_its_camera(iphone):
    """48x36 pictures at 28x24: scaled to 32x24, two rows gone above and below."""
    inputs = iphone.load(iphone.case_keys()[0])
    K = inputs.camera.K[0, 0]
    assert K[0, 0] == pytest.approx(24, abs=1e-4)  # the focal length is one width
    assert K[:2, 2].tolist() == pytest.approx([12, 14], abs=1e-4)
    assert inputs.fps == 30.0


def test_bad_masks_and_depth_cost_only_what_needs_them(own):
    key = own.case_keys()[0]
    folder = own.root / "scene-00"
    mask = folder / "covisible/2x/val/1_00002.png"
    mask.write_bytes(b"no picture")
    np.save(folder / "depth/1x/0_00001.npy", np.zeros((48, 36), np.int32))
    inputs = own.load(key)
    assert str(mask) in inputs.why_missing("covisible").reason
    assert "0_00001.npy is int32" in inputs.why_missing("depth").reason
    assert inputs.subject_distance is None
    shutil.rmtree(folder / "depth")
    shutil.rmtree(folder / "covisible")
    inputs = own.load(key)
    assert inputs.why_missing("covisible").kind == "skipped"
    assert inputs.problems == {}


def edit(path, **changes):
    tree = json.loads(path.read_text())
    path.write_text(json.dumps(tree | changes))


def test_cameras_that_cannot_be(own):
    key, folder = own.case_keys()[0], own.root / "scene-00/camera"
    edit(folder / "1_00003.json", position=[0.0, 0.0, 0.5])
    with pytest.raises(ValueError, match="camera 1 is not still: 1_00003 stands .* at most .* are taken as rounding"):
        own.load(key)
    edit(folder / "0_00000.json", radial_distortion=[0.1, 0.0, 0.0])
    with pytest.raises(ValueError, match="0_00000.json has lens distortion"):
        own.load(own.case_keys()[1])


def test_still_cameras_may_stray_by_less_than_a_pixel(own):
    """Half a thousandth of the distance to the reference's cameras passes, ten times as much does not."""
    key, folder = own.case_keys()[0], own.root / "scene-00/camera"
    position = np.array(json.loads((folder / "1_00000.json").read_text())["position"])
    away = max(np.linalg.norm(json.loads(file.read_text())["position"] - position) for file in folder.glob("0_*.json"))
    first = own.load(key).camera
    edit(folder / "1_00003.json", position=(position + [0, 5e-4 * away, 0]).tolist())
    assert torch.equal(own.load(key).camera.c2w, first.c2w)
    edit(folder / "1_00003.json", position=(position + [0, 5e-3 * away, 0]).tolist())
    with pytest.raises(ValueError, match="camera 1 is not still"):
        own.load(key)
    edit(folder / "1_00003.json", position=position.tolist())
    orientation = np.array(json.loads((folder / "1_00003.json").read_text())["orientation"])
    for degrees, fits in ((0.03, True), (0.3, False)):
        turned = rotation_matrix(torch.tensor([0.0, np.radians(degrees), 0]).double()).numpy() @ orientation
        edit(folder / "1_00003.json", orientation=turned.tolist())
        if fits:
            assert torch.equal(own.load(key).camera.c2w, first.c2w)
        else:
            with pytest.raises(ValueError, match="camera 1 is not still"):
                own.load(key)


def test_clips_that_do_not_fit(own):
    with pytest.raises(ValueError, match="has 8 training frames: 81 from 0 in steps of 1 do not fit"):
        replace(own, num_frames=81).digest(own.case_keys()[0])
    with pytest.raises(ValueError, match="stride must be at least 1"):
        replace(own, stride=0)
    with pytest.raises(ValueError, match=r"cannot read .*apple/splits/val.json: No such file"):
        IPhone(own.root, ("apple",)).case_keys()


def test_splits_that_are_damaged(own):
    edit(own.root / "scene-00/splits/val.json", time_ids=[1, 2])
    with pytest.raises(ValueError, match="val.json needs frame_names, camera_ids and time_ids of one length"):
        replace(own).case_keys()


def test_the_digest_follows_the_files(own):
    key = own.case_keys()[0]
    before = own.digest(key)
    edit(own.root / "scene-00/camera/0_00004.json", position=[0.0, 0.0, 1.0])
    assert own.digest(key) != before
    assert own.digest(own.case_keys()[1]) != before


def test_a_missing_sequence_is_one_case_that_fails(own):
    """The other sequences are evaluated; a folder without any sequence at all is an error at once."""
    both = replace(own, sequences=("scene-00", "spin"))
    assert both.case_keys() == ["scene-00--camera1", "scene-00--camera2", "spin"]
    for ask in (both.digest, both.load):
        with pytest.raises(ValueError, match=r"cannot read .*spin/splits/val.json: No such file"):
            ask("spin")
    assert len(both.load("scene-00--camera1").reference) == 8
    with pytest.raises(ValueError, match=r"cannot read .*spin/splits/val.json"):
        replace(own, sequences=("spin",)).case_keys()
    shutil.copytree(own.root / "scene-00", own.root / "odd")
    split = own.root / "odd/splits/train.json"
    tree = json.loads(split.read_text())
    split.write_text(json.dumps(tree | {"time_ids": [None] * len(tree["time_ids"])}))
    with pytest.raises(ValueError, match=r"odd/splits/train.json has a camera or time that is no whole number"):
        replace(own, sequences=("odd",)).load("odd--camera1")
