"""Reading compiled programs: what XLA's own text of one says about its loops, arithmetic and memory traffic.

Counted is what is executed: the entry, the bodies of its loops, the branches of its conditionals and what they call.
A fusion is one operation that reads its operands and writes its result; what is inside it moves nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_ARRAY = re.compile(r"([a-z]+\d*\w*)\[([\d,]*)\](\{[^{}]*\})?")
_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "c64": 64, "c128": 128, "token": 0}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
# What moves no data: names for what is there already, and control flow, whose bodies are counted by themselves.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all",
    "partition-id", "replica-id", "iota", "opt-barrier", "domain",
}  # fmt: skip
_CALLED = re.compile(
    r"(?:calls|to_apply|body|branch_computations|true_computation|false_computation)=(\{[^}]*\}|%[\w.\-]+)"
)
_CALLBACK = re.compile(r'custom_call_target="[^"]*callback[^"]*"')
# What an operation is mostly there for; `layout`: copies, transpositions and changes of type that compute nothing.
KINDS = ("products", "reductions", "elementwise", "layout", "prefetch", "gather", "collectives", "other")
# Below this an array is a scalar, a label, a channel's number: its layout is nobody's concern.
LARGE = 1 << 16


class Array(NamedTuple):
    """An array in a program; `host` and `near`: whether it lies in host memory, or in a TPU's vector memory."""

    dtype: str
    dims: tuple[int, ...]
    near: bool = False
    host: bool = False

    @property
    def bytes(self) -> int:
        """Without padding."""
        digits = re.search(r"\d+", self.dtype)
        bits = _BITS.get(self.dtype) or int(digits.group() if digits else 0)
        return math.prod(self.dims) * bits // 8


class Instruction(NamedTuple):
    """One line of a computation: name, results, opcode, operands' names, and the text that follows them."""

    name: str
    results: tuple[Array, ...]
    op: str
    operands: tuple[str, ...]
    text: str

    @property
    def bytes(self) -> int:
        """Of all results."""
        return sum(array.bytes for array in self.results)

    def called(self) -> list[str]:
        """Names of the computations that it runs, a loop's condition aside."""
        return [n.strip(" %{}") for found in _CALLED.findall(self.text) for n in found.strip("{}").split(",")]


class Product(NamedTuple):
    """A convolution or matrix product.

    Attributes:
        flops: operations, a multiplication and an addition being 2.
        dtype: of the inputs, the wider one.
        precision: as XLA names it.
        window: whether it is a convolution; XLA writes matrix products as some without a window, too.
    """

    flops: float
    dtype: str
    precision: str
    window: bool


@dataclasses.dataclass(frozen=True)
class Part:
    """What the entry or one body of a loop does in one turn, loops inside it apart.

    Attributes:
        name: of the computation.
        products: its convolutions and matrix products, those of fusions included.
        moved: bytes read from and written to the device's main memory, by kind of operation (`KINDS`).
        cycles: the compiler's own estimate, where it gives one, by kind.
        collectives: kind -> number.
        copies: bytes of every copy or transposition of a large array, alone or in a fusion that computes nothing.
        casts: bytes of every change of type of a large array that is an operation of its own.
        operations: number of operations.
        host: transfers from or to the host, and callbacks.
        loops: the loops in it.
    """

    name: str
    products: tuple[Product, ...] = ()
    moved: Counter[str] = dataclasses.field(default_factory=Counter)
    cycles: Counter[str] = dataclasses.field(default_factory=Counter)
    collectives: Counter[str] = dataclasses.field(default_factory=Counter)
    copies: tuple[int, ...] = ()
    casts: tuple[int, ...] = ()
    operations: int = 0
    host: int = 0
    loops: tuple[Loop, ...] = ()

    @property
    def bytes(self) -> int:
        """Moved by all operations of one turn."""
        return sum(self.moved.values())

    def all(self) -> Iterator[Part]:
        """This part and those of all loops in it."""
        yield self
        for loop in self.loops:
            yield from loop.body.all()


class Loop(NamedTuple):
    """A loop; `trips`: how often it runs, None where that depends on the data."""

    trips: int | None
    body: Part


