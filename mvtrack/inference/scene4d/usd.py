"""A USD file: points and cameras with time samples (one a frame of the video), tracks as curves.

USD's axes here: y up, metres; cameras look along -z. Lenses are exact, off-centre ones and zooms too.
"""

from pathlib import Path

import numpy as np
import torch

from mvtrack.geometry.camera import Camera
from mvtrack.inference.scene4d.glb import Y_UP, linear_bytes
from mvtrack.inference.scene4d.moments import VIEWS, Scene4D

_WIDTH = 1.5  # of a point, in the distances between neighbouring points
_APERTURE_MM = 36.0  # horizontal; focal lengths follow from it


def write_usd(scene: Scene4D, path: Path) -> list[str]:
    """Raises ValueError where usd-core is not installed."""
    try:
        from pxr import Gf, Usd, UsdGeom, Vt
    except ImportError as error:
        raise ValueError("--format usd needs usd-core: pip install -e '.[export]'") from error
    stage = Usd.Stage.CreateNew(str(path))
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.y)
    UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    stage.SetTimeCodesPerSecond(scene.fps)
    stage.SetFramesPerSecond(scene.fps)
    stage.SetStartTimeCode(0)
    stage.SetEndTimeCode(len(scene.numbers) - 1)
    stage.SetDefaultPrim(UsdGeom.Xform.Define(stage, "/scene").GetPrim())
    clouds = [UsdGeom.Points.Define(stage, f"/scene/{name}") for name in VIEWS]
    colors = [cloud.CreateDisplayColorPrimvar(UsdGeom.Tokens.vertex) for cloud in clouds]
    for time, moment in enumerate(scene.moments()):
        for cloud, color, surface in zip(clouds, colors, moment.views, strict=True):
            points = (surface.points[surface.used].numpy() * Y_UP).astype(np.float32)
            light = (linear_bytes(surface.colors[surface.used].numpy()) / 255).astype(np.float32)
            spread = surface.depth[surface.used].numpy() / float(surface.camera.K[0, 0]) * _WIDTH
            cloud.GetPointsAttr().Set(Vt.Vec3fArray.FromNumpy(points), time)
            cloud.GetWidthsAttr().Set(Vt.FloatArray.FromNumpy(spread.astype(np.float32)), time)
            color.Set(Vt.Vec3fArray.FromNumpy(light), time)
            if len(points):
                extent = np.stack([points.min(0), points.max(0)])
                cloud.GetExtentAttr().Set(Vt.Vec3fArray.FromNumpy(extent), time)
    flip = np.diag([*Y_UP, 1.0])
    for view, name in enumerate(VIEWS):
        camera = scene.camera[view]
        prim = UsdGeom.Camera.Define(stage, f"/scene/{name}_camera")
        placed = prim.AddTransformOp()
        for time, c2w in enumerate(camera.c2w.double().numpy()):
            placed.Set(Gf.Matrix4d((flip @ c2w @ flip).T.tolist()), time)  # USD's vectors are rows
            for attribute, value in _lens(camera, time).items():
                prim.GetPrim().GetAttribute(attribute).Set(value, time)
        prim.GetClippingRangeAttr().Set(Gf.Vec2f(0.01, 1000.0))
    tracks = scene.tracks()
    if tracks is not None and (lines := tracks.lines()):
        curves = UsdGeom.BasisCurves.Define(stage, "/scene/tracks")
        curves.CreateTypeAttr(UsdGeom.Tokens.linear)
        curves.CreateCurveVertexCountsAttr([len(line) for line in lines])
        points = (np.concatenate(lines) * Y_UP).astype(np.float32)
        curves.CreatePointsAttr(Vt.Vec3fArray.FromNumpy(points))
        curves.CreateWidthsAttr([0.002 * scene.result.subject_distance])
        curves.SetWidthsInterpolation(UsdGeom.Tokens.constant)
        curves.CreateDisplayColorAttr([Gf.Vec3f(1.0, 0.26, 0.01)])
    stage.GetRootLayer().Save()
    return []


def _lens(camera: Camera, time: int) -> dict[str, float]:
    """K as a film camera of 36 mm; only ratios count."""
    (height, width), K = camera.size, camera.K[time].double()
    scale = _APERTURE_MM / width  # of a pixel's width
    tall = scale * float(K[0, 0] / K[1, 1])  # of its height, so that one focal length will do
    centre = K[:2, 2] - torch.tensor([width / 2, height / 2], dtype=torch.float64)
    return {
        "focalLength": scale * float(K[0, 0]), "horizontalAperture": _APERTURE_MM, "verticalAperture": tall * height,
        "horizontalApertureOffset": -scale * float(centre[0]), "verticalApertureOffset": tall * float(centre[1]),
    }  # fmt: skip
