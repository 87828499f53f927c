"""The node's JSON as typed values, and back.

A field that this version does not know is left out, so that a newer node can say more; one that is missing or of
another type is a ProtocolError, unless its shape has a default for it: that is for fields that older nodes do not have.
"""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from p2pfs import errors
from p2pfs.core import wire
from p2pfs.core.cid import CID

R = TypeVar("R", bound=tuple[Any, ...])


def parse(shape: type[R], row: object) -> R:
    """A JSON object as a tuple of `answers` or `reports`. Raises ProtocolError for anything else."""
    if not isinstance(row, dict):
        raise errors.ProtocolError(f"{shape.__name__}: an object is wanted, not {str(row)[:40]!r}")
    try:
        optional = shape._field_defaults  # type: ignore[attr-defined]
        fields = ((name, convert) for name, convert in _converters(shape) if name in row or name not in optional)
        return shape(**{name: convert(row[name]) for name, convert in fields})
    except KeyError as error:
        raise errors.ProtocolError(f"{shape.__name__}: {error} is missing; is the node of another version?") from None
    except (TypeError, errors.BadCid) as error:
        raise errors.ProtocolError(f"{shape.__name__}: {str(error)[:200]}") from None


def parse_line(shape: type[R], line: bytes) -> R:
    """One JSON line as such a tuple. Raises ProtocolError."""
    return parse(shape, wire.parse_json(line, dict))


def plain(value: Any) -> Any:
    """Such a tuple as what JSON can hold: tuples with names become objects, CIDs text."""
    if isinstance(value, CID):
        return str(value)
    if isinstance(value, list):
        return [plain(item) for item in value]
    if hasattr(value, "_asdict"):
        return {name: plain(item) for name, item in value._asdict().items()}
    return value


@functools.cache
def _converters(shape: Hashable) -> list[tuple[str, Callable[[Any], Any]]]:
    return [(name, _converter(hint)) for name, hint in typing.get_type_hints(shape).items()]


def _converter(hint: Any) -> Callable[[Any], Any]:
    if hint is CID:
        return lambda value: CID.parse(_checked(value, (str,)))
    if typing.get_origin(hint) is list:
        item = _converter(typing.get_args(hint)[0])
        return lambda value: [item(one) for one in _checked(value, (list,))]
    if typing.get_origin(hint) is dict:
        of_value = _converter(typing.get_args(hint)[1])
        return lambda value: {_text(key): of_value(one) for key, one in _checked(value, (dict,)).items()}
    if hasattr(hint, "_fields"):
        return lambda value: parse(hint, value)
    if typing.get_origin(hint) is types.UnionType:  # "... | None": the shapes have no other
        given = _converter(typing.get_args(hint)[0])
        return lambda value: None if value is None else given(value)
    if hint is str:
        return _text
    allowed = (float, int) if hint is float else (hint,)
    return lambda value: _checked(value, allowed)


def _text(value: Any) -> Any:
    # JSON can have half of a character, which nothing can print. Bytes of a file name that are no text can be.
    try:
        _checked(value, (str,)).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise TypeError(f"{value[:40]!r} is no text: it has half of a character") from None
    return value


def _checked(value: Any, allowed: tuple[type, ...]) -> Any:
    # type() and not isinstance(): in Python a bool is an int, in JSON it is none.
    if type(value) not in allowed:
        raise TypeError(f"{str(value)[:40]!r} is no {' or '.join(one.__name__ for one in allowed)}")
    return value
