"""Tests of proxy/metering/journal.py: what was written is read again, whatever has happened to the files."""

from __future__ import annotations

import itertools
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.metering.contract import Progress
from proxy.metering.journal import CLOSE_BYTES, FoundJournal, Journal, JournalError, names
from proxy.metering.memory import remember
from proxy.metering.records import Ended, Noted, Opened, Record
from tests.proxy.metering.meters import settlement, want

NOW = datetime(2026, 11, 23, tzinfo=UTC)
SEGMENT = 2**16


def opened(request_id: str, *, text: str = "") -> Opened:
    """Begin a request, whose record is as much longer as the text is."""
    return Opened(request_id, remember(want(at=NOW, requested_model=text)), {"Rd_20261123": 1})


def written(folder: Path, requests: int = 5) -> Path:
    """Write a journal of some requests, as a process that dies leaves it; return its only segment."""
    journal = Journal(folder, segment_bytes=SEGMENT)
    for number in range(requests):
        journal.open(opened(f"req_{number}"))
        journal.note(Noted(f"req_{number}", Progress("openrouter", "some/model", deltas=number)))
        journal.close(f"req_{number}", settlement())
    journal.end_here(delete=False)
    return next(journal.path.glob("*.seg"))


def read(folder: Path) -> list[tuple[int, Record]]:
    """Take the only journal over and read it."""
    (name,) = names(folder)
    found = FoundJournal.take(folder / name)
    assert found is not None
    try:
        return [(entry.offset, entry.record) for entry in found.entries()]
    finally:
        found.end_here(delete=False)


def come_and_go(journal: Journal) -> None:
    """Open and close request after request, for ever."""
    for number in itertools.count():
        journal.open(opened(f"guest_{number}"))
        journal.close(f"guest_{number}", None)


@contextmanager
def full_disk(most: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes, as a full disk does to those that are not allocated yet."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_was_written_is_read_in_order(tmp_path: Path) -> None:
    """Every record comes back, over several segments, at the very offset that its writer was told."""
    journal = Journal(tmp_path, segment_bytes=SEGMENT)
    offsets = []
    for number in range(400):
        offsets.append(journal.open(opened(f"req_{number}", text="x" * 300)))
        offsets.append(journal.close(f"req_{number}", settlement()))
    assert len(list(journal.path.glob("*.seg"))) > 2
    journal.end_here(delete=False)
    entries = read(tmp_path)
    assert [offset for offset, _ in entries] == offsets == sorted(offsets)
    assert [record.id for _, record in entries] == [f"req_{number // 2}" for number in range(800)]


def test_what_nobody_needs_is_deleted(tmp_path: Path) -> None:
    """Segments before the offset that is still needed go, and what is left keeps its offsets."""
    journal = Journal(tmp_path, segment_bytes=SEGMENT)
    for number in range(400):
        journal.open(opened(f"req_{number}", text="x" * 300))
        journal.close(f"req_{number}", settlement())
    journal.release(journal.end)
    assert len(list(journal.path.glob("*.seg"))) == 1
    journal.end_here(delete=False)
    assert read(tmp_path)[-1][0] == journal.end


def test_a_torn_last_record_costs_only_itself(tmp_path: Path) -> None:
    """Wherever in the last record the machine stopped writing, all before it is read."""
    segment = written(tmp_path)
    whole = segment.read_bytes()
    before = read(tmp_path)
    (last_but_one, _), (last, _) = before[-2:]
    for cut in range(last_but_one, last):
        segment.write_bytes(whole[:cut])
        assert read(tmp_path) == before[:-1]
        segment.write_bytes(whole[:cut] + bytes(len(whole) - cut))
        is_whole = not any(whole[cut:last])  # it ends with a zero, as the empty space does
        assert read(tmp_path) == (before if is_whole else before[:-1])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.floats(0, 1), garbage=st.binary(min_size=1, max_size=60))
