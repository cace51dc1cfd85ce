"""Faults that can be injected into a sandbox: which request gets which fault. `gate.py` applies
them."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

Kind = Literal[
    "status",
    "reset_before",
    "reset_after",
    "stall",
    "truncate",
    "html403",
    "poison",
    "empty_job_id",
]
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(slots=True)
class Fault:
    """One fault, active until its `count` is used up or it is cleared.

    `endpoint`: an endpoint's short name ("events"), or "*" for all.
    `method`: only requests with this method; None: all.
    `status`: response of `status` (default 500) and of an unapplied `stall` (default 503).
    `applied`: whether the request takes effect (`status`, `stall`).
    `count`: maximum number of requests; `probability`: share of the requests.
    `seconds`: duration of a `stall`.
    `match`: only requests whose body contains this; required for `poison`.
    `pointer`: whether `poison` points at the match or only at `/data`.
    `retry_after`: seconds, sent as `Retry-After` with `status`.

    `empty_job_id` takes effect and responds as usual, but with "" as the id of the new job.
    """

    endpoint: str
    kind: Kind
    status: int | None = None
    applied: bool = False
    count: int | None = None
    probability: float | None = None
    seconds: float = 5.0
    match: str | None = None
    pointer: bool = False
    method: str | None = None
    retry_after: int | None = None

    @property
    def takes_effect(self) -> bool:
        """Whether the request is applied although its response is disturbed."""
        if self.kind in ("status", "stall"):
            return self.applied
        return self.kind in ("reset_after", "truncate", "empty_job_id")


_TYPES: Mapping[str, tuple[type, ...]] = {
    "endpoint": (str,),
    "kind": (str,),
    "status": (int,),
    "applied": (bool,),
    "count": (int,),
    "probability": (int, float),
    "seconds": (int, float),
    "match": (str,),
    "pointer": (bool,),
    "method": (str,),
    "retry_after": (int,),
}


class Faults:
    """The active faults in the order of adding; the first one that matches is used."""

    def __init__(self, seed: int = 1) -> None:
        self._random = random.Random(seed)
        self._faults: list[Fault] = []

    def __len__(self) -> int:
        return len(self._faults)

    def add(self, endpoint: str, kind: Kind, **fields: Any) -> Fault:
        """Add a fault; `fields` are the other fields of `Fault`. Raises ValueError."""
        return self.parse({"endpoint": endpoint, "kind": kind, **fields})

    def parse(self, given: Mapping[str, Any]) -> Fault:
        """Add a fault from its JSON form. Raises ValueError with the reason."""
        for name, value in given.items():
            types = _TYPES.get(name)
            if types is None:
                raise ValueError(f"a fault has no field {name!r}")
            if value is not None and (
                not isinstance(value, types) or (isinstance(value, bool) and bool not in types)
            ):
                raise ValueError(f"{name!r} has the wrong type")
        if given.get("kind") not in KINDS:
            raise ValueError(f"'kind' must be one of {', '.join(KINDS)}")
        if given.get("count") is not None and given["count"] < 1:
            raise ValueError("'count' must be at least 1")
        if given["kind"] == "poison" and not given.get("match"):
            raise ValueError("'poison' needs 'match'")
        fields = {name: value for name, value in given.items() if value is not None}
        fields.setdefault("endpoint", "*")
        fault = Fault(**fields)
        self._faults.append(fault)
        return fault

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """No fault meets a request while the context lasts."""
        faults, self._faults = self._faults, []
        try:
            yield
        finally:
            self._faults = faults

    def clear(self) -> None:
        """Remove all faults."""
        self._faults.clear()

    def pick(self, endpoint: str, method: str, body: bytes) -> Fault | None:
        """The fault for this request, or None. Decreases its count."""
        for fault in self._faults:
            if fault.endpoint not in ("*", endpoint) or fault.method not in (None, method):
                continue
            if fault.match is not None and fault.match.encode() not in body:
                continue
            if fault.probability is not None and self._random.random() >= fault.probability:
                continue
            if fault.count is not None:
                fault.count -= 1
                if fault.count <= 0:
                    self._faults.remove(fault)
            return fault
        return None
