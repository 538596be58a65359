"""One stage of structure from motion with pycolmap, as a program: `python colmap_worker.py FOLDER STAGE`.

A process of its own, because pycolmap and OpenCV bring their own copies of libpng, which crash in one process, and
because a mapper that hangs or aborts must not take the caller along. Imports nothing of the project.

FOLDER holds job.json, frames/NAME.png and, where pixels are to be ignored, masks/NAME.png.png (black = ignore).
Stage `match` writes match.npz, `incremental` and `global` write poses under their names.
"""

import copy
import json
import sys
from pathlib import Path

import numpy as np
import pycolmap

MOST_EXHAUSTIVE = 40  # frames; longer videos match neighbours and frames 2, 4, 8, ... apart
SEQUENTIAL_OVERLAP = 10
SOFT_PX = 0.5  # residual beyond which a match loses weight


def main(folder: Path, stage: str) -> None:
    """Run a stage; the outputs appear under their names when they are complete."""
    pycolmap.logging.minloglevel = 2
    pycolmap.set_random_seed(0)
    job = json.loads((folder / "job.json").read_text())
    result = match(folder, job) if stage == "match" else place(folder, job, stage)
    aside = folder / f".{stage}.npz"
    np.savez(aside, **result)
    aside.rename(folder / f"{stage}.npz")


def match(folder: Path, job: dict) -> dict[str, np.ndarray]:
    """SIFT features of every frame and the matches that two-view geometry confirms, in raster pixels."""
    reader = pycolmap.ImageReaderOptions()
    reader.camera_model = "PINHOLE"
    reader.camera_params = ",".join(map(repr, job["K"][0]))
    if (folder / "masks").is_dir():
        reader.mask_path = folder / "masks"
    extraction = pycolmap.FeatureExtractionOptions()
    extraction.use_gpu, extraction.num_threads = False, job["threads"]
    extraction.sift.max_num_features = job["max_features"]
    extraction.sift.peak_threshold = job["peak_threshold"]
    extraction.sift.edge_threshold = job["edge_threshold"]
    one_lens = len(job["K"]) == 1
    pycolmap.extract_features(
        folder / "database.db",
        folder / "frames",
        camera_mode=pycolmap.CameraMode.SINGLE if one_lens else pycolmap.CameraMode.PER_IMAGE,
        reader_options=reader,
        extraction_options=extraction,
        device=pycolmap.Device.cpu,
    )
    with pycolmap.Database.open(folder / "database.db") as database:
        if not one_lens:
            _set_lenses(database, job["K"])
    matching, verification = pycolmap.FeatureMatchingOptions(), pycolmap.TwoViewGeometryOptions()
    matching.use_gpu, matching.num_threads = False, job["threads"]
    verification.ransac.random_seed = 0
    verification.ransac.max_error = job["max_error_px"]
    verification.detect_watermark = False
    options = {"matching_options": matching, "verification_options": verification, "device": pycolmap.Device.cpu}
    if job["num_frames"] <= MOST_EXHAUSTIVE:
        pycolmap.match_exhaustive(folder / "database.db", **options)
    else:
        pairing = pycolmap.SequentialPairingOptions()
        pairing.overlap, pairing.num_threads = SEQUENTIAL_OVERLAP, job["threads"]
        pycolmap.match_sequential(folder / "database.db", pairing_options=pairing, **options)
    with pycolmap.Database.open(folder / "database.db") as database:
        return _read_matches(database)


def _set_lenses(database: pycolmap.Database, lenses: list[list[float]]) -> None:
    for image in database.read_all_images():
        camera = database.read_camera(image.camera_id)
        camera.params = lenses[int(image.name[:5])]
        camera.has_prior_focal_length = True
        database.update_camera(camera)


def _read_matches(database: pycolmap.Database) -> dict[str, np.ndarray]:
    frame_of = {image.image_id: int(image.name[:5]) for image in database.read_all_images()}
    keypoints = {index: np.asarray(database.read_keypoints(index))[:, :2] for index in frame_of}
    pairs, counts, xy = [], [], []
    for pair_id, geometry in zip(*database.read_two_view_geometries(), strict=True):
        first, second = pycolmap.pair_id_to_image_pair(pair_id)
        inliers = np.asarray(geometry.inlier_matches)
        if len(inliers):
            pairs.append((frame_of[first], frame_of[second]))
            counts.append(len(inliers))
            xy.append(np.concatenate([keypoints[first][inliers[:, 0]], keypoints[second][inliers[:, 1]]], 1))
    return {
        "pairs": np.array(pairs, np.int64).reshape(-1, 2),
        "counts": np.array(counts, np.int64),
        "xy": np.concatenate(xy).astype(np.float64) if xy else np.zeros((0, 4)),
        "keypoints": np.array([len(k) for _, k in sorted((frame_of[i], k) for i, k in keypoints.items())], np.int64),
    }


