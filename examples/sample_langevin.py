"""Langevin on a density known up to a constant, and the bias of its step.

p(x) proportional to exp(-x^2/2) cosh(x) is the even mixture of N(-1, 1) and N(1, 1): E x^2 = 2, so that the bias, of
order h, can be read off.
"""

import torch

from scorefield.calculus import score_of
from scorefield.samplers import Langevin, chain


def main():
    score = score_of(lambda x: x[:, 0].cosh().log() - x[:, 0] ** 2 / 2)  # no constant: the score does not see it
    for h in (0.4, 0.2, 0.1):
        start = torch.zeros(5_000, 1, dtype=torch.float64)
        drawn = chain(
            Langevin(h), score, start, steps=int(40 / h), keep=int(1 / h), generator=torch.Generator().manual_seed(0)
        )
        second = drawn.path[10:].square().mean().item()  # after ten units of time
        print(f"h = {h:<5} E x^2 = {second:.4f}, exact 2, bias / h = {(second - 2) / h:+.2f}")


if __name__ == "__main__":
    main()
