"""New rows from those of similar old tokens, after FOCUS (Dobler & de Melo 2023, arXiv 2305.14481).

    pieces = focus(old, new, texts, seed=42)      # a Pieces, to be applied to embeddings and head

Tokens of both vocabularies copy their row. Another token is a weighted mean of such rows: the weights are the sparsemax
(Martins & Astudillo 2016) of the cosines between auxiliary embeddings. The paper's are fastText's, learnt on much text;
ours are those of the positive pointwise mutual information of tokens that stand near each other in the stage's own
texts, cut down by SVD (Levy, Goldberg & Dagan 2015), with no library beside. A token that the texts hold less than
`SEEN` times is the mean of its pieces, where the paper draws at random.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from estbench_training.vocab.forms import SPECIAL, Vocabulary
from estbench_training.vocab.pieces import Pieces, pieces_of

WINDOW = 5  # tokens to each side; one at distance k counts 1/k
TOKENS = 5_000_000  # of the texts that are looked at at most
WIDTH = 128  # of an auxiliary embedding
SMOOTHED = 0.75  # the power of a context's frequency (Levy et al. 2015)
SEEN = 3
ROUNDS = 3  # power iterations
AT_ONCE = 256  # tokens whose similarities are computed together
BATCH = 1024  # texts
HIGHEST = 64  # similar tokens that are looked at first


def focus(old: Vocabulary, new: Vocabulary, texts: Sequence[str], seed: int) -> Pieces:
    """Every new token as a weighted mean of old rows; the same seed and texts give the same."""
    base = pieces_of(old, new)
    tokens_ = _encoded(new, texts)
    counts = np.bincount(tokens_, minlength=new.size)
    nearby = auxiliary(tokens_, new.size, seed)
    known = base.origins >= 0
    usable = (counts >= SEEN) & (new.kinds != SPECIAL) & (nearby.norm(dim=1) > 0).numpy()
    anchors, open_ = np.flatnonzero(known & usable), np.flatnonzero(~known & usable)
    lists: list[Sequence[int]] = []
    weights: list[Sequence[float]] = []
    for place in range(new.size):
        some = slice(base.indptr[place], base.indptr[place + 1])
        lists.append(base.indices[some].tolist())
        weights.append(base.weights[some].tolist())
    if len(anchors):
        unit = torch.nn.functional.normalize(nearby, dim=1).float()
        for begin in range(0, len(open_), AT_ONCE):
            tokens = open_[begin : begin + AT_ONCE]
            found = sparsest(unit[tokens] @ unit[anchors].T)
            for token, (places, shares) in zip(tokens.tolist(), found, strict=True):
                lists[token] = base.origins[anchors[places.numpy()]].tolist()
                weights[token] = shares.tolist()
    return Pieces.of_lists(lists, weights, old.size)


def sparsemax(scores: Tensor) -> Tensor:
    """(n, m) -> (n, m): the nearest point of the simplex to each row (Martins & Astudillo 2016, algorithm 1)."""
    ordered = scores.sort(dim=1, descending=True).values
    sums = ordered.cumsum(dim=1)
    place = torch.arange(1, scores.shape[1] + 1, dtype=scores.dtype)
    size = (1 + place * ordered > sums).sum(dim=1, keepdim=True)
    threshold = (sums.gather(1, size - 1) - 1) / size
    return (scores - threshold).clamp(min=0)


def sparsest(scores: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Of each row of scores the places where its sparsemax is above 0, and what it is there. It is looked for among the
    highest scores, and where that is all of them, among twice as many."""
    most = min(HIGHEST, scores.shape[1])
    while True:
        top = scores.topk(most, dim=1)
        shares = sparsemax(top.values.double())
        if most == scores.shape[1] or (shares[:, -1] == 0).all():
            above = shares > 0
            return [(row[keep], share[keep]) for row, share, keep in zip(top.indices, shares, above, strict=True)]
        most = min(2 * most, scores.shape[1])


def auxiliary(tokens: NDArray[np.int64], size: int, seed: int) -> Tensor:
    """(size, WIDTH) in float64: embeddings of tokens by what stands near them; zero for those that aren't there."""
    rows, columns, counts = _together(tokens, size)
    if not len(counts):
        return torch.zeros(size, 1, dtype=torch.float64)
    often = np.bincount(rows, counts, size)
    smoothed = often**SMOOTHED
    values = np.log(np.maximum(counts / (often[rows] * smoothed[columns] / smoothed.sum()), 1.0))
    told = values > 0
    rows, columns, values = rows[told], columns[told], values[told]
    matrix, across = _sparse(rows, columns, values, size), _sparse(columns, rows, values, size)
    left, sizes = _svd(matrix, across, min(WIDTH, size), seed)
    return left * sizes.sqrt()


def _together(tokens: NDArray[np.int64], size: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """(tokens, tokens near them, how often, the nearer the more), both ways round."""
    cells, counts = [np.zeros(0, np.int64)], [np.zeros(0)]
    for apart in range(1, min(WINDOW, len(tokens) - 1) + 1):
        left, right = tokens[:-apart], tokens[apart:]
        found, often = np.unique(np.minimum(left, right) * size + np.maximum(left, right), return_counts=True)
        cells.append(found)
        counts.append(often / apart)
    pairs, place = np.unique(np.concatenate(cells), return_inverse=True)
    summed = np.bincount(place, np.concatenate(counts), len(pairs)).astype(np.float64)
    low, high = pairs // size, pairs % size
    summed[low == high] *= 2  # each is near the other
    both = low != high
    return (
        np.concatenate([low, high[both]]),
        np.concatenate([high, low[both]]),
        np.concatenate([summed, summed[both]]),
    )


def _sparse(rows: NDArray[np.int64], columns: NDArray[np.int64], values: NDArray[np.float64], size: int) -> Tensor:
    at = torch.from_numpy(np.stack([rows, columns]))
    return torch.sparse_coo_tensor(at, torch.from_numpy(values), (size, size), check_invariants=True).coalesce()


def _svd(matrix: Tensor, across: Tensor, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """(n, width) and (width,): left singular vectors and values of a square sparse matrix, approximately (Halko,
    Martinsson & Tropp 2011). across: its transpose."""
    dice = torch.Generator().manual_seed(seed)
    basis = torch.randn(matrix.shape[1], width, dtype=matrix.dtype, generator=dice)
    for _ in range(ROUNDS):
        basis = torch.linalg.qr(across @ torch.linalg.qr(matrix @ basis).Q).Q
    left, sizes, _ = torch.linalg.svd(matrix @ basis, full_matrices=False)
    return left, sizes


def _encoded(vocabulary: Vocabulary, texts: Sequence[str]) -> NDArray[np.int64]:
    """The tokens of texts, one text after another, until there are enough."""
    reader, found, size = vocabulary.reader(), [np.zeros(0, np.int64)], 0
    for begin in range(0, len(texts), BATCH):
        some = reader.encode_batch_fast(list(texts[begin : begin + BATCH]), add_special_tokens=False)
        found += [np.array(one.ids, np.int64) for one in some]
        size += sum(len(one.ids) for one in some)
        if size >= TOKENS:
            break
    return np.concatenate(found)[:TOKENS]
