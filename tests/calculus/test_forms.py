"""Products of a Jacobian with directions, from one graph."""

import pytest
import torch
from curved import close, normal

from scorefield.calculus import quadratic_forms, vector_jacobian


@pytest.mark.parametrize("m", [1, 3])
def test_the_product_has_the_direction_on_the_left(m):
    r"""For $s = A x$: $v^\top A$ and not $A v$; $v^\top A v$; for one direction per sample and for several."""
    a = normal(4, 4, seed=1)
    x, v = normal(5, 4).requires_grad_(), normal(m, 5, 4, seed=2)
    s = x @ a.T
    close(vector_jacobian(s, x, v), v @ a)
    close(vector_jacobian(s, x, v[0]), v[0] @ a)
    close(quadratic_forms(s, x, v), torch.einsum("kbi,ij,kbj->kb", v, a, v))


def test_forms_on_images_are_differentiable_and_leave_the_graph_of_the_score():
    r"""For $s = k x^3$: $3k\sum v^2x^2$, its derivative in k is $3\sum v^2 x^2$, and s can still be differentiated."""
    k = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    x, v = normal(2, 2, 3, 4).requires_grad_(), normal(3, 2, 2, 3, 4, seed=1)
    s = k * x**3
    with torch.no_grad():
        assert not quadratic_forms(s, x, v).requires_grad
    forms = quadratic_forms(s, x, v)
    expected = 3 * (v * x.detach()).square().flatten(2).sum(2)
    close(forms.detach(), 2 * expected)
    close(torch.autograd.grad(forms.sum() + s.sum(), k)[0], expected.sum() + (x.detach() ** 3).sum())


def test_a_tensor_without_a_graph_is_refused_and_a_constant_has_product_zero():
    """Detached: an error; a graph that does not reach x: zero."""
    x, v = normal(5, 4).requires_grad_(), normal(5, 4, seed=1)
    with pytest.raises(RuntimeError, match="must not detach"):
        vector_jacobian(x.detach(), x, v)
    close(vector_jacobian(torch.ones_like(v).requires_grad_() * 2, x, v), torch.zeros_like(v))