class Program:
    """A compiled program.

    Args:
        text: what `compiled.as_text()` gives.

    Attributes:
        computations: name -> its instructions.
        types: of all arrays in it.
        aliased: how many results take the memory of an argument.
    """

    def __init__(self, text: str) -> None:
        self.computations: dict[str, list[Instruction]] = {}
        self.aliased = len(re.findall(r"(?:may|must)-alias", text.partition("\n")[0]))
        entry, lines = "", None
        for line in text.splitlines():
            head = _HEAD.match(line)
            if head:
                lines = self.computations.setdefault(head[2], [])
                entry = head[2] if head[1] else entry
            elif line.startswith("}"):
                lines = None
            elif lines is not None and " = " in line:
                lines.append(_instruction(line))
        self.types: set[str] = {a.dtype for lines in self.computations.values() for each in lines for a in each.results}
        self._entry = entry

    @functools.cached_property
    def entry(self) -> Part:
        """What the program does in one call."""
        return self._part(self._entry)

    def shapes(self, op: str) -> Iterator[Array]:
        """The results of all operations of a kind, inside fusions, too."""
        for lines in self.computations.values():
            for each in lines:
                if each.op == op:
                    yield from each.results

    def _part(self, name: str) -> Part:
        lines = self.computations[name]
        known = {each.name: each for each in lines}
        products: list[Product] = []
        collectives: Counter[str] = Counter()
        copies: list[int] = []
        casts: list[int] = []
        loops: list[Loop] = []
        moved: Counter[str] = Counter()
        cycles: Counter[str] = Counter()
        operations = host = 0
        for each in lines:
            kind = each.op.removesuffix("-start")
            if each.op == "while":
                loops.append(Loop(self._trips(each, known), self._part(_attribute(each, "body"))))
            elif each.op in ("conditional", "call") or kind == "async":
                # Of a conditional's branches one runs: all are counted, which is too much rather than too little.
                for part in map(self._part, each.called()):
                    products += part.products
                    collectives += part.collectives
                    copies += part.copies
                    casts += part.casts
                    loops += part.loops
                    moved, cycles = moved + part.moved, cycles + part.cycles
                    operations, host = operations + part.operations, host + part.host
            host += kind in ("infeed", "outfeed", "send", "recv") or _is_callback(each)
            if each.op in _FREE or kind == "async" or each.op.endswith(("-done", "-update")):
                continue
            operations += 1
            collectives[kind] += kind in COLLECTIVES
            arrays = [a for name in each.operands if name in known for a in known[name].results] + list(each.results)
            host += kind == "copy" and any(array.host for array in arrays)
            inside = self._inside(each)
            own = [p for inner, other in inside if (p := _product(inner, other))]
            products += own
            what = _kind(each, {inner.op for inner, _ in inside}, bool(own))
            cycles[what] += _cycles(each)
            moved[what] += _traffic(what, arrays, each)
            if what == "layout" and each.bytes >= LARGE:
                moves = any(inner.op in ("copy", "transpose") for inner, _ in inside)
                (copies if moves else casts).append(each.bytes)
        return Part(
            name,
            tuple(products),
            moved,
            cycles,
            +collectives,
            tuple(copies),
            tuple(casts),
            operations,
            host,
            tuple(loops),
        )

    def _inside(self, each: Instruction) -> list[tuple[Instruction, dict[str, Instruction]]]:
        """An operation with its computation's others, or those that a fusion is made of."""
        if each.op != "fusion":
            return [(each, self._named[each.name])]
        found = []
        for name in each.called():
            known = {inner.name: inner for inner in self.computations[name]}
            for inner in known.values():
                found += self._inside(inner) if inner.op == "fusion" else [(inner, known)]
        return found

    @functools.cached_property
    def _named(self) -> dict[str, dict[str, Instruction]]:
        """Name of an instruction -> the others of its computation by name."""
        named: dict[str, dict[str, Instruction]] = {}
        for lines in self.computations.values():
            known = {each.name: each for each in lines}
            named |= dict.fromkeys(known, known)
        return named

    def _trips(self, loop: Instruction, known: dict[str, Instruction]) -> int | None:
        """The bound of a loop that counts from 0 to a constant."""
        found = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.text)
        if found:
            return int(found[1])
        condition = self.computations[_attribute(loop, "condition")]
        inner, test = {each.name: each for each in condition}, condition[-1]
        if test.op != "compare" or "direction=LT" not in test.text:
            return None
        bound = inner.get(test.operands[1])
        if bound is not None and bound.op == "get-tuple-element":
            # The bound is carried along: what it was when the loop began.
            start, index = known.get(loop.operands[0]), int(_attribute(bound, "index"))
            bound = known.get(start.operands[index]) if start is not None and start.op == "tuple" else None
        value = re.match(r"\((\d+)\)", bound.text) if bound is not None and bound.op == "constant" else None
        return int(value[1]) if value else None


