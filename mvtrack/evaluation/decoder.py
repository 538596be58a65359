"""One case decoded in several ways, and how near each is to the truth."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mvtrack.config.matching import MatchingConfig
from mvtrack.data.clip import Clip
from mvtrack.geometry.warp import covisible
from mvtrack.inference.sampler import Callbacks, SamplerOptions, generate
from mvtrack.metrics.image import gradient_energy, psnr
from mvtrack.models.conditioning import Window
from mvtrack.models.decoder.depth import carried_depth, stereo_depth
from mvtrack.models.decoder.scene import DecoderScene
from mvtrack.models.reshoot_model import ReshootModel
from mvtrack.training.decoder_scores import count_neighbours

WAYS = {
    "codec": "codec alone",
    "estimated": "aligned, depth estimated from both views",
    "carried": "aligned, the reference's true depth carried over",
    "true": "aligned, the target's true depth",
    "other": "aligned, true depth, another case's reference",
    "ideal codec": "the true target's latents, codec alone",
    "ideal": "the true target's latents, aligned, true depth",
}
_TARGET = (1,)


@torch.no_grad()
def decode_case(
    model: ReshootModel, aligner: nn.Module, clip: Clip, other: Float[Tensor, "T 3 H W"], sample: SamplerOptions
) -> dict[str, Float[Tensor, "T 3 H W"]]:
    """The target of a clip in all `WAYS`. other: a reference of another clip."""
    kept: list[Tensor] = []
    reference, distance = clip.video[0], clip.scene_depth
    window = Window(clip.camera, distance)
    first = generate(model, reference, window, sample, callbacks=Callbacks(on_latents=kept.append))
    latents, ideal = kept[0], model.encode(clip.video[None])[0].cpu()
    wrong = torch.stack([model.encode(other[None, None])[0, 0].cpu(), latents[1]])

    def again(depth: Tensor, latents: Tensor, shown: Tensor = reference) -> Tensor:
        scene = DecoderScene.of(clip.camera, depth, {0: shown})
        return model.decode_by(lambda codec, x: aligner.decode(codec, x, scene, _TARGET), latents)[1]

    return {
        "codec": first,
        "estimated": again(stereo_depth(torch.stack([reference, first]), clip.camera, distance), latents),
        "carried": again(carried_depth({0: clip.depth[0]}, clip.camera), latents),
        "true": again(clip.depth, latents),
        "other": again(clip.depth, wrong, other),
        "ideal codec": model.decode(ideal[None])[0, 1].clamp(-1, 1),
        "ideal": again(clip.depth, ideal),
    }


def numbers_of(
    clip: Clip, videos: dict[str, Float[Tensor, "T 3 H W"]], matching: MatchingConfig
) -> dict[str, dict[str, float]]:
    """PSNR of the whole picture, of what the reference sees and of what it does not, gradient energy over the truth's,
    and points of the reference's last frame that match, and match to the pixel, over as many as do in the truth."""
    both = [torch.stack([clip.video[0], video]) for video in (clip.video[1], *videos.values())]
    whole, *counts = count_neighbours([(clip, views) for views in both], matching)
    matches = {way: count.over(whole) for way, count in zip(videos, counts, strict=True)}
    truth, seen = clip.video[1], covisible(clip.depth[1], clip.depth[0], clip.camera[1], clip.camera[0])
    return {
        way: {
            "PSNR, dB": psnr(video, truth),
            "of what the reference sees": psnr(video, truth, seen),
            "of the rest": psnr(video, truth, ~seen),
            "gradient energy": gradient_energy(video) / gradient_energy(truth),
            "matches": matches[way][0],
            "matches to the pixel": matches[way][2],
        }
        for way, video in videos.items()
    }
