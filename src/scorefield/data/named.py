"""Named sets whose files the user fetches: what to download, and where the files go."""

from __future__ import annotations

from pathlib import Path

IDX = (
    "its IDX files train-images-idx3-ubyte and train-labels-idx1-ubyte, each plain or .gz (the others are not read), "
    "from"
)
NAMED = {
    "mnist": f"{IDX} https://ossci-datasets.s3.amazonaws.com/mnist/",
    "fashion-mnist": f"{IDX} https://github.com/zalandoresearch/fashion-mnist",
    "cifar10": (
        "cifar-10-python.tar.gz or cifar-10-binary.tar.gz, packed or unpacked, from "
        "https://www.cs.toronto.edu/~kriz/cifar.html, or give class folders of its images in train/, train.tar (.gz, "
        ".bz2, .xz) or train.zip"
    ),
    "celeba": (
        "img_align_celeba.zip, packed or unpacked to img_align_celeba/, list_eval_partition.txt and, for "
        "--label-column, list_attr_celeba.txt, from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
    ),
}
NAMED["celeba-32"] = NAMED["celeba"]


def folder_of(name: str, root: str | None) -> Path:
    """The folder of a named set: `root`/`name` if that is there, else `root`.

    Raises:
        ValueError: no root was given, or it is not there; the message says what to download, and where it goes.
    """
    if root is None:
        raise ValueError(
            f"{name} is not bundled: download {NAMED[name]}; root must be the folder they lie in, got no root, pass it "
            "(--root FOLDER)"
        )
    folder = Path(root).expanduser()
    inner = folder / name.removesuffix("-32")
    if not folder.is_dir():
        raise ValueError(f"root must be the folder of {name}, {folder} is not there; download {NAMED[name]}")
    return inner if inner.is_dir() else folder


def missing(name: str, what: str, folder: Path) -> ValueError:
    """The error that a file of a named set is not in its folder."""
    return ValueError(f"{what} is not in {folder}; for {name} download {NAMED[name]}, and pass their folder as root")
