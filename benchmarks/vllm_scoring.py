"""engine=vllm against lm-eval's `local-completions` on one real vLLM server: CPU seconds of server and client together.

    estbench env install vllm
    OMP_NUM_THREADS=1 python benchmarks/vllm_scoring.py [model=demo|random] [documents=24] [cases=letters,long,...]

Both get the same texts and make token ids, requests and numbers of them; harness and imports are left out. Each side
runs in a process of its own, one after the other; of lm-eval's settings of num_concurrent the best counts. Log-
likelihoods are asked of the same documents, ours first: lm-eval's requests don't read the prefix cache, though they
fill it. For generation each setting has documents of its own. `random` is a Llama of 6 million parameters.
"""

from __future__ import annotations

import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from choice_scoring import WORDS

BARS = {"letters": 3.0, "long": 2.0, "passage": 2.0, "short": 0.9, "texts": 0.9}
CONCURRENT = (1, 4, 8)  # lm-eval's settings
LOGPROB = 1e-3
NEW = 24  # tokens that are generated
Docs = list[tuple[str, list[str]]]
Task = dict[str, Any]  # case, docs, warm (documents before the clock starts), concurrent


def documents(case: str, n: int, seed: int) -> Docs:
    """(context, continuations) of each document; no continuation: a text is generated."""
    dice = random.Random(seed)

    def words(k: int) -> str:
        return " ".join(dice.choices(WORDS, k=k))

    endings = {"letters": lambda: [" A", " B", " C", " D"], "texts": list}
    four = endings.get(case, lambda: [f" {words(4)}" for _ in range(4)])
    if case == "passage":  # four questions share one
        passages = [words(200) for _ in range(n // 4 + 1)]
        return [(f"{passages[i // 4]}\nKüsimus: {words(12)}?\nVastus:", four()) for i in range(n)]
    length = {"letters": 210, "long": 210, "short": 15, "texts": 40}[case]
    return [(f"Küsimus: {words(length)}?\nVastus:", four()) for _ in range(n)]


def descendants(pid: int) -> list[int]:
    """A process and all that came of it."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        found.append(one)
        waiting += parents.get(one, [])
    return found


def cpu(server: int) -> float:
    """CPU seconds of the server and of this process so far."""
    ticks = 0
    for pid in descendants(server):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    used = resource.getrusage(resource.RUSAGE_SELF)
    return ticks / os.sysconf("SC_CLK_TCK") + used.ru_utime + used.ru_stime


def timed(server: int, work: Callable[[], Any]) -> dict[str, Any]:
    """What work gives, with CPU and wall seconds."""
    before, begun = cpu(server), time.monotonic()
    given = work()
    return {"given": given, "cpu": cpu(server) - before, "wall": time.monotonic() - begun}


def ours(path: str, url: str, server: int, tasks: list[Task]) -> Iterator[dict[str, Any]]:
    """estbench's engine, without the harness around it."""
    from estbench import checkpoint
    from estbench.engines.base import Decoding, Generated, Request, Scored
    from estbench.engines.batches import generation_packs
    from estbench.engines.options import VllmOptions
    from estbench.engines.trie import scoring_packs
    from estbench.engines.vllm import VllmEngine
    from estbench.tokens import Tokens

    model = checkpoint.find(path)
    tokens = Tokens(model.path)
    engine = VllmEngine(model, tokens, VllmOptions(url=url), lambda line: print(line, file=sys.stderr))
    engine.load()

    def ask(case: str, some: Docs) -> list[Any]:
        pairs = [(context, continuation) for context, four in some for continuation in four]
        if pairs:
            asked = {f"{i:032x}": Request(*ids) for i, ids in enumerate(tokens.encode_pairs(pairs))}
            packs = scoring_packs(case, asked, engine.packing)
        else:
            decoding = Decoding(NEW, stop=("\n\n",))
            prompts = tokens.encode([context for context, _ in some])
            asked = {f"{i:032x}": Request(ids, decoding=decoding) for i, ids in enumerate(prompts)}
            packs = generation_packs(case, asked, engine.packing)
        found: dict[str, Any] = {}
        for pack, answers in engine.answer(packs):
            found |= zip(pack.keys, answers, strict=True)
        given = [found[key] for key in asked]
        assert all(isinstance(one, Scored | Generated) for one in given)
        return [one.logprob if isinstance(one, Scored) else one.text for one in given]

    for task in tasks:
        ask("warm", task["warm"])
        before = cache_hits(url)
        result = timed(server, lambda task=task: ask(task["case"], task["docs"]))  # type: ignore[misc]
        ways = engine.notes().get("scoring", {})
        yield result | {"way": ways.get(task["case"]), "hits": cache_hits(url) - before}
    engine.close()


def peer(path: str, url: str, server: int, tasks: list[Task]) -> Iterator[dict[str, Any]]:
    """lm-eval's model, without the harness around it."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    os.environ["OPENAI_API_KEY"] = os.environ["VLLM_API_KEY"]
    with urllib.request.urlopen(_request(f"{url}/models")) as reply:
        name = json.load(reply)["data"][0]["id"]

    def ask(lm: Any, some: Docs) -> list[Any]:
        asked = [(context, continuation) for context, four in some for continuation in four]
        if asked:
            requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(asked)]
            return [value for value, _ in lm.loglikelihood(requests, disable_tqdm=True)]
        how = {"until": ["\n\n"], "max_gen_toks": NEW, "temperature": 0}
        requests = [Instance("generate_until", {}, (context, dict(how)), i) for i, (context, _) in enumerate(some)]
        return list(lm.generate_until(requests, disable_tqdm=True))

    for task in tasks:
        lm = LocalCompletionsAPI(
            model=name,
            tokenizer=path,
            base_url=f"{url}/completions",
            tokenizer_backend="huggingface",
            num_concurrent=task["concurrent"],
            max_length=2048,
            add_bos_token=True,
        )
        ask(lm, task["warm"])
        yield timed(server, lambda lm=lm, task=task: ask(lm, task["docs"]))  # type: ignore[misc]


def _request(url: str) -> urllib.request.Request:
    return urllib.request.Request(url, headers={"Authorization": f"Bearer {os.environ['VLLM_API_KEY']}"})


def cache_hits(url: str) -> float:
    """Tokens that came out of the server's prefix cache so far."""
    with urllib.request.urlopen(_request(url.replace("/v1", "/metrics"))) as reply:
        found = re.findall(r"^vllm:prefix_cache_hits_total\S* (\S+)$", reply.read().decode(), re.M)
    return sum(map(float, found))


def small_model(kind: str, folder: Path) -> Path:
    """The checkpoint that is served."""
    from estbench.demo import model_path

    demo = model_path("demo")
    if kind == "demo":
        return demo
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(demo)
    torch.manual_seed(0)
    ends = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    shape = {"hidden_size": 320, "intermediate_size": 864, "num_hidden_layers": 4, "num_attention_heads": 5}
    config = LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=2048, tie_word_embeddings=True, **shape, **ends
    )
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder / "model"


def side(name: str, path: str, url: str, server: int, tasks: list[Task]) -> list[dict[str, Any]]:
    """One side's figures of all its tasks, from a process of its own."""
    given = json.dumps({"path": path, "url": url, "server": server, "tasks": tasks})
    done = subprocess.run([sys.executable, __file__, name], input=given, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def row_of(case: str, mine: dict[str, Any], theirs: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Both sides on one case; of lm-eval's settings the best counts, for CPU and for wall each."""
    best = min(theirs, key=lambda c: theirs[c]["cpu"])
    row = {
        "case": case,
        "way": mine["way"],
        "cpu_s": round(mine["cpu"], 2),
        "peer_cpu_s": {c: round(one["cpu"], 2) for c, one in theirs.items()},
        "ratio": round(theirs[best]["cpu"] / mine["cpu"], 2),
        "bar": BARS[case],
        "wall_s": round(mine["wall"], 2),
        "wall_ratio": round(min(one["wall"] for one in theirs.values()) / mine["wall"], 2),
        "cache_hits": int(mine["hits"]),
    }
    if case != "texts":
        off = max(abs(a - b) for a, b in zip(mine["given"], theirs[best]["given"], strict=True))
        row |= {"largest_difference": float(f"{off:.1e}"), "same": off < LOGPROB}
    return row | {"holds": row["ratio"] >= BARS[case] and row.get("same", True)}


def main() -> None:
    from estbench.engines.options import VllmOptions
    from estbench.engines.vllm_server import KEY_VARIABLE, Server, recipe_for

    given = dict(word.split("=", 1) for word in sys.argv[1:])
    n, cases = int(given.get("documents", 24)), given.get("cases", ",".join(BARS)).split(",")

    def task(i: int, number: int) -> Task:
        """Setting `number` of a case: 0 is ours."""
        seed = 1000 * i + (number if cases[i] == "texts" else 0)
        asked = {"docs": documents(cases[i], n, seed), "warm": documents(cases[i], 2, 1000 * i + 500 + number)}
        return asked | {"case": cases[i], "concurrent": (0, *CONCURRENT)[number]}

    with tempfile.TemporaryDirectory() as name:
        path = small_model(given.get("model", "random"), Path(name))
        options = VllmOptions()
        with Server(recipe_for(options), path, options, lambda line: print(line, file=sys.stderr)) as server:
            os.environ["VLLM_API_KEY"] = os.environ[KEY_VARIABLE]
            assert server._process is not None
            place = (str(path), server.url, server._process.pid)
            mine = side("ours", *place, [task(i, 0) for i in range(len(cases))])
            settings = [(i, number) for i in range(len(cases)) for number in range(1, 1 + len(CONCURRENT))]
            theirs = dict(zip(settings, side("peer", *place, [task(*one) for one in settings]), strict=True))
    rows = [
        row_of(case, mine[i], {c: theirs[i, number] for number, c in enumerate(CONCURRENT, 1)})
        for i, case in enumerate(cases)
    ]
    for row in rows:
        print(json.dumps(row, ensure_ascii=False))
    sys.exit(not all(row["holds"] for row in rows))


if __name__ == "__main__":
    if sys.argv[1:2] in (["ours"], ["peer"]):
        for result in {"ours": ours, "peer": peer}[sys.argv[1]](**json.loads(sys.stdin.read())):
            print(json.dumps(result), flush=True)
    else:
        main()
