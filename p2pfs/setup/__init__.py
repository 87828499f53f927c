"""Making a new node: `p2pfs-node init` for the first one of a cluster, `p2pfs-node join` for each of the others."""