def place(folder: Path, job: dict, stage: str) -> dict[str, np.ndarray]:
    """Camera-to-world poses of the largest model that a mapper finds, its lenses, and points with their frames."""
    (folder / stage).mkdir(exist_ok=True)
    mapper, options = {
        "incremental": (pycolmap.incremental_mapping, _incremental_options),
        "global": (pycolmap.global_mapping, _global_options),
    }[stage]
    models = mapper(folder / "database.db", folder / "frames", folder / stage, options=options(job))
    count = job["num_frames"]
    found, c2w = np.zeros(count, bool), np.full((count, 4, 4), np.nan)
    halves = np.full((2, count, 4, 4), np.nan)
    lens = np.full((count, 4), np.nan)
    points, seen_first = np.zeros((0, 3)), np.zeros(0, bool)
    if models:
        model = max(models.values(), key=lambda m: (m.num_reg_images(), m.num_points3D()))
        adjust(model, job)
        c2w = poses(model, count)
        found = np.isfinite(c2w).all((1, 2))
        for image in model.images.values():
            if image.has_pose:
                lens[int(image.name[:5])] = model.cameras[image.camera_id].params
        halves = np.stack([poses(half_of(model, part, job), count) for part in (0, 1)])
        first = {index for index, image in model.images.items() if int(image.name[:5]) == int(found.argmax())}
        points = np.array([point.xyz for point in model.points3D.values()]).reshape(-1, 3)
        seen_first = np.array(
            [any(e.image_id in first for e in point.track.elements) for point in model.points3D.values()], bool
        )
    return {"c2w": c2w, "found": found, "lens": lens, "points": points, "seen_first": seen_first, "halves": halves}


def poses(model: pycolmap.Reconstruction, count: int) -> np.ndarray:
    """Camera-to-world (T, 4, 4); NaN for frames that are not in the model."""
    c2w = np.full((count, 4, 4), np.nan)
    for image in model.images.values():
        if image.has_pose:
            c2w[int(image.name[:5])] = np.vstack([image.cam_from_world().inverse().matrix(), [0, 0, 0, 1]])
    return c2w


def half_of(model: pycolmap.Reconstruction, part: int, job: dict) -> pycolmap.Reconstruction:
    """The model adjusted to every second of its points alone."""
    half = copy.deepcopy(model)
    for rank, point in enumerate(sorted(half.points3D)):
        if rank % 2 != part:
            half.delete_point3D(point)
    adjust(half, job)
    return half


def adjust(model: pycolmap.Reconstruction, job: dict) -> None:
    """A last bundle adjustment in which matches that do not fit fade out: about half the mappers' own error."""
    options = pycolmap.BundleAdjustmentOptions()
    options.refine_focal_length, options.refine_extra_params = job["refine_focal"], False
    options.print_summary = False
    options.ceres.loss_function_type = pycolmap.LossFunctionType.CAUCHY
    options.ceres.loss_function_scale = SOFT_PX
    options.ceres.solver_options.num_threads = job["threads"]
    pycolmap.bundle_adjustment(model, options)


def _incremental_options(job: dict) -> pycolmap.IncrementalPipelineOptions:
    options = pycolmap.IncrementalPipelineOptions()
    options.random_seed, options.num_threads = 0, job["threads"]
    options.min_model_size, options.extract_colors = 3, False
    options.ba_refine_focal_length = options.mapper.abs_pose_refine_focal_length = job["refine_focal"]
    options.ba_refine_extra_params = options.mapper.abs_pose_refine_extra_params = False
    options.mapper.init_min_tri_angle = 4.0  # camera paths of a video are short
    options.mapper.init_min_num_inliers, options.mapper.abs_pose_min_num_inliers = 30, 15
    return options


def _global_options(job: dict) -> pycolmap.GlobalPipelineOptions:
    options = pycolmap.GlobalPipelineOptions()
    options.random_seed, options.num_threads = 0, job["threads"]
    options.mapper.random_seed = 0
    options.mapper.bundle_adjustment.refine_focal_length = job["refine_focal"]
    options.mapper.bundle_adjustment.refine_extra_params = False
    return options


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
