"""CAT3D on Stable Diffusion 2.1, CAMEO's network: diffusers' U-Net without text, self-attention inflated over views.

No fork: attn2 and norm2 are taken out, q and k get a norm, and what a convolution encodes of mask and rays is added to
the first features. Parameters carry the names of CAMEO's checkpoints (`unet.*`).
"""

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Real
from torch import Tensor, nn

from mvtrack.config.backbones import DOMAINS, UNetConfig
from mvtrack.models.backbone import DiTOutput
from mvtrack.models.condition_encoder import ConditionEncoder, PriorConditionEncoder
from mvtrack.models.conditioning import Conditioning
from mvtrack.models.diffusers_parts import diffusers_class
from mvtrack.models.view_attention import DiffusersBackbone, ViewAttention, output_on_grid


class CAT3DUNet(DiffusersBackbone):
    """Predicts v of all views. Layers are numbered as the paper's: down 0-5, middle 6, up 7-15 (10 is supervised).

    All but the outermost level attend over all views; nothing but the condition tells views apart, so the network is
    equivariant to their order. Raises ValueError where diffusers is not installed.
    """

    def __init__(self, config: UNetConfig) -> None:
        unet = _unet_without_text(config)
        layers = self_attentions(unet)
        names = list(layers)
        outermost = ("down_blocks.0.", f"up_blocks.{len(config.block_channels) - 1}.")
        attentions = [ViewAttention("view" if name.startswith(outermost) else "all") for name in names]
        blocks = [unet.get_submodule(name.removesuffix(".attn1")) for name in names]
        super().__init__(attentions, blocks, [module.heads for module in layers.values()], config.logit_heads)
        self.config, self.layer_names = config, tuple(names)
        for attention, module in zip(attentions, layers.values(), strict=True):
            module.set_processor(attention)
        unet.add_conv_in = condition_encoder(config)
        self.unet = unet

    def forward(
        self, latents: Float[Tensor, "B V f c h w"], timestep: Real[Tensor, "B"], conditioning: Conditioning,
        tap_layers: tuple[int, ...] = (),
    ) -> DiTOutput:  # fmt: skip
        """timestep: level of the discrete schedule, one per scene; see `MultiViewBackbone`.

        Raises ValueError for latents that the levels do not divide, and as `DiffusersBackbone.condition` does.
        """
        batch, views, _, channels, height, width = latents.shape
        factor = 2 ** (len(self.config.block_channels) - 1)
        if channels != self.config.channels or height % factor or width % factor:
            raise ValueError(
                f"latents must have {self.config.channels} channels and sides divisible by {factor}, got {channels} x "
                f"{height} x {width}: fit the pictures to multiples of {factor * self.stride} pixels"
            )
        added = self.unet.add_conv_in(self.condition(latents, conditioning), *self._priors(conditioning))
        labels = conditioning.domain
        if labels is None:  # MVGenMaster numbers them otherwise: others are the first
            labels = torch.full((batch,), 0 if self.config.depth_priors else len(DOMAINS) - 1)
        x = rearrange(latents, "b v 1 c h w -> (b v) c h w").to(added.dtype)
        add_condition = self.unet.conv_in.register_forward_hook(lambda _module, _inputs, out: out + added)
        try:
            with self.joint(views, tap_layers) as found:
                out = self.unet(
                    x,
                    repeat(timestep, "b -> (b v)", v=views),
                    encoder_hidden_states=x.new_zeros(len(x), 1, 1),  # has to be there, nothing reads it
                    class_labels=repeat(labels.to(x.device), "b -> (b v)", v=views),
                ).sample
        finally:
            add_condition.remove()
        return output_on_grid(out, found, views)

    def _priors(self, conditioning: Conditioning) -> tuple[Tensor, ...]:
        """Of views and scenes as one axis. Raises ValueError for priors that are missing, or that nothing reads."""
        given = [name for name in ("pixels", "positions") if getattr(conditioning, name) is not None]
        if not self.config.depth_priors:
            if given:
                raise ValueError(f"this model has no use for conditioning.{given[0]}: see docs/backbones.md")
            return ()
        if len(given) < 2:
            raise ValueError("MVGenMaster's network needs the depth of the given views: make conditioning.pixels and "
                             "positions with depth_priors")  # fmt: skip
        return conditioning.pixels.flatten(0, 1), conditioning.positions.flatten(0, 1)

    def recompute(self, blocks: bool) -> None:
        """See `DiffusersBackbone`."""
        (self.unet.enable_gradient_checkpointing if blocks else self.unet.disable_gradient_checkpointing)()


def condition_encoder(config: UNetConfig) -> ConditionEncoder | PriorConditionEncoder:
    """What is added to the first features."""
    return (PriorConditionEncoder if config.depth_priors else ConditionEncoder)(config.block_channels[0])


def self_attentions(unet: nn.Module) -> dict[str, nn.Module]:
    """Self-attention modules by name, in the order of the paper's numbers."""
    return dict(sorted((name, module) for name, module in unet.named_modules() if name.endswith(".attn1")))


def _unet_without_text(config: UNetConfig) -> nn.Module:
    levels = len(config.block_channels)
    unet = diffusers_class("UNet2DConditionModel")(
        sample_size=96,
        in_channels=config.channels,
        out_channels=config.channels,
        block_out_channels=config.block_channels,
        down_block_types=("CrossAttnDownBlock2D",) * (levels - 1) + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (levels - 1),
        attention_head_dim=config.num_heads,  # diffusers' name for the number of heads
        layers_per_block=config.layers_per_block,
        norm_num_groups=config.norm_groups,
        cross_attention_dim=1,
        use_linear_projection=True,
        num_class_embeds=len(DOMAINS),
    )
    nn.init.zeros_(unet.class_embedding.weight)
    for name, attention in self_attentions(unet).items():
        block = unet.get_submodule(name.removesuffix(".attn1"))
        block.attn2 = block.norm2 = None
        width = attention.inner_dim // attention.heads
        attention.norm_q, attention.norm_k = nn.LayerNorm(width), nn.LayerNorm(width)
    return unet
