"""Chaos: real nodes, a workload, seeded faults, and promises that are checked all along. docs/CHAOS.md explains it."""
