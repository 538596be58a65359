"""`views_from_photos` on rendered photographs: what is written, that nothing depends on chance, and what is refused."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

import mvtrack
from mvtrack.config.placement import Placement
from mvtrack.geometry.pose_files import read_cameras
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.inference.views.generate import StillScene, generate_views
from mvtrack.inference.views.pipeline import joined_cameras
from mvtrack.inference.views.request import ViewsRequest
from mvtrack.models.decoder.files import save_aligner
from mvtrack.models.decoder.small import SmallAligner
from mvtrack.models.reshoot_model import build_model, save_model
from mvtrack.video.images import read_image
from mvtrack.video.reader import open_video

SAMPLE = SamplerOptions(1)


def make(scene, model, targets="arc_left 15deg", photos=(0, 1), out="out", **settings):
    settings = {"cameras": str(scene / "cameras.json"), "frames": 4, "sample": SAMPLE} | settings
    files = [scene / f"photos/p{i}.png" for i in photos]
    return mvtrack.views_from_photos(files, targets, model, scene / out, ViewsRequest(**settings))


def test_pictures_video_and_cameras_are_written(scene, model_folder, rendered):
    found = make(scene, model_folder, resolution="model")
    assert sorted(path.name for path in found.folder.iterdir()) == ["cameras.json", "run.json", "video.mp4", "views"]
    assert [read_image(path).shape for path in found.views] == [(24, 32, 3)] * 4
    assert len(open_video(found.video)) == 4
    cameras = read_cameras(found.cameras, view="views")
    assert cameras.camera.size == (24, 32)
    assert cameras.names == ("0000.png", "0001.png", "0002.png", "0003.png")
    own = rendered.camera[:2, 0]
    torch.testing.assert_close(cameras.camera.c2w[0], own.c2w[0].double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(cameras.camera.K[0], own.K[0].double() * torch.tensor([[0.5], [0.5], [1]]))
    photographs = read_cameras(found.cameras, view="photographs")
    torch.testing.assert_close(photographs.camera.c2w, own.c2w.double(), atol=1e-6, rtol=0)
    assert photographs.names == ("p0.png", "p1.png")
    run = json.loads(found.run.read_text())
    assert [len(batch["given"]) for batch in run["batches"]] == [1, 2, 2]
    assert run["unseen_share"][0] == 0
    assert run["cameras"] == {"file": str(scene / "cameras.json")}


def test_bytes_are_the_same_again_and_follow_the_seed(scene, model_folder, still_model):
    first, again = (make(scene, model_folder, out=name) for name in ("a", "b"))
    in_memory = make(scene, still_model, out="c")
    for name in ("views/0002.png", "video.mp4", "cameras.json"):
        contents = [(x.folder / name).read_bytes() for x in (first, again, in_memory)]
        assert contents[0] == contents[1] == contents[2]
    seeds = [make(scene, still_model, out=f"{i}", sample=SamplerOptions(1, seed=i), resolution="model") for i in (0, 3)]
    assert seeds[0].views[2].read_bytes() != seeds[1].views[2].read_bytes()


def test_a_view_where_a_photograph_stands_is_the_photograph(scene, model_folder):
    found = make(scene, model_folder, "pan_left 5deg", photos=(0,), cameras=None, fov_deg=50.0)
    assert np.array_equal(read_image(found.views[0]), read_image(scene / "photos/p0.png"))
    assert not np.array_equal(read_image(found.views[3]), read_image(scene / "photos/p0.png"))


def test_other_pictures_of_the_same_file_are_made(scene, model_folder, rendered):
    found = make(scene, model_folder, str(scene / "cameras.json"), photos=(3, 1), resolution="model")
    assert [path.name for path in found.views] == ["p0.png", "p2.png", "p4.png"]
    cameras = read_cameras(found.cameras, view="views").camera
    torch.testing.assert_close(cameras.c2w, rendered.camera.c2w[[0, 2, 4], 0].double(), atol=1e-6, rtol=0)


def test_cameras_follow_what_fitting_does_to_photographs(scene, model_folder, rendered):
    """A photograph of another size and aspect gets the camera of its own pixels; so do the views' pictures."""
    picture = cv2.imread(str(scene / "photos/p0.png"))
    cv2.imwrite(str(scene / "photos/p0.png"), cv2.resize(picture, (128, 96)))
    found = make(scene, model_folder)
    own = read_cameras(found.cameras, view="p0").camera
    assert own.size == (96, 128)
    torch.testing.assert_close(own.K[0], rendered.camera.K[0, 0].double() * torch.tensor([[2.0], [2], [1]]))
    assert read_cameras(found.cameras, view="p1").camera.size == (48, 64)
    assert read_image(found.views[0]).shape == (96, 128, 3)
    found = make(scene, model_folder, out="tall", size=(32, 24), resolution="model", fit="pad")
    assert read_image(found.views[0]).shape == (18, 24, 3)
    assert any("fills 18x24 of the model's 32x24" in note for note in found.notes)
    shown = read_cameras(found.cameras, view="views").camera
    assert shown.size == (18, 24)
    torch.testing.assert_close(shown.K[0, :2], own.K[0, :2] * 18 / 96)


