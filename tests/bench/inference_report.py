"""The tables of the inference benchmark: by side and column, medians over the rounds."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from inference_sides import COLUMNS
from models import Shape
from report import Spread, percentile, table
from swap import RUNNING, Swap

_HEADER = ["", "first token, ms", "ms/token", "tokens/s alone", "of bandwidth", "tokens/s together", "of matmul"]


@dataclass
class Cell:
    """One side's numbers for one column: a value of each round."""

    # Seconds, of all requests of all rounds.
    first_tokens: list[float] = field(default_factory=list)
    single: list[float] = field(default_factory=list)
    together: list[float] = field(default_factory=list)

    def as_json(self) -> dict:
        return {
            "first_token_seconds": self.first_tokens,
            "tokens_per_second_alone": self.single,
            "tokens_per_second_together": self.together,
        }


@dataclass
class Precision:
    """All that was measured in one number format."""

    name: str
    shape: Shape
    weight_bytes: int
    at_once: int
    # The number format of the matmul rate.
    multiplied_in: str
    cells: dict[tuple[str, str], Cell] = field(default_factory=dict)
    # Bytes and operations per second, of each round.
    bandwidths: list[float] = field(default_factory=list)
    matmul_rates: list[float] = field(default_factory=list)
    swaps: list[Swap] = field(default_factory=list)
    peer_loads: dict[str, list[float]] = field(default_factory=dict)
    http_seconds: float | None = None

    def cell(self, side: str, column: str) -> Cell:
        return self.cells.setdefault((side, column), Cell())

    @property
    def single_bound(self) -> float:
        """Tokens per second at which all weights are read once per token. The best rate that was seen counts: other
        programs can only have made the others worse."""
        return max(self.bandwidths) / self.weight_bytes

    @property
    def together_bound(self) -> float:
        """Tokens per second at which the weights' products alone take all of the machine's rate."""
        return max(self.matmul_rates) / (2.0 * self.shape.parameters())

    def share(self, side: str, column: str) -> float | None:
        """Of the bound at batch 1 that was reached."""
        cell = self.cells.get((side, column))
        return statistics.median(cell.single) / self.single_bound if cell and cell.single else None

    def ratio(self, kind: str, one: tuple[str, str], other: tuple[str, str]) -> Spread | None:
        """`one` by `other`, round by round, so that a slow minute of the machine strikes both."""
        values = [getattr(self.cells[key], kind) if key in self.cells else [] for key in (one, other)]
        pairs = [ours / theirs for ours, theirs in zip(*values)]
        return Spread.of(pairs) if pairs else None

    def text(self) -> str:
        gigabytes, gigaflops = max(self.bandwidths) / 1e9, max(self.matmul_rates) / 1e9
        lines = [
            f"{self.shape.name}, {self.name}: {self.weight_bytes / 1e6:,.0f} MB of weights; memory reads {gigabytes:.1f} GB/s "
            f"({min(self.bandwidths) / 1e9:.1f} at the least), so at most {self.single_bound:,.0f} tokens/s alone; matmul in "
            f"{self.multiplied_in} {gigaflops:,.0f} GFLOP/s, so at most {self.together_bound:,.0f} tokens/s together ({self.at_once} at once)",
            table([self._row(side, column) for side, column in self.cells], _HEADER),
        ]
        if self.http_seconds is not None:
            lines.append(
                f"ours goes over HTTP, the peers are called in their process: {1e3 * self.http_seconds:.2f} ms a request"
            )
        lines += self._swap_lines()
        for name, loads in self.peer_loads.items():
            lines.append(f"{name} loads an adapter in {1e3 * statistics.median(loads):.1f} ms (median of {len(loads)})")
        return "\n".join(lines)

    def _row(self, side: str, column: str) -> list[str]:
        cell = self.cells[(side, column)]
        share = self.share(side, column)
        row = [f"{side}, {COLUMNS[column]}"]
        row.append(f"{1e3 * statistics.median(cell.first_tokens):,.0f}" if cell.first_tokens else "-")
        row.append(f"{1e3 / statistics.median(cell.single):.1f}" if cell.single else "-")
        row.append(Spread.of(cell.single).text(1) if cell.single else "-")
        row.append("-" if share is None else f"{100 * share:.0f} %")
        row.append(Spread.of(cell.together).text() if cell.together else "-")
        row.append(f"{100 * statistics.median(cell.together) / self.together_bound:.0f} %" if cell.together else "-")
        return row

    def _swap_lines(self) -> list[str]:
        if not self.swaps:
            return []
        still, swapping = _gathered([s.still for s in self.swaps]), _gathered([s.swapping for s in self.swaps])
        alone = _gathered([s.loads_alone for s in self.swaps])
        beside = _gathered([s.loads_beside for s in self.swaps])
        return [
            f"between tokens of {RUNNING} running requests: p50 {1e3 * percentile(still, 50):.1f} ms, "
            f"p99 {1e3 * percentile(still, 99):.1f} ms; while adapters are swapped p50 "
            f"{1e3 * percentile(swapping, 50):.1f} ms, p99 {1e3 * percentile(swapping, 99):.1f} ms",
            f"ours loads an adapter in {1e3 * percentile(alone, 50):.1f} ms (median of {len(alone)}; "
            f"{1e3 * max(alone):.1f} at most), beside running requests in {1e3 * percentile(beside, 50):.1f} ms "
            f"(median of {len(beside)}; {1e3 * max(beside):.1f} at most)",
        ]

    def as_json(self) -> dict:
        cells = [{"side": side, "column": column} | cell.as_json() for (side, column), cell in self.cells.items()]
        return {
            "precision": self.name,
            "model": self.shape.name,
            "weight_bytes": self.weight_bytes,
            "bandwidth_bytes_per_second": self.bandwidths,
            "matmul_flops_per_second": self.matmul_rates,
            "multiplied_in": self.multiplied_in,
            "at_once": self.at_once,
            "cells": cells,
            "swaps": [swap.as_json() for swap in self.swaps],
            "peer_load_seconds": self.peer_loads,
            "http_seconds": self.http_seconds,
        }


def _gathered(parts: Sequence[Sequence[float]]) -> list[float]:
    return [value for part in parts for value in part]
