"""One line per thing that happened: readable in a terminal, JSON otherwise; a line that nobody can forge.

Whatever is logged is escaped until it is one line without colours, cut to a bound, and rid of every secret of the
configuration and of everything that looks like a key or a token. What libraries log goes the same way.
"""

from __future__ import annotations

import io
import logging
import os
import re
import select
import sys
import time
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from datetime import UTC, datetime
from typing import Any, BinaryIO, TextIO, cast

import orjson
import structlog

from proxy.together import Together

LONGEST_TEXT = 2_000
LONGEST_TRACE = 20_000
HIDDEN = "[hidden]"
MOST_PATIENCE, PATIENCE_WITHIN = 1.0, 10.0
"""Seconds that lines may wait for whoever reads them, of so many in all."""

Fields = MutableMapping[str, Any]
Processor = Callable[[Any, str, Fields], Fields]

_LINE = orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z
_SMALL = 2**53
_PLAIN = (bool, float, type(None))
_SHORTEST_SECRET = 6
"""Anything shorter would hide words of ordinary lines."""

_LOOKS_SECRET = re.compile(
    r"\b(?:aipasta_[0-9A-Za-z]{20}|sk-|hf_)[\w-]{6,}"  # keys, ours and the providers'
    r"|\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*"  # tokens
    r"|(?<=://)[^\s/@]+(?=@)"  # who signs in, in a URL
    r"|(?<=/reset-password/)[\w-]{16,}(?=['\"> ])"  # links of mails, as libraries quote a request
)


def configure(level: str, secrets: Iterable[str] = ()) -> None:
    """Set up structlog, and send what libraries log the same way; `secrets` never appear in a line."""
    is_terminal = _is_terminal()
    beginning: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    shared = [*beginning, structlog.processors.format_exc_info, hide(secrets), tame]
    structlog.configure(
        processors=[*shared, _as_bytes if is_terminal else _as_json],
        logger_factory=structlog.BytesLoggerFactory(cast("BinaryIO", _StandardError())),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(cast("TextIO", _StandardError()))
    renderer: Any = _as_text if is_terminal else _as_json_text
    processors = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer]
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=processors, foreign_pre_chain=shared))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # Sanic's own lines about workers say nothing that our first lines do not.
    logging.getLogger("sanic").setLevel(logging.WARNING)
    # A failed start is raised again and becomes one line; Sanic would print its stack before.
    logging.getLogger("sanic.error").addFilter(lambda record: "trying to serve" not in record.getMessage())


class RequestLogger:
    """Writes the lines about requests: one for each, so it does nothing that they do not need.

    They hold no secret and no text of a client by the way they are made; JSON escapes what is left of that. The same
    line takes structlog 2.6 times as long (measured).
    """

    def __init__(self, *, is_debugging: bool) -> None:
        """Write what is at the level debug only if that `is_debugging`."""
        self._is_debugging = is_debugging
        self._is_terminal = _is_terminal()
        self._error = _StandardError()
        self._lines: Together[bytes] = Together(self._write_lines)

    def write(self, fields: dict[str, Any], *, is_quiet: bool) -> None:
        """Write a line of these, which become the logger's; one that `is_quiet` is seldom worth it."""
        if is_quiet and not self._is_debugging:
            return
        level, moment = "debug" if is_quiet else "info", datetime.now(UTC)
        fields |= {"event": "request", "level": level, "timestamp": moment}
        if self._is_terminal:
            fields["timestamp"] = moment.isoformat().replace("+00:00", "Z")
            self._lines.add(_as_bytes(None, level, tame(None, level, fields)) + b"\n")
        else:
            self._lines.add(orjson.dumps(fields, option=_LINE))

    def _write_lines(self, lines: list[bytes]) -> None:
        self._error.write(b"".join(lines))


def request_logger(level: str) -> RequestLogger | None:
    """Return the logger of the lines about requests; none where the level leaves them out."""
    least = logging.getLevelNamesMapping()[level.upper()]
    return RequestLogger(is_debugging=least <= logging.DEBUG) if least <= logging.INFO else None


