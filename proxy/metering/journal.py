"""A worker's journal: what it promised and what became of it, in files that `kill -9` cannot take back.

A record is written with one plain append before anything is done that depends on it, which survives the death
of the process; `sync` makes it survive the machine. Records live in segments of a fixed size that are allocated
before they are used, and room for the end of every open request is kept free, so that what was opened can
always be closed, even on a full disk. A journal belongs to whoever holds the lock on its folder: the kernel
lets go of it when the process dies, and not before.

    <folder>/<name>/lock           held while the worker lives
    <folder>/<name>/00000000.seg   records: magic, CRC-32, length, MessagePack; zeros where nothing is written yet
    <folder>/.<name>               a journal that is being made, or one that is being deleted: nobody's

An offset counts bytes from the journal's first segment on, so it grows for ever and names one place.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import shutil
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

import msgspec
import structlog

from plugins.values import Value
from proxy.metering.contract import Settlement
from proxy.metering.records import Noted, Opened, Record

SEGMENT_BYTES = 8 * 2**20
CLOSE_BYTES = 4096
"""Room that is kept free for the end of each open request; a larger end may be written only where there is more."""

LITTER_SECONDS = 3600.0
"""After so long, what a process that died has left while it made or deleted a journal is thrown away."""

_HEADER = struct.Struct("<4sII")
_MAGIC = b"AIP2"
_ANY_MAGIC = b"AIP"
_encoder = msgspec.msgpack.Encoder()  # three to six times as fast as BSON
_decoder = msgspec.msgpack.Decoder(Record)
log = structlog.get_logger(__name__)


class _Ending(Value, frozen=True, array_like=True, tag="end"):
    """An `Ended` as it is written: its beginning is in bytes already, and is not put into them a second time."""

    opened: msgspec.Raw
    settlement: Settlement | None


class JournalError(Exception):
    """The journal cannot be written; the message is one line. No request may be served without it."""


class Entry(NamedTuple):
    """One record, where it begins, and the offset behind it."""

    start: int
    offset: int
    record: Record


class Journal:
    """The journal that this process writes."""

    def __init__(self, folder: Path, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        """Make a new journal under `folder`; raise `JournalError` when it cannot be written."""
        self.name = secrets.token_hex(8)
        self.path = folder / self.name
        self._segment_bytes = segment_bytes
        self._open: dict[str, msgspec.Raw] = {}
        self._first_segment = 0
        self._segment = -1
        self._segment_start, self._segment_end = -segment_bytes, 0
        self._descriptor = -1
        self.end = 0
        """The offset behind the last record."""
        self._unsynced: list[int] = []
        self._has_new_file = False
        self._lock: BinaryIO | None = None
        # It gets its name when it is locked: nobody must find it in between and think its worker dead.
        nameless = folder / f".{self.name}"
        try:
            nameless.mkdir(parents=True)
            self._lock = _lock(nameless, create=True)
            nameless.rename(self.path)
            self._next_segment()
        except OSError as exc:
            shutil.rmtree(nameless, ignore_errors=True)
            self.end_here(delete=True)
            raise JournalError(f"the journal in {folder} cannot be written: {exc.strerror}") from exc

    @property
    def has_old_segments(self) -> bool:
        """Say whether there is anything that `release` could delete."""
        return self._first_segment < self._segment

    def check(self) -> None:
        """Raise `JournalError` if the next request could not be written down; where nothing is yet, write nothing."""
        self._make_room((len(self._open) + 2) * CLOSE_BYTES)
        # The next record goes over it.
        self.end = self._append(bytes(_HEADER.size), len(self._open)) - _HEADER.size

    def open(self, record: Opened) -> int:
        """Append the beginning of a request, if there is room for its end too; raise `JournalError` if not."""
        body = _encoder.encode(record)
        offset = self._append(_framed(body), len(self._open) + 1)
        self._open[record.id] = msgspec.Raw(body)
        return offset

    def note(self, record: Noted) -> None:
        """Append a remark on an open request; without room it is left out, which costs precision and no truth."""
        try:
            self._append(_framed(_encoder.encode(record)), len(self._open))
        except JournalError as exc:
            log.warning("a note was left out of the journal", request=record.id, cause=str(exc))

    def close(self, request_id: str, settlement: Settlement | None) -> int:
        """Append the end of an open request, and with it its beginning again, into the room that was kept for it.

        Raises `JournalError` when it is larger than that and there is no other, or when the disk fails: then the
        request stays open here.
        """
        body = _encoder.encode(_Ending(self._open[request_id], settlement))
        offset = self._append(_framed(body), len(self._open) - 1)
        del self._open[request_id]
        return offset

    def close_unwritten(self, request_id: str) -> int:
        """End a request whose end cannot be written; return an offset that is its own all the same."""
        del self._open[request_id]
        self.end += 1
        return self.end

    async def sync(self) -> None:
        """Make what is written until now survive the machine; writing goes on meanwhile. Raises `JournalError`."""
        if self._descriptor < 0:
            return  # it was left to whoever finishes it
        try:
            # Descriptors of its own: a rotation meanwhile would close ours, and its number be given to another file.
            descriptors = [*self._unsynced, os.dup(self._descriptor)]
            folders = [self.path, self.path.parent] if self._has_new_file else []
            self._unsynced, self._has_new_file = [], False
            await asyncio.to_thread(_sync_and_close, descriptors, folders)
        except OSError as exc:
            raise JournalError(f"the journal cannot be synced: {exc.strerror}") from exc

    def release(self, offset: int) -> None:
        """Delete the segments that nobody needs any more: all before `offset`."""
        while (
            self._first_segment + 1
        ) * self._segment_bytes <= offset and self._first_segment < self._segment:
            _segment_path(self.path, self._first_segment).unlink(missing_ok=True)
            self._first_segment += 1

    def end_here(self, *, delete: bool) -> None:
        """Let go of the journal; `delete` it when everything in it has arrived elsewhere."""
        for descriptor in (*self._unsynced, self._descriptor):
            if descriptor >= 0:
                os.close(descriptor)
        self._unsynced, self._descriptor = [], -1
        if delete:
            _delete(self.path)
        if self._lock is not None:
            self._lock.close()

    def _make_room(self, size: int) -> None:
        if self._segment_end - self.end >= size:
            return
        if size > self._segment_bytes:
            raise JournalError("too many requests are open for one segment of the journal")
        try:
            self._next_segment()
        except OSError as exc:
            raise JournalError(f"the journal cannot grow: {exc.strerror}") from exc

    def _next_segment(self) -> None:
        path = _segment_path(self.path, self._segment + 1)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, self._segment_bytes)
        except OSError:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise
        if self._descriptor >= 0:
            self._unsynced.append(self._descriptor)
        self._descriptor = descriptor
        self._has_new_file = True
        self._segment += 1
        self.end = self._segment_start = self._segment * self._segment_bytes
        self._segment_end = self.end + self._segment_bytes

    def _append(self, data: bytes, still_open: int) -> int:
        """Append a record where there is room for the ends of so many requests too; return the offset behind it."""
        size = len(data) + still_open * CLOSE_BYTES
        if self._segment_end - self.end < size:
            self._make_room(size)
        try:
            written = os.pwrite(self._descriptor, data, self.end - self._segment_start)
        except OSError as exc:
            raise JournalError(f"the journal cannot be written: {exc.strerror}") from exc
        if written != len(data):
            raise JournalError("the journal cannot be written: a record was cut short")
        self.end += written
        return self.end


class FoundJournal:
    """A journal whose worker is dead, taken over to be finished."""

    def __init__(self, path: Path, lock: BinaryIO) -> None:
        """Hold the lock of the journal at `path`."""
        self.name = path.name
        self.path = path
        self._lock = lock

    @classmethod
    def take(cls, path: Path) -> Self | None:
        """Take a journal over, unless its worker lives or another process was faster."""
        lock = _lock(path, create=False)
        return None if lock is None else cls(path, lock)

    def entries(self) -> Iterator[Entry]:
        """Iterate over its records; skip and report what cannot be read.

        Raises `JournalError` if it was written by a version of the gateway that has other records.
        """
        paths = sorted(self.path.glob("*.seg"))
        # The last one may be short: its worker died, or the disk was full, while it was allocated.
        segment_bytes = max((path.stat().st_size for path in paths), default=0)
        for path in paths:
            data = path.read_bytes()
            if _ANY_MAGIC in data and _MAGIC not in data:
                raise JournalError(
                    "another version of the gateway wrote it, which finishes it when it starts"
                )
            base = int(path.stem) * segment_bytes
            position = 0
            while (start := data.find(_MAGIC, position)) >= 0:
                if data[position:start].strip(b"\0"):
                    log.error("the journal holds something unreadable", journal=str(path), offset=position)
                record, position = _decode(data, start)
                if record is None:
                    log.error("the journal holds a broken record", journal=str(path), offset=start)
                else:
                    yield Entry(base + start, base + position, record)

    def end_here(self, *, delete: bool) -> None:
        """Let go of it; `delete` it when everything in it has arrived elsewhere."""
        if delete:
            _delete(self.path)
        self._lock.close()


def names(folder: Path) -> list[str]:
    """Return the names of the journals under a folder, whoever writes them."""
    if not folder.exists():
        return []
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def refuse_leftovers(folder: Path) -> None:
    """Raise `JournalError` if a worker has died here: its requests are booked by whoever keeps a journal himself."""
    for name in names(folder):
        try:
            found = FoundJournal.take(folder / name)
        except OSError:
            continue  # another user's, and so another gateway's
        if found is not None:
            found.end_here(delete=False)
            raise JournalError(
                f"{found.path} is the journal of a gateway that died: start once with METERING=leased, which books it"
            )


def throw_away_litter(folder: Path) -> None:
    """Delete what is left of journals whose process died while it made or deleted them."""
    for path in folder.glob(".*"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > LITTER_SECONDS:
                shutil.rmtree(path, ignore_errors=True)


def _delete(path: Path) -> None:
    """Delete a journal: first its name, so that nobody finds a part of it and takes that for the whole."""
    nameless = path.with_name(f".{path.name}")
    with suppress(OSError):
        path.rename(nameless)
    shutil.rmtree(nameless, ignore_errors=True)


def _sync_and_close(descriptors: Sequence[int], folders: Sequence[Path]) -> None:
    """Make files survive the machine, and then the names of new ones in their folders."""
    try:
        for descriptor in descriptors:
            os.fdatasync(descriptor)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    for folder in folders:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _lock(path: Path, *, create: bool) -> BinaryIO | None:
    try:
        file = (path / "lock").open("a+b" if create else "r+b")
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    if not create and not (path / "lock").exists():
        # Its last owner has finished and deleted it between our opening and our locking.
        file.close()
        return None
    return file


def _segment_path(path: Path, number: int) -> Path:
    return path / f"{number:08d}.seg"


def _framed(body: bytes) -> bytes:
    return _HEADER.pack(_MAGIC, zlib.crc32(body), len(body)) + body


def _decode(data: bytes, start: int) -> tuple[Record | None, int]:
    """Read the record at `start`; return it, or `None` if it is broken, and where to read on."""
    after_magic = start + len(_MAGIC)
    body_start = start + _HEADER.size
    if body_start > len(data):
        return None, after_magic
    _, checksum, length = _HEADER.unpack_from(data, start)
    body = data[body_start : body_start + length]
    if len(body) != length or zlib.crc32(body) != checksum:
        return None, after_magic
    try:
        return _decoder.decode(body), body_start + length
    except msgspec.DecodeError:
        return None, after_magic
