"""Thinking is kept apart from the answer: closed, unclosed, opened by the template, or absent."""

from __future__ import annotations

import pytest

from estbench.engines.thinking import KNOWN, THINK, Markers, markers_of, opens, split


@pytest.mark.parametrize(
    ("text", "opened", "expected"),
    [
        ("<think>\nKas A või B?\n</think>\n\nVastus: B", False, ("Kas A või B?", "Vastus: B")),
        ("Kas A või B?\n</think>\n\nVastus: B", True, ("Kas A või B?", "Vastus: B")),  # the template opened it
        ("Kas A või B?\n</think>\n\nVastus: B", False, ("Kas A või B?", "Vastus: B")),  # it did, and nobody says so
        ("<think>\n\n</think>\n\nVastus: B", False, ("", "Vastus: B")),  # thinking switched off
        ("<think>Kas A või", False, ("Kas A või", "")),  # cut off before the answer
        ("Kas A või", True, ("Kas A või", "")),
        ("\n <think>a</think>b</think>c", False, ("a", "b</think>c")),
        (" Vastus: B\n", False, ("", " Vastus: B\n")),  # no thinking: not a character is touched
        ("Märgend <think> on HTML-i moodi", False, ("", "Märgend <think> on HTML-i moodi")),
        ("", False, ("", "")),
        ("", True, ("", "")),
    ],
)
def test_thinking_and_answer_are_told_apart(text: str, opened: bool, expected: tuple[str, str]) -> None:
    assert split(text, opened=opened) == expected


@pytest.mark.parametrize("markers", KNOWN)
def test_each_known_pair_of_markers_is_split(markers: Markers) -> None:
    assert split(f"{markers.open}mõte{markers.close}vastus", markers) == ("mõte", "vastus")


def test_markers_come_from_the_template_or_the_vocabulary_and_from_nothing_else() -> None:
    assert markers_of("{% if '</think>' in content %}…") == THINK
    assert markers_of(None, {"[THINK]": 1, "[/THINK]": 2}) == KNOWN[1]
    assert markers_of("{{ messages }}", {"think": 1}) is None
    assert markers_of(None) is None


def test_a_prompt_that_ends_in_an_open_marker_opens_thinking() -> None:
    assert opens("<|im_start|>assistant\n<think>\n")
    assert not opens("<|im_start|>assistant\n<think>\n\n</think>\n\n")  # switched off by the template
    assert not opens("Mis on <think>? Vasta:")
