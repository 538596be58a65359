"""A network of diffusers made a multi-view backbone: `python docs/examples/bring_your_own_backbone.py`."""

import torch
from einops import rearrange, repeat

from mvtrack.config.backbones import ViewRayConfig
from mvtrack.config.diffusion import DiffusionConfig
from mvtrack.correspondence.loss import CAMEO, correspondence_loss
from mvtrack.correspondence.nearest_neighbours import PointMaps, targets_from_points
from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.inference.guidance import guided
from mvtrack.models.condition_encoder import TokenConditionEncoder
from mvtrack.models.conditioning import view_conditioning
from mvtrack.models.diffusers_parts import diffusers_class
from mvtrack.models.diffusion.discrete import ddim_steps
from mvtrack.models.diffusion.flow import keep_references
from mvtrack.models.view_attention import DiffusersBackbone, ViewAttention, output_on_grid


class DiTViews(DiffusersBackbone):
    """DiT over still views: every self-attention joint, mask and rays added to its patch tokens."""

    def __init__(self, transformer: torch.nn.Module, heads: int, width: int, logit_heads: tuple[int, ...] = ()):
        blocks = list(transformer.transformer_blocks)
        attentions = [ViewAttention() for _ in blocks]  # ViewAttention("view"): views stay apart
        super().__init__(attentions, blocks, [heads] * len(blocks), logit_heads)
        for attention, block in zip(attentions, blocks, strict=True):
            block.attn1.set_processor(attention)
        self.transformer, self.condition_encoder = transformer, TokenConditionEncoder(width)

    def forward(self, latents, timestep, conditioning, tap_layers=()):
        views = latents.shape[1]
        added = self.condition_encoder(self.condition(latents, conditioning))  # checks rays and roles
        hook = self.transformer.pos_embed.register_forward_hook(lambda _module, _inputs, out: out + added)
        try:
            with self.joint(views, tap_layers) as found:  # batches are (B V); what is tapped lands in found
                level = repeat(timestep, "b -> (b v)", v=views).long()
                x = rearrange(latents, "b v 1 c h w -> (b v) c h w")
                out = self.transformer(x, level, torch.zeros_like(level)).sample
        finally:
            hook.remove()
        return output_on_grid(out, found, views)


torch.manual_seed(0)
make = diffusers_class("DiTTransformer2DModel")  # or its import, where torchvision fits torch
transformer = make(2, 12, num_layers=3, sample_size=8, num_embeds_ada_norm=1, norm_num_groups=4)
network = DiTViews(transformer, heads=2, width=24, logit_heads=(1,))

# Three views of a wall two metres away, half a metre apart, 64x64 pixels; the first is given.
c2w = torch.eye(4).repeat(1, 3, 1, 1)
c2w[..., 0, 3] = torch.tensor([0.0, 0.5, 1.0])
camera = Camera(c2w, intrinsics_from_fov(60, (64, 64)).expand(1, 3, 3, 3), (64, 64))
reference = torch.tensor([[True, False, False]])
conditioning = view_conditioning(camera, reference, ViewRayConfig())
y, x = torch.meshgrid(torch.arange(64) + 0.5 - 32, torch.arange(64) + 0.5 - 32, indexing="ij")
focal = camera.K[0, 0, 0, 0]
wall = torch.stack([torch.stack([2 * x / focal + 0.5 * v, 2 * y / focal, torch.full_like(x, 2.0)]) for v in range(3)])
targets = targets_from_points(PointMaps(wall[None, :, None]), grid=(4, 4))

clean, losses = torch.randn(1, 3, 1, 4, 8, 8), []
optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
for _ in range(10):  # CAMEO's loss on layer 1, and the model's own loss beside it
    [tap] = network(clean, torch.tensor([500]), conditioning, tap_layers=(1,)).taps
    losses.append(correspondence_loss(*tap, targets, CAMEO, network.logit_heads["1"], reference[..., None]))
    optimizer.zero_grad()
    losses[-1].backward()
    optimizer.step()

velocity = guided(lambda x, t, c: network(x, t, c).prediction, conditioning, camera_guidance=2.0)
schedule, roles = DiffusionConfig(steps=4), reference[..., None]
with torch.no_grad():
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    *_, made = ddim_steps(velocity, noise, schedule, with_references=lambda x: keep_references(clean, x, roles))
