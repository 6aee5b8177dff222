"""Files made to harm: pickles that would run code, archives that would write elsewhere or fill the disk."""

import gzip
import io
import os
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
from layouts import array_pickle, batch_pickle, cifar_batches, picture, tarred, text, unpacked, zipped
from PIL import Image

from scorefield.data import prepare
from scorefield.data.archives import members
from scorefield.data.idx import read_idx_file
from scorefield.data.pickles import read_plain_pickle
from scorefield.settings import DataSettings

RNG = np.random.default_rng(0)
PIXELS, LABELS = np.zeros((2, 3072), np.uint8), [0, 1]


class Call:
    """Unpickled, it calls."""

    def __init__(self, function, *arguments):
        self.called = function, arguments

    def __reduce__(self):
        return self.called


def touch(mark):
    """A command that leaves a trace."""
    return f"touch {mark}"


def objects(value):
    x = np.empty(2, dtype=object)
    x[:] = value
    return x


def live(mark):
    """Pickles that Python's unpickler runs, each by another way, by name."""
    command, code = touch(mark), f"open({str(mark)!r}, 'w').close()"
    system, evaluate = Call(os.system, command), Call(eval, code)
    inner = pickle.dumps(system, 2)
    line = command.encode()
    yield "REDUCE", pickle.dumps(system, 2)
    yield "STACK_GLOBAL", pickle.dumps(system, 4)
    yield "eval", pickle.dumps(evaluate, 4)
    yield "Python 2's names", b"\x80\x02c__builtin__\neval\n" + text(code.encode()) + b"\x85R."
    yield "exec", pickle.dumps(Call(exec, code), 5)
    yield "among the labels", pickle.dumps({"data": PIXELS, "labels": [0, system]}, 4)
    yield "as a key", pickle.dumps({"data": PIXELS, ("labels", system): LABELS}, 4)
    yield "before the batch", pickle.dumps(system, 2)[:-1] + b"0" + batch_pickle(PIXELS, LABELS)[2:]
    yield "objects in an array", pickle.dumps({"data": objects(system), "labels": LABELS}, 4)
    yield "objects in a dtype's metadata", pickle.dumps(np.dtype("u1", metadata={"a": system}), 4)
    yield "numpy runs a string", pickle.dumps(Call(np.testing.runstring, code, {}), 4)
    yield "a pickle inside", pickle.dumps(Call(pickle.loads, inner), 4)
    yield "numpy's scalar", pickle.dumps(Call(np._core.multiarray.scalar, np.dtype("O"), system), 4)
    yield "INST", b"(S'" + line + b"'\niposix\nsystem\n."
    yield "OBJ", b"(cposix\nsystem\nS'" + line + b"'\no."
    yield "NEWOBJ", b"\x80\x02cfunctools\npartial\ncposix\nsystem\n" + text(line) + b"\x86\x81)R."


@pytest.mark.parametrize("place", range(16))
def test_live_pickles_posing_as_a_batch_run_nothing(tmp_path, place):
    mark = tmp_path / "ran"
    name, content = list(live(mark))[place]
    files, _, _ = cifar_batches(RNG, binary=False)
    root = unpacked(tmp_path / "root" / "cifar-10-batches-py", {**files, "data_batch_3": content})
    for inside in (root, None):
        if inside is None:  # the same, packed
            packed = {f"cifar-10-batches-py/{n}": c for n, c in {**files, "data_batch_3": content}.items()}
            tarred(tmp_path / "cifar-10-python.tar.gz", packed, "w:gz")
        with pytest.raises(ValueError, match="data_batch_3.*(refused|damaged)"):
            prepare(DataSettings("cifar10", root=str(inside or tmp_path)), tmp_path / "run")
        assert not mark.exists() and not (tmp_path / "run").exists(), name
    try:  # the bomb is a real one
        pickle.loads(content)
    except Exception:  # some fail after they ran
        pass
    assert mark.exists(), name


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (batch_pickle(PIXELS, LABELS, kind=b"O8"), "dtype 'O8'"),
        (batch_pickle(PIXELS, LABELS, kind=b"V8"), "dtype 'V8'"),
        (batch_pickle(PIXELS, LABELS, reconstruct=b"numpy.core.multiarray\nfromfile\n"), "fromfile"),
        (batch_pickle(PIXELS, LABELS, reconstruct=b"numpy\nload\n"), "numpy.load"),
        (array_pickle(PIXELS).replace(b"cnumpy\nndarray\n", b"cnumpy\nmemmap\n") + b".", "memmap"),
        (b"cnumpy\ndtype\n" + text(b"u1") + b"\x85R}" + text(b"a") + b"K\x01sb.", "damaged"),
        (b"\x80\x02cnumpy\nndarray\n.", "global as a value"),
        (b"\x80\x02cnumpy\nndarray\nK\x05\x85R.", "describes no array"),
        (b"\x80\x02P1\n.", "PERSID"),
        (b"\x80\x02K\x01Q.", "BINPERSID"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x02]\x94(K\x01K\x02\x90.", "ADDITEMS"),
        (b"\x80\x02cposix\nsystem\n0].", "posix.system"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
    ],
)
def test_instructions_and_globals_outside_the_format_are_refused_by_name(content, word):
    with pytest.raises(ValueError, match="data_batch_1 .*again|data_batch_1 .*source") as caught:
        read_plain_pickle(content, "data_batch_1")
    assert word in str(caught.value), str(caught.value)


