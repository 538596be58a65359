"""Hunyuan-DiT over still views: diffusers' transformer as it is, its self-attention joint over views.

CAMEO names this backbone and publishes no recipe; this one is ours. Views share their positions, so position says
nothing of the view, the rays do; text is the learned padding everywhere.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Real
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mvtrack.config.backbones import HunyuanConfig
from mvtrack.models.backbone import DiTOutput
from mvtrack.models.condition_encoder import TokenConditionEncoder
from mvtrack.models.conditioning import Conditioning
from mvtrack.models.diffusers_parts import diffusers_class
from mvtrack.models.view_attention import DiffusersBackbone, ViewAttention, output_on_grid

_PATCH = 2
_MLP_RATIO = 4.3637


class HunyuanViews(DiffusersBackbone):
    """Predicts v of all views; the variance that the transformer predicts too is left out. Layers are its blocks' self-
    attentions, from 0; every one is joint. Raises ValueError where diffusers is not installed.
    """

    def __init__(self, config: HunyuanConfig) -> None:
        transformer = _transformer(config)
        attentions = [ViewAttention() for _ in transformer.blocks]
        super().__init__(attentions, list(transformer.blocks), [config.num_heads] * len(attentions), config.logit_heads)
        for attention, block in zip(attentions, transformer.blocks, strict=True):
            block.attn1.set_processor(attention)
        self.config, self.transformer = config, transformer
        self.condition_encoder = TokenConditionEncoder(config.num_heads * config.head_dim)

    def forward(
        self, latents: Float[Tensor, "B V f c h w"], timestep: Real[Tensor, "B"], conditioning: Conditioning,
        tap_layers: tuple[int, ...] = (),
    ) -> DiTOutput:  # fmt: skip
        """timestep: level of the discrete schedule, one per scene; see `MultiViewBackbone`.

        Raises ValueError for latents of odd sides, for a domain, and as `DiffusersBackbone.condition` does.
        """
        views, channels, (height, width) = latents.shape[1], latents.shape[3], latents.shape[-2:]
        if channels != self.config.channels or height % _PATCH or width % _PATCH:
            raise ValueError(
                f"latents must have {self.config.channels} channels and even sides, got {channels} x {height} x {width}"
            )
        if conditioning.domain is not None:
            raise ValueError("this model has no use for conditioning.domain: see docs/backbones.md")
        added = self.condition_encoder(self.condition(latents, conditioning))
        x = rearrange(latents, "b v 1 c h w -> (b v) c h w").to(added.dtype)
        levels = repeat(timestep, "b -> (b v)", v=views).float()
        with self.joint(views, tap_layers) as found, self._conditioned(added, levels):
            out = self.transformer(
                x,
                levels.to(x.dtype),
                **self._no_text(x),
                image_rotary_emb=self.rope(height // _PATCH, width // _PATCH, x.device),
            ).sample
        return output_on_grid(out[:, :channels], found, views)

    def recompute(self, blocks: bool) -> None:
        """See `DiffusersBackbone`; diffusers has no such switch for this transformer."""
        for block in self.transformer.blocks:
            block.__dict__.pop("forward", None)
            if blocks:
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)

    def rope(self, rows: int, columns: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Cosines and sines (rows columns, head dim) of the token grid, centred in the square that the model knows."""
        from diffusers.models.embeddings import get_2d_rotary_pos_embed

        base, longest = self.config.rope_base, max(rows, columns)
        extent = (round(base * rows / longest), round(base * columns / longest))
        start = tuple(round((base - side) / 2) for side in extent)
        stop = tuple(a + side for a, side in zip(start, extent, strict=True))
        return get_2d_rotary_pos_embed(
            self.config.head_dim, (start, stop), (rows, columns), device=torch.device(device), output_type="pt"
        )

    @contextmanager
    def _conditioned(self, added: Float[Tensor, "BV N D"], levels: Float[Tensor, "BV"]) -> Iterator[None]:
        """While open, the condition is added to the patch tokens, and the time is exact: the transformer takes it in
        its weights' precision, and bfloat16 has no 999.
        """
        time = self.transformer.time_extra_emb.time_proj
        hooks = [
            self.transformer.pos_embed.register_forward_hook(lambda _module, _inputs, out: out + added),
            time.register_forward_hook(lambda module, _inputs, _out: module.forward(levels)),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _no_text(self, x: Float[Tensor, "BV c h w"]) -> dict[str, Tensor]:
        """Text that is masked everywhere, and the picture's size and style where the version takes them."""
        batch, inputs = len(x), {}
        names = (("encoder_hidden_states", "text_embedding_mask"),
                 ("encoder_hidden_states_t5", "text_embedding_mask_t5"))  # fmt: skip
        for (name, mask), length, dim in zip(names, self.config.text_lengths, self.config.text_dims, strict=True):
            inputs |= {name: x.new_zeros(batch, length, dim), mask: x.new_zeros(batch, length, dtype=torch.long)}
        if self.config.has_style:
            height, width = (side * self.stride for side in x.shape[-2:])
            size = x.new_tensor([height, width, height, width, 0, 0], dtype=torch.float32)
            inputs |= {"image_meta_size": size.repeat(batch, 1), "style": x.new_zeros(batch, dtype=torch.long)}
        return inputs


def _transformer(config: HunyuanConfig) -> nn.Module:
    return diffusers_class("HunyuanDiT2DModel")(
        num_attention_heads=config.num_heads,
        attention_head_dim=config.head_dim,
        hidden_size=config.num_heads * config.head_dim,
        in_channels=config.channels,
        patch_size=_PATCH,
        sample_size=128,
        num_layers=config.num_layers,
        mlp_ratio=_MLP_RATIO,
        cross_attention_dim=config.text_dims[0],
        cross_attention_dim_t5=config.text_dims[1],
        pooled_projection_dim=config.pooled_dim,
        text_len=config.text_lengths[0],
        text_len_t5=config.text_lengths[1],
        use_style_cond_and_image_meta_size=config.has_style,
    )
