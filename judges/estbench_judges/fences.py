"""Fences around what comes from outside, so that a judge can tell it from its instructions.

    fenced("ANSWER_A", text, nonce)

    <<<BEGIN ANSWER_A 5f0c…>>>
    "the text as JSON"
    <<<END ANSWER_A 5f0c…>>>

The nonce is a hash of everything that is fenced in the call: its author can't know it (his text would have to contain
its own hash), and the same call has the same key. The text is JSON, so that it stays on one line; what looks like a
fence or like a chat template's special token is escaped in it (JSON reads it back unchanged), so that neither a judge
that knows fences by their shape nor a tokenizer takes it for one. So is what can't be seen, what begins a line, and
what a tokenizer may turn into an angle or square bracket, since it could be put between the signs of such a token.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

NONCE = 24  # hex digits: 96 bits
HTML = (  # tags that stay legible; any other name between < and > may be some tokenizer's special token
    r"a|abbr|article|aside|b|body|br|button|canvas|code|dd|div|dl|dt|em|figure|footer|form|h[1-6]|head|header|hr|html|i|"
    r"img|input|label|legend|li|link|main|meta|nav|ol|option|p|pre|script|section|select|small|span|strong|style|sub|"
    r"sup|svg|table|tbody|td|textarea|tfoot|th|thead|title|tr|u|ul|video"
)
WORDS = (
    r"s|bos|eos|pad|unk|mask|sep|cls|sop|eop|think|thinking|start_of_turn|end_of_turn|start_of_text|end_of_text|"
    r"start_of_image|end_of_image|image|image_soft_token|tool_call|tool_response|function_call|system|user|assistant|"
    r"im_start|im_end|eoh|eoa|(?:bos|eos|pad|unk|mask)_token|extra_id_\d+|unused_?\d+|reserved_?\d+|special_\d+|"
    r"dummy_?\d+|tokens_unused_\d+"
)
# Fences, <|im_end|>, <｜User｜>, <start_of_turn>, </s>, <<SYS>>, [INST], [IMG_2] and their like. Other tags and square
# brackets stay: HTML and links are legible.
SPECIAL = re.compile(
    rf"<<<|>>>|<[|｜]|[|｜]>|</?(?:{WORDS})>|</?(?!(?:{HTML})[ >/])[A-Za-z][\w:.@|-]{{0,60}}>|\]~|\[e~\[|\[@\w+@\]"
    rf"|<</?SYS>>|\[/?(?:INST|SYS|gMASK)\]|(?-i:\[/?[A-Z][A-Z0-9_]{{1,30}}\])"
    r"|(?<=[a-z_/<>|\[\]])\ufe0f"  # an emoji's selector where there is no emoji
    # look-alikes of <>[]| that compatibility normalization makes of them; separators of lines
    r"|[\uff1c\uff1e\ufe64\ufe65\uff3b\uff3d\uff5c\ufe47\ufe48\u22d8\u22d9\x7f-\x9f\u2028\u2029"
    # no width or direction only, tags and variation selectors of the supplementary plane, halves of surrogate pairs
    r"\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0e"
    r"\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff\ud800-\udfff]",
    re.IGNORECASE,
)


def nonce_of(contents: list[Any]) -> str:
    """The nonce of a call, from all that it fences."""
    text = json.dumps(contents, sort_keys=True, separators=(",", ":"), allow_nan=False)  # ASCII: halves of pairs, too
    return hashlib.sha256(b"fence" + text.encode()).hexdigest()[:NONCE]


def encode(value: Any) -> str:
    """A text (or a list of texts) as one line of JSON without anything that looks like a fence or a special token."""
    return SPECIAL.sub(_escaped, json.dumps(value, ensure_ascii=False))


def _escaped(found: re.Match[str]) -> str:
    """The match with all but its letters and digits as JSON escapes."""
    return "".join(sign if sign.isascii() and sign.isalnum() else _escape(sign) for sign in found.group())


def _escape(sign: str) -> str:
    return f"\\u{ord(sign):04x}" if sign.isascii() else json.dumps(sign)[1:-1]  # beyond 16 bits a pair


def fenced(label: str, value: Any, nonce: str) -> str:
    """The value between its fences."""
    return f"<<<BEGIN {label} {nonce}>>>\n{encode(value)}\n<<<END {label} {nonce}>>>"
