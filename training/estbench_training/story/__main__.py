"""python -m estbench_training.story [seeds=estllm,…] [docs=docs] [build=build/story]"""

from __future__ import annotations

import sys

from estbench.errors import EstbenchError
from estbench_training.story import main

if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except EstbenchError as error:
        sys.exit(f"story: {error}")