def test_depth_of_the_photographs_brings_their_pixels(scene, still_model, rendered):
    np.save(scene / "depth.npy", rendered.depth[:2, 0].numpy())
    depth = str(scene / "depth.npy")
    found = make(scene, still_model, str(scene / "cameras.json"), depth=depth)
    assert json.loads(found.run.read_text())["geometry"] == f"depth of {depth}"
    blind = make(scene, still_model, str(scene / "cameras.json"), out="blind", resolution="model")
    truth = {name: read_image(scene / f"photos/{name}").astype(float) for name in ("p2.png", "p3.png", "p4.png")}
    for path, plain in zip(found.views, blind.views, strict=True):
        size = truth[path.name].shape[1::-1]
        errors = [np.abs(cv2.resize(read_image(p), size) - truth[path.name]).mean() for p in (path, plain)]
        assert errors[0] < errors[1]


@pytest.fixture
def decoder(still_model, tmp_path):
    """Folder of an aligning decoder with weights that count."""
    torch.manual_seed(3)
    aligner = SmallAligner(8, sources=2)
    torch.nn.init.normal_(aligner.write.weight, std=0.2)
    for level in aligner.levels:
        torch.nn.init.normal_(level.out.weight, std=0.5)
    return save_aligner(aligner, still_model.config.codec, tmp_path / "decoder").parent


def test_decoder_aligns_views_with_photographs_and_depth(scene, still_model, rendered, decoder):
    """Fresh weights change nothing; others do, and then depth matters."""
    np.save(scene / "depth.npy", rendered.depth[:2, 0].numpy())
    settings = {"targets": str(scene / "cameras.json"), "resolution": "model"}
    plain = make(scene, still_model, out="plain", **settings)
    fresh = save_aligner(SmallAligner(8), still_model.config.codec, scene / "fresh").parent
    same = make(scene, still_model, out="same", decoder=fresh, **settings)
    swept = make(scene, still_model, out="swept", decoder=decoder, **settings)
    carried = make(scene, still_model, out="carried", decoder=decoder, depth=scene / "depth.npy", **settings)
    shown = [np.stack([read_image(p).astype(int) for p in x.views]) for x in (plain, same, swept, carried)]
    assert np.abs(shown[1] - shown[0]).max() <= 1
    assert np.abs(shown[2] - shown[0]).max() > 3
    assert np.abs(shown[3] - shown[2]).max() > 3
    told = [json.loads(x.run.read_text()).get("decoder") for x in (plain, swept, carried)]
    assert [x and x["depth"] for x in told] == [None, "estimated", str(scene / "depth.npy")]


