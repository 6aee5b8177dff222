"""Three families of scores whose values, Jacobians and parameter derivatives are written out by hand.

Each is a module on samples of any trailing shape; `exact(x)` gives, for x (B, *D) with D numbers and p parameters,
s (B, D), J = ds/dx (B, D, D), and their derivatives in the parameters, (B, D, p) and (B, D, D, p).
"""

import math

import torch
from torch import Generator, nn

from scorefield.densities import Gaussian, GaussianMixture
from scorefield.networks import MLP
from scorefield.settings import MLPSize


def normal(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=Generator().manual_seed(seed))


def close(a, b, tolerance=1e-9):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


class Linear(nn.Module):
    """The score -P (x - m), P not symmetric: no density has it."""

    def __init__(self, d=4, seed=1):
        super().__init__()
        self.p, self.m = nn.Parameter(normal(d, d, seed=seed)), nn.Parameter(normal(d, seed=seed + 1))

    def forward(self, x):
        return -((x.flatten(1) - self.m) @ self.p.T).reshape(x.shape)

    def exact(self, x):
        p, u = self.p.detach(), x.flatten(1) - self.m.detach()
        n, d = u.shape
        eye = torch.eye(d, dtype=x.dtype)
        by_p = -torch.einsum("ia,nb->niab", eye, u).reshape(n, d, d * d)  # d s_i / d P_ab = -delta_ia u_b
        by_m = p.expand(n, d, d)
        curved_p = -torch.einsum("ia,jb->ijab", eye, eye).reshape(d, d, d * d).expand(n, d, d, d * d)
        return -u @ p.T, -p.expand(n, d, d), torch.cat([by_p, by_m], 2), torch.cat([curved_p, 0 * curved_p[..., :d]], 3)


class Pair(nn.Module):
    """The score of an even mixture of N(m, I) and N(-m, I): -x + m tanh(m.x)."""

    def __init__(self, d=4, seed=3):
        super().__init__()
        self.m = nn.Parameter(normal(d, seed=seed))

    def forward(self, x):
        flat = x.flatten(1)
        return (-flat + torch.tanh(flat @ self.m)[:, None] * self.m).reshape(x.shape)

    def exact(self, x):
        x, m = x.flatten(1), self.m.detach()
        n, d = x.shape
        eye, t = torch.eye(d, dtype=x.dtype), torch.tanh(x @ m)[:, None, None]
        w = 1 - t**2  # the slope of tanh; its own slope is -2 t w
        s = -x + t[:, :, 0] * m
        jacobian = -eye + w * torch.outer(m, m)
        by_m = t * eye + w * torch.einsum("i,nk->nik", m, x)
        outer = torch.einsum("ik,j->ijk", eye, m) + torch.einsum("i,jk->ijk", m, eye)
        steep = torch.einsum("i,j,nk->nijk", m, m, x)
        return s, jacobian, by_m, w[..., None] * outer - (2 * t * w)[..., None] * steep


class Quartic(nn.Module):
    """The log-density -sum a_j x_j^4 / 4 - x.Px / 2, P symmetric or not, and its score; carries the log-density."""

    def __init__(self, d=4, seed=5):
        super().__init__()
        self.a, self.p = nn.Parameter(normal(d, seed=seed).exp()), nn.Parameter(normal(d, d, seed=seed + 1))

    def log_density(self, x):
        flat = x.flatten(1)
        return -(self.a * flat**4).sum(1) / 4 - ((flat @ self.p) * flat).sum(1) / 2

    def forward(self, x):
        flat = x.flatten(1)
        return -(self.a * flat**3 + flat @ (self.p + self.p.T) / 2).reshape(x.shape)

    def exact(self, x):
        x, a, p = x.flatten(1), self.a.detach(), (self.p + self.p.T).detach() / 2
        n, d = x.shape
        eye = torch.eye(d, dtype=x.dtype)
        s, jacobian = -(a * x**3) - x @ p, -3 * torch.diag_embed(a * x**2) - p
        by_a, curved_a = -torch.einsum("ij,nj->nij", eye, x**3), torch.einsum("ij,ik,nk->nijk", eye, eye, -3 * x**2)
        half = torch.einsum("ia,jb->ijab", eye, eye)
        curved_p = -((half + half.transpose(2, 3)) / 2).reshape(d, d, d * d).expand(n, d, d, d * d)
        by_p = torch.einsum("nijk,nj->nik", curved_p, x)
        return s, jacobian, torch.cat([by_a, by_p], 2), torch.cat([curved_a, curved_p], 3)


FAMILIES = {"Gaussian": Linear, "mixture": Pair, "quartic": Quartic}
SHAPES = {"vectors": (50, 4), "images": (50, 1, 2, 2)}


def assert_loss(loss, value, slope, module, tolerance=1e-9):
    """The loss per sample (B,), and the gradient of its mean against the mean of the slopes per sample (B, p)."""
    close(loss, value, tolerance)
    close(torch.cat([g.flatten() for g in learned(loss.mean(), module)]), slope.mean(0), tolerance)


def half_square(s, ds):
    """Half the squared norm of s and its derivative."""
    return s.square().sum(1) / 2, torch.einsum("ni,nik->nk", s, ds)


def along(v, jacobian, d_jacobian):
    """v.Jv and its derivative."""
    return torch.einsum("ni,nij,nj->n", v, jacobian, v), torch.einsum("ni,nijk,nj->nk", v, d_jacobian, v)


class Deep(nn.Module):
    """An energy that is no polynomial: a small smooth network, one number per sample."""

    def __init__(self, d):
        super().__init__()
        self.a, self.b = nn.Parameter(normal(d, 6, seed=7)), nn.Parameter(normal(6, seed=8))

    def forward(self, x):
        return (x.flatten(1) @ self.a).tanh() @ self.b + x.flatten(1).square().sum(1) / 2


def deep_network(shape):
    """An MLP in float64 whose parameters are all away from their initial values."""
    net, g = MLP(shape, MLPSize(8, 2)).double(), Generator().manual_seed(0)
    for p in net.parameters():
        p.data += 0.2 * torch.randn(p.shape, generator=g, dtype=torch.float64)
    return net


def learned(loss, model):
    """Gradients in the parameters; zero for one that the loss does not see (a constant of the energy)."""
    return torch.autograd.grad(loss, list(model.parameters()), retain_graph=True, materialize_grads=True)


TRUTH = GaussianMixture(
    [0.35, 0.65], [[2.0, 1.0], [-1.0, -0.5]], [[[0.6, 0.2], [0.2, 0.4]], [[1.0, -0.3], [-0.3, 0.5]]]
)
NEAR = GaussianMixture([0.5, 0.5], [[1.5, 1.0], [-1.0, 0.0]], [[[0.8, 0.0], [0.0, 0.5]], [[0.9, 0.0], [0.0, 0.7]]])
COARSE = Gaussian([0.3, -0.2], [[2.5, 0.4], [0.4, 1.5]])


def assert_same_gap(gap, gap_explicit):
    """Two models are the same distance apart under both objectives, within 4 s.e.; the test has the power to say so."""
    difference = gap - gap_explicit
    standard_error = difference.std() / math.sqrt(len(gap))
    assert abs(difference.mean()) < 4 * standard_error
    assert abs(gap_explicit.mean()) > 15 * standard_error, "the test must be able to see a lost factor 1/2"
