"""Bytes at random, and sound files cut or with bits flipped: a table, or a ValueError that names file and remedy."""

import bz2
import gzip
import lzma
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from layouts import batch, celeba, picture, tarred, zipped

from scorefield.data.celeba import read_celeba
from scorefield.data.cifar import read_batch
from scorefield.data.idx import read_idx_file
from scorefield.data.images import read_archive

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (3, 3072), dtype=np.uint8)


def idx(path, content):
    path.write_bytes(content)
    return len(read_idx_file(path, 3))


def archive(path, content):
    path.write_bytes(content)
    return len(read_archive(path).x)


def python_batch(path, content):
    return len(read_batch(content, str(path), "")[0])


def binary_batch(path, content):
    return len(read_batch(content, str(path), ".bin")[0])


def partition(path, content):
    path.write_bytes(content)
    return len(read_celeba("celeba-32", str(path.parent), "Bald", None).x)


SOUND_IDX = bytes([0, 0, 8, 3, 0, 0, 0, 5, 0, 0, 0, 4, 0, 0, 0, 6]) + RNG.bytes(120)
TREE = {f"{name}/{i}.png": picture(RNG.integers(0, 256, (4, 5), dtype=np.uint8)) for name in "ab" for i in range(2)}


def archived(make, name, pack=bytes):
    """The bytes of an archive of the tree."""

    def build(folder):
        return pack(make(folder / name, TREE).read_bytes())

    return build


PARSERS = {  # the file's name -> who reads it, and a sound file
    "train-images-idx3-ubyte": (idx, lambda folder: SOUND_IDX),
    "train-images-idx3-ubyte.gz": (idx, lambda folder: gzip.compress(SOUND_IDX)),
    "data_batch_1": (python_batch, lambda folder: batch(PIXELS, [0, 1, 2], binary=False)),
    "data_batch_1.bin": (binary_batch, lambda folder: batch(PIXELS, [0, 1, 2], binary=True)),
    "tree.tar": (archive, archived(tarred, "sound.tar")),
    "tree.tar.gz": (archive, archived(tarred, "sound.tar", gzip.compress)),
    "tree.tar.bz2": (archive, archived(tarred, "sound.tar", bz2.compress)),
    "tree.tar.xz": (archive, archived(tarred, "sound.tar", lzma.compress)),
    "tree.zip": (archive, archived(zipped, "sound.zip")),
    "list_attr_celeba.txt": (partition, lambda folder: celeba_folder(folder, "list_attr_celeba.txt")),
    "list_eval_partition.txt": (partition, lambda folder: celeba_folder(folder, "list_eval_partition.txt")),
}
REMEDIES = (
    "again",
    "fetch",
    "replace",
    "give",
    "resize",
    "convert",
    "pack",
    "choose",
    "make it smaller",
    "their folder",
    "source",
)


def celeba_folder(folder, name):
    """The files of CelebA, in place; the content of one of them."""
    images, lists, _, _ = celeba(np.random.default_rng(0), count=6)
    for file, content in {**images, **lists}.items():
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_bytes(content)
    return lists[name]


@st.composite
def harmed(draw, sound):
    """Random bytes, a cut, flipped bits (most in the first kilobyte, where headers are), bytes put in or left out."""
    way = draw(st.sampled_from(["random", "headed", "cut", "flipped", "swapped"]))
    content = bytearray(sound)
    if way == "random":
        return draw(st.binary(max_size=2000))
    if way == "headed":
        return bytes(content[: draw(st.integers(1, 40))]) + draw(st.binary(max_size=2000))
    if way == "cut":
        return bytes(content[: draw(st.integers(0, len(content) - 1))])
    last = st.integers(0, len(content) - 1) | st.integers(0, min(1023, len(content) - 1))
    if way == "flipped":
        for place in draw(st.lists(last, min_size=1, max_size=8)):
            content[place] ^= 1 << draw(st.integers(0, 7))
        return bytes(content)
    place = draw(last)
    content[place : place + draw(st.integers(0, 600))] = draw(st.binary(max_size=600))
    return bytes(content)


def fuzz(name, folder, examples):
    """Read so many harmed files; how many were refused, and how many still read."""
    read, sound = PARSERS[name]
    path = Path(folder) / name
    content = sound(Path(folder))
    assert read(path, content) > 0
    counts = [0, 0]

    @settings(
        max_examples=examples, derandomize=True, deadline=5000, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(harmed(content))
    def survive(damaged):
        try:
            read(path, damaged)
            counts[1] += 1
        except ValueError as error:
            assert name in str(error) or str(path.parent) in str(error), str(error)
            assert any(word in str(error) for word in REMEDIES), str(error)
            counts[0] += 1

    survive()
    return counts


@pytest.mark.parametrize("name", PARSERS)
def test_harmed_files_end_in_an_error_that_names_them(name, tmp_path):
    refused, _ = fuzz(name, tmp_path, 25)
    assert refused >= 5


@pytest.mark.certify
@pytest.mark.parametrize("name", PARSERS)
def test_two_thousand_harmed_files_end_in_an_error_that_names_them(name, tmp_path):
    refused, _ = fuzz(name, tmp_path, 2000)
    assert refused >= 400
