"""Makes empty indexes that rank by inner product from FAISS factory strings, or says in one line why it cannot."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Any

import faiss

from rag_ops.errors import InputError

METRIC = faiss.METRIC_INNER_PRODUCT  # what DPR and RAG score passages by; FAISS itself defaults to L2
EXPECTED = "Flat, SQ8, PQ, IVF or HNSW, or another FAISS factory string that ranks by inner product"
NAMES = {faiss.METRIC_INNER_PRODUCT: "inner product", faiss.METRIC_L2: "L2 distance"}
READABLE = ("IndexFlat", "IndexFlatIP", "IndexFlatL2", "IndexScalarQuantizer")  # storages that are near the vectors
ROTATIONS = ("OPQMatrix", "PCAMatrix", "RandomRotationMatrix", "HadamardRotation", "RemapDimensionsTransform")
# The largest number after a name in a factory string: links, bits of a code, lists, and all others. FAISS itself makes
# tables of any size for a greater one, before it sees a vector.
LARGEST = ((r"HNSW(\d+)", 512), (r"IMI\d+x(\d+)", 11), (r"x(\d+)", 16), (r"IVF(\d+)", 1 << 22))
LARGEST_NUMBER = 1 << 22
UNIT_RANGE = re.compile(r"QT_\dbit_(tq|tqmse|eden)")  # scalar quantisers for the numbers of vectors of length 1


@dataclasses.dataclass(frozen=True)
class Layout:
    """How vectors are stored in an index of some spec.

    Attributes:
        width: numbers of a vector in the index.
        augmented: whether to append sqrt(phi^2 - |v|^2), so that L2 search over the HNSW graph ranks by inner product.
        metric: FAISS's; L2 only where it gives the order of inner products.
    """

    width: int
    augmented: bool
    metric: int = METRIC


def layout(spec: str, dimension: int, normalized: bool) -> Layout:
    """How vectors are put into an index of a spec.

    A graph that links by raw inner product links everything to the longest vectors, and loses recall. With sqrt(phi^2 -
    |v|^2) appended, phi the longest length, inner product and L2 distance give the same order (Karpukhin et al.'s DPR
    code does this for its HNSW index). Zeros follow where sub-quantisers must divide the width. Vectors of one length
    need no more numbers: a graph over those is one of inner products, or, if FAISS only has it by distance (HNSW over
    PQ), one of distances, which rank them alike. Vectors that a transform reduces have different lengths afterwards,
    whatever is appended before, so a graph over those is one of inner products.

    Args:
        spec: FAISS factory string.
        dimension: numbers of a vector.
        normalized: whether vectors have length 1.

    Raises:
        InputError: FAISS does not know the string, or it does not go with the dimension.
    """
    if not is_graph(spec):
        return Layout(dimension, False)
    by_product, _ = _made(spec, dimension, METRIC)
    honoured = by_product is not None and not _by_another(by_product, METRIC)
    if not normalized and by_product is not None and _reduces(by_product):
        if not honoured:
            raise _refused(
                "reduces vectors of different lengths, and FAISS ranks those by distance in such a graph",
                spec,
                "leave the reduction out, or use IVF",
            )
        return Layout(dimension, False)
    if not normalized:
        parts = max([int(count) for count in re.findall(r"PQ(\d+)", spec)], default=1) or 1
        return Layout(-(-(dimension + 1) // parts) * parts, True, faiss.METRIC_L2)
    return Layout(dimension, False, METRIC if honoured else faiss.METRIC_L2)


def is_graph(spec: str) -> bool:
    """Whether an index of a spec is an HNSW graph over the vectors, not one over the centroids of lists."""
    return "HNSW" in spec and not re.search(r"IVF|IMI", spec)


def empty_index(spec: str, dimension: int, metric: int = METRIC) -> Any:
    """An untrained, empty FAISS index, for inner product unless another metric is given.

    A product quantiser is not trained for polysemous codes (Douze et al. 2016), as the factory's own "np" asks: that
    takes seconds of annealing for each of its parts, and only puts its centroids into another order, for a search by
    Hamming distance that ours never is.

    Raises:
        InputError: FAISS does not know the string, or it does not go with the dimension or the metric (the factory
            gives some indexes L2 distance whatever it is asked for), or rows or inner products would not survive it.
    """
    index, reason = _made(spec, dimension, metric)
    if index is None:
        other = next((known for known in NAMES if known != metric), METRIC)
        if metric == METRIC and _made(spec, dimension, other)[0] is not None:
            raise _refused("ranks by distance only; RAG ranks by inner product", spec)
        raise InputError(
            f"--spec is no index for vectors of {dimension} numbers ({reason})",
            value=spec,
            expected="Flat or a FAISS factory string whose parts divide the dimension",
        )
    for part in parts_of(index):
        if why := _why_not(part):
            raise _refused(why[0], spec, why[1])
    if found := _by_another(index, metric):
        raise _refused(f"ranks by {NAMES.get(found, 'another metric')} whatever it is asked for", spec)
    for part in parts_of(index):
        if hasattr(part, "do_polysemous_training"):
            part.do_polysemous_training = False
    return index


def sketch(spec: str, dimension: int) -> Any:
    """An empty index of a spec by whichever metric FAISS has it, to take sizes from.

    Raises:
        InputError: FAISS does not know the string, or it does not go with the dimension.
    """
    for metric in NAMES:
        index, reason = _made(spec, dimension, metric)
        if index is not None:
            return index
    raise InputError(f"--spec is no index for vectors of {dimension} numbers ({reason})", value=spec, expected=EXPECTED)


def parts_of(index: Any) -> Iterator[Any]:
    """An index and those that it is made of, each as its own class; the outermost first."""
    part = faiss.downcast_index(index)  # which does not keep `index` alive
    yield part
    for name in ("index", "base_index", "refine_index", "storage", "quantizer"):
        if getattr(part, name, None) is not None:
            yield from parts_of(getattr(part, name))


def transforms_of(index: Any) -> list[Any]:
    """The transforms of vectors that an index begins with, each as its own class."""
    chain = getattr(index, "chain", None)
    return [faiss.downcast_VectorTransform(chain.at(place)) for place in range(chain.size())] if chain else []


def kind_of(part: Any) -> str:
    """The name of a part's exact class: a subclass may lay out its vectors otherwise."""
    return type(part).__name__


