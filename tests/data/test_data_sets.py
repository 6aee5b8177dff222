"""Named sets in the layouts of their publishers, and trees of images: read as they stand, damage and absence named."""

import io
import pickle
import shutil

import numpy as np
import pytest
from layouts import CLASSES, batch, celeba, cifar_batches, picture, tarred, unpacked, zipped
from PIL import Image

from scorefield.data import prepare
from scorefield.data.celeba import read_celeba
from scorefield.data.cifar import read_batch
from scorefield.data.pickles import read_plain_pickle
from scorefield.settings import DataSettings

RNG = np.random.default_rng(0)
PUBLISHED = [  # folder, archive, binary
    ("cifar-10-batches-py", "cifar-10-python.tar.gz", False),
    ("cifar-10-batches-bin", "cifar-10-binary.tar.gz", True),
]


def read(name, root, run, **settings):
    return prepare(DataSettings(name, root=str(root), held_out=0, **settings), run)


def refused(folder, name, root, *words, error=ValueError, **settings):
    """The message holds every one of the words, and nothing is written."""
    before = sorted(folder.rglob("*"))
    with pytest.raises(error) as caught:
        prepare(DataSettings(name, root=root and str(root), **settings), folder / "new" / "run")
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(("folder", "archive", "binary"), PUBLISHED)
def test_cifar10_is_the_same_packed_and_unpacked(tmp_path, folder, archive, binary):
    files, pixels, labels = cifar_batches(RNG, binary)
    backwards = {f"{folder}/{name}": content for name, content in reversed(files.items())}
    (tmp_path / "packed").mkdir()
    tarred(tmp_path / "packed" / archive, {f"{folder}/readme.html": b"passed over", **backwards}, "w:gz")
    unpacked(tmp_path / "unpacked" / folder, files)
    for root in ("packed", "unpacked", f"unpacked/{folder}"):
        data = read("cifar10", tmp_path / root, tmp_path / "run")
        np.testing.assert_array_equal(data.x, pixels)
        assert data.x.dtype == np.uint8 and data.info.classes == CLASSES
        np.testing.assert_array_equal(data.y, labels)
    assert data.info.files == (folder,)


def test_a_python_batch_is_what_pythons_own_unpickler_finds():
    """The test's own writer makes a pickle of Python 2; copies of later protocols are read alike."""
    pixels, labels = RNG.integers(0, 256, (300, 3072), dtype=np.uint8), RNG.integers(0, 10, 300).tolist()
    content = batch(pixels, labels, binary=False)
    truth = pickle.loads(content, encoding="bytes")
    held = read_plain_pickle(content, "batch")
    assert list(held) == list(truth) == [b"batch_label", b"labels", b"data", b"filenames"]
    for key in (b"batch_label", b"labels", b"filenames"):
        assert held[key] == truth[key]
    np.testing.assert_array_equal(held[b"data"], truth[b"data"])
    for protocol in (3, 4):
        for order in "CF":
            again = pickle.dumps({"data": np.asarray(pixels, order=order), "labels": labels}, protocol)
            found = read_batch(again, "batch", "")
            np.testing.assert_array_equal(found[0], pixels)
            np.testing.assert_array_equal(found[1], labels)


@pytest.mark.parametrize("value", [{"a": [1, -2, 3.5, None, True, ("x", b"y", 2**70)]}, [], {}, [[], {"k": [()]}]])
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_plain_values_come_back_as_they_were(value, protocol):
    assert read_plain_pickle(pickle.dumps(value, protocol), "values") == value


def test_arrays_of_every_plain_dtype_come_back_as_they_were():
    for kind in ("u1", "<i2", ">i4", "<i8", ">f4", "<f8"):
        x = np.arange(6).reshape(2, 3).astype(kind)
        found = read_plain_pickle(pickle.dumps([x], 4), "values")[0]
        assert found.dtype == x.dtype
        np.testing.assert_array_equal(found, x)