def _instruction(line: str) -> Instruction:
    name, _, rest = line.strip().removeprefix("ROOT ").partition(" = ")
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    results, rest = rest[:end], rest[end:].lstrip()
    op, _, rest = rest.partition("(")
    end = _closing("(" + rest, 0)
    operands = tuple(re.findall(r"%([\w.\-]+)", rest[: end - 1]))
    return Instruction(name.lstrip("%"), _arrays(results), op, operands, "(" + rest)


def _closing(text: str, start: int) -> int:
    """Where the parenthesis that opens at `start` closes."""
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if not depth:
            return index
    return len(text)


def _arrays(text: str) -> tuple[Array, ...]:
    found = []
    for dtype, dims, layout in _ARRAY.findall(text):
        space = re.search(r"S\((\d+)\)", layout or "")
        where = int(space[1]) if space else 0
        found.append(Array(dtype, tuple(map(int, dims.split(","))) if dims else (), where not in (0, 5), where == 5))
    return tuple(found)


def _attribute(each: Instruction, name: str) -> str:
    found = re.search(rf"\b{name}=%?([\w.\-]+)", each.text)
    return found[1] if found else ""


def _is_callback(each: Instruction) -> bool:
    return each.op == "custom-call" and bool(_CALLBACK.search(each.text))


def _kind(each: Instruction, ops: set[str], has_products: bool) -> str:
    if each.op.endswith("-start") and each.op.startswith(("copy", "slice")):
        return "prefetch"
    if each.op.removesuffix("-start") in COLLECTIVES:
        return "collectives"
    if has_products:
        return "products"
    work = ops - _FREE - {"copy", "transpose", "reshape", "convert", "fusion", "slice", "pad", "broadcast"}
    if not work and ops & {"copy", "transpose", "convert"}:
        return "layout"
    if ops & {"reduce", "reduce-window", "sort"}:
        return "reductions"
    if ops & {"gather", "scatter", "dynamic-slice", "dynamic-update-slice"}:
        return "gather"
    return "other" if each.op == "custom-call" else "elementwise"


def _traffic(kind: str, arrays: list[Array], each: Instruction) -> int:
    """Bytes from and to main memory, of an operation whose operands and results these arrays are."""
    most = max((a.bytes for a in arrays), default=0)
    if kind == "prefetch":
        # A copy, or a part of an array, in the background: its result names target, source and a flag.
        arrays = list(each.results[:2])
        most = min(a.bytes for a in arrays)
    elif kind == "gather":
        # Of what it reads from it takes some rows.
        most = each.bytes
    return sum(min(a.bytes, most) for a in arrays if not a.near)


def _cycles(each: Instruction) -> int:
    found = re.search(r'"estimated_cycles":"(\d+)"', each.text)
    return int(found[1]) if found else 0


_CUDNN = re.compile(r'custom_call_target="__cudnn\$conv(\w*)"')


def _product(each: Instruction, known: dict[str, Instruction]) -> Product | None:
    cudnn = _CUDNN.search(each.text) if each.op == "custom-call" else None
    if each.op not in ("convolution", "dot") and not cudnn:
        return None
    inputs = [known[name].results[0] for name in each.operands[:2] if name in known]
    if len(inputs) < 2:
        return None
    out, kernel, window = each.results[0], inputs[1], re.search(r"window=\{[^}]*size=", each.text)
    if cudnn and cudnn[1].startswith("BackwardInput"):
        out = inputs[0]
    elif cudnn and cudnn[1].startswith("BackwardFilter"):
        out, kernel = inputs[1], each.results[0]
    if each.op == "dot":
        flops = 2.0 * math.prod(out.dims) * math.prod(inputs[0].dims[d] for d in _numbers(each, "lhs_contracting_dims"))
    else:
        labels = re.search(r"dim_labels=\w+_(\w+)->", each.text)
        taps = math.prod(kernel.dims) / max(kernel.dims[labels[1].index("o")] if labels else 1, 1)
        spread = re.search(r"lhs_dilate=([\dx]+)", each.text)
        zeros = math.prod(map(int, spread[1].split("x"))) if spread and not cudnn else 1
        flops = 2.0 * math.prod(out.dims) * taps / zeros
    precision = re.search(r"operand_precision=\{(\w+)", each.text)
    dtype = max((a.dtype for a in inputs), key=lambda name: Array(name, ()).bytes)
    return Product(flops, dtype, precision[1] if precision else "default", bool(window))


def _numbers(each: Instruction, name: str) -> list[int]:
    found = re.search(rf"\b{name}=\{{([\d,]*)\}}", each.text)
    return [int(d) for d in found[1].split(",") if d] if found else []
