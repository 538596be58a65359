import pytest
import torch

from tracking_head import Tracks

B, V, T, N = 2, 3, 5, 7


def tracks(seed: int = 0) -> Tracks:
    g = torch.Generator().manual_seed(seed)
    return Tracks(
        torch.rand(V, T, N, 2, generator=g) * 20,
        torch.rand(V, T, N, generator=g) < 0.7,
        torch.rand(V, N, generator=g) < 0.9,
    )


def test_tracks_stack_and_select():
    batch = Tracks.stack([tracks(s) for s in range(B)])
    assert batch.xy.shape == (B, V, T, N, 2)
    assert batch.frames(slice(1, 3)).visible.shape == (B, V, 2, N)
    picked = tracks().views([2, 0])
    assert torch.equal(picked.xy, tracks().xy[[2, 0]])
    assert torch.equal(picked.valid, tracks().valid[[2, 0]])
    with pytest.raises(ValueError, match="takes unbatched tracks"):
        batch.views([0])


def test_tracks_scale_and_crop():
    scaled = tracks().resized(2.0, 3.0)
    torch.testing.assert_close(scaled.xy, tracks().xy * torch.tensor([2.0, 3.0]))
    cropped = tracks().cropped(4, 6, (9, 11))
    inside = (
        (tracks().xy[..., 0] >= 4)
        & (tracks().xy[..., 0] < 15)
        & (tracks().xy[..., 1] >= 6)
        & (tracks().xy[..., 1] < 15)
    )
    assert torch.equal(cropped.visible, tracks().visible & inside)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"xy": torch.zeros(V, T, N, 3)}, r"xy must be \(..., V, T, N, 2\), got \(3, 5, 7, 3\)"),
        ({"visible": torch.zeros(V, T, N + 1, dtype=torch.bool)}, r"visible must be \(3, 5, 7\)"),
        ({"valid": torch.zeros(V, T, dtype=torch.bool)}, r"valid must be \(3, 7\) \(views, points\), got \(3, 5\)"),
    ],
)
def test_wrong_shapes_raise(change, message):
    good = tracks()
    fields = {"xy": good.xy, "visible": good.visible, "valid": good.valid} | change
    with pytest.raises(ValueError, match=message):
        Tracks(**fields)
