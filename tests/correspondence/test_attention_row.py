import math

import pytest
import torch

from mvtrack.correspondence.attention_row import attention_row

V, F, H, W, HEADS, D = 2, 3, 5, 7, 3, 11


@pytest.fixture
def features(generator):
    return torch.randn(2, V, F, H, W, HEADS, D, generator=generator).unbind(0)


@pytest.mark.parametrize("heads", [None, (2,), (2, 0)])
def test_attention_row_equals_row_of_whole_matrix(features, heads):
    q, k = features
    chosen = range(HEADS) if heads is None else heads
    flat_q, flat_k = (x.flatten(0, 3)[:, list(chosen)].transpose(0, 1) for x in (q, k))
    logits = flat_q @ flat_k.mT / math.sqrt(D)
    token = (1, 2, 0, 3)
    index = ((1 * F + 2) * H + 0) * W + 3
    row = attention_row(q, k, token, heads)
    torch.testing.assert_close(row.joint.flatten(), logits.softmax(-1).mean(0)[index])
    framed = logits.unflatten(-1, (V * F, H * W)).softmax(-1).mean(0)[index]
    torch.testing.assert_close(row.per_frame.flatten(2).flatten(0, 1), framed)
    assert row.share.sum().item() == pytest.approx(1)
    for v, f in torch.cartesian_prod(torch.arange(V), torch.arange(F)).tolist():
        i, j = row.peak[v, f].tolist()
        assert row.per_frame[v, f, i, j] == row.per_frame[v, f].max()


def test_low_precision_features_compare_in_float32(features):
    q, k = (x.bfloat16() for x in features)
    wide = attention_row(q.float(), k.float(), (0, 0, 0, 0))
    torch.testing.assert_close(attention_row(q, k, (0, 0, 0, 0)).joint, wide.joint)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(attention_row(q, k, (0, 0, 0, 0)).joint, wide.joint)


@pytest.mark.parametrize(
    ("token", "heads", "message"),
    [
        ((2, 0, 0, 0), None, r"view 2 does not exist: it must lie in \[0, 1\]"),
        ((0, -1, 0, 0), None, r"frame -1 does not exist: it must lie in \[0, 2\]"),
        ((0, 0, 0, 7), None, r"column 7 does not exist: it must lie in \[0, 6\]"),
        ((0, 0, 0, 0), (1, 3), r"heads \(1, 3\) do not exist: this layer has heads 0 .. 2"),
        ((0, 0, 0, 0), (), "heads .. do not exist"),
    ],
)
def test_missing_tokens_and_heads_raise(features, token, heads, message):
    with pytest.raises(ValueError, match=message):
        attention_row(*features, token, heads)
