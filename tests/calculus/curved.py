"""What the tests of this room share: seeded numbers, comparison, and a field with a full Jacobian."""

import torch
from torch import Generator, nn


def normal(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=Generator().manual_seed(seed))


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


class Curved(nn.Module):
    """A field with parameters and a full, non-symmetric Jacobian, on samples of any shape."""

    def __init__(self, shape):
        super().__init__()
        d = torch.Size(shape[1:]).numel()
        self.a, self.b = nn.Parameter(normal(d, d, seed=1)), nn.Parameter(normal(d, d, seed=2))

    def forward(self, x):
        flat = x.flatten(1)
        return ((flat @ self.a).tanh() * flat.square() + (flat @ self.b).sin()).reshape(x.shape)
