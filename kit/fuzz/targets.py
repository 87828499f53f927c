"""The table of targets. A new one is a row here, a function in a file beside it, and a folder in tests/corpus.

A row: name, what parses, the errors that it may raise, what holds for a value, words of the format, longest input.
"""

from __future__ import annotations

from kit.fuzz import content, files, lines, messages, sealed
from kit.fuzz.harness import Target
from p2pfs import errors
from p2pfs.config.options import ROWS, SECTIONS
from p2pfs.core import batches, dagpb, invitation, pins, unixfs, wire
from p2pfs.core.cid import CID
from p2pfs.core.member import Member
from p2pfs.core.pins import Pin
from p2pfs.crypt.links import MAX_CHARS
from p2pfs.errors import Malformed, ProtocolError, UsageError
from p2pfs.net import certificates
from p2pfs.node.health import Checkup
from p2pfs.node.hello import parse_hello
from p2pfs.node.levels import parse_seen
from p2pfs.node.pinning import outranked_by
from p2pfs.node.storing import OPTIONS
from p2pfs.setup.guest import parse_welcome

_VERBS = tuple(wire.VERBS) + tuple(wire.RECORDS) + (" ", "\r\n", "%", "%0a", "-", "check", "renew")
_REPLIES = ("OK ", "PART ", "ERR ", *errors.BY_TOKEN)
_CIDS = ("bafkrei", "bafybei", "Qm", "z", "k", "K", "B", "f", "F", "bafkqa", "f01", "\xe2\x84\xaa")
_JSON = ("{", "}", "[", "]", ":", ",", '"', "\\u0000", "\\ud800", "null", "true", "NaN", "1e999", "1.5")
_BINARY = ("\x01\x55\x12\x20", "\x01\x70\x12\x20", "\x12\x20", "\x01\x55\x00", "\x0a", "\x12", "\x18", "\x20",
           "\x28\x22", "\x08\x01", "\x08\x02", "\x08\x04", "\x08\x05", "\x30\x80\x02", "\xff" * 9 + "\x01")
_CAR = ("\xa2eroots", "gversion\x01", "\x81\xd8\x2a\x58\x25\x00", "\x9b", *_BINARY)

