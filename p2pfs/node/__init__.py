"""The daemon's inside: the only place where core, store, net and green meet."""
