"""Supervise the attention of a model of diffusers with point tracks: `python docs/examples/supervise_diffusers.py`."""

import torch
from diffusers import WanTransformer3DModel

from mvtrack.correspondence import correspondence_loss, features_from_tokens, targets_from_tracks
from tracking_head import Tracks

model = WanTransformer3DModel(num_attention_heads=2, attention_head_dim=12, num_layers=2, ffn_dim=32, text_dim=8)
latents, text = torch.randn(1, 16, 3, 6, 10), torch.randn(1, 7, 8)  # 9 frames of 48x80 pixels, one view
xy = torch.rand(1, 1, 1, 50, 2) * torch.tensor([80.0, 48.0])  # 50 points that stand still: raster pixels
seen = torch.ones(1, 1, 9, 50, dtype=torch.bool)
tracks = Tracks(xy.expand(1, 1, 9, 50, 2), seen, seen[:, :, 0])  # (B, V, T, N, 2) at video rate
targets = targets_from_tracks(tracks, size=(48, 80), token_px=16, frame_stride=4)

heads: dict[str, torch.Tensor] = {}
layer = model.blocks[1].attn1  # after QK-norm; a hook on the attention itself would see them after RoPE
layer.norm_q.register_forward_hook(lambda _module, _inputs, out: heads.__setitem__("q", out))
layer.norm_k.register_forward_hook(lambda _module, _inputs, out: heads.__setitem__("k", out))
optimizer = torch.optim.AdamW(layer.parameters(), lr=3e-2)
losses = []
for _ in range(20):
    model(latents, timestep=torch.tensor([500]), encoder_hidden_states=text)
    q, k = (features_from_tokens(heads[name], views=1, frames=3, grid=(3, 5), num_heads=2) for name in "qk")
    losses.append(correspondence_loss(q, k, targets))  # and the model's own loss beside it
    optimizer.zero_grad()
    losses[-1].backward()
    optimizer.step()
