"""An OpenAI-compatible server on loopback that does what a test says: right answers, slowness, limits and faults.

    with Endpoint(TinyModel(path), latency=0.01, faults=[Fault("garbage", every=3)]) as endpoint:
        endpoint.url        http://127.0.0.1:PORT/v1
        endpoint.posts      the bodies of all completions that were asked, in order
        endpoint.answered   how often each of these was answered with status 200
        endpoint.peak       the most requests that it worked on at the same time

What is behind it: `TinyModel(folder)`, a real checkpoint, or `Words(answer)`, a function from prompt to text with
made-up log-probabilities over bytes. The semantics are vLLM's: echo, `logprob_token_ids`, prompts as text or token ids,
in batches. Switches make it less able: see `Endpoint`. As a program it serves `Words`, for benchmarks:

    python tests/stub_endpoint.py latency=0.2      # prints its URL
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from aiohttp import web
from stub_faults import Fault, broken, spoil

BLOCK = 16  # tokens of a block of the prefix cache that /metrics tells of


class Model(Protocol):
    """What answers. Ids are ints; log-probabilities are natural logarithms."""

    end: int  # the end token
    length: int  # context

    def encode(self, text: str, special: bool = True) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def chat(self, messages: list[dict[str, Any]]) -> list[int]: ...

    def logprobs(self, ids: Sequence[int]) -> np.ndarray:
        """Log-probabilities of the token after each position: (len(ids), vocabulary)."""

    def write(self, ids: Sequence[int], most: int) -> list[int]:
        """The greedy answer, the end token included if it came."""


class TinyModel:
    """A checkpoint, in float32 on one thread."""

    def __init__(self, folder: Path | str) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
        self.end = int(self.tokenizer.eos_token_id)
        self.length = int(self.model.config.max_position_embeddings)
        self._logprobs = lru_cache(512)(self._forward)  # tests ask the same again and again

    def encode(self, text: str, special: bool = True) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=special)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids)))

    def chat(self, messages: list[dict[str, Any]]) -> list[int]:
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return self.encode(text, special=False)

    def logprobs(self, ids: Sequence[int]) -> np.ndarray:
        return self._logprobs(tuple(ids))

    def _forward(self, ids: tuple[int, ...]) -> np.ndarray:
        import torch

        with torch.inference_mode():
            logits = self.model(torch.tensor([ids])).logits[0]
            return logits.log_softmax(-1).numpy()

    def write(self, ids: Sequence[int], most: int) -> list[int]:
        written: list[int] = []
        while len(written) < most and (not written or written[-1] != self.end):
            written.append(int(self.logprobs([*ids, *written])[-1].argmax()))
        return written


class Words:
    """A function from the prompt's text to the answer. Tokens are the bytes of UTF-8, 256 is BOS and 257 the end."""

    end = 257
    length = 100_000

    def __init__(self, answer: Callable[[str], str]) -> None:
        self.answer = answer

    def encode(self, text: str, special: bool = True) -> list[int]:
        return [256] * special + list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(i for i in ids if i < 256).decode(errors="replace")

    def chat(self, messages: list[dict[str, Any]]) -> list[int]:
        return self.encode("\n".join(f"{one['role']}: {one['content']}" for one in messages))

    def logprobs(self, ids: Sequence[int]) -> np.ndarray:
        """Made up, but the same for the same tokens before, and they sum to 1."""
        rows = [np.random.default_rng(zlib.crc32(bytes(str(ids[: i + 1]), "ascii"))) for i in range(len(ids))]
        logits = np.array([dice.normal(scale=2.0, size=258) for dice in rows])
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    def write(self, ids: Sequence[int], most: int) -> list[int]:
        return [*self.encode(self.answer(self.decode(ids)), special=False), self.end][:most]


