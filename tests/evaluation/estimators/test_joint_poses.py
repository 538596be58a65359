"""Structure from motion on a reference and a video of a still camera beside it, seen together."""

import numpy as np
import pytest
import torch

from mvtrack.data.synthetic.camera_rig import base_pose
from mvtrack.data.synthetic.detailed_scenes import FOV_DEG, STATIC, detailed_scene
from mvtrack.data.synthetic.renderer import render
from mvtrack.evaluation.estimators.colmap_poses import ColmapPoses
from mvtrack.evaluation.interface import Inputs, Sample
from mvtrack.evaluation.measures.camera import CameraMeasure
from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.geometry.trajectory import CameraPath
from mvtrack.inference.camera_estimation.colmap import colmap_missing
from mvtrack.video.writer import from_bytes

T, SIZE, ASIDE_DEG = 5, (180, 240), 15.0


@pytest.mark.skipif(colmap_missing() is not None, reason=f"missing {colmap_missing()}")
def test_a_video_that_stays_at_the_reference_is_off_by_the_angle_between_the_cameras():
    rng = np.random.default_rng(1)
    scene, K = detailed_scene(rng, T, STATIC), intrinsics_from_fov(FOV_DEG, SIZE)
    first, pivot_m = base_pose(rng, float(K[0, 0]) / SIZE[1])
    moving = first @ CameraPath("arc_right", 12.0, pivot_m=pivot_m).poses(T)
    still = (first @ CameraPath("arc_left", ASIDE_DEG, pivot_m=pivot_m).poses(2)[-1]).expand(T, 4, 4)
    camera = Camera(torch.stack([moving, still]).float(), K.expand(2, T, 3, 3), SIZE, True)
    reference, target = from_bytes(render(scene, camera).video)
    inputs = Inputs("case", reference, camera, source_camera_known=True, subject_distance=pivot_m)

    def scores(video: torch.Tensor) -> dict:
        joint = ColmapPoses().estimate(inputs, torch.cat([reference, video]), "joint")
        return CameraMeasure(origin="reference").score(Sample(inputs, video, estimates={"joint.poses": joint}))

    truth, stays = scores(target), scores(reference[:1].expand(T, -1, -1, -1))
    assert truth["pose_coverage"] == stays["pose_coverage"] == 1
    assert truth["mRotErr"] < 0.3
    assert truth["mTransErr"] < 0.02
    assert stays["mRotErr"] == pytest.approx(ASIDE_DEG, abs=0.3)
    assert stays["mTransErr"] > 0.5
