"""What a bundle may be: every way to make an archive that is not one, and that none of them gets far."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import tarfile
import tracemalloc
import zipfile
import zlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from bundle_workshop import BLOCK, Workshop, gzipped, parts, refused, shop
from estbench_leaderboard.submissions import bundle as bundles
from estbench_leaderboard.submissions import tokens
from estbench_leaderboard.submissions.bundle import LIMITS, Limits, open_bundle, sign, tar_header
from estbench_leaderboard.submissions.errors import Refused
from estbench_leaderboard.submissions.receive import audience_of, receive
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from submission_fixtures import Board, board

from estbench.database import queries
from estbench.identity import canonical
from estbench.runs import Run

__all__ = ["board", "shop"]  # fixtures


def tar(members: list[tuple[tarfile.TarInfo, bytes]], mode: str = "w:gz") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as made:  # type: ignore[call-overload]
        for info, data in members:
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
    return out.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


# ---- control: the workshop makes bundles that are taken


def test_what_the_workshop_puts_together_unchanged_is_taken(shop: Workshop) -> None:
    assert shop.send(shop.good).state == "received"
    assert [name for name in shop.board.stored() if name.endswith(".tar.gz")]


def test_a_bundle_holds_neither_golds_nor_prompts_nor_places(shop: Workshop, demo_run: Run) -> None:
    whole = b"".join(shop.good.values()).decode()
    prompts = [doc.prompt for task in demo_run.tasks for doc in demo_run.plan(task)]
    assert prompts and not any(prompt in whole for prompt in prompts)
    fields = {key for line in shop.good["responses/mini_qa.jsonl"].splitlines() for key in json.loads(line)}
    assert fields == {"doc", "asked", "prompt", "keys", "responses"}
    assert "target" not in whole and str(Path(demo_run.manifest["model"]["path"]).parent) not in whole


def test_equal_files_make_equal_bytes(shop: Workshop) -> None:
    assert shop.archive(shop.good) == shop.archive(dict(shop.good))


# ---- the set of hostile bundles


def test_a_gzip_bomb_is_refused_early_and_with_little_memory(shop: Workshop) -> None:
    zeros = gzipped(bytes(300 << 20))  # 300 MB in 300 kB
    tracemalloc.start()
    refused(shop, zeros, 400, "where bundle.json has to be")
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


def test_a_bomb_in_a_listed_file_is_refused_early_and_with_little_memory(shop: Workshop) -> None:
    bomb = b"\n" * (200 << 20)
    files = {**shop.good, "responses/mini_qa.jsonl": bomb}
    files["bundle.json"] = canonical(shop.listed(files))
    raw = shop.archive(files)
    assert len(raw) < 1 << 20
    del bomb, files["responses/mini_qa.jsonl"]
    tracemalloc.start()
    with pytest.raises(Refused):
        shop.send(raw, header=json.loads(files["bundle.json"]))
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


def test_too_high_a_ratio_is_refused(shop: Workshop) -> None:
    rows = [json.loads(line) for line in shop.good["responses/mini_qa.jsonl"].splitlines()]
    for row in rows[:20]:
        row["responses"][0]["text"] = "a" * 4_000_000
    files = {**shop.good, "responses/mini_qa.jsonl": b"".join(canonical(row) + b"\n" for row in rows)}
    refused(shop, {**files, "bundle.json": canonical(shop.listed(files))}, 413, "times its size")


def test_a_bomb_in_a_zip_is_no_bundle(shop: Workshop) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("bundle.json", bytes(50 << 20))
    refused(shop, out.getvalue(), 400, "is no gzip file")


def test_too_large_a_file_is_refused_while_it_arrives(board: Board) -> None:
    asked: list[int] = []

    def endless() -> Any:
        while True:
            asked.append(1)
            yield bytes(1 << 20)

    with pytest.raises(Refused) as caught:
        receive(board.database, board.folder, board.token, endless(), b"", audience=board.url)
    assert caught.value.status == 413 and len(asked) == (LIMITS.packed >> 20) + 1 and board.stored() == []


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "responses/../../x.jsonl", "a/b", ".ssh", "x\\y"])
def test_a_path_that_leads_elsewhere_is_refused(shop: Workshop, name: str) -> None:
    files = {**shop.good, name: b"x"}
    refused(shop, {**files, "bundle.json": canonical(shop.listed(files))}, 400, "does not belong there")
    refused(shop, files, 400, "does not list")  # and where the header does not name it


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (tarfile.SYMTYPE, "a link"),
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"),
        (tarfile.FIFOTYPE, "a pipe"),
        (tarfile.DIRTYPE, "a folder"),
    ],
)
def test_links_and_devices_are_refused(shop: Workshop, kind: bytes, words: str) -> None:
    first = (member("bundle.json"), shop.good["bundle.json"])
    raw = gzipped(tar_header("bundle.json", len(first[1])) + first[1] + bytes(-len(first[1]) % BLOCK))
    odd = tar([(member("manifest.json", kind, "/etc/passwd"), b"")], "w")
    body = zlib.decompress(raw, 31) + odd
    refused(shop, gzipped(body), 400, words)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_headers_that_only_other_tars_know_are_refused(shop: Workshop, form: int) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", format=form) as made:
        for name, data in shop.good.items():
            info = member(name if name != "manifest.json" else "ä" * 120)
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
    refused(shop, out.getvalue(), 400, "")


def test_a_hundred_thousand_files_are_refused_at_the_first_that_is_not_listed(shop: Workshop) -> None:
    many = tar_header("x", 1) + b"y".ljust(BLOCK, b"\0")
    raw = gzipped(b"".join(parts(shop.good)) + many * 100_000, 1)
    refused(shop, raw, 400, "does not list")


def test_a_hundred_thousand_listed_files_are_refused_by_their_list(shop: Workshop) -> None:
    rows = [{"name": f"responses/t{i}.jsonl", "size": 1, "sha256": "0" * 64} for i in range(100_000)]
    header = shop.header() | {"files": [*shop.header()["files"][:2], *rows]}
    refused(shop, {**shop.good, "bundle.json": canonical(header)}, 413, "bundle.json has")
    few = shop.header() | {"files": [*shop.header()["files"][:2], *rows[:300]]}
    refused(shop, {**shop.good, "bundle.json": canonical(few)}, 413, "more than 202 files")


def test_a_name_twice_is_refused(shop: Workshop) -> None:
    rows = shop.header()["files"]
    twice = shop.header() | {"files": [*rows, rows[-1]]}
    refused(shop, {**shop.good, "bundle.json": canonical(twice)}, 400, "names a file twice")
    raw = gzipped(b"".join([*parts(shop.good), parts(shop.good)[-1]]) + bytes(2 * BLOCK))
    refused(shop, raw, 400, "does not list")


def test_an_unknown_file_is_refused(shop: Workshop) -> None:
    files = {**shop.good, "golds.jsonl": b'{"answer": "B"}\n'}
    refused(shop, {**files, "bundle.json": canonical(shop.listed(files))}, 400, "does not belong there: 'golds.jsonl'")


def test_a_wrong_hash_is_refused(shop: Workshop) -> None:
    for name in ("scores.json", "responses/mini_copa.jsonl"):
        data = shop.good[name].replace(b"1", b"2")
        refused(shop, {**shop.good, name: data}, 400, "its SHA-256 is another")


def test_a_wrong_size_is_refused(shop: Workshop) -> None:
    refused(shop, {**shop.good, "scores.json": shop.good["scores.json"] + b" "}, 400, "another size")


def test_a_forged_manifest_is_refused(shop: Workshop) -> None:
    """Listed anew, but signed as it was before."""
    files = shop.changed("manifest.json", lambda found: found | {"name": "teine"})
    refused(shop, files, 400, "The signature does not fit", header=shop.header())


def test_another_key_is_refused(shop: Workshop) -> None:
    refused(shop, shop.good, 400, "The signature does not fit", key=bundles.new_key())


def test_a_bundle_under_a_strangers_key_is_refused_once_the_token_is_bound(shop: Workshop) -> None:
    assert shop.board.token.key is None
    first = shop.send(shop.good)
    bound = shop.board.holder(shop.board.text)
    assert bound.key == shop.header()["key"]
    stranger = bundles.new_key()
    header = shop.header() | {"key": bundles.public_key(stranger), "nonce": "b" * 32}
    with pytest.raises(Refused, match="another key than the one that this token is bound to") as caught:
        shop.send({**shop.good, "bundle.json": canonical(header)}, key=stranger)
    assert caught.value.status == 403 and first.state == "received"


def test_a_replay_is_refused(shop: Workshop) -> None:
    shop.send(shop.good)
    with pytest.raises(Refused, match="sent before") as caught:
        shop.send(shop.good)
    assert caught.value.status == 409
    header = shop.header() | {"nonce": "c" * 32}  # packed anew: another bundle of the same run
    with pytest.raises(Refused, match="was sent before, as submission"):
        shop.send({**shop.good, "bundle.json": canonical(header)})
    packed = gzipped(zlib.decompress(shop.archive(shop.good), 31), 1)  # other bytes, the same content
    with pytest.raises(Refused, match="This bundle was sent before"):
        shop.send(packed)


def test_a_replay_to_another_board_or_under_another_token_is_refused(shop: Workshop) -> None:
    elsewhere = shop.header() | {"audience": "https://teine.example.ee"}
    refused(shop, {**shop.good, "bundle.json": canonical(elsewhere)}, 400, "The bundle is for https://teine.example.ee")
    theirs = shop.header() | {"token": "0" * 12}
    refused(shop, {**shop.good, "bundle.json": canonical(theirs)}, 403, "for another token")


def test_a_run_of_somebody_else_is_refused(shop: Workshop, demo_run: Run) -> None:
    shop.send(shop.good)
    text = tokens.new_token(shop.board.database, "Teine")
    other = dataclasses.replace(shop.board.holder(text))
    key = bundles.new_key()
    header = shop.header() | {"token": other.id, "key": bundles.public_key(key), "nonce": "d" * 32}
    raw = shop.archive({**shop.good, "bundle.json": canonical(header)})
    with pytest.raises(Refused, match="was sent by somebody else") as caught:
        receive(shop.board.database, shop.board.folder, other, [raw], sign(header, key), audience=shop.board.url)
    assert caught.value.status == 409


@pytest.mark.parametrize("days", [-3, 3])
def test_a_bundle_of_another_time_is_refused(shop: Workshop, days: int) -> None:
    when = (datetime.now(UTC) + timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")
    refused(shop, {**shop.good, "bundle.json": canonical(shop.header() | {"created": when})}, 400, "pack it again")


def test_a_run_from_the_future_is_refused(shop: Workshop) -> None:
    """The newest run names its model."""
    files = shop.changed("manifest.json", lambda found: found | {"created": "2999-01-01T00:00:00+00:00"})
    refused(shop, files, 400, "in the future")


@pytest.mark.parametrize("embargo", ["2999-01-01", "tomorrow", "2027-02-30", 5])
def test_an_embargo_that_is_none_is_refused(shop: Workshop, embargo: Any) -> None:
    header = shop.header() | {"embargo": embargo}
    refused(shop, {**shop.good, "bundle.json": canonical(header)}, 400, "embargo")


def test_text_that_is_not_canonical_is_refused(shop: Workshop) -> None:
    """Two ways to read what was signed would be one too many."""
    loose = json.dumps(shop.header(), indent=1).encode()
    refused(shop, {**shop.good, "bundle.json": loose}, 400, "canonical")


def test_what_follows_the_end_is_refused(shop: Workshop) -> None:
    raw = shop.archive(shop.good)
    for more in (b"x", gzipped(b"another"), raw):
        refused(shop, raw + more, 400, "Something follows")
    longer = gzipped(zlib.decompress(raw, 31) + bytes(BLOCK))
    refused(shop, longer, 400, "Something follows")


def test_what_is_hidden_between_files_is_refused(shop: Workshop) -> None:
    body = bytearray(zlib.decompress(shop.archive(shop.good), 31))
    size = len(shop.good["bundle.json"])
    body[BLOCK + size] = 65
    refused(shop, gzipped(bytes(body)), 400, "hides something")


def test_a_bundle_cut_anywhere_is_refused(shop: Workshop) -> None:
    raw = shop.archive(shop.good)
    for length in (0, 1, 10, 100, 1000, len(raw) // 2, len(raw) - 9, len(raw) - 1):
        with pytest.raises(Refused):
            shop.send(raw[:length])
    assert shop.board.stored() == []


@hypothesis_settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_byte_is_refused_or_changes_nothing(shop: Workshop, data: st.DataObject) -> None:
    raw = bytearray(shop.archive(shop.good))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    good = open_bundle(shop.archive(shop.good))
    try:
        opened = open_bundle(bytes(raw))
    except Refused:
        return
    assert opened.header == good.header and place < 10  # the gzip header's time and system


@hypothesis_settings(max_examples=60, deadline=None)
@given(noise=st.binary(max_size=3000))
def test_noise_is_refused(noise: bytes) -> None:
    for raw in (noise, gzipped(noise)):
        with pytest.raises(Refused):
            open_bundle(raw)


TEXTS = st.text(st.characters(codec="utf-8"), max_size=60)


@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TEXTS, min_size=1, max_size=8), thinking=TEXTS, logprobs=st.lists(st.floats(-1e6, 0), max_size=4))
def test_what_is_packed_comes_out_again(shop: Workshop, texts: list[str], thinking: str, logprobs: list[float]) -> None:
    """Any answer that an engine can give, letter by letter and bit by bit."""
    first = json.loads(shop.good["responses/mini_qa.jsonl"].splitlines()[0])
    answers = [
        {"text": text, "tokens": 1, "finish": "stop", "thinking": thinking, "thinking_tokens": 2} for text in texts
    ] + [{"logprob": value, "greedy": value > -1} for value in logprobs]
    row = first | {"responses": answers, "keys": [f"{i:032x}" for i in range(len(answers))]}
    opened = open_bundle(shop.archive(shop.with_line(canonical(row))))
    assert next(opened.rows("mini_qa")) == row
    assert sum(1 for _ in opened.rows("mini_copa")) == shop.good["responses/mini_copa.jsonl"].count(b"\n")


def test_limits_hold_as_they_are_said(shop: Workshop) -> None:
    raw = shop.archive(shop.good)
    open_bundle(raw, Limits(packed=len(raw)))
    for limits in (Limits(packed=len(raw) - 1), Limits(file=100), Limits(whole=1000), Limits(line=50), Limits(files=3)):
        with pytest.raises(Refused) as caught:
            open_bundle(raw, limits)
        assert caught.value.status == 413


def test_nothing_of_what_was_refused_is_on_the_board(shop: Workshop) -> None:
    refused(shop, shop.changed("scores.json", lambda rows: [rows[0] | {"values": [1]}]), 400, "values")
    assert queries.runs(shop.board.database) == []


# ---- URLs


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("https://tabel.ee/", "https://tabel.ee"),
        ("https://TABEL.ee:443", "https://tabel.ee"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000"),
        ("https://tabel.ee/alam/", "https://tabel.ee/alam"),
        ("http://[::1]:80", "http://[::1]"),
    ],
)
def test_a_boards_url_has_one_form(url: str, same: str) -> None:
    assert audience_of(url) == same


@pytest.mark.parametrize(
    "url",
    [
        "http://tabel.ee",
        "ftp://x",
        "tabel.ee",
        "https://a:b@tabel.ee",
        "https://tabel.ee?x",
        "http://127.0.0.1.evil.ee",
    ],
)
def test_a_url_that_no_token_may_go_to_is_refused(url: str) -> None:
    with pytest.raises(Refused):
        audience_of(url)


def test_a_key_is_32_bytes(board: Board) -> None:
    key = bundles.public_key(bundles.new_key())
    assert len(base64.b64decode(key)) == 32
    text = tokens.new_token(board.database, "Võtmega", key=key)
    assert board.holder(text).key == key
