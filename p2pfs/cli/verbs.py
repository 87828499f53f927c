"""The verbs for content: one function each, and the table of all verbs."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from p2pfs import errors
from p2pfs.cli.access import forget, grant, invite
from p2pfs.cli.call import Call, number, plain, size, sized
from p2pfs.cli.health import peers, status
from p2pfs.cli.output import one_line
from p2pfs.cli.upkeep import audit, drain, gc, scrub

if TYPE_CHECKING:
    from p2pfs.client.answers import Entry, PinRow

STDIN = STDOUT = "-"


# --- verbs that write --------------------------------------------------------------------------------

def store(call: Call) -> int:
    """Each PATH on its own; the others go on when one fails."""
    name, paths = call.options["--name"], call.options["PATH"]
    if name is not None and len(paths) > 1:
        raise errors.UsageError("--name is one pin's name, but several PATHs are given")
    replicas = call.count("--replicas")

    def one(path: str) -> None:
        with call.output.progress(path) as progress, opened(path) as source:
            stored = call.client.store(
                source, name=name, replicas=replicas, chunker=call.options["--chunker"], hash=call.options["--hash"],
                dry_run=call.options["--dry-run"], encrypt=call.encrypt, progress=progress,
            )
        call.output.result({**plain(stored), "path": path}, f"{stored.link or stored.cid}  {path}")
        where = f"{stored.replicas} copies on {', '.join(stored.nodes)}" if stored.nodes else "nothing was stored"
        new = f"{stored.new_blocks} of them new ({size(stored.new_bytes)})"
        call.output.remark(f"{path}: {stored.blocks} blocks, {new}; {where}")

    return for_each(call, paths, one)


@contextlib.contextmanager
def opened(path: str) -> Iterator[str | io.FileIO]:
    """A path as it is; for `-` standard input, unbuffered so that nothing is read in vain."""
    if path != STDIN:
        yield path
        return
    if sys.stdin is None:
        raise errors.UsageError("standard input is closed, and - reads it; give it a file or a pipe")
    from p2pfs.client.files import local_errors

    with io.FileIO(sys.stdin.fileno(), closefd=False) as stdin, local_errors("standard input"):
        yield stdin


def for_each(call: Call, paths: list[str], one: Callable[[str], None]) -> int:
    """Do each; the exit code of the worst failure, after all were tried."""
    worst = 0
    for path in paths:
        try:
            with call.in_time():
                one(path)
        except errors.P2pfsError as error:
            is_named = len(paths) == 1 or path in str(error)
            call.output.error(error if is_named else type(error)(f"{path}: {error}"))
            worst = max(worst, error.exit_code)
    return worst


def get(call: Call) -> int:
    """A whole file or directory, or a file on standard output."""
    target = call.options["--output"]
    if target == STDOUT:
        write_file(call)
        return 0
    with call.output.progress(call.shown_ref) as progress:
        path = call.client.get(call.ref, target, force=call.options["--force"], progress=progress)
    call.output.result({"ref": call.ref, "path": str(path)}, str(path))
    return 0


def cat(call: Call) -> int:
    """Bytes of a file on standard output."""
    offset, length = call.size("--offset"), call.size("--length")
    write_file(call, offset or 0, length)
    return 0


def write_file(call: Call, offset: int = 0, length: int | None = None) -> None:
    """A file's bytes to standard output. Raises UsageError for what is none, with the command that takes it."""
    try:
        write_pieces(call.client.read(call.ref, offset, length))
    except errors.UsageError:
        kind = call.client.stat(call.ref).type
        if kind == "file":
            raise
        inside = f", or name a file inside it: {call.shown_ref.rstrip('/')}/NAME" if kind == "directory" else ""
        raise errors.UsageError(
            f"{call.shown_ref} is a {kind}; cat and -o - take files only; get it with -o PATH{inside}"
        ) from None


def write_pieces(pieces: Iterable[bytes]) -> None:
    """Bytes to standard output, unbuffered: they are large already."""
    with open(sys.stdout.fileno(), "wb", buffering=0, closefd=False) as stdout:
        for piece in pieces:
            view = memoryview(piece)
            while view:
                view = view[stdout.write(view) :]


def remove(call: Call) -> int:
    """Which pins are gone."""
    call.output.rows((plain(one), f"{one.cid}  {one.name}") for one in call.client.remove(call.ref))
    return 0


def restore(call: Call) -> int:
    """Which pins are there again."""
    call.output.rows((plain(one), f"{one.cid}  {one.name}") for one in call.client.restore(call.ref))
    return 0


