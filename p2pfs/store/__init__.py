"""Blocking disk code, run in native threads. Knows no sockets."""
