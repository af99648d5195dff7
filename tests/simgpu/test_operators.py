"""PyTorch's own operator database, forward only, on simulated tensors against the CPU."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from interpreter import python

pytest.importorskip("expecttest")

WORKER = Path(__file__).parent / "op_db_worker.py"
DIFFER = {"empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided"}  # any bytes
LAPACK = {"linalg.lstsq", "linalg.lstsq.grad_oriented"}  # its last bits depend on where memory begins
REFUSED = {"tensor_split", "to_sparse", "sparse.sampled_addmm", "sparse.mm.reduce"}  # tensor_split: as on a GPU
SAMPLES_USE = {  # what the forward passes of the sample models come down to
    "add", "mul", "sub", "div.no_rounding_mode", "pow", "rsqrt", "mean", "sum", "neg", "cat", "matmul", "mm", "bmm",
    "addmm", "nn.functional.linear", "nn.functional.embedding", "nn.functional.silu", "nn.functional.gelu",
    "nn.functional.relu", "softmax", "nn.functional.layer_norm", "nn.functional.rms_norm",
    "nn.functional.scaled_dot_product_attention", "nn.functional.conv2d", "view", "reshape", "transpose", "permute",
    "expand", "chunk", "split", "unsqueeze", "squeeze", "index_select", "index_add", "index_put", "gather", "scatter",
    "topk", "sort", "argmax", "argsort", "cumsum", "masked_fill", "where", "triu", "tril", "arange", "full", "ones",
    "zeros", "clamp", "exp", "log", "sin", "cos", "tanh", "sigmoid", "abs", "min.binary", "max.binary", "histc",
    "outer", "repeat", "repeat_interleave", "nonzero", "unique", "isin", "eq", "ge", "lt", "logical_and", "logical_not",
    "bitwise_and", "bitwise_or", "clone", "contiguous", "to", "unfold", "einsum", "multinomial", "normal",
}  # fmt: skip


def run_from(start: int) -> tuple[list[dict], int | None]:
    """The worker's lines from one operation on, and the number of the operation it died in, if it did."""
    run = python(WORKER, str(start), timeout=None)
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    if run.returncode == 0:
        return lines, None
    assert lines, run.stderr[-2000:]
    return lines, lines[-1]["number"]


@pytest.mark.slow
def test_operators_agree_with_the_cpu_or_are_refused_and_none_ends_the_process(capsys):
    outcomes: dict[str, str] = {}
    start, died = 0, 0
    while died is not None:
        lines, died = run_from(start)
        outcomes.update({line["name"]: line["outcome"] for line in lines if "outcome" in line})
        if died is not None:
            outcomes[lines[-1]["name"]] = "died"
            start = died + 1
    counts = Counter(outcomes.values())
    rest = {name: outcome for name, outcome in outcomes.items() if outcome != "agrees"}
    with capsys.disabled():
        print(f"\noperator database on simgpu: {dict(counts)}; not agreeing: {rest}")
    assert counts["died"] == 0
    assert {name for name in rest if rest[name] in ("differs", "not repeatable")} <= DIFFER | LAPACK
    assert {name for name in rest if rest[name] == "refused"} <= REFUSED
    assert counts["agrees"] > 600
    used = {name: outcomes.get(name, "not in the database") for name in SAMPLES_USE}
    assert {name: outcome for name, outcome in used.items() if outcome != "agrees"} == {}