def test_points_are_exported_before_and_after_alignment(scene, still_model, decoder):
    """Without a decoder there is no before; with one, before is what there is without."""
    settings = {"targets": str(scene / "cameras.json"), "resolution": "model", "export": "points"}
    plain = make(scene, still_model, out="plain", **settings)
    found = make(scene, still_model, out="aligned", decoder=decoder, **settings)
    records = [json.loads(x.run.read_text())["points"] for x in (plain, found)]
    for made, record in zip((plain, found), records, strict=True):
        head = made.points.read_bytes().split(b"end_header")[0].decode()
        assert f"element vertex {record['points']}\n" in head
    assert "before_alignment" not in records[0]
    assert records[1]["before_alignment"].keys() == records[0].keys()


def test_perspective_and_orthographic_cameras_are_kept_apart(rendered):
    own = rendered.camera[:, 0]
    assert joined_cameras(own[:2], own[2:]).shape == (5,)
    with pytest.raises(ValueError, match="perspective and orthographic cameras do not go together"):
        joined_cameras(own[:2], replace(own[2:], projection="orthographic"))


def test_decoder_refuses_depth_in_millimetres(scene, still_model, rendered, decoder):
    np.save(scene / "depth.npy", 1000 * rendered.depth[:2, 0].numpy())
    with pytest.raises(ValueError, match=r"depth.npy has a median of .* another unit"):
        make(scene, still_model, decoder=decoder, depth=scene / "depth.npy", resolution="model")
    assert not (scene / "out").exists()


@pytest.fixture(scope="module")
def four_views(rendered):
    """A photograph and the cameras of it and of three others, 32x64."""
    video, camera = rendered.video[:4, 0], rendered.camera[:4, 0].resized((32, 64))
    return torch.nn.functional.interpolate(video[:1], (32, 64)), camera


NAMES = ("left", "middle", "right")


def test_views_do_not_depend_on_the_order_in_which_they_are_asked_for(diffusers_model, four_views):
    """Noise belongs to a view's name, and nothing but rays tells views apart."""
    (given, camera), order = four_views, [2, 0, 1]
    sample = SamplerOptions(4, camera_guidance=2.0)
    made = generate_views(diffusers_model, given, camera, sample, StillScene(names=NAMES))
    names = tuple(NAMES[i] for i in order)
    other = generate_views(diffusers_model, given, camera[[0, 3, 1, 2]], sample, StillScene(names=names))
    torch.testing.assert_close(other, made[order], atol=1e-4, rtol=0)
    assert (made[0] - made[1]).abs().max() > 0.01
    assert torch.equal(made, generate_views(diffusers_model, given, camera, sample, StillScene(names=NAMES)))
    renamed = generate_views(diffusers_model, given, camera, sample, StillScene(names=("left", "middle", "x")))
    assert (renamed[2] - made[2]).abs().max() > 0.01


def test_cameras_and_guidance_reach_the_views(diffusers_model, four_views):
    (given, camera), scene = four_views, StillScene(names=NAMES)
    plain, guided, turned = (
        generate_views(diffusers_model, given, cameras, SamplerOptions(2, camera_guidance=scale), scene)
        for cameras, scale in ((camera, 1.0), (camera, 2.0), (camera[[0, 2, 1, 3]], 1.0))
    )
    assert (plain - guided).abs().max() > 1e-3
    assert (plain - turned).abs().max() > 1e-3
    assert SamplerOptions.of(diffusers_model.config).camera_guidance == 2.0


def test_the_first_step_from_pure_noise_is_finite(diffusers_model, four_views):
    given, camera = four_views
    levels = []
    run = type(diffusers_model).run

    class Listening(type(diffusers_model)):
        def run(self, latents, sigma, conditioning, tap_layers=()):
            output = run(self, latents, sigma, conditioning, tap_layers)
            levels.append((float(self.process.timestep(sigma)[0]), bool(output.prediction.isfinite().all())))
            return output

    model = Listening(diffusers_model.config, diffusers_model.dit, diffusers_model.codec)
    made = generate_views(model, given, camera, SamplerOptions(2), StillScene(names=NAMES))
    assert levels == [(999, True), (499, True)]
    assert made.isfinite().all()


