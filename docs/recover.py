#!/usr/bin/env python3
"""Rebuild a file from the data directories of stopped nodes, without p2pfs: only Python's standard library.

    python3 recover.py CID DATA_DIR... > FILE       a file: its bytes
    python3 recover.py CID DATA_DIR...              a directory: a line `CID NAME` for each entry

Several data directories (of several nodes, copied or mounted here) are searched in turn for each block. Every block
that is named by its sha2-256 is checked; one of blake3 (suffix `.blake3`) only with the package `blake3` installed.
docs/STORE.md explains the formats.
"""

import base64
import hashlib
import sys
from pathlib import Path

CID, FOLDERS = sys.argv[1], [Path(folder) for folder in sys.argv[2:]]


def varint(data, at):
    """(value, where it ends)"""
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 128:
            return value, at


def fields(data):
    """(number, value) of each field of a protobuf message: int or bytes"""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        value, at = varint(data, at)
        if key & 7 == 2:
            value, at = data[at : at + value], at + value
        yield key >> 3, value


def cut(cid):
    """(codec, multihash) of a binary CID"""
    if cid[0] == 0x12:  # version 0
        return 0x70, cid
    codec, at = varint(cid, 1)
    return codec, cid[at:]


def block(multihash):
    """The block's bytes, checked"""
    code, digest = multihash[0], multihash[2:]
    if code == 0:  # identity: the bytes stand in the name
        return digest
    name = digest.hex() + (".blake3" if code == 0x1E else "")
    for folder in FOLDERS:
        path = folder / "blocks" / name[:3] / name
        if path.exists():
            data = path.read_bytes()
            if code == 0x12:
                good = hashlib.sha256(data).digest() == digest
            else:
                import blake3

                good = blake3.blake3(data).digest() == digest
            if good:
                return data
            sys.stderr.write(f"bad copy: {path}\n")
    sys.exit(f"no good copy of block {name} in {', '.join(map(str, FOLDERS))}")


def text(cid):
    """A binary CID as text, version 1"""
    codec, multihash = cut(cid)
    return "b" + base64.b32encode(bytes([1, codec]) + multihash).decode().lower().rstrip("=")


def write(cid):
    """A file's bytes, in order; or a directory's entries"""
    codec, multihash = cut(cid)
    data = block(multihash)
    if codec == 0x55:  # a leaf
        sys.stdout.buffer.write(data)
        return
    node = list(fields(data))
    links = [dict(fields(value)) for number, value in node if number == 2]
    inner = dict(fields(next(value for number, value in node if number == 1)))
    kind = inner[1]  # 0, 2: file; 1: directory; 4: symlink; 5: directory in shards
    if kind in (0, 2, 4):
        sys.stdout.buffer.write(inner.get(2, b""))
        for link in links:
            write(link[1])
    for link in links if kind in (1, 5) else []:
        name = link[2][2:] if kind == 5 else link[2]
        if name:
            sys.stdout.buffer.write(text(link[1]).encode() + b" " + name + b"\n")
        else:
            write(link[1])


def main():
    """The whole of it"""
    if not CID.startswith("b"):
        sys.exit("the CID has to be in base32, as `p2pfs-cli` prints it: it begins with b")
    write(base64.b32decode(CID[1:].upper() + "=" * (-len(CID[1:]) % 8)))


main()
