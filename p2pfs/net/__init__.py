"""Sockets in blocking style, every wait with a deadline. Knows no disks and no gevent."""
