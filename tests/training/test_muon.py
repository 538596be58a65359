"""Muon against singular values taken by hand, and against PyTorch's."""

import pytest
import torch

from mvtrack.training import muon
from mvtrack.training.muon import Muon, orthogonalised


@pytest.mark.parametrize("shape", [(5, 7), (11, 3), (1, 13)])
def test_orthogonalised_acts_on_singular_values_alone(shape, generator):
    matrices = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    u, s, vh = torch.linalg.svd(matrices, full_matrices=False)
    s = s / s.norm(dim=-1, keepdim=True)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    torch.testing.assert_close(orthogonalised(matrices), u @ (s[..., None] * vh), atol=1e-10, rtol=0)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="PyTorch's Muon came with 2.9")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-2), (torch.bfloat16, 2e-2)])
def test_steps_equal_pytorchs(dtype, tolerance, generator, monkeypatch):
    """PyTorch's is in bfloat16: equal to its rounding, whose share of a step is about a hundredth."""
    monkeypatch.setattr(muon, "matrix_dtype", lambda device: dtype)
    shapes = [(5, 7), (13, 3), (5, 7)]
    start = [torch.randn(shape, generator=generator) for shape in shapes]
    ours, theirs = ([x.clone().requires_grad_() for x in start] for _ in range(2))
    steppers = (Muon([{"params": ours}], 0.1, 0.9), torch.optim.Muon(theirs, 0.1, 0.0, 0.9))
    for _ in range(3):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        for stepper in steppers:
            stepper.step()
    for a, b, x in zip(ours, theirs, start, strict=True):
        assert (a - x).abs().amax() > 0.05  # they moved
        torch.testing.assert_close(a, b, atol=tolerance * 0.3 * 13**0.5, rtol=0)


def test_matrix_without_gradient_stays(generator):
    still, moved = (torch.randn(3, 5, generator=generator).requires_grad_() for _ in range(2))
    before = still.detach().clone()
    moved.grad = torch.ones_like(moved)
    Muon([{"params": [still, moved]}], 0.1, 0.9).step()
    assert torch.equal(still, before)


def test_convolution_steps_as_its_matrix(generator):
    kernel = torch.randn(5, 2, 3, 3, generator=generator).requires_grad_()
    matrix = kernel.detach().flatten(1).clone().requires_grad_()
    kernel.grad = torch.randn(kernel.shape, generator=generator)
    matrix.grad = kernel.grad.flatten(1).clone()
    for parameter in (kernel, matrix):
        Muon([{"params": [parameter]}], 0.1, 0.9).step()
    torch.testing.assert_close(kernel.flatten(1), matrix, atol=1e-6, rtol=0)
