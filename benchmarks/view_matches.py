"""`python benchmarks/view_matches.py [--clips N]`: how well counts of matches between views notice misalignment.

The eight unseen objects of `mvtrack ablate decoder-table2` (five views of 48 pixels): the true views, the codec's, and
true views of which every one but the first is bent by a smooth field of its own, half a pixel to two pixels (root mean
square): pictures as sharp as the truth, misaligned. Counts over the truth's; the last line says the counts themselves.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable

import torch
import torch.nn.functional as F
from bench import report

from mvtrack.config.matching import MatchingConfig
from mvtrack.config.run import load_training_config
from mvtrack.data.clip import Clip
from mvtrack.evaluation.ablation.experiment import ROOT
from mvtrack.geometry.camera import pixel_grid
from mvtrack.metrics.image import psnr
from mvtrack.models.pca_codec import VideoCodec, build_codec
from mvtrack.training.decoder_examples import ClipDataset
from mvtrack.training.decoder_scores import count_neighbours

FITTED_ON, BENT_PX = 24, (0.5, 1.0, 2.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as bank:
        config = load_training_config(ROOT / "configs/decoder_objects_tiny.yaml", (f"data.root={bank}",))
        dataset = ClipDataset(config.data, config.train)
        clips = [clip for _, clip in dataset.held_out(options.clips)]
        codec = build_codec(config.decoder.codec)
        codec.fit([dataset.clip(scene).video for scene in range(FITTED_ON)], config.decoder.codec.whitening)
    whole, figures = counts_of(clips, lambda clip: clip.video), {}
    kinds = {"codec": lambda clip: decoded(codec, clip)} | {f"bent {px} px": bender(px) for px in BENT_PX}
    for name, made in kinds.items():
        figures[f"{name}: PSNR, dB"] = sum(psnr(made(clip)[1:], clip.video[1:]) for clip in clips) / len(clips)
        shares = zip(("all", "near the truth", "to the pixel"), counts_of(clips, made) / whole, strict=True)
        figures |= {f"{name}: {count}": float(share) for count, share in shares}
    figures |= dict(zip(("truth: all", "truth: near the truth", "truth: to the pixel"), whole.tolist(), strict=True))
    return report(figures, {})


def counts_of(clips: list[Clip], made: Callable[[Clip], torch.Tensor]) -> torch.Tensor:
    """All matches, those near the truth and those to the pixel, of all clips. The first view is the true one."""
    views = [(clip, torch.cat([clip.video[:1], made(clip)[1:]])) for clip in clips]
    return torch.tensor(count_neighbours(views, MatchingConfig()), dtype=torch.float64).sum(0)


def decoded(codec: VideoCodec, clip: Clip) -> torch.Tensor:
    return codec.decode(codec.encode(clip.video[None]))[0].clamp(-1, 1)


def bender(px: float) -> Callable[[Clip], torch.Tensor]:
    def bent(clip: Clip) -> torch.Tensor:
        views, size = clip.video[:, 0], clip.video.shape[-2:]
        field = torch.randn(len(views), 2, 4, 4, generator=torch.Generator().manual_seed(3))
        field = F.interpolate(field, size, mode="bicubic", align_corners=False)
        field = field / field.square().sum(1).mean().sqrt() * px
        at = 2 * (pixel_grid(size) + field.permute(0, 2, 3, 1)) / torch.tensor(size[::-1]) - 1
        return F.grid_sample(views, at, padding_mode="border", align_corners=False)[:, None]

    return bent


if __name__ == "__main__":
    sys.exit(main())
