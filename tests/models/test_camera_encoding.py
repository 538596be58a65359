"""PRoPE: against its formula token by token, and what a change of the world may not change."""

from dataclasses import replace

import pytest
import torch

from mvtrack.config.model import DiTConfig, ModelConfig
from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.models.blocks import BlockConditioning, SelfAttention
from mvtrack.models.camera_encoding import apply_projection, camera_matrices, projections
from mvtrack.models.conditioning import Conditioning, Window, encode_conditioning
from mvtrack.models.dit import WanDiT
from mvtrack.models.rope import apply_rope, axis_frequencies, rope_table

B, V, f, h, w, HEADS, D = 2, 3, 2, 3, 5, 3, 16
T, SIZE = 5, (12, 20)
DIT = DiTConfig(
    dim=HEADS * D, ffn_dim=37, num_heads=HEADS, num_layers=2, patch_size=(1, 1, 1), in_channels=7, out_channels=7,
    text_dim=0, freq_dim=14, rope_frames="shared", camera_encoding="prope",
)  # fmt: skip


def rigid(generator, *shape, reach=1.0) -> torch.Tensor:
    pose = torch.eye(4).repeat(*shape, 1, 1)
    q, r = torch.linalg.qr(torch.randn(*shape, 3, 3, generator=generator))
    q = q * torch.diagonal(r, dim1=-2, dim2=-1).sign()[..., None, :]
    pose[..., :3, :3] = q * torch.linalg.det(q)[..., None, None]
    pose[..., :3, 3] = reach * torch.randn(*shape, 3, generator=generator)
    return pose


def cameras(generator) -> Camera:
    K = intrinsics_from_fov(61.0, SIZE).repeat(B, V, T, 1, 1)
    K[..., 0, 2] += 3  # a principal point off the centre
    return Camera(rigid(generator, B, V, T), K, SIZE)


@pytest.fixture
def network(generator) -> WanDiT:
    network = WanDiT(DIT)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    return network


def run(network, projection, generator):
    latents = torch.randn(B, V, f, 7, h, w, generator=generator.manual_seed(5))
    return network(latents, torch.tensor([300.0, 700.0]), Conditioning(projections=projection), (1,))


def test_projections_send_points_to_the_picture(generator):
    camera = cameras(generator)
    P = projections(camera)
    assert P.shape == (B, V, f, 4, 4)
    at = camera[:, :, ::4]
    local = torch.rand(B, V, f, 3, generator=generator) + torch.tensor([0.0, 0, 2])
    world = at.c2w[..., :3, :3] @ local[..., None] + at.c2w[..., :3, 3:]
    image = (P @ torch.cat([world, torch.ones_like(world[..., :1, :])], -2))[..., 0]
    pixel = (at.K @ local[..., None])[..., 0]
    expected = pixel[..., :2] / pixel[..., 2:] / torch.tensor(SIZE[::-1]) - 0.5
    torch.testing.assert_close(image[..., :2] / image[..., 2:3], expected, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="camera_encoding prope needs perspective cameras"):
        projections(replace(camera, projection="orthographic"))


def test_attention_equals_the_formula_token_by_token(generator):
    """o_i = P_i sum_j softmax(q_i^T P_i P_j^-1 k_j + the rest's RoPE) P_j^-1 v_j."""
    attention = SelfAttention(HEADS * D, HEADS, 1e-6)
    P = projections(cameras(generator))
    rope = rope_table(torch.arange(float(f)).repeat(V), (h, w), axis_frequencies((2, 1, 1), 100.0))
    x = torch.randn(B, V * f * h * w, HEADS * D, generator=generator)
    conditioning = BlockConditioning(torch.zeros(B, 6, 1), rope, V, f, cameras=camera_matrices(P))
    out, heads = attention(x, conditioning, "math")
    q, k, v = (
        t.unflatten(-1, (HEADS, D)).double()
        for t in (attention.norm_q(attention.q(x)), attention.norm_k(attention.k(x)), attention.v(x))
    )
    each = P.flatten(1, 2).double().repeat_interleave(h * w, 1)  # of every token
    full = torch.zeros(*each.shape[:2], D, D, dtype=torch.float64)
    for i in range(2):
        full[..., 4 * i : 4 * i + 4, 4 * i : 4 * i + 4] = each
    for i in range(8, D):
        full[..., i, i] = 1
    inverse = torch.linalg.inv(full)
    turned = [torch.cat([t[..., :8], apply_rope(t[..., 8:].float(), *rope).double()], -1) for t in (q, k)]
    logits = torch.einsum("bihd,bide,bjef,bjhf->bhij", turned[0], full, inverse, turned[1])
    mixed = torch.einsum("bhij,bjde,bjhe->bihd", (logits / D**0.5).softmax(-1), inverse, v)
    expected = attention.o(torch.einsum("bide,bihe->bihd", full, mixed).flatten(-2).float())
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        torch.einsum("bihd,bjhd->bhij", heads.q, heads.k).double(), logits, atol=1e-3, rtol=1e-4
    )  # what is tapped has attention's own products


