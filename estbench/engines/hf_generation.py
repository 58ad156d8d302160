"""Answers with transformers: what prompts share is forwarded once, each row ends for itself and is then dropped.

A batch is `stem | padding | rest` with the stem's keys and values repeated a row; transformers takes positions from
the mask. Which of this a model gets right is tried once, on made-up tokens; the rest is left out, and that is said.

transformers' continuous batching is not used: it stops at end tokens only (an answer that ends at a line break would
run on to its limit), takes no processor that refuses NaN, and its thread starts while requests still come in, so that
what is computed together, and with it the last bits, differs from run to run.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from estbench.engines.base import Decoding, Generated, Ids, Pack, Request
from estbench.engines.scoring_test import by_length
from estbench.engines.thinking import markers_of, opens, split

if TYPE_CHECKING:
    from estbench.engines.hf import HFEngine

STRIDE = 16  # tokens between two looks at whether rows have ended and can be dropped
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.05, "float16": 0.02}  # root mean square of differences / spread of logits
LOOK = Decoding(max_new_tokens=1)


class Generator:
    """Generates answers on a loaded engine."""

    def __init__(self, engine: HFEngine) -> None:
        self.engine = engine
        self.tokenizer = engine.tokens.tokenizer
        self.markers = markers_of(engine.tokens.chat_template, self.tokenizer.get_vocab())
        self.path = ""  # "stems", "padded" or "alone"; known once the first pack has come
        self.drops = False  # whether rows can be taken out of the cache
        self.kept: tuple[bytes, Any] = (b"", None)  # the stem whose keys and values are kept
        self.forwarded = 0  # tokens, padding included

    def generate(self, pack: Pack) -> list[Generated]:
        """Answers to prompts that share one `Decoding`."""
        requests = pack.requests
        assert requests[0].decoding and all(r.decoding == requests[0].decoding for r in requests)
        if not self.path:
            self.path = self._choose()
        groups: dict[int, list[int]] = {}
        for i, request in enumerate(requests):  # where padding leaks into answers, equal lengths go together
            groups.setdefault(len(request.prompt) if self.path == "alone" else 0, []).append(i)
        stem = max(pack.stem, default=0) if self.path == "stems" else 0
        answers: dict[int, Generated] = {}
        for group in groups.values():
            rows = [Row(self, requests[i]) for i in group]
            self._run(rows, stem)
            answers |= {i: row.answer() for i, row in zip(group, rows, strict=True)}
        return [answers[i] for i in range(len(requests))]

    def _run(self, rows: Sequence[Row], stem: int) -> Any:
        """Let each row generate until it has ended; returns the logits of the last token's position."""
        import torch
        from transformers import StoppingCriteriaList

        decoding = rows[0].decoding
        sampling: dict[str, Any] = {"do_sample": False}
        if decoding.temperature > 0:
            sampling = {"do_sample": True, "temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0}
            torch.manual_seed(decoding.seed)
        live, left = list(rows), self._budget(rows)
        ids, mask = self._layout([row.prompt for row in rows], stem)
        self.forwarded += ids.shape[0] * (ids.shape[1] - stem)
        with torch.inference_mode():
            cache = self._stem(rows[0].prompt[:stem], len(rows)) if stem else None
            while True:
                out = self.engine.model.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    past_key_values=cache,
                    max_new_tokens=min(left, STRIDE) if self.drops else left,
                    logits_processor=[self._refuse_nan],
                    stopping_criteria=StoppingCriteriaList([Stopping(live)]),
                    return_dict_in_generate=True,
                    output_logits=decoding is LOOK,
                    **sampling,
                )
                left -= STRIDE if self.drops else left
                self.forwarded += len(live) * (out.sequences.shape[1] - ids.shape[1] - 1)
                stay = [i for i, row in enumerate(live) if not row.done]
                if left <= 0 or not stay:
                    return out
                ids, cache = out.sequences, out.past_key_values
                mask = torch.nn.functional.pad(mask, (0, ids.shape[1] - mask.shape[1]), value=1)
                if len(stay) < len(live):
                    live, ids, mask = [live[i] for i in stay], ids[stay], mask[stay]
                    cache.batch_select_indices(torch.tensor(stay))  # on the CPU: layers may lie on several GPUs

    def _budget(self, rows: Sequence[Row]) -> int:
        """New tokens for these rows: what the task allows, and more to think with where that fits the context."""
        allowed, width = rows[0].decoding.max_new_tokens, max(len(row.prompt) for row in rows)
        spare = max(0, self.engine.max_length - width - allowed)
        return allowed + (min(spare, self.engine.options.thinking_tokens) if self.markers else 0)

    def _layout(self, prompts: Sequence[Ids], stem: int) -> tuple[Any, Any]:
        """`stem | padding | rest` of each prompt, and its mask."""
        import torch

        width = max(map(len, prompts))
        ids = np.full((len(prompts), width), self.engine.pad, np.int64)
        mask = np.zeros_like(ids)
        for i, prompt in enumerate(prompts):
            rest = slice(width - len(prompt) + stem, width)
            ids[i, :stem], mask[i, :stem] = prompt[:stem], 1
            ids[i, rest], mask[i, rest] = prompt[stem:], 1
        return tuple(torch.from_numpy(part).to(self.engine.device) for part in (ids, mask))  # type: ignore[return-value]

    def _stem(self, ids: Ids, rows: int) -> Any:
        """The keys and values of a stem, once for each row."""
        import torch
        from transformers import DynamicCache

        name = ids.tobytes()
        if self.kept[0] != name:
            self.kept = (b"", None)  # the old one's memory goes first
            cache: Any = DynamicCache(config=self.engine.model.config)
            asked = torch.from_numpy(ids.astype(np.int64))[None].to(self.engine.device)
            self.engine.model.generate(input_ids=asked, past_key_values=cache, max_new_tokens=1)
            self.forwarded += len(ids)
            self.kept = (name, cache)
        cache = copy.deepcopy(self.kept[1])
        cache.batch_repeat_interleave(rows)
        return cache

    def _refuse_nan(self, _: Any, scores: Any) -> Any:
        """A logits processor: NaN would be decoded as some token, and scored."""
        if scores.isnan().any():
            raise self.engine.nan()
        return scores

    def _choose(self) -> str:
        """What this model gets right: the logits behind prompts that are computed together against each one's alone."""
        from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

        most = self.engine.model.get_input_embeddings().weight.shape[0]
        dice = np.random.default_rng(0)
        head = dice.integers(0, most, 24)
        tails = [dice.integers(0, most, n) for n in (9, 3, 14)]
        requests = [Request(np.concatenate([head, tail]).astype(np.int32), decoding=LOOK) for tail in tails]
        outs = [self._run([Row(self, request)], 0) for request in requests]
        alone = np.concatenate([out.logits[0].float().cpu().numpy() for out in outs])
        cache = outs[0].get("past_key_values")
        layers = {type(layer) for layer in cache.layers} if isinstance(cache, DynamicCache) else {None}
        off = {}
        for path, stem in (("padded", 0), ("stems", len(head))):
            if path == "padded" or layers == {DynamicLayer}:  # a sliding window would count the padding behind a stem
                together = self._run([Row(self, request) for request in requests], stem).logits[0].float().cpu().numpy()
                off[path] = float(np.sqrt(((together - alone) ** 2).mean()) / max(1e-9, float(alone.std())))
        self.kept, self.forwarded = (b"", None), 0
        self.drops = layers <= {DynamicLayer, DynamicSlidingWindowLayer}
        allowed, name = TOLERANCE.get(self.engine.dtype, 1e-3), self.engine.checkpoint.name
        if why := by_length(self.engine.model.config.get_text_config(decoder=True)):
            self.engine.say(f"{name}: only prompts of one length are generated together, because {why}. That is slow.")
            return "alone"
        if off["padded"] > allowed:
            self.engine.say(
                f"{name}: padding changes its answers by {off['padded']:.1%}, so only prompts of one length are "
                "generated together. That is slow."
            )
            return "alone"
        if off.get("stems", 1.0) <= allowed:
            return "stems"
        why = (
            f"they change its answers by {off['stems']:.1%}" if "stems" in off else "it keeps more than keys and values"
        )
        why = "its window slides" if DynamicSlidingWindowLayer in layers else why
        self.engine.say(f"{name}: what prompts share is forwarded for each answer anew, because {why}.")
        return "padded"


