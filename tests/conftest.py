"""Tests run on one thread: small tensors gain nothing from more, and sums then come in one order."""

import torch

torch.set_num_threads(1)