@pytest.mark.parametrize(("folder", "archive", "binary"), PUBLISHED)
def test_cifar10_that_is_damaged_or_not_whole_is_refused_by_name(tmp_path, folder, archive, binary):
    files, pixels, labels = cifar_batches(RNG, binary)
    end = ".bin" if binary else ""
    root = unpacked(tmp_path / folder, files)
    third = root / f"data_batch_3{end}"
    whole = third.read_bytes()
    for content in (whole[:-1], whole[: len(whole) // 2 + 1], b"", b"\0" * 17):
        third.write_bytes(content)
        refused(tmp_path, "cifar10", tmp_path, third.name, "again")
    third.write_bytes(batch(pixels.reshape(5, 4, -1)[0][:3], labels[:3].tolist(), binary))
    refused(tmp_path, "cifar10", tmp_path, "one size", "[4, 4, 3, 4, 4]")
    third.write_bytes(batch(pixels.reshape(5, 4, -1)[0], [0, 1, 2, 11], binary))
    refused(tmp_path, "cifar10", tmp_path, third.name, "0..9")
    third.unlink()
    refused(tmp_path, "cifar10", tmp_path, third.name, "https://www.cs.toronto.edu")
    packed = tarred(tmp_path / archive, {f"{folder}/{name}": content for name, content in files.items()}, "w:gz")
    shutil.rmtree(root)
    content = packed.read_bytes()
    packed.write_bytes(content[:-30])
    refused(tmp_path, "cifar10", tmp_path, archive, "truncated", "again")
    tarred(packed, {f"{folder}/data_batch_1{end}": files[f"data_batch_1{end}"]}, "w:gz")
    refused(tmp_path, "cifar10", tmp_path, archive, f"data_batch_2{end}")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"labels": [0, 1]}, "'data'"),
        ({"data": np.zeros((2, 3071), np.uint8), "labels": [0, 1]}, "'data'"),
        ({"data": np.zeros((2, 3072), np.int64), "labels": [0, 1]}, "'data'"),
        ({"data": np.zeros((2, 3072), np.uint8), "fine_labels": [0, 1]}, "'labels'"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0, "1"]}, "'labels'"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 2**80]}, "0..9"),
        ([np.zeros((2, 3072), np.uint8)], "'data'"),
    ],
)
def test_python_batches_of_other_content_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        read_batch(pickle.dumps(wrong, 4), "data_batch_1", "")


def tree(rng, names=CLASSES, count=2, side=32):
    """Images by path, class folders inside train/."""
    shape = (len(names) * count, side, side, 3)
    pixels = rng.integers(0, 256, shape, dtype=np.uint8)
    paths = [f"train/{name}/{i:04d}.png" for name in names for i in range(count)]
    return {path: picture(p) for path, p in zip(paths, pixels, strict=True)}, pixels.transpose(0, 3, 1, 2)


def test_an_image_tree_is_the_same_in_every_container_and_order(tmp_path):
    files, pixels = tree(RNG)
    shuffled = {f"./{name}": files[name] for name in RNG.permutation(list(files))}
    junk = {"train/README.txt": b"passed over", "__MACOSX/train/cat/._0000.png": b"junk", "train/.hidden.png": b""}
    unpacked(tmp_path / "folder", files)
    for end, mode in ((".tar", "w"), (".tar.gz", "w:gz"), (".tar.bz2", "w:bz2"), (".tar.xz", "w:xz")):
        (tmp_path / end).mkdir()
        tarred(tmp_path / end / f"train{end}", {**shuffled, **junk}, mode)
    (tmp_path / ".zip").mkdir()
    zipped(tmp_path / ".zip" / "train.zip", {**{k[2:]: v for k, v in shuffled.items()}, **junk})
    digests = set()
    for root in ("folder", ".tar", ".tar.gz", ".tar.bz2", ".tar.xz", ".zip"):
        data = read("cifar10", tmp_path / root, tmp_path / "run")
        np.testing.assert_array_equal(data.x, pixels)
        assert data.info.classes == CLASSES and data.info.files == (f"train{root if root != 'folder' else ''}",)
        digests.add(tuple(data.info.sha256.values()))
        inside = tmp_path / root / data.info.files[0]
        digests.add(tuple(prepare(DataSettings(str(inside), held_out=0), tmp_path / "run").info.sha256.values()))
    assert len(digests) == 1