def test_garbage_costs_only_what_it_hits(tmp_path: Path, at: float, garbage: bytes) -> None:
    """Garbage anywhere is skipped: no record is invented, and all that it did not touch are read."""
    folder = tmp_path / str(len(list(tmp_path.iterdir())))
    segment = written(folder)
    before = read(folder)
    data = bytearray(segment.read_bytes())
    start = int(at * before[-1][0])
    data[start : start + len(garbage)] = garbage
    segment.write_bytes(data)
    after = read(folder)
    starts = [0, *(offset for offset, _ in before)]
    untouched = [
        entry
        for entry, began in zip(before, starts, strict=False)
        if entry[0] <= start or began >= start + len(garbage)
    ]
    assert [entry for entry in after if entry in untouched] == untouched
    assert all(entry in before for entry in after)


def test_a_living_journal_is_nobody_elses(tmp_path: Path) -> None:
    """The lock of a journal is its worker's until that ends; then one heir has it."""
    journal = Journal(tmp_path, segment_bytes=SEGMENT)
    assert FoundJournal.take(journal.path) is None
    journal.end_here(delete=False)
    heir = FoundJournal.take(journal.path)
    assert heir is not None
    assert FoundJournal.take(journal.path) is None
    heir.end_here(delete=True)
    assert names(tmp_path) == []
    assert FoundJournal.take(journal.path) is None


def test_on_a_full_disk_what_is_open_can_be_closed(tmp_path: Path) -> None:
    """Without room for another segment nothing more is opened, but every open request finds room for its end."""
    journal = Journal(tmp_path, segment_bytes=SEGMENT)
    start = journal.open(opened("req_x"))
    size = journal.close("req_x", settlement(served_model="")) - start
    requests = [f"req_{number}" for number in range(5)]
    for request_id in requests:
        journal.open(opened(request_id))
    with full_disk(SEGMENT - 1):
        with pytest.raises(JournalError, match="cannot grow"):
            come_and_go(journal)
        journal.note(Noted(requests[0], Progress("openrouter", "x" * SEGMENT)))  # left out, and no error
        longest = CLOSE_BYTES - size
        for request_id in requests:
            journal.close(request_id, settlement(served_model="x" * (longest - 2)))
    journal.open(opened("req_later"))
    journal.end_here(delete=False)
    records = [record for _, record in read(tmp_path)]
    assert [record.id for record in records if isinstance(record, Ended)][-5:] == requests
    assert records[-1].id == "req_later"


def test_more_open_requests_than_a_segment_can_end_are_refused(tmp_path: Path) -> None:
    """A request whose end might find no room is not opened."""
    journal = Journal(tmp_path, segment_bytes=SEGMENT)
    most = SEGMENT // CLOSE_BYTES - 1
    for number in range(most):
        journal.open(opened(f"req_{number}"))
    with pytest.raises(JournalError, match="too many requests are open"):
        journal.open(opened("req_last"))
    journal.end_here(delete=True)


@pytest.mark.parametrize("place", ["a file", "/proc/nowhere"])
def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path, place: str) -> None:
    """Where no journal can be made, the reason is one line that names the place."""
    (tmp_path / "a file").write_text("not a folder")
    with pytest.raises(JournalError, match=r"the journal in .* cannot be written: \w+") as refused:
        Journal(tmp_path / place, segment_bytes=SEGMENT)
    assert "\n" not in str(refused.value)


def test_what_another_version_wrote_is_left_to_it(tmp_path: Path) -> None:
    """Records of another kind are not skipped as if they were broken: whoever wrote them can still finish them."""
    segment = written(tmp_path)
    segment.write_bytes(segment.read_bytes().replace(b"AIP2", b"AIP1"))
    with pytest.raises(JournalError, match="another version of the gateway wrote it"):
        read(tmp_path)


async def test_syncing_goes_on_while_segments_change(tmp_path: Path) -> None:
    """A sync that begins before a rotation and ends after it closes its own files, not the new one."""
    journal = Journal(tmp_path, segment_bytes=SEGMENT)
    for number in range(100):
        journal.open(opened(f"req_{number}", text="x" * 2000))
        journal.close(f"req_{number}", settlement())
        if number % 7 == 0:
            await journal.sync()
    await journal.sync()
    journal.end_here(delete=False)
    assert len(read(tmp_path)) == 200
