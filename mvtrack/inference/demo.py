"""What `mvtrack demo` makes: rendered reference videos, their re-shots at the same size, and the truth from the same
cameras."""

from pathlib import Path

from tqdm import tqdm

from mvtrack.data.clip import resize_frames
from mvtrack.data.synthetic.test_scenes import CaseSpec, render_case
from mvtrack.data.visualize.contact_sheet import contact_sheet
from mvtrack.data.visualize.panels import side_by_side
from mvtrack.inference.full_resolution.clip import refined_clip
from mvtrack.inference.full_resolution.geometry import LearnedGeometry
from mvtrack.inference.full_resolution.plan import shipped_refiner
from mvtrack.inference.pipeline import shipped_model
from mvtrack.inference.sampler import LongVideo, SamplerOptions, generate_long
from mvtrack.models.refiner.files import load_refiner
from mvtrack.models.reshoot_model import load_model
from mvtrack.video.writer import write_video

FPS = 12.0
FIRST_SEED = 20_000  # scenes that neither training nor the yardstick uses
_NUM_FRAMES = 17
_SCALE = 4  # of the videos, over the model's own size


def demonstrate(out: Path, model_folder: Path | str | None, presets: dict[str, float]) -> list[Path]:
    """Re-shoot one unseen scene per preset (name: angle in degrees); returns the files written.

    <preset>/reference.mp4 is a plain video to try `mvtrack reshoot` on; side_by_side.mp4 shows reference, model and
    truth; contact_sheet.jpg shows all scenes at once.
    """
    model = load_model(model_folder or shipped_model())
    refiner, small = load_refiner(shipped_refiner()), model.config.sizes[0]
    size, geometry = (_SCALE * small[0], _SCALE * small[1]), LearnedGeometry(refiner.depth, motion_known=True)
    rows, files = {}, []
    for i, (preset, angle) in enumerate(tqdm(presets.items(), desc="demo scenes", unit="scene")):
        spec = CaseSpec(FIRST_SEED + i, preset, angle, start=0.0, size=size, num_frames=_NUM_FRAMES)
        clip = render_case(spec).clip
        video = LongVideo.in_memory(resize_frames(clip.video[0], small), clip.camera.resized(small), clip.scene_depth)
        generated = generate_long(model, video, SamplerOptions(seed=i))
        made = refined_clip(refiner.blend, geometry, clip.video[0], clip.camera, clip.scene_depth, generated)
        videos = {"reference": clip.video[0], f"model: {preset} {angle:g} deg": made, "truth": clip.video[1]}
        folder = out / preset
        files.append(write_video(folder / "side_by_side.mp4", side_by_side(videos), FPS))
        write_video(folder / "reference.mp4", clip.video[0], FPS)
        rows[f"{preset}, {angle:g} degrees"] = dict(zip(("reference", "model", "truth"), videos.values(), strict=True))
    contact_sheet(out / "contact_sheet.jpg", rows, frames=[0, _NUM_FRAMES // 2, -1], scale=1)
    return [*files, out / "contact_sheet.jpg"]