def test_archives_without_class_folders_have_no_labels_and_mixed_ones_are_refused(tmp_path):
    files, pixels = tree(RNG, names=("a",), count=3, side=8)
    data = prepare(DataSettings(str(zipped(tmp_path / "a.zip", files)), held_out=0), tmp_path / "run")
    assert data.y is None and data.info.classes == ()
    np.testing.assert_array_equal(data.x, pixels)
    image = files["train/a/0000.png"]
    for other in ("test/b/0.png", "0.png", "train/a/deep/0.png", "train/0.png"):
        path = tarred(tmp_path / "mixed.tar", {**files, other: image})
        refused(tmp_path, str(path), None, "class folders", "mixed.tar", "one folder")
    refused(tmp_path, str(tarred(tmp_path / "none.tar", {"a.txt": b"x"})), None, "none.tar", "no images", "cifar10")
    odd = picture(np.zeros((8, 9, 3), np.uint8))
    refused(tmp_path, str(tarred(tmp_path / "odd.tar", {**files, "train/a/9.png": odd})), None, "9.png", "9x8", "8x8")
    grey = picture(np.zeros((8, 8), np.uint8))
    refused(tmp_path, str(zipped(tmp_path / "odd.zip", {**files, "train/a/9.png": grey})), None, "9.png", "one mode")


def test_cifar10_trees_of_other_classes_or_sizes_are_refused(tmp_path):
    for names, side in ((CLASSES[:9], 32), (CLASSES, 16)):
        unpacked(tmp_path / "root", tree(RNG, names=names, side=side)[0])
        refused(tmp_path, "cifar10", tmp_path / "root", "32 x 32", "truck", "without root")
        shutil.rmtree(tmp_path / "root")


def test_celeba_is_the_training_partition_cropped_resized_and_labelled(tmp_path):
    images, lists, partition, attributes = celeba(RNG)
    unpacked(tmp_path / "folder", {**images, **lists})
    unpacked(tmp_path / "packed", lists)
    zipped(tmp_path / "packed" / "img_align_celeba.zip", dict(reversed(images.items())))
    kept = [content for content, k in zip(images.values(), partition, strict=True) if k == 0]
    for name, side in (("celeba", 64), ("celeba-32", 32)):
        expected = []
        for content in kept:  # the crop and the filter of published work: 140 x 140 around the centre, bilinear
            with Image.open(io.BytesIO(content)) as image:
                box = (19, 39, 159, 179)
                expected.append(np.asarray(image.crop(box).resize((side, side), Image.Resampling.BILINEAR)))
        for root in ("folder", "packed"):
            data = read(name, tmp_path / root, tmp_path / "run", label_column="Male")
            np.testing.assert_array_equal(data.x, np.stack(expected).transpose(0, 3, 1, 2))
            assert data.info.classes == ("Male", "not Male")
            np.testing.assert_array_equal(data.y == 0, attributes[partition == 0, 1] == 1)
    assert data.info.files == ("img_align_celeba.zip", "list_eval_partition.txt", "list_attr_celeba.txt")
    (tmp_path / "packed" / "list_attr_celeba.txt").unlink()
    assert read("celeba", tmp_path / "packed", tmp_path / "run").y is None
    refused(tmp_path, "celeba", tmp_path / "packed", "list_attr_celeba.txt", "mmlab", label_column="Male")


