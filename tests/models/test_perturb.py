import pytest
import torch

from mvtrack.models.hooks import visiting_layers
from mvtrack.models.perturb import PERTURBATIONS, perturbed_attention

V, F, H, W, C = 2, 2, 3, 5, 12


@pytest.fixture
def inputs(generator):
    return torch.randn(1, V, F, C, H, W, generator=generator), torch.tensor([700.0])


def run(model, inputs):
    with torch.no_grad():
        return model.dit(*inputs).prediction


def test_perturbation_acts_in_its_layer_while_open(small_model, inputs):
    before = run(small_model, inputs)
    seen = {}
    for kind in PERTURBATIONS:
        for layer in (0, 1):
            with perturbed_attention(small_model.dit, layer, kind):
                seen[kind, layer] = run(small_model, inputs)
    assert torch.equal(run(small_model, inputs), before)
    outcomes = [before, *seen.values()]
    for i, a in enumerate(outcomes):
        for b in outcomes[:i]:
            assert (a - b).abs().max() > 1e-4


def test_identity_attention_returns_own_values(small_model, generator):
    attention = small_model.dit.blocks[1].self_attn
    q, k, v = torch.randn(3, 1, 11, 2, 12, generator=generator).unbind(0)
    with perturbed_attention(small_model.dit, 1, "identity"):
        assert torch.equal(attention.attend(q, k, v, "cpu"), v.flatten(2))


def test_own_view_attention_equals_masked_scores(small_model, generator):
    attention, tokens = small_model.dit.blocks[0].self_attn, 7
    q, k, v = torch.randn(3, 2, V * tokens, 2, 12, generator=generator).unbind(0)
    with perturbed_attention(small_model.dit, 0, "own_view", views=V):
        found = attention.attend(q, k, v, "cpu")
    view = torch.arange(V * tokens) // tokens
    scores = torch.einsum("bnhd,bmhd->bhnm", q, k) / 12**0.5
    expected = scores.masked_fill(view[:, None] != view, -torch.inf).softmax(-1)
    torch.testing.assert_close(found, torch.einsum("bhnm,bmhd->bnhd", expected, v).flatten(2))


def test_cut_attention_hides_reference(small_model, inputs):
    """With every layer cut, another reference changes nothing in the target."""
    latents, time = inputs
    other = torch.cat([latents[:, :1] + 1, latents[:, 1:]], 1)
    with perturbed_attention(small_model.dit, 0, "own_view"), perturbed_attention(small_model.dit, 1, "own_view"):
        one, two = run(small_model, inputs)[:, 1], run(small_model, (other, time))[:, 1]
    assert torch.equal(one, two)
    assert not torch.allclose(run(small_model, inputs)[:, 1], run(small_model, (other, time))[:, 1])


def test_invalid_perturbations_raise(small_model, inputs, unchecked):
    with (
        pytest.raises(ValueError, match=r"layer 2 does not exist: this model has layers 0 \.\. 1"),
        perturbed_attention(small_model.dit, 2, "identity"),
    ):
        pass
    with (
        pytest.raises(ValueError, match="unknown perturbation 'nothing'; known: identity, own_view"),
        perturbed_attention(small_model.dit, 0, "nothing"),
    ):
        pass
    with (
        perturbed_attention(small_model.dit, 0, "own_view", views=7),
        pytest.raises(ValueError, match="60 tokens are not those of 7 views"),
    ):
        run(small_model, inputs)
    assert "attend" not in vars(small_model.dit.blocks[0].self_attn)


def test_chosen_layers_run_in_order(small_model, inputs):
    seen = []
    with visiting_layers(small_model.dit, lambda layer, q, k: seen.append((layer, q.shape, k.shape))):
        run(small_model, inputs)
    tokens = (1, V * F * H * W, 2, 12)
    assert seen == [(0, tokens, tokens), (1, tokens, tokens)]
    seen.clear()
    with visiting_layers(small_model.dit, lambda layer, q, k: seen.append(layer), layers=(1,)):
        run(small_model, inputs)
    run(small_model, inputs)
    assert seen == [1]
    with (
        pytest.raises(ValueError, match=r"layer -1 does not exist"),
        visiting_layers(small_model.dit, lambda *_: None, layers=(-1,)),
    ):
        pass


def test_own_view_attention_changes_nothing_within_views(small_model, inputs, monkeypatch):
    for block in small_model.dit.blocks:
        monkeypatch.setattr(block.self_attn, "scope", "view")
    before = run(small_model, inputs)
    with perturbed_attention(small_model.dit, 0, "own_view", views=V):
        assert torch.equal(run(small_model, inputs), before)