def test_moving_the_world_changes_nothing(network, generator):
    P = projections(cameras(generator))
    moved = P @ rigid(generator, B, 1, 1, reach=0.5)
    one, other = (run(network, x, generator) for x in (P, moved))
    torch.testing.assert_close(one.prediction, other.prediction, atol=2e-3, rtol=2e-3)
    turned = P.clone()
    turned[:, 1] = turned[:, 1] @ rigid(generator, B, 1)  # one view alone
    assert (run(network, turned, generator).prediction - one.prediction).abs().mean() > 0.01


def test_projections_know_no_unit_of_length(generator):
    model = ModelConfig(dit=DiTConfig(camera_encoding="prope"))
    model = replace(model, rays=replace(model.rays, token_px=16, scale="median_depth"))
    camera = cameras(generator)
    camera = replace(camera, size=(32, 48))
    larger = camera.scaled(torch.full(camera.shape, 3.7))
    one = encode_conditioning(model, Window(camera, 2.0)).projections
    torch.testing.assert_close(encode_conditioning(model, Window(larger, 7.4)).projections, one, atol=1e-5, rtol=1e-4)
    world = rigid(generator, 1, 1, 1)
    moved = replace(camera, c2w=world @ camera.c2w)
    torch.testing.assert_close(encode_conditioning(model, Window(moved, 2.0)).projections, one, atol=1e-4, rtol=1e-4)


def test_samples_without_cameras_have_no_projection(generator):
    P, rays = projections(cameras(generator)), torch.randn(B, V, f, 24, 3, 5, generator=generator)
    dropped = Conditioning(rays, projections=P).without_cameras(torch.tensor([True, False]))
    x = torch.randn(B, V * f * 7, HEADS, D, generator=generator)
    for matrix in camera_matrices(dropped.projections):
        assert torch.equal(apply_projection(x, matrix)[0], x[0])
        assert not torch.equal(apply_projection(x, matrix)[1], x[1])
    assert dropped.rays[0].abs().sum() == 0
    assert torch.equal(dropped.rays[1], rays[1])
    assert torch.equal(dropped.projections[1], P[1])


def test_encoding_adds_no_weights_and_is_never_half_there(network, generator):
    plain = WanDiT(replace(DIT, camera_encoding="none"))
    assert [n for n, _ in plain.named_parameters()] == [n for n, _ in network.named_parameters()]
    latents, time = torch.randn(B, V, f, 7, h, w, generator=generator), torch.tensor([300.0, 700.0])
    P = projections(cameras(generator))
    with pytest.raises(ValueError, match="this model needs conditioning.projections"):
        network(latents, time, Conditioning())
    with pytest.raises(ValueError, match="this model has no use for conditioning.projections"):
        plain(latents, time, Conditioning(projections=P))
    with pytest.raises(ValueError, match=r"projections must be for 3 x 2 frames, got \(2, 3, 1, 4, 4\)"):
        network(latents, time, Conditioning(projections=P[:, :, :1]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_pairs": (4, 2, 2)}, r"rope_pairs \(4, 2, 2\) must sum to 4"),
        ({"rope_phases": True, "control_adapter": True}, "both turn channels by the camera"),
        ({"dim": 36}, "heads of a multiple of 8 channels, got 12"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(DIT, **changes)