def check_unit_range(index: Any, spec: str, normalized: bool) -> None:
    """Refuses quantisers of numbers of unit vectors for vectors of any length.

    Raises:
        InputError: such a quantiser is given; the line says what to use.
    """
    quantisers = (part.sq for part in parts_of(index) if hasattr(part, "sq"))
    if not normalized and any(UNIT_RANGE.fullmatch(quantiser_name(quantiser.qtype)) for quantiser in quantisers):
        raise _refused("is for vectors of length 1, which these are not", spec, "use SQ4 or SQ8")


def quantiser_name(qtype: int) -> str:
    """FAISS's name of a kind of scalar quantiser, such as "QT_8bit"; "" for an unknown one."""
    kinds = faiss.ScalarQuantizer
    return next((name for name in dir(kinds) if name.startswith("QT_") and getattr(kinds, name) == qtype), "")


def graph_of(index: Any) -> Any:
    """The HNSW graph over the vectors of an index, behind transforms and refinement; None if there is none."""
    inner = faiss.downcast_index(index)
    while (wrapped := getattr(inner, "base_index", None) or _transformed(inner)) is not None:
        inner = faiss.downcast_index(wrapped)
    return inner if hasattr(inner, "hnsw") else None


def links_of(graph: Any) -> int:
    """Links of a vector on the graph's lowest level: twice the M of its spec."""
    return int(graph.hnsw.nb_neighbors(0)) if graph.hnsw.cum_nneighbor_per_level.size() > 1 else 0


def is_coded(index: Any) -> bool:
    """Whether a graph has nothing better than codes of vectors (of a product quantiser) to rank them by."""
    refined = hasattr(faiss.downcast_index(index), "refine_index")
    return not refined and kind_of(_storage(index)) not in READABLE


def is_rough(index: Any) -> bool:
    """Whether distances in a graph rank otherwise than inner products with what it stores: reduced, or few bits."""
    storage = _storage(index)
    return _reduces(index) or storage.sa_code_size() < storage.d


