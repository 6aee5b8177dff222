"""Each kind of source is read as it stands; each bad one is refused with its value and rule, and nothing is written."""

import gzip
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from scorefield.data import names, prepare
from scorefield.densities import TOYS
from scorefield.settings import DataSettings

RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(20, 3))


class Bomb:
    """Unpickled, it leaves a file behind."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def saved(path, x, **labels):
    if path.suffix == ".npz":
        np.savez(path, x=x, **labels)
    else:
        np.save(path, x)
    return path


def text(path, content):
    path.write_text(content)
    return path


def images(folder, arrays, suffix=".png"):
    folder.mkdir(parents=True)
    for i, pixels in enumerate(arrays):
        Image.fromarray(pixels).save(folder / f"{i:03d}{suffix}")
    return folder


def refused(folder, source, *words, error=ValueError, **settings):
    """The message holds every one of the words, and nothing is written."""
    before = sorted(folder.rglob("*"))
    with pytest.raises(error) as caught:
        prepare(DataSettings(str(source), **settings), folder / "new" / "run")
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert sorted(folder.rglob("*")) == before


def test_digits_are_scikit_learns_and_stay_bytes(tmp_path):
    data, truth = prepare(DataSettings("digits"), tmp_path / "run"), load_digits()
    assert data.x.dtype == np.uint8 and data.info.shape == (1797, 1, 8, 8) and data.info.kind == "image"
    np.testing.assert_array_equal(data.x[:, 0], truth.images)
    np.testing.assert_array_equal(data.y, truth.target)
    assert data.info.classes == tuple("0123456789")


@pytest.mark.parametrize("name", TOYS)
def test_toys_are_drawn_by_count_and_seed(tmp_path, name):
    first, again, other = (
        prepare(DataSettings(name, count=50), tmp_path / f"{s}{i}", seed=s).x for i, s in enumerate((3, 3, 4))
    )
    assert len(first) == 50
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_names_are_those_that_prepare_knows(tmp_path):
    assert names() == ["digits", "mnist", "fashion-mnist", "cifar10", "celeba", "celeba-32", *TOYS]


@pytest.mark.parametrize(
    ("x", "shape", "dtype"),
    [
        (VECTORS, (20, 3), "float64"),
        (VECTORS.astype(">f4"), (20, 3), "float32"),
        (VECTORS.astype(np.float16), (20, 3), "float32"),
        (np.asfortranarray(VECTORS), (20, 3), "float64"),
        (RNG.integers(-5, 300, (20, 3)), (20, 3), "float64"),
        (RNG.integers(0, 256, (20, 4, 5)), (20, 1, 4, 5), "uint8"),
        (RNG.integers(0, 300, (20, 4, 5)), (20, 1, 4, 5), "float64"),
        (RNG.integers(0, 2, (20, 4, 5)).astype(bool), (20, 1, 4, 5), "uint8"),
        (RNG.integers(0, 256, (20, 3, 4, 5), dtype=np.uint8), (20, 3, 4, 5), "uint8"),
        (RNG.normal(size=(20, 3, 4, 5)).astype(np.float32), (20, 3, 4, 5), "float32"),
    ],
)
def test_arrays_keep_their_values_and_get_the_dtype_and_axes_of_the_rule(tmp_path, x, shape, dtype):
    for end in (".npy", ".npz"):
        data = prepare(DataSettings(str(saved(tmp_path / f"d{end}", x))), tmp_path / f"run{end}")
        assert data.x.shape == data.info.shape == shape and data.x.dtype == data.info.dtype == dtype
        np.testing.assert_array_equal(data.x, x.reshape(shape))


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (np.array([10, -2, 9, 10]), ("-2", "9", "10")),
        (np.array(["10", "-2", "9", "10"]), ("-2", "9", "10")),
        (np.array(["b", "10", "9", "b"]), ("10", "9", "b")),
        (np.array([b"b", b"a", b"a", b"b"]), ("a", "b")),
        (np.array([2, 0, 1, 2], dtype=np.uint8), ("0", "1", "2")),
    ],
)
def test_labels_become_numbers_that_name_their_class(tmp_path, labels, classes):
    data = prepare(DataSettings(str(saved(tmp_path / "d.npz", VECTORS[:4], y=labels)), held_out=0), tmp_path / "run")
    assert data.info.classes == classes
    assert [classes[k] for k in data.y] == [v.decode() if isinstance(v, bytes) else str(v) for v in labels.tolist()]


def test_csv_reads_numbers_labels_quotes_and_blank_lines(tmp_path):
    content = '\ufeffa,"the, name",b\n1,x,2.5\n\n-3e2,"y ",4\n5,x,"6"\n'
    settings = DataSettings(str(text(tmp_path / "d.csv", content)), label_column="the, name", held_out=0)
    data = prepare(settings, tmp_path / "run")
    np.testing.assert_array_equal(data.x, [[1, 2.5], [-300, 4], [5, 6]])
    assert data.info.columns == ("a", "b") and data.info.classes == ("x", "y") and data.y.tolist() == [0, 1, 0]


def test_nonfinite_rows_are_counted_by_column_or_dropped_with_their_labels(tmp_path):
    x = VECTORS.copy()
    x[4, 1], x[4, 2], x[7, 2] = np.nan, np.inf, -np.inf
    path = saved(tmp_path / "d.npz", x, y=np.arange(20))
    refused(tmp_path, path, "2 of 20 rows", "'x1': 1", "'x2': 2", "row 4", "on_nonfinite='drop'")
    data = prepare(DataSettings(str(path), on_nonfinite="drop"), tmp_path / "run")
    kept = [i for i in range(20) if i not in (4, 7)]
    np.testing.assert_array_equal(data.x, x[kept])
    assert [data.info.classes[k] for k in data.y] == [str(i) for i in kept]
    assert data.info.dropped_rows == 2 and data.info.shape == (18, 3)


def test_missing_csv_cells_are_nonfinite_under_their_column(tmp_path):
    path = text(tmp_path / "d.csv", "a,b\n1,2\n,4\n3,nan\n7,8\n")
    refused(tmp_path, path, "2 of 4 rows", "'a': 1", "'b': 1")
    assert prepare(DataSettings(str(path), on_nonfinite="drop", held_out=0), tmp_path / "run").x.tolist() == [
        [1, 2],
        [7, 8],
    ]
    refused(tmp_path, text(tmp_path / "one.csv", "a\n1\nnan\n"), "2 rows", "got 1 of 2", on_nonfinite="drop")


@pytest.mark.parametrize(
    ("x", "words", "error"),
    [
        (np.arange(5.0), ["(5,)", "(n, 1)"], ValueError),
        (np.zeros((2, 1, 2, 2, 2)), ["(2, 1, 2, 2, 2)", "(n, C, H, W)"], ValueError),
        (np.zeros((4, 8, 8, 3), np.uint8), ["(4, 8, 8, 3)", "transpose(0, 3, 1, 2)"], ValueError),
        (np.zeros((4, 0)), ["(4, 0)", "no values"], ValueError),
        (np.zeros((1, 3)), ["2 rows", "got 1"], ValueError),
        (np.zeros((0, 3)), ["2 rows", "got 0"], ValueError),
        (np.zeros((4, 2), complex), ["complex128", "real numbers"], TypeError),
        (np.full((4, 2), "a"), ["<U1", "real numbers"], TypeError),
        (np.zeros((4, 2), "M8[s]"), ["datetime64", "real numbers"], TypeError),
        (np.zeros((4, 2), [("a", "f8")]), ["('a'", "real numbers"], TypeError),
        (np.full((4, 3, 3), 7, np.uint8), ["all pixels", "constant", "7"], ValueError),
        (np.array([[1, 5.0], [2, 5.0], [3, 5.0]]), ["column 'x1'", "constant", "5", "drop the column"], ValueError),
        (1e8 + 1e-8 * VECTORS, ["column 'x0'", "constant", "2 more"], ValueError),
        (1.7e308 * np.sign(VECTORS), ["too large"], ValueError),
    ],
)
def test_arrays_that_cannot_be_used_are_refused(tmp_path, x, words, error):
    for end in (".npy", ".npz"):
        refused(tmp_path, saved(tmp_path / f"d{end}", x), *words, error=error, held_out=0)


@pytest.mark.parametrize(
    ("labels", "words", "error"),
    [
        (np.arange(19), ["20 rows", "got 19"], ValueError),
        (np.eye(20), ["float64", "integers or strings"], TypeError),
        (np.eye(20, dtype=int), ["(20, 20)", "argmax"], ValueError),
        (np.where(np.arange(20) < 3, np.nan, 1), ["float64", "3 of them NaN", "astype(int)"], TypeError),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path, labels, words, error):
    refused(tmp_path, saved(tmp_path / "d.npz", VECTORS, y=labels), *words, error=error)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a,b\n1,2\n3\n", ["line 3", "1 cells", "2"]),
        ("a,b\n1,2\n3,4,5\n", ["line 3", "3 cells"]),
        ("a,b\n1,2\n3,cat\n", ["column 'b'", "row 2", "line 3", "'cat'", "label_column"]),
        ("a,b\n1,2\n3,1_0\n", ["column 'b'", "'1_0'"]),
        ("1.5,2\n1,2\n", ["header", "1.5,2"]),
        ("a,a\n1,2\n", ["two columns", "'a'"]),
        (",a\n0,1\n1,2\n", ["column 1", "no name", "index=False"]),
        ("a;b\n1;2\n", ["commas", "'a;b'"]),
        ("\n1,2\n", ["header"]),
        ("a,b\n", ["2 rows", "got 0"]),
        ("a,b\n1,2\n", ["2 rows", "got 1"]),
        ("a,b\n1,2\n1,3\n", ["column 'a'", "constant"]),
        ("", ["empty"]),
    ],
)
def test_csv_that_cannot_be_used_is_refused(tmp_path, content, words):
    refused(tmp_path, text(tmp_path / "d.csv", content), *words, held_out=0)


def test_csv_labels_that_do_not_fit_are_refused(tmp_path):
    path = text(tmp_path / "d.csv", "size,price,kind\n1,0.5,a\n2,2,\n")
    refused(tmp_path, path, "'kid'", "'kind'", label_column="kid")
    refused(tmp_path, path, "line 3", "'kind'", "empty", label_column="kind")
    numbers = text(tmp_path / "n.csv", "size,price\n1,0.5\n2,2\n")
    refused(tmp_path, numbers, "'price'", "0.5", "classes", label_column="price")
    refused(tmp_path, text(tmp_path / "only.csv", "kind\na\nb\n"), "no column besides", label_column="kind")
    (tmp_path / "latin.csv").write_bytes(b"a,b\n1,\xe9\n")
    refused(tmp_path, tmp_path / "latin.csv", "UTF-8", "latin.csv")


def test_settings_are_honoured_or_refused(tmp_path):
    path = saved(tmp_path / "points.npy", VECTORS)
    refused(tmp_path, tmp_path / "point.npy", "point.npy", "did you mean 'points.npy'")
    refused(tmp_path, "digit", "'digit'", "did you mean 'digits'")
    refused(tmp_path, " ", "source")
    refused(tmp_path, path, "on_nonfinite", "'skip'", "drop", on_nonfinite="skip")
    refused(tmp_path, path, "held_out", "0.95", "0.9", held_out=0.95)
    refused(tmp_path, path, "held_out", "nan", held_out=float("nan"))
    refused(tmp_path, path, "root", "mnist", root="/tmp")
    refused(tmp_path, path, "label_column", ".csv", label_column="y")
    refused(tmp_path, "digits", "label_column", ".csv", label_column="y")
    refused(tmp_path, "digits", "count", "toy", "500", count=500)
    refused(tmp_path, "rings", "count", "1", count=1)
    refused(tmp_path, saved(tmp_path / "two.npy", VECTORS[:2]), "2 rows", "held_out=0.1")
    refused(tmp_path, text(tmp_path / "d.feather", "x"), ".feather", ".npy")


def test_pickles_are_refused_and_run_nothing(tmp_path):
    mark = tmp_path / "ran"
    bombs = np.array([[Bomb(mark)], [Bomb(mark)]], dtype=object)
    refused(tmp_path, saved(tmp_path / "d.npy", bombs), "d.npy", "objects", "np.save", error=TypeError)
    refused(tmp_path, saved(tmp_path / "x.npz", bombs), "x.npz", "objects", error=TypeError)
    refused(tmp_path, saved(tmp_path / "y.npz", VECTORS[:2], y=bombs), "y.npz", "objects", error=TypeError)
    for end in (".pt", ".pth", ".pkl", ".ckpt"):
        (tmp_path / f"d{end}").write_bytes(pickle.dumps(Bomb(mark)))
        refused(tmp_path, tmp_path / f"d{end}", end, "np.save")
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps(Bomb(mark)))
    refused(tmp_path, tmp_path / "pickle.npy", "not a NumPy array file")
    with zipfile.ZipFile(tmp_path / "p.npz", "w") as archive:
        archive.writestr("x.npy", pickle.dumps(Bomb(mark)))
    refused(tmp_path, tmp_path / "p.npz", "'x'")
    assert not mark.exists()


def test_damaged_arrays_are_refused_wherever_they_are_cut(tmp_path):
    for end in (".npy", ".npz"):
        whole = saved(tmp_path / f"d{end}", VECTORS).read_bytes()
        for cut in (0, 5, 9, 40, 130, len(whole) - 1):
            (tmp_path / f"cut{end}").write_bytes(whole[:cut])
            refused(tmp_path, tmp_path / f"cut{end}", f"cut{end}")
    flipped = bytearray(saved(tmp_path / "d.npz", VECTORS).read_bytes())
    flipped[300] ^= 1
    (tmp_path / "flip.npz").write_bytes(flipped)
    refused(tmp_path, tmp_path / "flip.npz", "flip.npz", "damaged")
    np.savez(tmp_path / "names.npz", a=VECTORS, b=VECTORS)
    refused(tmp_path, tmp_path / "names.npz", "'x'", "a, b")


def test_image_folders_give_pixels_and_class_names(tmp_path):
    grey = RNG.integers(0, 256, (6, 5, 7), dtype=np.uint8)
    colour = RNG.integers(0, 256, (3, 5, 7, 3), dtype=np.uint8)
    flat = images(tmp_path / "flat", colour)
    text(flat / "README.txt", "passed over")
    data = prepare(DataSettings(str(flat), held_out=0), tmp_path / "a")
    np.testing.assert_array_equal(data.x, colour.transpose(0, 3, 1, 2))
    assert data.x.dtype == np.uint8 and data.y is None and data.info.classes == ()
    for name, part in (("9", grey[:2]), ("10", grey[2:])):
        images(tmp_path / "classes" / name, part, ".bmp")
    data = prepare(DataSettings(str(tmp_path / "classes"), held_out=0), tmp_path / "b")
    assert data.info.classes == ("9", "10") and sorted(data.y.tolist()) == [0, 0, 1, 1, 1, 1]
    np.testing.assert_array_equal(data.x[data.y == 0][:, 0], grey[:2])
    np.testing.assert_array_equal(data.x[data.y == 1][:, 0], grey[2:])


def test_image_folders_that_cannot_be_used_name_the_file(tmp_path):
    pixels = RNG.integers(0, 256, (4, 6, 6), dtype=np.uint8)
    folder = images(tmp_path / "d", pixels)
    whole, odd = (folder / "002.png").read_bytes(), folder / "002.png"
    odd.write_bytes(whole[:50])
    refused(tmp_path, folder, "002.png", "cannot be read")
    odd.write_bytes(b"not an image")
    refused(tmp_path, folder, "002.png", "cannot be read")
    Image.fromarray(pixels[0, :5]).save(odd)
    refused(tmp_path, folder, "002.png", "6x5", "6x6", "one size")
    Image.fromarray(pixels[0]).convert("RGB").save(odd)
    refused(tmp_path, folder, "002.png", "RGB", "one mode")
    Image.fromarray(pixels[0]).convert("RGBA").save(odd)
    refused(tmp_path, folder, "002.png", "RGBA", "grey or RGB")
    odd.write_bytes(whole)
    (folder / "empty").mkdir()
    refused(tmp_path, folder, "either images or class folders", "'empty'")
    (tmp_path / "none").mkdir()
    refused(tmp_path, tmp_path / "none", "no images", ".png")
    images(tmp_path / "deep" / "a" / "b", pixels)
    refused(tmp_path, tmp_path / "deep", "class folder", "one level")
    gif = images(tmp_path / "gif", pixels[:2], ".gif")
    frames = [Image.fromarray(p) for p in pixels]
    frames[0].save(gif / "000.gif", save_all=True, append_images=frames[1:])
    refused(tmp_path, gif, "000.gif", "4 frames")


def idx(path, values):
    content = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes() + values.tobytes()
    with gzip.open(path, "wb") if path.suffix == ".gz" else path.open("wb") as file:
        file.write(content)
    return path


@pytest.mark.parametrize("end", ["", ".gz"])
def test_idx_files_are_read_and_checked(tmp_path, end):
    pixels, digit = RNG.integers(0, 256, (12, 4, 5), dtype=np.uint8), np.arange(12, dtype=np.uint8) % 3
    root = tmp_path / "root"
    refused(tmp_path, "mnist", "root", "train-images-idx3-ubyte", "train-labels-idx1-ubyte")
    refused(tmp_path, "mnist", "train-images-idx3-ubyte", str(root), root=str(root))
    root.mkdir()
    file = idx(root / f"train-images-idx3-ubyte{end}", pixels)
    refused(tmp_path, "mnist", "train-labels-idx1-ubyte", str(root), root=str(root))
    idx(root / f"train-labels-idx1-ubyte{end}", digit[:-1])
    refused(tmp_path, "mnist", "12 rows", "got 11", root=str(root))
    idx(root / f"train-labels-idx1-ubyte{end}", digit)
    data = prepare(DataSettings("fashion-mnist", root=str(root)), tmp_path / "run")
    np.testing.assert_array_equal(data.x[:, 0], pixels)
    np.testing.assert_array_equal(data.y, digit)
    file.write_bytes(file.read_bytes()[:-20])
    refused(tmp_path, "mnist", file.name, "truncated", root=str(root))
    idx(file, digit)
    refused(tmp_path, "mnist", file.name, "IDX", "3 axes", root=str(root))
