"""Rendered photographs of one still scene, and an untrained model that makes views of such."""

import json
from dataclasses import replace

import cv2
import pytest
import torch

from mvtrack.config.backbones import HunyuanConfig, UNetConfig
from mvtrack.config.diffusion import DiffusionConfig
from mvtrack.config.encoders import CodecConfig
from mvtrack.config.model import ModelConfig
from mvtrack.config.views import ViewsConfig
from mvtrack.data.synthetic.test_scenes import render_still_scene
from mvtrack.models.reshoot_model import ReshootModel, build_model, save_model
from mvtrack.video.writer import to_bytes

PHOTO_SIZE = (48, 64)


@pytest.fixture(scope="session")
def still_model(small_model):
    """24x32 pixels, three views of which one or two are given; its pictures follow cameras and photographs."""
    views, config = ViewsConfig(3, (1, 2)), small_model.config
    dit = replace(config.dit, rope_frames="by_view")
    config = replace(config, views=views, num_frames=1, dit=dit, rays=replace(config.rays, drop=0.1))
    made = build_model(config, seed=4)
    torch.nn.init.normal_(made.dit.head.head.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    return ReshootModel(config, made.dit.eval(), small_model.codec)


@pytest.fixture(scope="session", params=["cat3d", "hunyuan"])
def diffusers_model(request):
    """An untrained network of diffusers, 32x64 pixels, four views of which one to three are given."""
    channels = {"channels": 12}
    backbone = {
        "cat3d": UNetConfig((8, 16, 16), (1, 2, 2), 1, 4, **channels),
        "hunyuan": HunyuanConfig(
            num_layers=4, num_heads=2, head_dim=8, text_dims=(8, 8), text_lengths=(2, 3), pooled_dim=4, **channels
        ),
    }[request.param]
    config = ModelConfig(
        dit=None, **{request.param: backbone}, codec=CodecConfig(channels=12, stride=8), views=ViewsConfig(),
        diffusion=DiffusionConfig(steps=2), tap_layer=2, num_frames=1, sizes=((32, 64),),
    )  # fmt: skip
    model = build_model(config, seed=3)
    model.codec.fit([render_still_scene(i, 4, 1, (32, 64)).video for i in range(2)], 0.5)
    torch.manual_seed(0)
    for name, parameter in model.dit.named_parameters():
        if any(part in name for part in ("condition_encoder.proj", "add_conv_in.conv_out", "unet.conv_out")):
            torch.nn.init.normal_(parameter, std=0.3)  # which start at zero: cameras, or the whole output, say nothing
    return replace(model, dit=model.dit.eval())


@pytest.fixture(scope="session")
def model_folder(still_model, tmp_path_factory):
    return save_model(still_model, tmp_path_factory.mktemp("still") / "model").parent


@pytest.fixture(scope="session")
def rendered():
    """Five views, (5, 1, 3, 48, 64), their cameras (5, 1) and depth."""
    return render_still_scene(77, 5, 1, PHOTO_SIZE)


@pytest.fixture
def scene(rendered, tmp_path):
    """Folder with photos/p0.png ... p4.png and their cameras.json."""
    (tmp_path / "photos").mkdir()
    for i, video in enumerate(rendered.video):
        cv2.imwrite(str(tmp_path / f"photos/p{i}.png"), to_bytes(video)[0][..., ::-1])
    camera = rendered.camera[:, 0]
    cameras = {
        "convention": "opencv c2w raster", "size": PHOTO_SIZE, "names": [f"p{i}.png" for i in range(5)],
        "c2w": camera.c2w.double().tolist(), "K": camera.K.double().tolist(),
    }  # fmt: skip
    (tmp_path / "cameras.json").write_text(json.dumps(cameras))
    return tmp_path
