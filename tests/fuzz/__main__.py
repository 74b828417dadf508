"""`make fuzz`: new seeds until the time is up, each target in its turn, and what was made of each.

VMTUI_FUZZ_MINUTES says for how long (5). A failure names the seed: `python -m tests.fuzz NAME SEED` makes the same again.
"""

import os
import sys
import time
from random import Random, SystemRandom

from tests.fuzz.targets import TARGETS


def main() -> None:
    if len(sys.argv) == 3:
        (target,) = [each for each in TARGETS if each.name == sys.argv[1]]
        target.batch(Random(int(sys.argv[2])), target.size)
        return
    until = time.monotonic() + 60 * float(os.environ.get("VMTUI_FUZZ_MINUTES", "5"))
    counts = dict.fromkeys((target.name for target in TARGETS), 0)
    seeds = SystemRandom()
    while time.monotonic() < until:
        for target in TARGETS:
            seed = seeds.getrandbits(32)
            try:
                counts[target.name] += target.batch(Random(seed), target.size)
            except BaseException:
                sys.stderr.write(f"{target.name}: seed {seed}; again: python -m tests.fuzz {target.name} {seed}\n")
                raise
    for name, count in counts.items():
        print(f"{name:14} {count:>10,}")
    print(f"{'in all':14} {sum(counts.values()):>10,}")


if __name__ == "__main__":
    main()
