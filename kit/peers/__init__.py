"""`make bench-peers`: the same jobs with what people would use instead (docs/COMPARISON.md)."""
