"""A stored file as a seekable binary Python file."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator

from p2pfs import errors
from p2pfs.core.cid import CID

FIRST_BYTES = 128 * 1024
"""What a first read, and one after a jump, asks the node for."""
MOST_BYTES = 4 * 1024 * 1024
"""What reading on in order asks for at once, in the end: the question's round trip no longer shows then."""

ReadRange = Callable[[int, int], Iterator[bytes | memoryview]]
"""(offset, length) to the bytes there, in pieces."""


class RemoteFile(io.RawIOBase):
    """Reads ranges of one CID, and ahead while the reader goes on in order. Not for several threads at once."""

    def __init__(self, cid: CID, size: int, read_range: ReadRange) -> None:
        super().__init__()
        self.cid = cid
        self.size = size
        self._read_range = read_range
        self._position = 0
        self._ahead = memoryview(b"")
        self._ahead_from = 0
        self._ask_bytes = FIRST_BYTES

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The position of the next byte that is read."""
        self._check_open()
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move; past the end is allowed, and reads nothing there. Raises ValueError for a place before the start."""
        self._check_open()
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}
        if whence not in base:
            raise ValueError(f"whence {whence} is none of SEEK_SET, SEEK_CUR, SEEK_END")
        if base[whence] + offset < 0:
            raise ValueError(f"position {base[whence] + offset} is before the start of the file")
        self._position = base[whence] + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Some bytes into the buffer; their number, 0 only at the end. Raises P2pfsError."""
        self._check_open()
        wanted = min(len(buffer), self.size - self._position)
        if wanted <= 0:
            return 0
        offset = self._position - self._ahead_from
        if not 0 <= offset < len(self._ahead):
            self._fetch(wanted)
            offset = 0
        count = min(wanted, len(self._ahead) - offset)
        memoryview(buffer).cast("B")[:count] = self._ahead[offset : offset + count]
        self._position += count
        return count

    def _fetch(self, wanted: int) -> None:
        is_in_order = self._position == self._ahead_from + len(self._ahead) and self._position > 0
        self._ask_bytes = min(2 * self._ask_bytes, MOST_BYTES) if is_in_order else FIRST_BYTES
        length = min(max(wanted, self._ask_bytes), MOST_BYTES, self.size - self._position)
        # The old bytes go before the new ones come: one window in memory, not two.
        self._ahead = memoryview(b"")
        gathered = bytearray()
        for piece in self._read_range(self._position, length):
            gathered += piece
        if len(gathered) != length:
            raise errors.ProtocolError(f"{self.cid}: {length} bytes were asked for, {len(gathered)} came")
        self._ahead, self._ahead_from = memoryview(gathered), self._position

    def close(self) -> None:
        """Drop what was read ahead."""
        self._ahead = memoryview(b"")
        super().close()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on a closed file")