class Refuse(Exception):
    """An error as the server words it."""

    def __init__(self, status: int, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status, self.error = status, {"message": message, "type": "invalid_request_error", "code": status, **more}


class Endpoint:
    """The server, in a thread of its own. Every switch is an attribute, and may be changed while it runs."""

    def __init__(
        self,
        model: Model,
        *,
        name: str = "stub",
        latency: float = 0.0,  # seconds before it answers
        at_once: int | None = None,  # 429 where more requests are under way
        per_second: float | None = None,  # 429 where more come in
        retry_after: str | None = None,  # the header of a 429
        faults: Sequence[Fault] = (),
        key: str | None = None,  # 401 without it
        echo: str = "right",  # right, shifted (as llama-cpp), ignored (as transformers serve), refused
        token_prompts: bool = True,
        logprob_token_ids: bool = True,
        max_logprobs: int = 20,
        completions: bool = True,  # whether /v1/completions is there
        chat: bool = True,
        chat_logprobs: bool = True,
        unsupported: Sequence[str] = (),  # parameters that are refused, as OpenAI does
        fingerprint: str | None = None,  # system_fingerprint of replies
        metrics: bool = True,
        reply: Callable[[dict[str, Any]], dict[str, Any]] = lambda reply: reply,  # changes a right reply
    ) -> None:
        self.model, self.name, self.latency = model, name, latency
        self.at_once, self.per_second, self.retry_after = at_once, per_second, retry_after
        self.faults, self.key, self.echo = list(faults), key, echo
        self.token_prompts, self.logprob_token_ids, self.max_logprobs = token_prompts, logprob_token_ids, max_logprobs
        self.completions, self.chat, self.chat_logprobs = completions, chat, chat_logprobs
        self.unsupported, self.fingerprint, self.metrics, self.reply = unsupported, fingerprint, metrics, reply
        self.started = time.time()
        self._blocks: set[int] = set()
        self._allowance = (time.monotonic(), 1.0)
        self._compute = ThreadPoolExecutor(1)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.port = self.under_way = 0
        self._forget()

    def reset(self) -> None:
        """Forget what was counted, and go on without faults."""
        self.faults = []
        self._forget()

    def _forget(self) -> None:
        self.posts: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []  # of all requests
        self.times: list[float] = []  # when each post came in, monotonic seconds
        self.connections: set[Any] = set()  # addresses that posts came from
        self.answered: Counter[str] = Counter()  # canonical JSON of the body -> answers with status 200
        self.statuses: Counter[int] = Counter()  # 0: no answer
        self.peak = 0
        self.prompt_tokens = self.cached_tokens = self.written_tokens = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Endpoint:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result(30)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()
        self._compute.shutdown()

    async def _serve(self) -> None:
        app = web.Application(client_max_size=1 << 26)
        routes = {"/v1/models": self._models, "/metrics": self._metrics, "/health": self._health}
        for path, handler in routes.items():
            app.router.add_get(path, handler)
        for path in ("/v1/completions", "/v1/chat/completions"):
            app.router.add_post(path, self._complete)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        await self._runner.cleanup()

    def restart(self, after: float | None) -> None:
        """Go away, and come back on the same port `after` seconds later (None: never). Returns at once."""

        async def again() -> None:
            await self._stop()
            if after is not None:
                await asyncio.sleep(after)
                self.started = time.time()
                await self._serve()

        asyncio.run_coroutine_threadsafe(again(), self._loop)

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def _models(self, request: web.Request) -> web.Response:
        self.headers.append(dict(request.headers))
        if self._wrong_key(request):
            return self._error(self._key_error(request))
        card = {"id": self.name, "object": "model", "created": int(self.started), "owned_by": "stub"}
        return web.json_response({"object": "list", "data": [card | {"max_model_len": self.model.length}]})

    async def _metrics(self, request: web.Request) -> web.Response:
        if not self.metrics:
            raise web.HTTPNotFound
        values = {
            "vllm:prompt_tokens_total": self.prompt_tokens,
            "vllm:generation_tokens_total": self.written_tokens,
            "vllm:prefix_cache_queries_total": self.prompt_tokens,
            "vllm:prefix_cache_hits_total": self.cached_tokens,
        }
        lines = [f'{name}{{engine="0",model_name="{self.name}"}} {float(value)}' for name, value in values.items()]
        return web.Response(text="\n".join([*lines, f"process_start_time_seconds {self.started:.2f}", ""]))

    def _wrong_key(self, request: web.Request) -> bool:
        return self.key is not None and request.headers.get("Authorization") != f"Bearer {self.key}"

    def _key_error(self, request: web.Request) -> Refuse:
        """Some servers repeat the key that they were given."""
        return Refuse(401, f"Incorrect API key provided: {request.headers.get('Authorization', 'none')}.")

    def _error(self, error: Refuse, headers: dict[str, str] | None = None) -> web.Response:
        self.statuses[error.status] += 1
        return web.json_response({"error": error.error}, status=error.status, headers=headers)

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.posts.append(body)
        self.headers.append(dict(request.headers))
        self.times.append(time.monotonic())
        self.connections.add(request.transport and request.transport.get_extra_info("peername"))
        number = len(self.posts)
        self.under_way += 1
        self.peak = max(self.peak, self.under_way)
        try:
            if self._wrong_key(request):
                raise self._key_error(request)
            if (self.at_once and self.under_way > self.at_once) or self._too_fast():
                raise Refuse(429, "Rate limit reached. Slow down.", type="rate_limit_error")
            await asyncio.sleep(self.latency)
            fault = next((fault.kind for fault in self.faults if fault.hits(number)), "")
            if fault.isdigit():
                raise Refuse(int(fault), "The server had an error while it processed your request.")
            loop = asyncio.get_running_loop()
            reply = await loop.run_in_executor(self._compute, self._reply, request.path, body)
            return await self._send(request, fault, reply, json.dumps(body, sort_keys=True))
        except Refuse as error:
            retry = {"Retry-After": self.retry_after} if error.status == 429 and self.retry_after is not None else {}
            return self._error(error, retry)
        finally:
            self.under_way -= 1

    def _too_fast(self) -> bool:
        if self.per_second is None:
            return False
        now = time.monotonic()
        then, left = self._allowance
        left = min(max(1.0, self.per_second / 10), left + (now - then) * self.per_second)
        self._allowance = (now, left - 1 if left >= 1 else left)
        return left < 1

    async def _send(self, request: web.Request, fault: str, reply: dict[str, Any], asked: str) -> web.StreamResponse:
        """The reply as it is, or spoilt."""
        raw = json.dumps(spoil(fault, reply), ensure_ascii=False).encode()
        if fault in ("stall", "drip", "half", "drop"):
            self.statuses[0] += 1
            return await broken(request, fault, raw)
        if fault == "garbage":
            raw = b"<html><body>Bad gateway"
        elif fault == "cut":
            raw = raw[: len(raw) // 2]
        self.statuses[200] += 1
        if fault in ("", "reversed"):
            self.answered[asked] += 1
        return web.Response(body=raw, content_type="application/json")

    def _reply(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        for name in self.unsupported:
            if body.get(name) is not None:
                raise Refuse(
                    400, f"Unsupported parameter: '{name}' is not supported with this model.",
                    param=name, code="unsupported_parameter",
                )  # fmt: skip
        if body.get("model") != self.name:
            raise Refuse(404, f"The model `{body.get('model')}` does not exist.", type="NotFoundError")
        talks = path.endswith("/chat/completions")
        if not (self.chat if talks else self.completions):
            raise Refuse(404, "Not Found")
        prompts = [self.model.chat(body["messages"])] if talks else self._prompts(body)
        made = [self._choice(i, ids, body, talks) for i, ids in enumerate(prompts)]
        read, written = sum(map(len, prompts)), sum(n for _, n in made)
        cached = sum(self._cached(ids) for ids in prompts)
        self.prompt_tokens, self.written_tokens = self.prompt_tokens + read, self.written_tokens + written
        self.cached_tokens += cached
        usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
        reply = {
            "id": f"stub-{len(self.posts)}",
            "object": "chat.completion" if talks else "text_completion",
            "created": int(time.time()),
            "model": self.name,
            "system_fingerprint": self.fingerprint,
            "choices": [choice for choice, _ in made],
            "usage": {**usage, "prompt_tokens_details": {"cached_tokens": cached}},
        }
        return self.reply(reply)

    def _cached(self, ids: list[int]) -> int:
        """Tokens whose blocks were seen before; all are seen afterwards."""
        blocks = [hash(tuple(ids[:end])) for end in range(BLOCK, len(ids), BLOCK)]
        hits = next((i for i, block in enumerate(blocks) if block not in self._blocks), len(blocks))
        self._blocks.update(blocks)
        return hits * BLOCK

    def _prompts(self, body: dict[str, Any]) -> list[list[int]]:
        """Token ids of each prompt: a text, token ids, or a list of either."""
        prompt = body["prompt"]
        several = isinstance(prompt, list) and prompt and not isinstance(prompt[0], int)
        prompts = list(prompt) if several else [prompt]
        if not self.token_prompts and any(isinstance(one, list) for one in prompts):
            raise Refuse(400, "prompt: Input should be a valid string")
        special = body.get("add_special_tokens", True)
        return [self.model.encode(one, special) if isinstance(one, str) else list(one) for one in prompts]

    def _choice(self, index: int, ids: list[int], body: dict[str, Any], talks: bool) -> tuple[dict[str, Any], int]:
        """One choice, and how many tokens it wrote."""
        most = body.get("max_completion_tokens") or body.get("max_tokens")
        most = 16 if most is None else most
        if not ids or len(ids) + max(most, 1) > self.model.length:
            raise Refuse(400, f"This model's maximum context length is {self.model.length} tokens.")
        top = (body.get("top_logprobs") if talks else body.get("logprobs")) or 0
        if top > self.max_logprobs:
            raise Refuse(400, f"Requested sample logprobs of {top}, which is greater than {self.max_logprobs}.")
        written = self.model.write(ids, most)
        text, finish, written = self._cut(written, body, most)
        choice: dict[str, Any] = {"index": index, "finish_reason": finish}
        if talks:
            choice["message"] = {"role": "assistant", "content": text, "refusal": None}
            if body.get("logprobs") and self.chat_logprobs:
                choice["logprobs"] = {"content": self._chat_logprobs(ids, written, top)}
            return choice, len(written)
        echo = body.get("echo") and self.echo != "ignored"
        if body.get("echo") and self.echo == "refused":
            raise Refuse(400, "echo is not supported")
        choice["text"] = (self.model.decode(ids) if echo else "") + text
        if body.get("return_token_ids"):
            choice |= {"prompt_token_ids": ids, "token_ids": written}
        choice["logprobs"] = None if body.get("logprobs") is None else self._logprobs(ids, written, body, bool(echo))
        return choice, len(written)

    def _cut(self, written: list[int], body: dict[str, Any], most: int) -> tuple[str, str, list[int]]:
        """The text before the stop string, why it ended, and the tokens up to there."""
        ended = bool(written) and written[-1] == self.model.end
        text = self.model.decode(written[:-1] if ended else written)
        stops = body.get("stop") or []
        for n in range(1, len(written) + 1) if stops else ():
            part = self.model.decode(written[:n])
            places = [part.find(stop) for stop in ([stops] if isinstance(stops, str) else stops) if stop in part]
            if places:
                return part[: min(places)], "stop", written[:n]
        return text, "stop" if ended else "length", written

    def _name(self, token: int, as_ids: bool) -> str:
        return f"token_id:{token}" if as_ids else self.model.decode([token])

    def _logprobs(self, ids: list[int], written: list[int], body: dict[str, Any], echo: bool) -> dict[str, Any]:
        """The lists of the old API. With echo the first token has None, since nothing is before it."""
        as_ids, top = bool(body.get("return_tokens_as_token_ids")), int(body["logprobs"])
        every = [*ids, *written]
        rows = self.model.logprobs(every)
        shown = range(0 if echo else len(ids), len(every))
        shift = 0 if self.echo == "shifted" else 1
        values: list[float | None] = []
        tops: list[dict[str, float] | None] = []
        for i in shown:
            if i == 0:
                values.append(None)
                tops.append(None)
                continue
            row = rows[i - (shift if echo else 1)]
            values.append(float(row[every[i]]))
            wanted = body.get("logprob_token_ids") if self.logprob_token_ids and i >= len(ids) else None
            listed = np.argsort(-row, kind="stable")[:top].tolist() if wanted is None else list(wanted)
            tops.append({self._name(token, as_ids): float(row[token]) for token in dict.fromkeys([every[i], *listed])})
        tokens = [self._name(every[i], as_ids) for i in shown]
        pieces = [len(self.model.decode([every[i]])) for i in shown]
        offsets = [sum(pieces[:n]) for n in range(len(pieces))]
        return {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}

    def _chat_logprobs(self, ids: list[int], written: list[int], top: int) -> list[dict[str, Any]]:
        rows = self.model.logprobs([*ids, *written])

        def entry(token: int, value: float) -> dict[str, Any]:
            text = self.model.decode([token])
            return {"token": text, "logprob": float(value), "bytes": list(text.encode())}

        content = []
        for n, token in enumerate(written):
            row = rows[len(ids) + n - 1]
            best = np.argsort(-row, kind="stable")[:top].tolist()
            content.append(entry(token, row[token]) | {"top_logprobs": [entry(one, row[one]) for one in best]})
        return content


def main() -> None:
    """Serve until killed; KEY=VALUE: latency=, port=."""
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    endpoint = Endpoint(Words(lambda prompt: "jah"), latency=float(given.get("latency", 0)))
    endpoint.port = int(given.get("port", 0))
    with endpoint:
        print(endpoint.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