def member(name, kind=tarfile.REGTYPE, size=0, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, target
    return info


IMAGE = picture(RNG.integers(0, 256, (8, 8), dtype=np.uint8))
GOOD = {"a/0.png": IMAGE, "b/1.png": picture(RNG.integers(0, 256, (8, 8), dtype=np.uint8))}


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        ({"../../0.png": IMAGE}, "leads out"),
        ({"/tmp/0.png": IMAGE}, "leads out"),
        ({"a/..\\0.png": IMAGE}, "leads out"),
        ({"C:/0.png": IMAGE}, "leads out"),
        ({"a/2.png": member("a/2.png", tarfile.SYMTYPE, target="/etc/passwd")}, "link"),
        ({"a/2.png": member("a/2.png", tarfile.LNKTYPE, target="a/0.png")}, "link"),
        ({"a/2.png": member("a/2.png", tarfile.CHRTYPE)}, "device"),
        ({"a/2.png": member("a/2.png", tarfile.FIFOTYPE)}, "device"),
        ({"./a/0.png": IMAGE}, "twice"),
    ],
)
def test_tars_that_would_reach_outside_are_refused_and_touch_nothing(tmp_path, bad, word):
    path = tarred(tmp_path / "bad.tar", {**GOOD, **bad})
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=f"bad.tar is refused.*{word}"):
        prepare(DataSettings(str(path)), tmp_path / "run")
    assert sorted(tmp_path.rglob("*")) == before


def test_zips_that_would_reach_outside_are_refused(tmp_path):
    link = zipfile.ZipInfo("a/2.png")
    link.external_attr = 0o120777 << 16
    for name, word in (("../0.png", "leads out"), ("/0.png", "leads out"), (link, "link")):
        path = zipped(tmp_path / "bad.zip", GOOD)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(name, IMAGE)
        with pytest.raises(ValueError, match=f"bad.zip is refused.*{word}"):
            prepare(DataSettings(str(path)), tmp_path / "run")


def read_all(path):
    return list(members(path, lambda place: True))


def test_members_and_archives_that_unpack_to_too_much_are_refused(tmp_path, monkeypatch):
    large = tmp_path / "large.tar"
    large.write_bytes(member("a/2.png", size=2**40).tobuf() + bytes(1024))
    with pytest.raises(ValueError, match="large.tar is refused.*1,099,511,627,776 bytes, at most 67,108,864"):
        read_all(large)
    monkeypatch.setattr("scorefield.data.stack.FLOOR", 10**5)
    zeros = {f"a/{i}.txt": bytes(10**6) for i in range(4)}  # passed over, but unpacked on the way
    for mode, end in (("w:xz", "xz"), ("w:bz2", "bz2")):
        bomb = tarred(tmp_path / f"bomb.tar.{end}", zeros, mode)
        with pytest.raises(ValueError, match="bomb.tar.* 1000 times its own size"):
            read_all(bomb)
    monkeypatch.setattr("scorefield.data.stack.GROWTH", 10)
    with pytest.raises(ValueError, match="bomb.zip unpacks to more than"):
        read_all(zipped(tmp_path / "bomb.zip", zeros))


