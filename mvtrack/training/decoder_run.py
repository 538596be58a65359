"""Setting up the training of an aligning decoder, fresh or from a checkpoint: the same loop trains it as the models."""

import json
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mvtrack.config.decoder import DecoderRunConfig
from mvtrack.config.encoders import CodecConfig
from mvtrack.data.clip import Clip
from mvtrack.files.tensor_file import load_strictly
from mvtrack.inference.pipeline import shipped_model
from mvtrack.inference.view_matching import missing_matcher
from mvtrack.metrics.perceptual import Lpips, load_lpips, packaged_heads
from mvtrack.models.codec_weights import ReleasedCodec
from mvtrack.models.decoder.files import build_aligner, save_aligner
from mvtrack.models.decoder.hosted import recompute
from mvtrack.models.decoder.scene import DecoderScene
from mvtrack.models.pca_codec import VideoCodec, build_codec
from mvtrack.models.reshoot_model import ReshootModel, load_model
from mvtrack.training import distributed
from mvtrack.training.base_run import BaseRun
from mvtrack.training.checkpoint import CheckpointReader, Progress, save_frozen
from mvtrack.training.decoder_examples import (
    ClipBatch,
    ClipDataset,
    noisy_depth,
    restored_latents,
    scene_of,
    surface_depth,
    swept_depth,
)
from mvtrack.training.decoder_scores import scores_of_clips
from mvtrack.training.ema import EMA
from mvtrack.training.engine import build_engine
from mvtrack.training.fault_tolerance import FiniteGuard
from mvtrack.training.objective import hash_seed
from mvtrack.training.optimizer import freeze
from mvtrack.training.run_dir import Heartbeat, record_attempt
from mvtrack.training.run_log import RunLog
from mvtrack.training.validation import ValidationReport

CODEC_FIT_SCENES = 64  # a pca codec without a model is fitted on so many
_SHOWN_VIEWS = 3  # of a clip in validation's picture


@dataclass(kw_only=True)
class DecoderRun(BaseRun):
    """model: whose latents are restored, None where they are encoded. lpips: the perceptual distance, if it counts."""

    config: DecoderRunConfig
    codec_config: CodecConfig
    model: ReshootModel | None
    lpips: Lpips | None
    _latents: dict[int, Tensor] = field(default_factory=dict)  # by the scene's number
    _held_out: list[tuple[int, Clip]] | None = None
    _flops: float = 0.0

    def losses(self, batch: ClipBatch) -> tuple[dict[str, Tensor], int]:
        counter = FlopCounterMode(display=False)
        with counter if self._flops == 0 else self.autocast():
            parts = [
                self._loss(*sample) for sample in zip(batch.clips, batch.index.tolist(), batch.scenes, strict=True)
            ]
        self._flops = self._flops or 3 * counter.get_total_flops() / len(
            parts
        )  # backward takes twice what forward does
        mean = {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}
        return mean, self._latents_of(batch.clips[0], batch.scenes[0])[:, :, 0].numel()

    def _loss(self, clip: Clip, number: int, scene: int) -> dict[str, Tensor]:
        settings, device = self.config.decoder, self.engine.device
        generator = torch.Generator().manual_seed(hash_seed(self.config.train.seed, number))
        latents = self._latents_of(clip, scene).to(device)
        seen = scene_of(clip, noisy_depth(clip, settings, generator)).to(device)
        with self.autocast():
            asking = tuple(range(1, len(clip.video)))
            at, made = self.engine(self.codec, latents, seen, asking, self.config.data.frames, generator)
        made, truth = made[1:].float(), clip.video[1:, at].to(device)
        parts = {"mse": (made - truth).square().mean()}
        if self.lpips is not None:
            parts["perceptual"] = self.lpips(made.flatten(0, 1), truth.flatten(0, 1)).mean()
        return parts | {"total": parts["mse"] + settings.perceptual * parts.get("perceptual", 0.0)}

    @torch.no_grad()
    def _latents_of(self, clip: Clip, scene: int) -> Float[Tensor, "V f c h w"]:
        """Made when first asked for, and kept: they depend on the scene alone."""
        if scene not in self._latents:
            if self.model is None:
                latents = self.codec.encode(clip.video[None].to(self.engine.device))[0]
            else:
                rng = np.random.default_rng([self.config.data.seed, scene])
                latents = restored_latents(self.model, clip, float(rng.uniform(*self.config.decoder.sigma)), seed=scene)
            self._latents[scene] = latents.cpu()
        return self._latents[scene]

    def flops(self, tokens: int) -> float:
        return self._flops

    @torch.no_grad()
    def validate(self) -> ValidationReport:
        """The views that follow others, aligned with exact depth and with depth estimated as in use, beside the codec
        alone: PSNR, also where the known view shows the surface, SSIM, and how many points of neighbours match, match
        truly, and to the pixel, over as many as do in the truth."""
        if self._held_out is None:
            clips = self.dataset.held_out(self.config.train.validate_clips)
            self._held_out = distributed.share_of(clips)
        made, strips = [], []
        for number, clip in self._held_out:
            latents = self._latents_of(clip, number).to(self.engine.device)
            plain = self.codec.decode(latents[None])[0].cpu().clamp(-1, 1)
            exact = self._aligned(latents, scene_of(clip, surface_depth(clip)))
            swept = self._aligned(latents, scene_of(clip, swept_depth(clip, plain)))
            made.append((clip, {"codec_": plain, "": exact, "swept_": swept}))
            shown = [x[1 : 1 + _SHOWN_VIEWS, -1] for x in (plain, exact, clip.video)]
            strips.append(torch.cat([torch.cat(list(x), -1) for x in shown], -1))
        rows = scores_of_clips(made, self.config.decoder.matching)
        scores = {f"validation/{name}": float(np.nanmean([row[name] for row in rows])) for name in rows[0]}
        scores = distributed.mean_over_ranks(scores)
        shown = {"validation/codec_aligned_truth": (torch.cat(strips, 1) + 1) / 2} if distributed.rank() == 0 else {}
        return ValidationReport(scores, pictures=shown)

    def _aligned(self, latents: Float[Tensor, "V f c h w"], scene: DecoderScene) -> Float[Tensor, "V T 3 H W"]:
        asking = tuple(range(1, len(latents)))
        return self.engine.module.decode(self.codec, latents, scene.to(latents.device), asking).cpu()

    def export(self, checkpoint: Path) -> None:
        aligner = new_aligner(self.config, self.codec)
        load_strictly(aligner, dict(CheckpointReader(checkpoint).weights("ema")), checkpoint)
        fitted = self.codec.state_dict() if self.config.decoder.codec is not None else {}
        save_aligner(aligner, self.codec_config, self.folder / "model", fitted)
        record = {"step": self.progress.step, "weights": "ema", "best_validation_psnr_db": self.progress.best_psnr_db}
        (self.folder / "model/training.json").write_text(json.dumps(record))


