"""p2pfs: a content-addressed file store on the machines that you already have."""