def test_a_zip_whose_members_overlap_is_a_bomb(tmp_path):
    """One stored image that the directory lists a hundred times."""
    path = zipped(tmp_path / "one.zip", {"a/0.png": RNG.bytes(5000)})
    with zipfile.ZipFile(path, "a") as archive:
        first = archive.filelist[0]
        for i in range(100):
            again = zipfile.ZipInfo(f"a/{i:04d}.png")
            for key in ("CRC", "compress_size", "file_size", "header_offset", "compress_type"):
                setattr(again, key, getattr(first, key))
            archive.filelist.append(again)
        archive._didModify = True
    with pytest.raises(ValueError, match="one.zip unpacks to more"):
        read_all(path)


def test_tar_headers_without_end_are_refused(tmp_path):
    """A header that says it is followed by a gigabyte of names."""
    endless = tmp_path / "endless.tar.gz"
    with gzip.open(endless, "wb", compresslevel=1) as file:
        file.write(member("./PaxHeaders/a", tarfile.XHDTYPE, size=2**30).tobuf(tarfile.USTAR_FORMAT))
        file.write(bytes(8 * 2**20))
    with pytest.raises(ValueError, match="endless.tar.gz is damaged: a header of over 1,048,576 bytes"):
        read_all(endless)
    nested = tmp_path / "nested.tar"
    nested.write_bytes(member("x", tarfile.XHDTYPE).tobuf(tarfile.USTAR_FORMAT) * 1500 + bytes(1024))
    with pytest.raises(ValueError, match="nested.tar is damaged"):
        read_all(nested)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_tar_cut_between_two_members_is_truncated(tmp_path, pack):
    """What is left is a tar in every way but for the zeros at its end."""
    path = tmp_path / "cut.tar"
    whole = tarred(path, GOOD).read_bytes()
    path.write_bytes(pack(whole[: 512 + -(-len(IMAGE) // 512) * 512]))
    with pytest.raises(ValueError, match="cut.tar is truncated: a tar ends in zeros; fetch it again"):
        read_all(path)


def test_images_of_too_many_pixels_and_of_other_formats_are_refused(tmp_path):
    """A PNG of a few kilobytes that would fill memory; PostScript, which pillow hands to an interpreter."""
    wide = io.BytesIO()
    Image.new("1", (2**13, 2**12)).save(wide, "PNG")
    path = tarred(tmp_path / "wide.tar", {"0.png": wide.getvalue(), "1.png": wide.getvalue()})
    with pytest.raises(ValueError, match="0.png of .*wide.tar must have at most 16,777,216 pixels, it is 8192x4096"):
        prepare(DataSettings(str(path)), tmp_path / "run")
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n"
    path = tarred(tmp_path / "ps.tar", {"0.png": postscript})
    with pytest.raises(ValueError, match="0.png of .*ps.tar cannot be read as an image"):
        prepare(DataSettings(str(path)), tmp_path / "run")


def test_images_that_grow_more_than_images_do_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("scorefield.data.stack.FLOOR", 0)
    monkeypatch.setattr("scorefield.data.stack.GROWTH", 2)
    flat = picture(np.zeros((256, 256), np.uint8))
    path = tarred(tmp_path / "flat.tar", {f"{i}.png": flat for i in range(9)})
    with pytest.raises(ValueError, match="flat.tar unpacks to more than .* times its own size"):
        prepare(DataSettings(str(path)), tmp_path / "run")


@pytest.mark.parametrize("end", ["", ".gz"])
def test_idx_headers_that_promise_too_much_are_refused_without_reading(tmp_path, end):
    path = tmp_path / f"train-images-idx3-ubyte{end}"
    content = bytes([0, 0, 8, 3]) + b"\xff" * 12 + bytes(100)
    path.write_bytes(gzip.compress(content) if end else content)
    with pytest.raises(ValueError, match="train-images-idx3-ubyte.* must hold 79,228,.* far fewer"):
        read_idx_file(path, 3)
