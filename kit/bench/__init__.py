"""`make bench`: where speed is decided. Each figure beside the wanted one and a reference of the same minute."""
