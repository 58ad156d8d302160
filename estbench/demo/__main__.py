"""Makes and evaluates the demo models other than `demo` itself, so that the board has something to show: a line each.

    python -m estbench.demo       what `make demo` does after its first evaluation

The runs are those of `estbench eval model=NAME tasks=mini`, or of `tasks=mini_chat` for the chat models. Those
that know other tasks (`mini_english`) are left out.
"""

from __future__ import annotations

import sys
import time

from estbench.demo import MODELS
from estbench.errors import EstbenchError

SHOWN = tuple(name for name in MODELS[1:] if name not in ("demo-en", "demo-english"))


def suite_of(model: str) -> str:
    """The suite in the form that a demo model learnt."""
    return "mini_chat" if model.endswith("-chat") else "mini"


def main() -> int:
    """The exit code; what goes wrong is one line on stderr."""
    from estbench import commands, runner
    from estbench.config import EvalSettings

    job: runner.Job | None = None
    for name in SHOWN:
        begun = time.monotonic()
        print(f"  {name:<14} tasks={suite_of(name):<10} ", end="", flush=True)
        try:
            job = runner.prepare(EvalSettings(model=name, tasks=suite_of(name)), before=job)
            commands.index(runner.evaluate(job), None)
        except EstbenchError as error:
            print(f"\nestbench: {error}", file=sys.stderr)
            return error.exit_code
        except KeyboardInterrupt:
            print("\nestbench: stopped; the same command goes on from here.", file=sys.stderr)
            return 130
        print(f"{time.monotonic() - begun:4.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    if {"-h", "--help"} & {*sys.argv[1:]}:
        print(__doc__)
        sys.exit(0)
    sys.exit(main())
