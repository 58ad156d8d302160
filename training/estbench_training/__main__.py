"""`torchrun --nproc-per-node 8 -m estbench_training recipe=FILE stage=cpt`: `estbench train` on every rank."""

import sys

from estbench.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
