"""Small sets in the original layouts, written as their publishers wrote them."""

import io
import tarfile
import zipfile

import numpy as np
from PIL import Image

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def text(content):
    """SHORT_BINSTRING, as Python 2 wrote str."""
    return b"U" + bytes([len(content)]) + content


def integer(k):
    return b"K" + bytes([k]) if k < 256 else b"M" + k.to_bytes(2, "little")


def array_pickle(pixels, kind=b"u1", reconstruct=b"numpy.core.multiarray\n_reconstruct\n"):
    """An array as Python 2's cPickle wrote it, protocol 2."""
    n, d = pixels.shape
    begun = b"c" + reconstruct + b"q\x02cnumpy\nndarray\nq\x03K\x00\x85q\x04" + text(b"b") + b"\x87q\x05Rq\x06"
    dtype = b"cnumpy\ndtype\nq\x07" + text(kind) + b"K\x00K\x01\x87q\x08Rq\x09(K\x03" + text(b"|") + b"NNN"
    dtype += b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0ab"
    content = pixels.tobytes()
    shape = integer(n) + integer(d) + b"\x86q\x0b"
    return begun + b"(K\x01" + shape + dtype + b"\x89T" + len(content).to_bytes(4, "little") + content + b"tq\x0cb"


def batch_pickle(pixels, labels, **kinds):
    """One batch of cifar-10-batches-py: keys, values and order of the published files."""
    names = b"".join(text(b"leptodactylus_s_%06d.png" % i) for i in range(len(labels)))
    parts = (
        *(b"\x80\x02}q\x01(", text(b"batch_label"), b"q\x0d", text(b"training batch 1 of 5"), b"q\x0e"),
        *(text(b"labels"), b"q\x0f]q\x10(", b"".join(map(integer, labels)), b"e", text(b"data"), b"q\x11"),
        *(array_pickle(pixels, **kinds), text(b"filenames"), b"q\x12]q\x13(", names, b"eu."),
    )
    return b"".join(parts)


def batch(pixels, labels, binary, **kinds):
    """The content of one batch of either kind."""
    if binary:
        return np.concatenate([np.array(labels, np.uint8)[:, None], pixels], axis=1).tobytes()
    return batch_pickle(pixels, labels, **kinds)


def cifar_batches(rng, binary, rows=4):
    """Five batches by name, and the pixels (n, 3, 32, 32) and labels they hold."""
    pixels = rng.integers(0, 256, (5, rows, 3072), dtype=np.uint8)
    labels = rng.permutation(5 * rows).reshape(5, rows) % 10
    end = ".bin" if binary else ""
    files = {f"data_batch_{i + 1}{end}": batch(pixels[i], labels[i].tolist(), binary) for i in range(5)}
    return files, pixels.reshape(-1, 3, 32, 32), labels.reshape(-1)


def tarred(path, files, mode="w"):
    """A tar of these files; a value may be a TarInfo instead of content."""
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def zipped(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def picture(pixels, kind="PNG"):
    """An image file of (H, W) or (H, W, 3) pixels."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return file.getvalue()


def unpacked(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def celeba(rng, count=12):
    """Files of CelebA by name: images, partition, three attributes; and the partition and attributes."""
    names = [f"{i:06d}.jpg" for i in range(1, count + 1)]
    pixels = rng.integers(0, 256, (count, 22, 18, 3), dtype=np.uint8).repeat(10, axis=1).repeat(10, axis=2)
    images = {f"img_align_celeba/{n}": picture(p[:218, :178], "JPEG") for n, p in zip(names, pixels, strict=True)}
    partition = np.array([0] * (count - 4) + [1, 1, 2, 2])
    attributes = rng.choice([-1, 1], (count, 3))
    rows = [f"{n} {' '.join(f'{v:2d}' for v in row)}" for n, row in zip(names, attributes, strict=True)]
    lists = {
        "list_eval_partition.txt": "".join(f"{n} {k}\n" for n, k in zip(names, partition, strict=True)).encode(),
        "list_attr_celeba.txt": "\n".join([str(count), "Bald Male Smiling ", *rows, ""]).encode(),
    }
    return images, lists, partition, attributes
