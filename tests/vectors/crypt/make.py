"""Makes tink.json with Tink for Python, which shares no code with p2pfs, and has it open what p2pfs seals.

    python -m venv .tink && .tink/bin/pip install 'tink==1.16.1' 'cryptography>=44.0.1'
    .tink/bin/python tests/vectors/crypt/make.py

Run from the checkout. Inputs are generated, outputs are Tink's.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import sys
from pathlib import Path

import tink
from tink import secret_key_access, streaming_aead
from tink.proto import aes_gcm_hkdf_streaming_pb2, common_pb2, tink_pb2

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[2]))
SEGMENT = 1 << 20
FIRST = SEGMENT - 40 - 16
OTHER = SEGMENT - 16
SIZES = [0, 1, 40, 4096, FIRST - 1, FIRST, FIRST + 1, FIRST + OTHER, FIRST + OTHER + 1, FIRST + 3 * OTHER - 1]
CONTEXTS = [b"", b"p2pfs 1 index"]
WHOLE_BYTES = 256
"""Longer outputs are in the file as a hash."""


class Kept(io.BytesIO):
    """Tink closes what it writes to."""

    def close(self) -> None:
        """Stay readable."""


def primitive(key: bytes) -> streaming_aead.StreamingAead:
    """Tink's AES256_GCM_HKDF_1MB with this key."""
    template = streaming_aead.streaming_aead_key_templates.AES256_GCM_HKDF_1MB
    form = aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingKeyFormat.FromString(template.value)
    assert form.params.ciphertext_segment_size == SEGMENT and form.params.derived_key_size == 32
    assert form.params.hkdf_hash_type == common_pb2.SHA256
    proto = aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingKey(version=0, params=form.params, key_value=key)
    data = tink_pb2.KeyData(
        type_url=template.type_url, value=proto.SerializeToString(), key_material_type=tink_pb2.KeyData.SYMMETRIC
    )
    keyset = tink_pb2.Keyset(primary_key_id=1, key=[tink_pb2.Keyset.Key(
        key_data=data, status=tink_pb2.ENABLED, key_id=1, output_prefix_type=tink_pb2.RAW
    )])
    handle = tink.proto_keyset_format.parse(keyset.SerializeToString(), secret_key_access.TOKEN)
    return handle.primitive(streaming_aead.StreamingAead)


def seal(aead: streaming_aead.StreamingAead, plain: bytes, context: bytes) -> bytes:
    """Sealed by Tink."""
    out = Kept()
    with aead.new_encrypting_stream(out, context) as stream:
        stream.write(plain)
    return out.getvalue()


def check_ours(aead: streaming_aead.StreamingAead, key: bytes, plain: bytes, context: bytes) -> None:
    """Tink opens what p2pfs sealed."""
    from p2pfs.crypt import segments

    cipher = segments.Cipher(key, segments.new_header(hashlib.sha256(key).digest() + b"prefix!"), context)
    out = memoryview(bytearray(SEGMENT))
    sealed = b"".join(
        bytes(cipher.seal(one, plain[one.start : one.start + one.length], out)) for one in segments.segments(len(plain))
    )
    with aead.new_decrypting_stream(io.BytesIO(sealed), context) as stream:
        assert stream.read() == plain, len(plain)


def main() -> None:
    """Write tink.json."""
    streaming_aead.register()
    cases = []
    for number, (size, context) in enumerate((size, context) for context in CONTEXTS for size in SIZES):
        key = hashlib.sha256(b"p2pfs vector %d" % number).digest()
        plain = hashlib.shake_128(b"p2pfs vector").digest(size)
        aead = primitive(key)
        check_ours(aead, key, plain, context)
        sealed = seal(aead, plain, context)
        case = {
            "key": base64.b16encode(key).decode().lower(), "context": context.decode(), "size": size,
            "header": sealed[:40].hex(), "sealed_size": len(sealed), "sealed_sha256": hashlib.sha256(sealed).hexdigest(),
        }
        if len(sealed) <= WHOLE_BYTES:
            case["sealed"] = sealed.hex()
        cases.append(case)
    made_by = f"Tink for Python {tink.__version__ if hasattr(tink, '__version__') else '1.16.1'}, AES256_GCM_HKDF_1MB"
    (HERE / "tink.json").write_text(json.dumps({"made_by": made_by, "cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    main()