def open_dataset(config: DecoderRunConfig, rank: int, world: int) -> ClipDataset:
    """This rank's part of the data."""
    return ClipDataset(config.data, config.train, rank, world)


def set_up(
    config: DecoderRunConfig, dataset: ClipDataset, reader: CheckpointReader | None, heartbeat: Heartbeat
) -> DecoderRun:
    """Build a run on this rank. Collective."""
    run_dir, progress = Path(config.train.run_dir), reader.state.progress if reader else Progress()
    settings = config.decoder
    model = load_model(settings.model or shipped_model()) if settings.codec is None else None
    codec_config = codec_config_of(config)
    codec = build_codec(codec_config) if model is None else model.codec
    if reader:
        codec.load_state_dict(reader.codec())
    elif codec_config.kind == "pca" and model is None:
        clips = (dataset.clip(scene) for scene in range(min(CODEC_FIT_SCENES, dataset.num_scenes)))
        codec.fit([clip.video for clip in clips if clip is not None], codec_config.whitening)
    lpips = _lpips(config)
    if lacking := missing_matcher(settings.matching):
        raise ValueError(f"validation cannot match views: missing {lacking}")
    if distributed.rank() == 0:
        record_attempt(run_dir, config, progress.step, distributed.world_size(), "PyTorch's choice")
    aligner = new_aligner(config, codec)
    if reader:
        load_strictly(aligner, dict(reader.weights()), reader.folder)
    freeze(aligner, config.optim.trainable)
    if settings.tune == "decoder":
        aligner.levels.requires_grad_(False)
    engine = build_engine(aligner, config)
    codec.to(engine.device)
    save_frozen(run_dir / "checkpoints", engine.module)
    run = DecoderRun(
        config=config, dataset=dataset, engine=engine, codec=codec, ema=EMA(engine, config.train.ema_decay),
        guard=FiniteGuard(config, progress.skipped), heartbeat=heartbeat, progress=progress,
        log=RunLog(run_dir, config, progress.step) if distributed.rank() == 0 else None, codec_config=codec_config,
        model=_on(model, engine.device) if settings.latents == "restored" else None,
        lpips=None if lpips is None else lpips.to(engine.device),
    )  # fmt: skip
    if reader:
        run.materialise_optimizer()
        reader.restore(engine, run.ema)
    return run


def codec_config_of(config: DecoderRunConfig) -> CodecConfig:
    """The codec that a run's decoder stands behind."""
    return config.decoder.codec or load_model(config.decoder.model or shipped_model()).config.codec


def new_aligner(config: DecoderRunConfig, codec: VideoCodec | None = None) -> nn.Module:
    """A fresh one, the same on all ranks. codec: whose decoder is tuned along, where the config says so.

    Raises ValueError for a codec without a decoder that can be tuned.
    """
    sizes = {name: value for name, value in asdict(config.decoder.aligner).items() if value is not None}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        aligner = build_aligner(codec_config_of(config), sizes).train()
    if config.decoder.tune != "aligner" and codec is not None:
        if not isinstance(codec, ReleasedCodec):
            raise ValueError(
                f"this codec has no decoder to tune: set decoder.tune to aligner, not {config.decoder.tune}"
            )
        aligner.adopt(deepcopy(codec.network(torch.device("cpu")).decoder))
    recompute(aligner, config.train.gradient_checkpointing)
    return aligner


def _on(model: ReshootModel, device: torch.device) -> ReshootModel:
    return ReshootModel(model.config, model.dit.to(device), model.codec, device)


def _lpips(config: DecoderRunConfig) -> Lpips | None:
    """Raises ValueError where its weights are not named or no package brings its heads."""
    settings = config.decoder
    if not settings.perceptual:
        return None
    heads = packaged_heads("vgg")
    if heads is None:
        raise ValueError("decoder.perceptual needs LPIPS's heads, which a package brings: pip install lpips")
    return load_lpips("vgg", Path(settings.perceptual_backbone), heads).requires_grad_(False)