def import_car(call: Call) -> int:
    """The roots of a CAR."""
    path = call.options["FILE"]
    with call.output.progress(path) as progress, opened(path) as source:
        imported = call.client.import_car(
            source, name=call.options["--name"], replicas=call.count("--replicas"), progress=progress
        )
    if call.output.is_json:
        call.output.result(plain(imported), "")
    else:
        call.output.rows((plain(root), f"{root.cid}  {number(root.size)}  {root.name}") for root in imported.roots)
    for root in imported.roots:
        if not root.pinned:
            call.output.remark(f"{root.cid}: not pinned, the CAR holds only part of it")
    return 0


def export_car(call: Call) -> int:
    """A CAR, complete under its name or not at all; `-` streams."""
    target = call.options["--output"]
    with call.output.progress(call.shown_ref) as progress:
        if target == STDOUT:
            with open(sys.stdout.fileno(), "wb", closefd=False) as stdout:
                call.client.export_car(call.ref, stdout, progress=progress)
            return 0
        blocks = call.client.export_car(call.ref, target, force=call.options["--force"], progress=progress)
    call.output.result({"ref": call.ref, "path": target, "blocks": blocks}, target)
    return 0


# --- verbs that look ---------------------------------------------------------------------------------

def ls(call: Call) -> int:
    """All pins, or the entries of a directory."""
    rows: Iterable[PinRow | Entry] = call.client.pins() if call.options["REF"] is None else call.client.ls(call.ref)
    call.output.rows((plain(row), f"{name_of(row):<59}  {number(row.size):>14}  {row.name}") for row in rows)
    return 0


def name_of(row: PinRow | Entry) -> str:
    """What a row can be called by: its CID, or its link."""
    return str(getattr(row, "link", None) or row.cid)


def stat(call: Call) -> int:
    """Figures, one a line."""
    found = call.client.stat(call.ref)
    lines = [
        ("cid", str(found.cid)), ("type", found.type), ("size", sized(found.size)),
        ("blocks", f"{found.blocks}, {sized(found.bytes)}"), ("entries", number(found.entries)),
        ("target", one_line(found.target or "-")), ("sha256", found.sha256 or "-"),
        ("pins", ", ".join(name or "(no name)" for name in found.pins) or "none"),
    ]
    call.output.result(plain(found), "\n".join(f"{title:<9}{text}" for title, text in lines if text != "-"))
    return 0


def explain(call: Call) -> int:
    """A line a block, then what they add up to; 1 when a block has fewer copies than wanted."""
    explained = call.client.explain(call.ref)
    call.output.rows(
        (
            plain(block),
            f"{block.cid!s:<59}  {block.kind:<6}  {number(block.bytes):>8}  on "
            + (", ".join(block.holders) or "nobody")
            + (f"; {block.missing} missing, owners {', '.join(block.owners)}" if block.missing else ""),
        )
        for block in explained
    )
    end = explained.end
    away = f"; did not answer: {', '.join(end.unreachable)}" if end.unreachable else ""
    call.output.result(
        plain(end),
        f"{end.blocks} blocks, {sized(end.bytes)}: {end.wanted} copies wanted, {end.fewest} of the rarest block; "
        f"{end.below_wanted} blocks below that, {end.lost} lost; {end.asked} members asked{away}\n{end.advice}",
    )
    return 1 if end.below_wanted or end.lost else 0


def id_(call: Call) -> int:
    """CIDs without a node."""
    from p2pfs.core.profile import profile
    from p2pfs.identify import identify

    chosen = {key: call.options[f"--{key}"] for key in ("chunker", "hash") if call.options[f"--{key}"] is not None}
    cut = profile(**chosen)

    def one(path: str) -> None:
        with opened(path) as source:
            found = identify(source, cut)
        call.output.result({"cid": str(found.cid), "size": found.size, "path": path}, f"{found.cid}  {path}")

    return for_each(call, call.options["PATH"], one)


VERBS: dict[str, Callable[[Call], int]] = {
    "store": store, "get": get, "cat": cat, "ls": ls, "stat": stat, "explain": explain, "rm": remove,
    "restore": restore, "id": id_, "import": import_car, "export": export_car, "peers": peers, "status": status,
    "audit": audit, "scrub": scrub, "gc": gc, "drain": drain, "forget": forget, "grant": grant,
    "invite": invite,
}
"""Every verb; the usage text names the same ones, and a test compares."""
