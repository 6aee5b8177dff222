"""Whole processes: killed at random and started again; two instead of one."""

import os
import random
import shlex
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from conftest import small_recipe, trained
from scorefield.runs import checkpoints as store
from scorefield.runs.log import read

ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}


def command(*argv: object) -> list[str]:
    return [sys.executable, "-m", "scorefield", *map(str, argv)]


def finish(argv: list[str]) -> str:
    """Run a command to its good end and return what it printed; else show what it said."""
    done = subprocess.run(argv, env=ONE_THREAD, capture_output=True, text=True)
    assert done.returncode == 0, f"{shlex.join(argv)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def train_command(path, steps: int, *more: object) -> list[str]:
    size = ["--unet.width", 8, "--unet.blocks", 1, "--batch-size", 16]
    return command("train", "digits", "-o", path, "--steps", steps, *size, *more)


def tensors(path) -> dict[str, torch.Tensor]:
    newest = store.complete(path / "checkpoints")[-1]
    return {f"{p}.{k}": v for p in store.PARTS for k, v in load_file(newest / f"{p}.safetensors").items()}


def kill_and_compare(tmp_path, *, kills: int, steps: int, seed: int) -> int:
    """Train with kill -9 at random moments, then to the end; compare with an unbroken run. How many kills hit."""
    argv = train_command(tmp_path / "killed", steps, "--precision", "fp32", "--checkpoint-seconds", 0.05)
    clock, hits = random.Random(seed), 0
    for _ in range(kills):
        process = subprocess.Popen(argv, env=ONE_THREAD, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        log = tmp_path / "killed" / "metrics.jsonl"
        before, start = log.stat().st_mtime_ns if log.exists() else 0, time.monotonic()
        while process.poll() is None and time.monotonic() - start < 60:
            if log.exists() and log.stat().st_mtime_ns > before:
                break
            time.sleep(0.01)
        time.sleep(clock.uniform(0.0, 0.6))
        hits += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    finish(argv)
    whole = trained(small_recipe(steps=steps), tmp_path / "whole")
    a, b = tensors(tmp_path / "killed"), tensors(whole.path)
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    return hits


def test_three_kills_leave_a_run_that_ends_bit_for_bit_the_same(tmp_path):
    """Weights, average and optimiser after kill -9 at random moments equal those of an unbroken run."""
    assert kill_and_compare(tmp_path, kills=3, steps=150, seed=0) >= 1


@pytest.mark.certify
def test_twenty_kills_leave_a_run_that_ends_bit_for_bit_the_same(tmp_path):
    """The same with twenty kills, most of which must hit a live process."""
    assert kill_and_compare(tmp_path, kills=20, steps=700, seed=1) >= 15


@pytest.mark.parametrize(("precision", "tolerance"), [("fp64", 1e-12), ("fp32", 1e-5)])
def test_two_processes_equal_one_after_fifty_steps(tmp_path, precision, tolerance):
    """Same noise, same rows, averaged gradients: the weights agree to rounding."""
    argv = train_command(tmp_path / "two", 50, "--precision", precision, "--devices", 2)
    finish(argv)
    one = trained(small_recipe(steps=50, precision=precision), tmp_path / "one")
    a, b = tensors(tmp_path / "two"), tensors(one.path)
    assert max((a[k].double() - b[k].double()).abs().max().item() for k in a if k.startswith("model.")) < tolerance


def test_two_processes_report_the_terms_of_one_and_train_an_energy_alike(tmp_path):
    """Derivatives of derivatives survive data parallelism; both terms are means over both processes."""
    size = ["--mlp.width", 16, "--mlp.depth", 2, "--batch-size", 32, "--precision", "fp64", "--count", 500]
    for count in (1, 2):
        argv = command("train", "two-moons", "--model", "energy", "--objective", "sliced", "-o", tmp_path / str(count))
        argv += [*map(str, size), "--steps", "5", "--devices", str(count)]
        finish(argv)
    one, two = (read(tmp_path / str(count) / "metrics.jsonl") for count in (1, 2))
    for a, b in zip(one, two, strict=True):
        for name in ("loss", "half_square", "trace", "grad_norm"):
            assert a[name] == pytest.approx(b[name], rel=1e-10), name
    a, b = tensors(tmp_path / "1"), tensors(tmp_path / "2")
    assert max((a[k] - b[k]).abs().max().item() for k in a if k.startswith("model.")) < 1e-12


def test_two_processes_write_the_very_same_samples(tmp_path, digits_run):
    """The sample files of one process and of two are identical, byte for byte."""
    for count in (1, 2):
        argv = command("sample", digits_run.path, "-n", 230, "-o", tmp_path / f"{count}.npz", "--devices", count)
        finish(argv)
    assert (tmp_path / "1.npz").read_bytes() == (tmp_path / "2.npz").read_bytes()


def test_processes_leave_their_group_before_they_end(tmp_path):
    """No thread of the group outlives the command's last line: one that does may abort the process as it ends."""
    script = tmp_path / "watched.py"  # what is registered first runs last
    script.write_text(
        "import atexit, os, pathlib\n"
        "def threads():\n"
        "    names = sorted(p.read_text().strip() for p in pathlib.Path('/proc/self/task').glob('*/comm'))\n"
        "    pathlib.Path(__file__).with_name('rank' + os.environ['LOCAL_RANK']).write_text(' '.join(names))\n"
        "atexit.register(threads)\n"
        "from scorefield.cli import main\n"
        "raise SystemExit(main())\n"
    )
    argv = train_command(tmp_path / "run", 2, "--precision", "fp32", "--devices", 2)
    finish([sys.executable, str(script), *argv[3:]])
    for rank in range(2):
        alive = (tmp_path / f"rank{rank}").read_text()
        assert "python" in alive and "gloo" not in alive and "tcpstore" not in alive, alive


def test_a_terminated_process_saves_first(tmp_path):
    """SIGTERM finishes the step, writes a checkpoint, and exits with 130."""
    argv = train_command(tmp_path / "run", 100_000, "--precision", "fp32", "--checkpoint-seconds", 1000)
    process = subprocess.Popen(argv, env=ONE_THREAD, stdout=subprocess.PIPE, text=True)
    while not (tmp_path / "run" / "metrics.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "Go on with: scorefield train digits" in out
    assert store.latest(tmp_path / "run" / "checkpoints")[0] is not None