def test_celeba_whose_files_do_not_agree_is_refused(tmp_path):
    images, lists, _, _ = celeba(RNG)
    root = unpacked(tmp_path / "root", {**images, **lists})
    refused(tmp_path, "celeba", root, "'Smilling'", "did you mean 'Smiling'", label_column="Smilling")

    def altered(name, old, new, *words):
        path = root / name
        whole = path.read_bytes()
        assert whole.count(old) == 1
        path.write_bytes(whole.replace(old, new))
        refused(tmp_path, "celeba-32", root, *words, label_column="Bald")
        path.write_bytes(whole)

    altered("list_attr_celeba.txt", b"12\n", b"13\n", "13", "12 rows")
    altered("list_attr_celeba.txt", b"000003.jpg", b"000003.jpg 1", "000003.jpg", "3 values")
    altered("list_attr_celeba.txt", b"000003.jpg", b"000013.jpg", "000003.jpg", "3 values")
    altered("list_attr_celeba.txt", b"000003.jpg", b"000002.jpg", "list_attr_celeba.txt line 5")
    altered("list_eval_partition.txt", b"000003.jpg 0", b"000003.jpg 3", "000003.jpg", "'3'")
    altered("list_eval_partition.txt", b"000003.jpg 0", b"../0003.jpg 0", "list_eval_partition.txt line 3")
    altered("list_eval_partition.txt", b"000003.jpg 0", b"\xff", "list_eval_partition.txt", "plain text")
    image = root / "img_align_celeba" / "000002.jpg"
    whole = image.read_bytes()
    image.write_bytes(picture(np.zeros((178, 218, 3), np.uint8), "JPEG"))
    refused(tmp_path, "celeba", root, "000002.jpg", "178x218", "218x178")
    image.write_bytes(whole[:100])
    refused(tmp_path, "celeba", root, "000002.jpg", "cannot be read")
    image.unlink()
    refused(tmp_path, "celeba", root, "1 of the 8", "000002.jpg", "img_align_celeba.zip")
    (root / "list_eval_partition.txt").unlink()
    refused(tmp_path, "celeba", root, "list_eval_partition.txt", "mmlab")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mnist", ["train-images-idx3-ubyte", "https://"]),
        ("fashion-mnist", ["train-labels-idx1-ubyte", "zalandoresearch"]),
        ("cifar10", ["cifar-10-python.tar.gz", "https://www.cs.toronto.edu/~kriz/cifar.html"]),
        ("celeba", ["img_align_celeba.zip", "list_eval_partition.txt", "https://mmlab"]),
        ("celeba-32", ["img_align_celeba.zip", "list_attr_celeba.txt", "https://mmlab"]),
    ],
)
def test_a_missing_root_says_what_to_download_and_where_it_goes(tmp_path, name, words):
    refused(tmp_path, name, None, name, "not bundled", "--root FOLDER", *words)
    refused(tmp_path, name, tmp_path / "nowhere", "nowhere", "not there", *words)
    (tmp_path / "empty").mkdir()
    refused(tmp_path, name, tmp_path / "empty", str(tmp_path / "empty"), "is not in", *words)


def test_one_root_serves_all_sets_and_unknown_names_get_the_nearest(tmp_path):
    files, pixels, _ = cifar_batches(RNG, binary=True)
    unpacked(tmp_path / "all" / "cifar10" / "cifar-10-batches-bin", files)
    images, lists, partition, _ = celeba(RNG)
    unpacked(tmp_path / "all" / "celeba", {**images, **lists})
    np.testing.assert_array_equal(read("cifar10", tmp_path / "all", tmp_path / "run").x, pixels)
    assert len(read("celeba-32", tmp_path / "all", tmp_path / "run")) == (partition == 0).sum()
    for wrong, right in (("cifar-10", "cifar10"), ("celebA", "celeba"), ("fashionmnist", "fashion-mnist")):
        refused(tmp_path, wrong, None, f"did you mean {right!r}")
    refused(tmp_path, "cifar-10", tmp_path, "root", "did you mean 'cifar10'")
    refused(tmp_path, "cifar10", tmp_path, "label_column", "celeba", label_column="Male")


def test_images_lie_in_the_scratch_folder_unseen(tmp_path):
    """Faces are stacked on the disk that will hold them, and leave no name there, whole or refused."""
    images, lists, partition, _ = celeba(RNG)
    root = unpacked(tmp_path / "root", {**images, **lists})
    (tmp_path / "scratch").mkdir()
    table = read_celeba("celeba-32", str(root), None, tmp_path / "scratch" / "not" / "yet")
    assert isinstance(table.x, np.memmap) and table.x.shape == ((partition == 0).sum(), 3, 32, 32)
    assert list((tmp_path / "scratch").iterdir()) == []
