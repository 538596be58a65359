"""The correspondence loss in training, on the attention of supervised layers (MVTrack4Gen eq. 20; CAMEO eq. 5).

The formula is in mvtrack/correspondence/loss.py; here are the batch's targets and the taps.
"""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from mvtrack.config.losses import LossConfig
from mvtrack.config.run import RunConfig
from mvtrack.correspondence.loss import correspondence_loss_per_layer
from mvtrack.correspondence.nearest_neighbours import PointMaps, points_from_depth, targets_from_points
from mvtrack.correspondence.targets import CorrespondenceTargets, targets_from_depth, targets_from_tracks, token_grid
from mvtrack.data.loader import Batch
from mvtrack.models.backbone import DiTOutput, Tap
from mvtrack.training.losses.base import TrainingBatch
from tracking_head import Tracks


class CorrespondenceLoss:
    """The mean over the supervised layers; several are also reported one by one."""

    name = "correspondence"
    sees_pictures = False
    seed_offset = 1

    def __init__(self, config: RunConfig) -> None:
        self.config: LossConfig = config.loss
        self.weight = config.loss.correspondence
        self.tap_layers = config.loss.correspondence_layers or (config.model.tap_layer,)
        self.token_px = config.model.token_px(self.tap_layers[0])  # of all of them, see RunConfig

    def targets(self, batch: Batch, seeds: list[int]) -> CorrespondenceTargets:
        """What attention should point to, as `loss.correspondence_targets` says. seeds: draw each sample's queries."""
        config, token_px, size = self.config, self.token_px, batch.camera.size
        if config.correspondence_targets == "depth":
            return targets_from_depth(batch.depth, batch.camera, token_px)
        samples = []
        for b, seed in enumerate(seeds):
            one, queries = slice(b, b + 1), config.correspondence_queries
            if config.correspondence_targets == "tracks":
                tracks = Tracks(batch.tracks.xy[one], batch.tracks.visible[one], batch.tracks.valid[one])
                samples.append(targets_from_tracks(tracks, size, token_px, queries, seed))
            else:
                known = batch.points is not None
                maps = PointMaps(batch.points[one] if known else points_from_depth(batch.depth[one], batch.camera[one]))
                grid, matches = token_grid(size, token_px), config.correspondence_matches
                samples.append(targets_from_points(maps, grid, matches, queries, seed))
        return CorrespondenceTargets.concatenate(samples)

    def __call__(
        self, network: Callable[..., DiTOutput], batch: TrainingBatch, output: DiTOutput, taps: dict[int, Tap]
    ) -> dict[str, Float[Tensor, ""]]:
        layers, options, heads = self.tap_layers, self.config.correspondence_options, None
        if options.heads == "mlp":
            heads = [network.logit_heads[str(layer)].projection() for layer in layers]
        supervised, targets = [taps[layer] for layer in layers], batch.targets[self.name]
        reference = batch.conditioning.reference
        reference = 1 if reference is None else reference
        by_layer = correspondence_loss_per_layer(supervised, targets, options, heads, reference)
        parts = {self.name: by_layer.mean()}
        if len(layers) > 1:
            parts |= {f"{self.name}_{i}": loss.detach() for i, loss in zip(layers, by_layer, strict=True)}
        return parts
