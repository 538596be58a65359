import torch
from torch import nn

from mvtrack.inference.memory.memory_tracker import allocate_fake, fake_tensors


def test_what_lives_at_the_same_time_is_counted():
    with fake_tensors() as counter, counter:
        a = torch.empty(7, 11)
        b = a + 1
        assert counter.live == 2 * 7 * 11 * 4
        c = b.mT  # a view
        del b
        assert counter.live == 2 * 7 * 11 * 4
        del c
        assert counter.live == 7 * 11 * 4
        d = (a * 2) * 3  # one in between, gone again
        assert counter.live == 2 * 7 * 11 * 4
    assert counter.peak == 3 * 7 * 11 * 4
    del a, d
    assert counter.live == 0


def test_convolutions_of_a_cpu_take_their_input_again():
    windows = {(1, 1): 0, (3, 5): 1, (3, 1, 1): 3, (3, 3, 3): 1}  # how often
    for window, times in windows.items():
        sides = (7, 11, 13)[: len(window)]
        with fake_tensors(on_cpu=True) as counter:
            x, weight = torch.empty(1, 5, *sides), torch.empty(2, 5, *window)
            with counter, torch.no_grad():
                y = torch.convolution(x, weight, None, [1] * len(window), [w // 2 for w in window], [1] * len(window),
                                      False, [0] * len(window), 1)  # fmt: skip
        assert counter.peak == 4 * (y.numel() + times * x.numel())


def test_gradients_and_what_they_need_are_counted():
    with torch.device("meta"):
        layer = nn.Linear(5, 3, bias=False)
    with fake_tensors() as counter:
        allocate_fake(layer, torch.bfloat16)
        assert layer.weight.dtype == torch.bfloat16
        x = torch.empty(13, 5, dtype=torch.bfloat16)
        counter.ignore([*layer.parameters(), x])
        with counter:
            hidden = layer(x)
            held = counter.live
            hidden.square().sum().backward()
            del hidden
        assert held == 2 * 13 * 3
        assert counter.live == 2 * 5 * 3  # the weight's gradient
        assert layer.weight.grad.shape == (3, 5)


def test_one_child_stays_wide():
    with torch.device("meta"):
        module = nn.ModuleDict({"body": nn.Linear(3, 2), "tracking_head": nn.Linear(3, 2)})
    with fake_tensors():
        allocate_fake(module, torch.bfloat16)
    assert module["body"].weight.dtype == torch.bfloat16
    assert module["tracking_head"].weight.dtype == torch.float32
