"""What p2pfs costs as blocks, pins and members grow: `make bench-scale`, and the tables of docs/SCALE.md."""
