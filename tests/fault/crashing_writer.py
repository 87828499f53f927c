"""Child process of test_disk_crashes.py: puts blocks from several threads until it is killed; tells which are
durable.

    python crashing_writer.py FOLDER SEED
"""

import os
import random
import sys
import threading

from p2pfs.core.multihash import SHA2_256, multihash
from p2pfs.store.disk import DiskStore


def main(folder: str, seed: int) -> None:
    store = DiskStore(folder)

    def put_for_ever(number: int) -> None:
        chance = random.Random(seed * 100 + number)
        while True:
            count, most = chance.choice(((1, 1_000_000), (1, 4096), (10, 4096)))
            several = [memoryview(chance.randbytes(chance.randrange(1, most))) for _ in range(count)]
            blocks = [(multihash(SHA2_256, data), data) for data in several]
            store.put_many(blocks)
            # One write: lines of threads do not mix.
            os.write(1, b"".join(block.hex().encode("ascii") + b"\n" for block, _ in blocks))

    threads = [threading.Thread(target=put_for_ever, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