TARGETS: dict[str, Target] = {target.name: target for target in (
    # lines, and a connection as a whole
    Target("request", wire.parse_request, (ProtocolError,), lines.check_line, _VERBS + _CIDS,
           limit_bytes=wire.MAX_LINE),
    Target("record", wire.parse_record, (ProtocolError,), lines.check_line, _VERBS, limit_bytes=wire.MAX_LINE),
    Target("reply", lines.parse_reply, (ProtocolError,), lines.check_reply, _REPLIES, limit_bytes=wire.MAX_LINE),
    Target("server", lines.serve, (), lines.check_talk, _VERBS + _CIDS),
    Target("caller", lines.ask, (errors.P2pfsError,), words=_REPLIES),
    # bodies
    Target("json", lambda body: wire.parse_json(body, dict), (ProtocolError,), messages.check_json, _JSON),
    Target("blocks", messages.parse_blocks, (ProtocolError,), messages.check_blocks, _CIDS),
    Target("cids", messages.parse_cids, (ProtocolError,), messages.check_cids, _CIDS),
    Target("tokens", batches.unpack_tokens, (ProtocolError,), messages.check_tokens, _CIDS),
    Target("outcomes", messages.parse_outcomes, (ProtocolError,), messages.check_outcomes, (*_REPLIES, "old", "new ")),
    Target("digests", messages.parse_levels, (ProtocolError,), messages.check_levels, max_bytes=16384),
    Target("seen", parse_seen, (ProtocolError,), messages.check_seen, ("seen", *_JSON)),
    Target("outranked", outranked_by, (ProtocolError,), messages.check_stamp, ("outranked_by", *_JSON)),
    Target("bucket", pins.split_digests, (ProtocolError,)),
    Target("pins", messages.parse_pins, (ProtocolError,), messages.check_pins, Pin._fields + _JSON + _CIDS),
    Target("news", messages.parse_news, (ProtocolError,), messages.check_news,
           ("from", "rows", *Member._fields, *_JSON)),
    Target("options", messages.parse_options, (UsageError, ProtocolError), words=(*OPTIONS, "wait", "undo", *_JSON)),
    Target("hello", parse_hello, (ProtocolError,), words=_JSON),
    Target("health", Checkup.from_wire, (ProtocolError,), messages.check_checkup, _JSON),
    Target("answer", messages.parse_answer, (ProtocolError,), messages.check_answer, _JSON),
    Target("ref", messages.parse_ref, (errors.NotFound, UsageError, Malformed, ProtocolError), messages.check_ref,
           ("sha256:", "ipfs://", "/ipfs/", "/", "%2F", *_CIDS), limit_bytes=wire.MAX_LINE),
    # content
    Target("varint", content.parse_varints, (Malformed,), content.check_varints, max_bytes=16),
    Target("cid", CID.decode, (errors.BadCid,), content.check_cid, _BINARY, max_bytes=256),
    Target("cid-text", content.parse_cid_text, (errors.BadCid,), content.check_cid_text, _CIDS, max_bytes=512),
    Target("dag-pb", dagpb.decode, (Malformed,), content.check_node, _BINARY),
    Target("unixfs", unixfs.decode, (Malformed,), content.check_unixfs, _BINARY),
    Target("hamt", content.parse_shard, (Malformed,), content.check_shard, _BINARY),
    Target("dag", content.parse_forest, (Malformed,), words=_BINARY),
    Target("car", content.parse_car, (Malformed,), content.check_car, _CAR),
    Target("chunks", content.cut, (), content.check_cut, max_bytes=1024),
    # encrypted content: what a user is given, what a node gives, what whoever has the key may have written
    Target("link", sealed.parse_link, (UsageError,), sealed.check_link,
           ("p2pfs:", "#k=", "#f=", "#p=17.", "/", "A" * 43, *_CIDS), limit_bytes=MAX_CHARS),
    Target("sealed", sealed.parse_sealed, (errors.Corrupt,), sealed.check_sealed, ("\x28",), max_bytes=8192),
    Target("sealed-index", sealed.parse_index, (Malformed,), sealed.check_index,
           ('{"p2pfs":"index","version":1}\n', '{"dir":"', '{"end":true}\n', '{"file":"', '{"link":"', '"target":"',
            '"size":', '"key":"', '"}\n', "..", "/", *_JSON)),
    # files, and who shows a certificate
    Target("key", files.parse_key, (errors.Refused,), certificates.public_bytes, ("-----BEGIN ", "-----END "), 1024),
    Target("journal", files.parse_journal, (Malformed,), files.check_journal, (*Pin._fields, "meta", *_JSON)),
    Target("members", files.parse_roster, (), files.check_roster, (*Member._fields, *_JSON)),
    Target("config", files.parse_config, (errors.ConfigError,), files.check_config,
           (*(f"[{section}]" for section in SECTIONS), *(f"{row.key} = " for row in ROWS.values()), "%(", "${", "MiB")),
    Target("revoked", files.parse_revoked, (), files.check_revoked),
    Target("invitation", files.parse_invitation, (errors.Refused,), files.check_invitation,
           (invitation.PREFIX, "=", "\n", " "), max_bytes=1024),
    Target("welcome", parse_welcome, (ProtocolError,), words=("secrets", "seeds", "options", *_JSON)),
    Target("csr", files.parse_csr, (errors.Refused,), words=("-----BEGIN ", "-----END ", "CERTIFICATE REQUEST-----"),
           max_bytes=certificates.MAX_REQUEST + 100),
    Target("certificate", files.parse_certificate, (errors.IdentityRefused,), max_bytes=2048),
)}