class _StandardError:
    """Where lines go, wherever that is by now; nothing ends because nobody reads its log any more, or waits for him long.

    A pipe that is not read is full after 64 KiB, and a write to it returns when somebody reads: a paused `less` or a stuck
    collector would stop the gateway, its health check and its answer to SIGTERM. Here a line waits for room, for a second
    in ten at most of all time, and is then left out; the next one that passes says how many were.
    """

    def __init__(self) -> None:
        self._left_out = 0
        self._patience, self._patient_at = MOST_PATIENCE, time.monotonic()

    def write(self, line: bytes | str) -> None:
        if sys.stderr is None:
            return
        text = line if isinstance(line, bytes) else line.encode(errors="backslashreplace")
        try:
            descriptor = _descriptor()
            if descriptor is None:
                sys.stderr.buffer.write(text)
            else:
                for piece in _pieces(text):
                    self._write_piece(descriptor, piece)
        except (OSError, ValueError):  # broken, or closed
            return

    def flush(self) -> None:
        """Do nothing: every line is passed on at once."""

    def _write_piece(self, descriptor: int, piece: bytes) -> None:
        if not self._has_room(descriptor):
            self._left_out += piece.count(b"\n")
            return
        if self._left_out:
            notice, self._left_out = {"event": "nobody read the log", "left_out": self._left_out}, 0
            os.write(descriptor, orjson.dumps({**notice, "level": "warning"}, option=_LINE))
            self._write_piece(descriptor, piece)
            return
        os.write(descriptor, piece)

    def _has_room(self, descriptor: int) -> bool:
        """Say whether a piece can be written without waiting; wait for that, as long as there is patience."""
        room = select.poll()
        room.register(descriptor, select.POLLOUT)
        if room.poll(0):
            return True
        began = time.monotonic()
        earned = (began - self._patient_at) * MOST_PATIENCE / PATIENCE_WITHIN
        patience = min(MOST_PATIENCE, self._patience + earned)
        has_room = bool(room.poll(patience * 1000))
        self._patient_at = time.monotonic()
        self._patience = max(0.0, patience - (self._patient_at - began))
        return has_room


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _descriptor() -> int | None:
    """Return standard error's number; none where it is an object of Python's alone."""
    try:
        return sys.stderr.fileno()
    except io.UnsupportedOperation:
        return None


def _pieces(text: bytes) -> Iterator[bytes]:
    """Cut lines into pieces that a pipe takes at once, and whole; only a line that is longer is cut within."""
    start = 0
    while len(text) - start > select.PIPE_BUF:
        end = text.rfind(b"\n", start, start + select.PIPE_BUF) + 1 or start + select.PIPE_BUF
        yield text[start:end]
        start = end
    yield text[start:]


def hide(secrets: Iterable[str]) -> Processor:
    """Return a processor that hides these, and whatever looks like a key or a token."""
    known = sorted({secret for secret in secrets if len(secret) >= _SHORTEST_SECRET}, key=len, reverse=True)
    pattern = re.compile("|".join([*map(re.escape, known), _LOOKS_SECRET.pattern]))

    def processor(_logger: Any, _method: str, fields: Fields) -> Fields:
        for name, value in fields.items():
            if value is not None and not isinstance(value, bool | int | float) and not name.startswith("_"):
                fields[name] = pattern.sub(HIDDEN, value if isinstance(value, str) else str(value))
        return fields

    return processor


def looks_secret(text: str) -> bool:
    """Say whether a text holds something that has the shape of a key or a token."""
    return _LOOKS_SECRET.search(text) is not None


def tame(_logger: Any, _method: str, fields: Fields) -> Fields:
    """Make every value one bounded piece of a line; a stack trace keeps its lines, each of them indented."""
    for name, value in fields.items():
        kind = type(value)
        if kind is str:
            if len(value) > LONGEST_TEXT or not value.isprintable():
                fields[name] = _trace(value) if name == "exception" else one_line(value)
        elif not (kind in _PLAIN or (kind is int and -_SMALL < value < _SMALL) or name.startswith("_")):
            fields[name] = one_line(str(value))
    return fields


def one_line(text: str, most: int = LONGEST_TEXT) -> str:
    """Escape whatever could begin a new line, or colour it, where a text is printed."""
    cut = text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"
    if cut.isprintable():
        return cut
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in cut)


def _trace(text: str) -> str:
    # The end of a trace says what happened.
    return "\n".join(f"  | {one_line(line)}" for line in text[-LONGEST_TRACE:].split("\n"))


def _as_json(_logger: Any, _method: str, fields: Fields) -> bytes:
    return orjson.dumps(fields)


def _as_json_text(_logger: Any, _method: str, fields: Fields) -> str:
    return orjson.dumps(fields).decode()


_as_text = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)


def _as_bytes(logger: Any, method: str, fields: Fields) -> bytes:
    return str(_as_text(logger, method, fields)).encode()