def why_unreadable(index: Any) -> str | None:
    """Why the hits of an index on disk are no rows ranked by inner product, as the end of a sentence; None if they are.

    An L2 distance ranks alike over a graph of vectors of one length, such as `layout` makes: that one is let through.
    """
    outer = faiss.downcast_index(index)
    if found := next((part for part in parts_of(outer) if kind_of(part).startswith("IndexIDMap")), None):
        return f"has ids of its own ({kind_of(found)}), where a row is the position of its vector"
    if outer.metric_type == METRIC or (outer.metric_type == faiss.METRIC_L2 and graph_of(outer) is not None):
        return None
    return f"ranks by {NAMES.get(outer.metric_type, 'another metric')} ({kind_of(outer)}), not by inner product"


def _made(spec: str, dimension: int, metric: int) -> tuple[Any, str]:
    """The index that the factory makes, or None and its error."""
    for pattern, most in (*LARGEST, (r"(\d+)", LARGEST_NUMBER)):
        if any(len(found) > 9 or int(found) > most for found in re.findall(pattern, spec)):
            return None, f"a number is greater than {most:,}"
    try:
        return faiss.index_factory(dimension, spec, metric), ""
    except Exception as error:  # FAISS raises RuntimeError and, for some strings, AssertionError or bare Exception
        words = re.sub(r"^.*\.(?:cpp|h):\d+: (?:Error: )?", "", " ".join(str(error).split()))
        return None, words[-160:] or type(error).__name__


def _reduces(index: Any) -> bool:
    """Whether an index begins with a transform to fewer numbers."""
    transforms = [transform for part in parts_of(index) for transform in transforms_of(part)]
    return any(transform.d_out < transform.d_in for transform in transforms)


def _storage(index: Any) -> Any:
    """What the graph in an index keeps its vectors in."""
    return faiss.downcast_index(graph_of(index).storage)


def _by_another(index: Any, metric: int) -> int | None:
    """The metric of the first part that does not have the one that was asked for; None if all do."""
    return next((part.metric_type for part in parts_of(index) if part.metric_type != metric), None)


def _transformed(index: Any) -> Any:
    return index.index if hasattr(index, "chain") else None


def _refused(reason: str, spec: str, remedy: str | None = None) -> InputError:
    return InputError(f"--spec {reason}", value=spec, expected=None if remedy else EXPECTED, remedy=remedy)


def _why_not(part: Any) -> tuple[str, str] | None:
    """Why a part of an index cannot be used here, as the end of a sentence, and what to use; None if it can."""
    return next((found for test in _TESTS if (found := test(part))), None)


def _keeps_rows(part: Any) -> tuple[str, str] | None:
    if kind_of(part).startswith("IndexIDMap"):
        return "gives vectors ids of its own, where a row is the position of its vector", "leave IDMap out"
    return None


def _grows(part: Any) -> tuple[str, str] | None:
    if hasattr(part, "nsg") or hasattr(part, "nndescent"):
        return "makes a graph of all vectors at once, while shards are filled in batches", "use HNSW32"
    if hasattr(part, "hnsw") and links_of(part) < 4:
        return "has a graph of fewer than 2 links", "use HNSW16 or HNSW32"
    if hasattr(part, "nlist") and part.nlist < 1:
        return "has no lists", "use IVF64 or more"
    return None


def _keeps_products(part: Any) -> tuple[str, str] | None:
    for transform in transforms_of(part):
        if kind_of(transform) not in ROTATIONS or getattr(transform, "eigen_power", False):
            return f"changes inner products ({kind_of(transform)})", "use PCA, PCAR or OPQ, or leave it out"
        if transform.d_out < transform.d_in and kind_of(transform) not in ("PCAMatrix", "OPQMatrix"):
            return "drops numbers blindly, and with them part of each inner product", f"use PCAR{transform.d_out}"
    return None


def _keeps_numbers(part: Any) -> tuple[str, str] | None:
    name = quantiser_name(part.sq.qtype) if hasattr(part, "sq") else ""
    if "direct" in name:
        return "stores whole numbers from 0 to 255 only", "use SQ8"
    if name == "QT_0bit":
        return "stores nothing of a vector", "use SQ4 or SQ8"
    return None


_TESTS: tuple[Callable[[Any], tuple[str, str] | None], ...] = (_keeps_rows, _grows, _keeps_products, _keeps_numbers)
