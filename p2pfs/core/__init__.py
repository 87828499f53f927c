"""Pure rules: values in, values out. No socket, file, clock, thread, chance or gevent (tests/test_layers.py)."""
