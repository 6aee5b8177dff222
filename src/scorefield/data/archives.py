"""The files inside a tar or zip archive, one after another: nothing is unpacked to disk, what could harm is refused."""

from __future__ import annotations

import bz2
import gzip
import lzma
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from scorefield.data.stack import GROWTH, MEMBER, most_bytes

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".txz", ".zip")
HEADERS = 2**20  # bytes between the end of one file of a tar and the start of the next
OPENERS: tuple[tuple[bytes, Callable[[Path], Any]], ...] = (
    (b"\x1f\x8b", gzip.GzipFile),
    (b"BZh", bz2.BZ2File),
    (b"\xfd7zXZ\x00", lzma.LZMAFile),
)


def is_archive(path: Path) -> bool:
    """Whether a file's name ends like an archive's."""
    return path.is_file() and path.name.lower().endswith(ARCHIVES)


def members(archive: Path, wanted: Callable[[PurePosixPath], bool]) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Path and content of each wanted file, in the order of the archive, which is read through to its end.

    Args:
        archive: .tar, alone or in gzip, bzip2 or xz, or .zip.
        wanted: which paths to read; hidden files are passed over in any case.

    Raises:
        ValueError: the archive is damaged or truncated; a path leads out of it; a member is a link, a device, stored
            twice, encrypted or too large; it unpacks to over `GROWTH` times its size.
    """
    seen: set[PurePosixPath] = set()
    with archive.open("rb") as file:
        start = file.read(4)
    for place, content in (_from_zip if start == b"PK\x03\x04" else _from_tar)(archive, wanted):
        if place in seen:
            raise _hostile(archive, str(place), "is stored twice")
        seen.add(place)
        yield place, content


def _from_tar(archive: Path, wanted: Callable[[PurePosixPath], bool]) -> Iterator[tuple[PurePosixPath, bytes]]:
    try:
        with archive.open("rb") as file:
            start = file.read(6)
        opened = next((opener for mark, opener in OPENERS if start.startswith(mark)), lambda path: path.open("rb"))
        with opened(archive) as file:
            stream = _Bounded(archive, file)
            with tarfile.open(fileobj=stream, mode="r|") as tar:  # pyright: ignore[reportArgumentType, reportCallIssue]
                while (info := tar.next()) is not None:
                    place, size = _place(archive, info.name), info.size
                    if not (info.isdir() or (info.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not info.sparse)):
                        raise _hostile(archive, info.name, "is a link, a device or another special file")
                    if not 0 <= size <= MEMBER:
                        raise _hostile(archive, info.name, f"says it holds {size:,} bytes, at most {MEMBER:,} are read")
                    stream.allowance = size + HEADERS  # for its content, read or passed over, and the next header
                    content = tar.extractfile(info) if not info.isdir() and _is_read(place, wanted) else None
                    if content is not None:
                        yield place, content.read()
            stream.finish()
    except _Refused:
        raise
    except Exception as error:  # tarfile and the decompressors raise errors of many kinds on damaged files
        raise _damaged(archive, error) from None


def _from_zip(archive: Path, wanted: Callable[[PurePosixPath], bool]) -> Iterator[tuple[PurePosixPath, bytes]]:
    try:
        with zipfile.ZipFile(archive) as file:
            infos = file.infolist()
            size = archive.stat().st_size
            if sum(i.compress_size for i in infos) > size or sum(i.file_size for i in infos) > most_bytes(size):
                raise _Refused(f"{archive} {_BOMB}")
            for info in infos:
                place = _place(archive, info.filename)
                if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise _hostile(archive, info.filename, "is a link, a device or another special file")
                if info.is_dir() or not _is_read(place, wanted):
                    continue
                if info.flag_bits & 1:
                    raise _hostile(archive, info.filename, "is encrypted")
                if info.file_size > MEMBER:
                    raise _hostile(
                        archive, info.filename, f"says it holds {info.file_size:,} bytes, at most {MEMBER:,} are read"
                    )
                with file.open(info) as member:
                    content = member.read(info.file_size + 1)
                if len(content) != info.file_size:
                    raise _hostile(archive, info.filename, "is not of the size that is said of it")
                yield place, content
    except _Refused:
        raise
    except Exception as error:  # as above
        raise _damaged(archive, error) from None


class _Refused(ValueError):
    """What an archive is refused for, as against the errors of those who parse it."""


_BOMB = f"unpacks to more than {GROWTH} times its own size; a set of images does not, give another archive"


class _Bounded:
    """A stream that ends with an error when more is read than allowed, since the last member or in all."""

    def __init__(self, archive: Path, file: IO[bytes]) -> None:
        self._archive, self._file = archive, file
        self._left = most_bytes(archive.stat().st_size)
        self._end, self.allowance = b"", HEADERS

    def read(self, size: int) -> bytes:
        """The next bytes."""
        content = self._file.read(size)
        self._left -= len(content)
        self.allowance -= len(content)
        if self._left < 0:
            raise _Refused(f"{self._archive} {_BOMB}")
        if self.allowance < 0:
            raise _Refused(f"{self._archive} is damaged: a header of over {HEADERS:,} bytes; fetch it again")
        self._end = (self._end + content)[-512:]
        return content

    def finish(self) -> None:
        """Read to the end, where a compressed file has its checksum and a tar its blocks of zeros."""
        self.allowance = self._left + HEADERS
        while self.read(HEADERS):
            pass
        if self._end != bytes(512):
            raise _Refused(f"{self._archive} is truncated: a tar ends in zeros; fetch it again")


def _is_read(place: PurePosixPath, wanted: Callable[[PurePosixPath], bool]) -> bool:
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in place.parts)
    return not hidden and wanted(place)


def _place(archive: Path, name: str) -> PurePosixPath:
    """The path of a member; one that leads out of the archive is refused, though nothing is written there."""
    place = PurePosixPath(name)
    if place.is_absolute() or ".." in place.parts or "\\" in name or name[1:2] == ":":
        raise _hostile(archive, name, "is a path that leads out of it")
    return place


def _hostile(archive: Path, name: str, what: str) -> _Refused:
    return _Refused(f"{archive} is refused: its member {name[:80]!r} {what}; fetch the archive again, or pack it anew")


def _damaged(archive: Path, error: Exception) -> _Refused:
    return _Refused(f"{archive} is damaged or truncated ({str(error)[:200] or type(error).__name__}); fetch it again")
