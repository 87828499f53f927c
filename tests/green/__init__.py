"""Tests that need the gevent runtime. `test_on_greenlets.py` runs them in a process that is patched as a node is."""