def test_networks_of_diffusers_make_views_of_photographs(scene, diffusers_model, tmp_path):
    folder = save_model(diffusers_model, tmp_path / "unet").parent
    found = make(scene, folder, "arc_left 10deg", sample=None, frames=3, resolution="model")
    assert [read_image(path).shape for path in found.views] == [(32, 43, 3)] * 3
    assert json.loads(found.run.read_text())["sample"]["camera_guidance"] == 2.0
    placement = Placement(device="cpu", precision="bfloat16")
    make(scene, folder, "arc_left 10deg", sample=None, frames=2, resolution="model", out="b", placement=placement)
    for more, flag in (({"offload": "blocks"}, "--offload blocks"), ({"compile": True}, "--compile")):
        with pytest.raises(ValueError, match=f"{flag} is for WanDiT, this model's network is diffusers'"):
            make(scene, folder, out="c", sample=None, placement=Placement(device="cpu", **more))
    with pytest.raises(ValueError, match="steps 3 does not divide 1000"):
        make(scene, folder, out="c", sample=SamplerOptions(3))


@pytest.mark.parametrize("diffusers_model", ["cat3d"], indirect=True)
def test_a_network_that_sees_depth_gets_it_from_the_photographs(scene, diffusers_model, rendered):
    config = replace(diffusers_model.config, cat3d=replace(diffusers_model.config.cat3d, depth_priors=True))
    model = replace(build_model(config, seed=3), codec=diffusers_model.codec)
    depth = rendered.depth[:2, 0].numpy().copy()
    depth[:, :3] = np.nan
    np.save(scene / "depth.npy", depth)
    settings = {"sample": None, "resolution": "model", "frames": 7}
    found = make(scene, model, depth=str(scene / "depth.npy"), **settings)
    assert len(found.views) == 7
    given = [batch["given"] for batch in json.loads(found.run.read_text())["batches"]]
    assert all(set(names) <= {"p0.png", "p1.png"} for names in given)  # anchors have no depth
    with pytest.raises(ValueError, match="needs the photographs' depth: give --depth FILE, one map each"):
        make(scene, model, out="b", **settings)


def test_unfit_input_is_refused_before_anything_is_written(scene, model_folder, small_model, unchecked):
    pipeline = scene / "downloaded"
    (pipeline / "transformer").mkdir(parents=True)
    (pipeline / "model_index.json").write_text("{}")
    videos = save_model(small_model, scene / "videos").parent
    for settings, message in (
        ({"cameras": None}, "2 photographs need cameras: give --cameras FILE"),
        ({"model": videos}, "videos re-shoots videos: use `mvtrack reshoot`"),
        ({"model": pipeline}, "is a downloaded pipeline: `mvtrack convert .* FOLDER --views hunyuan` makes a model"),
        ({"targets": "arc_leftt"}, "arc_leftt"),
        ({"fov_deg": 50.0}, "--fov is for photographs whose cameras no file says"),
        ({"cameras": None, "photos": (0,), "pose_options": {"metric": True}}, "and no pose file: leave them out"),
        ({"targets": str(scene / "cameras.json"), "photos": range(5)}, "holds the cameras of the photographs alone"),
        ({"resolution": (4, 4)}, "must have sides of 16 to 8192 pixels"),
        ({"depth": str(scene / "none.npy")}, "none.npy does not exist"),
    ):
        with pytest.raises(ValueError, match=message):
            make(scene, **({"model": model_folder} | settings))
        assert not (scene / "out").exists()
    make(scene, model_folder, resolution="model", frames=1)
    with pytest.raises(ValueError, match="exists already"):
        make(scene, model_folder)
