"""Programs that run real clusters on this machine: the demo, the benchmarks, and what the tests build on."""
