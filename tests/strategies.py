"""Values of p2pfs for hypothesis, where more than one test needs them."""

from __future__ import annotations

from hypothesis import strategies as st

from p2pfs.core.member import MAX_CAPACITY, MAX_INCARNATION, STATES, Member

MEMBERS = st.builds(
    Member,
    id=st.sampled_from("abc"),
    name=st.sampled_from(["one", "two", "ünö"]),
    addresses=st.sampled_from([(), ("host:1",), ("h-2.example:65535", "[::1]:4001")]),
    state=st.sampled_from(STATES),
    incarnation=st.integers(0, 3) | st.integers(0, MAX_INCARNATION),
    zone=st.sampled_from(["", "z"]),
    capacity=st.floats(0, MAX_CAPACITY),
    version=st.sampled_from(["", "1.0"]),
    drains=st.booleans(),
    used_bytes=st.integers(0, 2**50),
    free_bytes=st.integers(0, 2**50),
    accuser=st.sampled_from(["", "b"]),
    dead_s=st.integers(0, 10**6),
)
