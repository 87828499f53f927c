"""Requests to the node as Python calls: a connection, a deadline, and answers as they come."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any, Generic, TypeVar

from p2pfs import errors
from p2pfs.client.answers import Explanation, Placement
from p2pfs.client.deadline import Deadline
from p2pfs.client.parsing import parse_line
from p2pfs.client.pool import Pool
from p2pfs.core import wire

Row = TypeVar("Row")
End = TypeVar("End")
Shape = TypeVar("Shape", bound=tuple[Any, ...])
Step = TypeVar("Step", bound=tuple[Any, ...])


class Answers(Iterator[Row], Generic[Row, End]):
    """A streaming answer: iterate over what comes; `end` is what the node says last.

    Nothing is asked before the first item is. One that is dropped in the middle costs its connection, no more. What
    failed once fails again: nobody takes what came before for all.
    """

    def __init__(self, source: Generator[Row, None, End]) -> None:
        self._source = source
        self._end: list[End] = []
        self._error: errors.P2pfsError | None = None
        self._is_closed = False

    def __next__(self) -> Row:
        if self._error is not None:
            raise self._error
        try:
            return next(self._source)
        except StopIteration as stop:
            if not self._end and not self._is_closed:
                self._end.append(stop.value)
            raise StopIteration from None
        except errors.P2pfsError as error:
            self._error = error
            raise

    @property
    def end(self) -> End:
        """The node's last word; what is still to come before it is skipped. Raises P2pfsError."""
        for _ in self:
            pass
        if not self._end:
            raise errors.UsageError("it was closed before its end")
        return self._end[0]

    def close(self) -> None:
        """Read no further."""
        self._is_closed = True
        self._source.close()


class Calls:
    """What the client asks of its node."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def object(self, deadline: Deadline, verb: str, *args: Any) -> dict[str, Any]:
        """The JSON object that a verb without parts answers with."""
        with self.pool.connection(deadline) as connection:
            return wire.parse_json(connection.request(verb, *args), dict)

    def body(self, deadline: Deadline, verb: str, body: bytes) -> bytes:
        """The bytes that a verb with a body, and without parts, answers with."""
        with self.pool.connection(deadline) as connection:
            return connection.request(verb, body=body)

    def stream(
        self, deadline: Deadline, verb: str, *args: Any, body: bytes | None = None, fds: tuple[int, ...] = ()
    ) -> Answers[bytes, bytes]:
        """The parts of a streaming verb as they come, then its last word."""
        def source() -> Generator[bytes, None, bytes]:
            with self.pool.connection(deadline) as connection:
                stream = connection.stream(verb, *args, body=body, fds=fds)
                for part in stream:
                    deadline.wait_s()
                    yield part
                return stream.result

        return Answers(source())

    def parts(
        self, deadline: Deadline, shape: type[Shape], verb: str, *args: Any, fds: tuple[int, ...] = ()
    ) -> Answers[bytes, Shape]:
        """The parts of a streaming verb, then its last word as a tuple of `answers`."""
        def source() -> Generator[bytes, None, Shape]:
            parts = self.stream(deadline, verb, *args, fds=fds)
            yield from parts
            return parse_line(shape, parts.end)

        return Answers(source())

    def rows(self, deadline: Deadline, shape: type[Shape], verb: str, *args: Any) -> Answers[Shape, bytes]:
        """The JSON lines of a streaming verb as tuples of `answers`, then its last word."""
        def source() -> Generator[Shape, None, bytes]:
            parts = self.stream(deadline, verb, *args)
            for part in parts:
                yield from (parse_line(shape, line) for line in part.splitlines())
            return parts.end

        return Answers(source())

    def work(
        self, deadline: Deadline, verb: str, options: dict[str, Any], step: type[Step],
        progress: Callable[[Step], None] | None, shape: type[Shape],
    ) -> Shape:
        """A verb that takes its options as JSON and may work for long: each part goes to `progress`; its last word."""
        parts = self.stream(deadline, verb, body=wire.dump_json(options))
        for part in parts:
            done = parse_line(step, part)
            if progress is not None:
                progress(done)
        return parse_line(shape, parts.end)

    def explain(self, deadline: Deadline, ref: str) -> Answers[Placement, Explanation]:
        """EXPLAIN: a row a block, then what they add up to."""
        def source() -> Generator[Placement, None, Explanation]:
            rows = self.rows(deadline, Placement, "EXPLAIN", ref)
            yield from rows
            return parse_line(Explanation, rows.end)

        return Answers(source())
