"""Fuzzing: whatever bytes come, a parser of foreign ones gives a value or its one error, in bounded time and memory.

`targets.py` has the table. `make test` tries the corpus (tests/corpus) and a fixed number of seeded mutations of it;
`make fuzz` searches by coverage, for as long as it is given. docs/FUZZING.md says how to use and extend it.
"""
