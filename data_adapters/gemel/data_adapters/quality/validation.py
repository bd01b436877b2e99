"""Lines that the reader accepted, put through `fhir.resources.R4B`: all of them, a sample, or none."""

from __future__ import annotations

import heapq
import warnings
import zlib
from collections import Counter, deque
from collections.abc import Container, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, Literal

import msgspec

from gemel.data_adapters.quality.report import Invalid, Validation
from gemel.data_adapters.reading.reader import ReadBlock
from gemel.data_adapters.sources.files import Block

Validate = Literal["off", "sample", "full"]

SAMPLE_LINES = 200
_MAX_EXAMPLES = 50

_Line = tuple[int, int, str, bytes]  # file, line, resource type, content
_Failure = tuple[int, int, str, str]  # file, line, resource type, reason


class Subject(msgspec.Struct):
    """Whose line it is, of any content: the reader has accepted the line, whatever stands here."""

    resourceType: str
    id: Any = None
    subject: Any = None
    patient: Any = None


_decode_subject = msgspec.json.Decoder(Subject).decode


def patient_of(line: Subject) -> str:
    """The id of the patient whose line it is, as far as a reference says it; "" for nobody's."""
    if line.resourceType == "Patient":
        return str(line.id)
    said = line.subject or line.patient
    reference = said.get("reference") if isinstance(said, dict) else None
    return str(reference or "").partition("/_history/")[0].rpartition("/")[2]


class Validator:
    """Takes the lines of an export as they are read, but those of withheld patients, and gives the result at the end.

    The sample is of each type the lines with the lowest checksums: the same whatever the order, and not the first
    patients only. In mode "full" with several workers the models run in processes of their own.
    """

    def __init__(self, mode: Validate, *, withheld: Container[object] = (), workers: int = 1) -> None:
        self._mode = mode
        self._withheld = withheld
        self._samples: dict[str, list[tuple[int, int, int, bytes]]] = {}
        self._checked = 0
        self._failed: list[_Failure] = []
        self._by_type: Counter[str] = Counter()
        self._workers = workers
        # Spawned, because a fork would copy the locks of the threads that read.
        self._pool = (
            ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
            if mode == "full" and workers > 1
            else None
        )
        self._running: deque[Future[list[_Failure]]] = deque()

    def __enter__(self) -> Validator:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def offer(self, file: int, block: Block, read: ReadBlock) -> None:
        """Take lines that are resources into the sample, or validate them."""
        if self._mode == "off":
            return
        at_fault = {fault.line for fault in read.faults}
        lines: list[_Line] = []
        for offset, content in enumerate(block.lines):
            if not content or offset in at_fault:
                continue
            head = _decode_subject(content)
            if patient_of(head) in self._withheld:
                continue
            line = block.first_line + offset
            if self._mode == "full":
                lines.append((file, line, head.resourceType, content))
            else:
                self._sample(head.resourceType, (-zlib.crc32(content), file, line, content))
        self._validate(lines)

    def _sample(self, resource_type: str, item: tuple[int, int, int, bytes]) -> None:
        sample = self._samples.setdefault(resource_type, [])
        if len(sample) < SAMPLE_LINES:
            heapq.heappush(sample, item)
        elif item > sample[0]:
            heapq.heapreplace(sample, item)

    def finish(self, files: Sequence[str]) -> Validation:
        """Validate the sample and give the result; `files` are their names by index."""
        for resource_type, sample in sorted(self._samples.items()):
            lines = sorted(item[1:] for item in sample)
            self._validate([(file, line, resource_type, content) for file, line, content in lines])
        while self._running:
            self._take(self._running.popleft().result())
        examples = [Invalid(files[file], line, kind, reason) for file, line, kind, reason in self._failed]
        by_type = dict(sorted(self._by_type.items()))
        return Validation(self._mode, self._checked, self._by_type.total(), examples, by_type)

    def _validate(self, lines: list[_Line]) -> None:
        self._checked += len(lines)
        if self._pool is None:
            self._take(find_failures(lines))
            return
        self._running.append(self._pool.submit(find_failures, lines))
        # No more blocks wait than there are workers: memory stays bounded.
        while len(self._running) > self._workers:
            self._take(self._running.popleft().result())

    def _take(self, failures: list[_Failure]) -> None:
        self._by_type.update(failure[2] for failure in failures)
        self._failed += failures[: _MAX_EXAMPLES - len(self._failed)]


def find_failures(lines: Sequence[_Line]) -> list[_Failure]:
    """The lines that the models refuse, with the reason."""
    reasons = ((*line[:3], _invalid(line[2], line[3])) for line in lines)
    return [(file, number, kind, reason) for file, number, kind, reason in reasons if reason is not None]


def _invalid(resource_type: str, content: bytes) -> str | None:
    """Why `fhir.resources.R4B` refuses a line, as places and kinds of error without the values; None if it does not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # R4B, never the top level of the package: that is R5.
        from fhir.resources.R4B import get_fhir_model_class
        from pydantic import ValidationError

        try:
            model: Any = get_fhir_model_class(resource_type)
        except (KeyError, LookupError, ValueError):
            return "not an R4B resource type"
        try:
            model.model_validate_json(content)
        except ValidationError as error:
            places = (".".join(str(part) for part in fault["loc"]) for fault in error.errors())
            kinds = (fault["type"] for fault in error.errors())
            return "; ".join(f"{place}: {kind}" for place, kind in zip(places, kinds, strict=True))[:300]
        except (TypeError, ValueError, AttributeError) as error:
            return type(error).__name__
    return None
