import torch

from mvtrack.models.init_weights import initial_weights


def test_initial_weights_depend_on_seed_alone(small_model):
    first, again, other = (dict(initial_weights(small_model.config, seed)) for seed in (0, 0, 1))
    drawn = [name for name, value in first.items() if value.unique().numel() > 2]
    assert len(drawn) > 20
    for name in first:
        assert torch.equal(first[name], again[name])
        assert (name in drawn) == (not torch.equal(first[name], other[name])), name
