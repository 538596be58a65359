import torch

from mvtrack.config.matching import MatchingConfig
from mvtrack.data.synthetic.test_scenes import CaseSpec, render_case
from mvtrack.evaluation.decoder import WAYS, decode_case, numbers_of
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.models.decoder.small import SmallAligner


def test_every_way_is_scored_against_the_truth(small_model):
    clip, other = (render_case(CaseSpec(seed, "arc_left", 20.0, 0.0, (24, 32), 5)).clip for seed in (5, 6))
    fresh = SmallAligner(8).eval()
    videos = decode_case(small_model, fresh, clip, other.video[0], SamplerOptions(1))
    assert list(videos) == list(WAYS)
    for way in ("estimated", "carried", "true", "other"):  # a fresh decoder is the codec
        torch.testing.assert_close(videos[way], videos["codec"], atol=1e-5, rtol=0)
    numbers = numbers_of(clip, videos | {"truth": clip.video[1]}, MatchingConfig())
    assert numbers["truth"]["matches"] == numbers["truth"]["matches to the pixel"] == 1
    assert numbers["truth"]["PSNR, dB"] > 100
    assert numbers["truth"]["gradient energy"] == 1
    assert numbers["ideal codec"]["of what the reference sees"] > numbers["codec"]["of what the reference sees"]
    torch.nn.init.normal_(fresh.write.weight, std=0.3)
    for level in fresh.levels:
        torch.nn.init.normal_(level.out.weight, std=0.5)
    lively = decode_case(small_model, fresh, clip, other.video[0], SamplerOptions(1))
    for way in ("estimated", "carried", "other"):
        assert (lively[way] - lively["true"]).abs().max() > 1e-3
