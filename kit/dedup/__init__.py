"""`make bench-dedup`: what successive versions of a file cost, for each way to cut them, and beside restic and borg."""
