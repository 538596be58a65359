import torch

from mvtrack.data.synthetic.test_scenes import case_specs, render_case
from mvtrack.inference.forward_noised import noised_latents, noised_videos
from mvtrack.models.conditioning import Conditioning, Window, model_cameras, ray_maps


def test_only_what_is_no_reference_is_noised(small_model):
    clip = render_case(case_specs(1, 3, (24, 32), 5)[0]).clip
    latents = small_model.codec.encode(clip.video[None])
    camera, _ = model_cameras(clip.camera[None], small_model.config.rays, clip.scene_depth)
    rays = ray_maps(camera, small_model.config.rays)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(9))
    chosen = torch.tensor([[[True, False], [False, True]]])
    for reference, clean in ((None, torch.tensor([[[True, True], [False, False]]])), (chosen, chosen)):
        mixed = torch.where(clean[..., None, None, None], latents, 0.3 * latents + 0.7 * noise)
        with torch.no_grad():
            expected = small_model.dit(mixed, torch.tensor([700.0]), Conditioning(rays, reference=reference)).prediction
        for noised in (
            noised_videos(small_model, clip.video, Window(clip.camera, clip.scene_depth), seed=9, reference=reference),
            noised_latents(small_model, latents[0], Window(clip.camera, clip.scene_depth), seed=9, reference=reference),
        ):
            torch.testing.assert_close(noised.forward(small_model, 0.7).prediction, expected, rtol=1e-4, atol=1e-5)
