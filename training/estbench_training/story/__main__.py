"""python -m estbench_training.story [seeds=estllm,…] [repeats=2] [page=true] [docs=docs] [build=build/story]"""

from __future__ import annotations

import sys

from estbench.errors import EstbenchError
from estbench_training import story

if __name__ == "__main__":
    if {"-h", "--help"} & {*sys.argv[1:]}:
        print(story.__doc__)
        sys.exit(0)
    try:
        sys.exit(story.main(sys.argv[1:]))
    except EstbenchError as error:
        print(f"story: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
