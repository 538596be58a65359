import math

import pytest
import torch

from mvtrack.metrics.correspondence import harmonic_mean, pearson


def test_harmonic_mean_after_min_max():
    a = torch.tensor([[0.0, 1.0, 3.0], [2.0, 4.0, 4.0]])
    b = torch.tensor([[5.0, 10.0, 7.0], [6.0, 8.0, 10.0]])
    expected = torch.tensor(
        [[0.0, 2 / (1 / 0.25 + 1), 2 / (1 / 0.75 + 1 / 0.4)], [2 / (1 / 0.5 + 1 / 0.2), 2 / (1 + 1 / 0.6), 1.0]]
    )
    torch.testing.assert_close(harmonic_mean(a, b), expected)
    torch.testing.assert_close(harmonic_mean(7 * a - 3, b), expected)
    torch.testing.assert_close(harmonic_mean(a, torch.ones_like(a)), 2 / (1 + 4 / a))


def test_harmonic_mean_refuses_tables_that_differ(unchecked):
    with pytest.raises(ValueError, match="one shape"):
        harmonic_mean(torch.zeros(2, 3), torch.zeros(3, 2))


@pytest.mark.parametrize(
    ("r", "n", "p"),  # two-sided, from tables of Student's t
    [(0.8114, 6, 0.05), (0.6319, 10, 0.05), (0.7646, 10, 0.01), (0.4438, 20, 0.05), (0.9877, 3, 0.1), (0.0, 11, 1.0)],
)
def test_pearson_p_values_equal_tables(r, n, p):
    x = torch.linspace(-1, 1, n, dtype=torch.float64)
    noise = torch.cos(torch.arange(n, dtype=torch.float64) * 2.1)
    basis = torch.linalg.qr(torch.stack([torch.ones_like(x), x, noise], 1)).Q
    y = r * basis[:, 1] * torch.sign(basis[:, 1] @ x) + math.sqrt(1 - r * r) * basis[:, 2]
    found, tail = pearson(x, y)
    assert found == pytest.approx(r, abs=1e-9)
    assert tail == pytest.approx(p, rel=2e-3)


def test_pearson_of_constant_and_of_few():
    assert all(math.isnan(v) for v in pearson(torch.ones(5), torch.arange(5.0)))
    assert pearson(torch.arange(7.0), -3 * torch.arange(7.0)) == (pytest.approx(-1), pytest.approx(0, abs=1e-9))
    with pytest.raises(ValueError, match="at least three pairs"):
        pearson(torch.arange(2.0), torch.arange(2.0))