class Row:
    """A request that is being answered."""

    def __init__(self, generator: Generator, request: Request) -> None:
        assert request.decoding
        self.generator, self.prompt, self.decoding = generator, request.prompt, request.decoding
        self.new: list[int] = []
        self.finish = ""  # set once it has ended
        markers = generator.markers
        self.opened = bool(markers and opens(generator.tokenizer.decode(request.prompt[-16:].tolist()), markers))
        self.since = 0 if markers is None else None  # where the answer starts; None: not known yet, or thinking

    @property
    def done(self) -> bool:
        return bool(self.finish)

    def take(self, token: int) -> None:
        """One token more."""
        self.new.append(token)
        if self.since is None:
            self.since = self._answer_start()
        if token in self.generator.engine.ends or (self.decoding.stop and self._stops()):
            self.finish = "stop"
        elif self.since is not None and len(self.new) - self.since >= self.decoding.max_new_tokens:
            self.finish = "length"

    def _stops(self) -> bool:
        """Whether a stop string has come, outside of thinking."""
        if self.since is None:
            return False
        # a token has at least one byte; the margin covers a string that starts inside a token
        tail = max(len(stop.encode()) for stop in self.decoding.stop) + 4
        text = self._decode(self.new[max(self.since, len(self.new) - tail) :])
        if self.since and not text.strip():  # line breaks between thinking and answer end nothing
            self.since = len(self.new)
            return False
        return any(stop in (text.lstrip() if self.since else text) for stop in self.decoding.stop)

    def _answer_start(self) -> int | None:
        """Index of the answer's first token; None while there is none."""
        markers = self.generator.markers
        assert markers
        if not self.opened:
            begun = self._decode(self.new, special=True).lstrip()
            if not markers.open.startswith(begun) and not begun.startswith(markers.open):
                return 0
            self.opened = begun.startswith(markers.open)
        tail = self.new[-len(markers.close.encode()) - 4 :]
        return len(self.new) if markers.close in self._decode(tail, special=True) else None

    def _decode(self, ids: list[int], special: bool = False) -> str:
        return str(self.generator.tokenizer.decode(ids, skip_special_tokens=not special))

    def answer(self) -> Generated:
        """The answer up to its end token or first stop string, and what was thought before it."""
        ended = bool(self.new) and self.new[-1] in self.generator.engine.ends
        kept = self.new[:-1] if ended else self.new
        thinking, count = self._thought(kept)
        text = self._decode(kept[count:])
        text = text.lstrip() if count else text
        at = min((found for stop in self.decoding.stop if (found := text.find(stop)) >= 0), default=None)
        finish = "stop" if ended or at is not None else "length"
        return Generated(text if at is None else text[:at], len(self.new), finish, thinking, count)

    def _thought(self, ids: list[int]) -> tuple[str, int]:
        """What was thought, and its tokens, markers included."""
        markers = self.generator.markers
        if markers is None:
            return "", 0
        whole = self._decode(ids, special=True)
        thinking, answer = split(whole, markers, opened=self.opened)
        if answer == whole:
            return "", 0
        if markers.close not in whole:
            return thinking, len(ids)
        low, high = 0, len(ids)  # the fewest tokens that hold the closing marker
        while low < high:
            middle = (low + high) // 2
            low, high = (
                (low, middle) if markers.close in self._decode(ids[:middle], special=True) else (middle + 1, high)
            )
        return thinking, low


class Stopping:
    """A stopping criterion: hands each row its new token, and ends it for itself."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        import torch

        for row, token in zip(self.rows, input_ids[:, -1].tolist(), strict=True):
            if not row.done:
                row.take(token)
        return torch.tensor([row.done for row in self.rows], device=input_ids.device)
