"""The engine: one process in plain torch, or many under Lightning Fabric."""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Callable

import torch
from torch import Tensor, distributed, nn

from scorefield.checks import check_count


class Engine:
    """One process in plain torch, or many under Lightning Fabric; refuses to run on fewer than it was asked for.

    Under `torchrun` it joins the processes that are there; else `devices` > 1 starts the others by running this very
    command again.

    Args:
        devices: how many processes.
        alone: this process only, whatever others there are.
    """

    def __init__(self, devices: int = 1, *, alone: bool = False) -> None:
        check_count("devices", devices)
        there = 1 if alone else int(os.environ.get("WORLD_SIZE", devices))
        if there not in (1, devices):
            raise RuntimeError(f"devices must equal the number of processes, {there}, got {devices}; give it {there}")
        self.rank, self.world = 0, devices
        self.device = torch.accelerator.current_accelerator() or torch.device("cpu")
        if devices > 1:
            from lightning_fabric import Fabric  # takes seconds, so only where it is needed

            logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
            self.fabric = Fabric(accelerator="auto", devices=devices, strategy="ddp")
            self.fabric.launch()
            atexit.register(leave_group)
            if self.fabric.world_size != devices:
                raise RuntimeError(f"{devices} devices were asked for, {self.fabric.world_size} were there")
            self.rank, self.device = self.fabric.global_rank, self.fabric.device

    def setup(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Place the module on the device and wrap both for data parallelism."""
        if self.world == 1:
            return module.to(self.device), optimizer
        wrapped = self.fabric.setup(module, optimizer)
        return wrapped[0], wrapped[1]

    def backward(self, loss: Callable[[], Tensor], module: nn.Module, *, last: bool) -> Tensor:
        """Evaluate the loss, () or its terms (K,), and add to the gradients of their sum.

        Processes exchange the gradients with the `last` micro-batch.
        """
        if self.world == 1:
            value = loss()
            (value if value.ndim == 0 else value.sum()).backward()
            return value.detach()
        with self.fabric.no_backward_sync(module, enabled=not last):  # pyright: ignore[reportArgumentType]
            value = loss()
            self.fabric.backward(value if value.ndim == 0 else value.sum())
            return value.detach()

    def sum(self, x: Tensor) -> Tensor:
        """The sum over all processes."""
        return x if self.world == 1 else torch.as_tensor(self.fabric.all_reduce(x, reduce_op="sum"))

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return flag if self.world == 1 else bool(self.sum(torch.tensor(float(flag), device=self.device)) > 0)

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.world > 1:
            self.fabric.barrier()


def leave_group() -> None:
    """Close the connections between processes and end their threads, while the interpreter still lives.

    A thread that drops its last tensor in a dying interpreter aborts the process (pytorch/pytorch#190489).
    """
    if distributed.is_initialized():
        distributed.destroy_process_group()


def process_rank() -> int:
    """The number of this process among those of one command; 0 before others are started."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0)))
