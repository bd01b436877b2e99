"""Lines that the reader accepted, put through the models of `fhir.resources`: all of them, a sample, or none."""

from __future__ import annotations

import heapq
import warnings
import zlib
from collections import Counter, deque
from collections.abc import Container, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, Literal, NamedTuple

import msgspec

from gemel.data_adapters.meaning.fhir_version import models_package
from gemel.data_adapters.quality.report import Invalid, Validation
from gemel.data_adapters.reading.reader import ReadBlock
from gemel.data_adapters.sources.files import Block

Validate = Literal["off", "sample", "full"]

SAMPLE_LINES = 200
_MAX_EXAMPLES = 50

_R4B, _R5 = models_package("R4"), models_package("R5")


class _Line(NamedTuple):
    """An accepted line; `place` says where it stands when that is no line."""

    file: int
    line: int
    resource_type: str
    content: bytes
    place: str | None = None


class _Failure(NamedTuple):
    """A line that R4B's models refuse, and why R5's do (None when they do not)."""

    line: _Line
    r4b: str
    r5: str | None


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

    Which version the export is of is known at the end only: what R4B's models refuse is put through R5's too, and in
    an export of R5 a line fails that both refuse.
    """

    def __init__(self, mode: Validate, *, withheld: Container[object] = (), workers: int = 1) -> None:
        self._mode = mode
        self._withheld = withheld
        self._samples: dict[str, list[tuple[int, _Line]]] = {}
        self._checked = 0
        self._examples: dict[str, list[tuple[_Line, str]]] = {_R4B: [], _R5: []}
        self._by_type: dict[str, Counter[str]] = {_R4B: Counter(), _R5: Counter()}
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
            place = block.places[offset] if block.places is not None else None
            line = _Line(file, block.first_line + offset, head.resourceType, content, place)
            if self._mode == "full":
                lines.append(line)
            else:
                self._sample(head.resourceType, (-zlib.crc32(content), line))
        self._validate(lines)

    def _sample(self, resource_type: str, item: tuple[int, _Line]) -> None:
        sample = self._samples.setdefault(resource_type, [])
        if len(sample) < SAMPLE_LINES:
            heapq.heappush(sample, item)
        elif item > sample[0]:
            heapq.heapreplace(sample, item)

    def finish(self, files: Sequence[str], *, version: str) -> Validation:
        """Validate the sample and give the result; `files` are their names by index, `version` what they are."""
        for _, sample in sorted(self._samples.items()):
            self._validate(sorted((line for _, line in sample), key=lambda line: line[:2]))
        while self._running:
            self._take(self._running.popleft().result())
        package = models_package(version)
        by_type = self._by_type[package]
        return Validation(
            mode=self._mode,
            checked=self._checked,
            failed=by_type.total(),
            examples=[
                Invalid(files[line.file], line.line, line.resource_type, reason, line.place)
                for line, reason in self._examples[package]
            ],
            failed_by_type=dict(sorted(by_type.items())),
            models="R5" if package == _R5 else "R4B",
        )

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
        for failure in failures:
            for package, reason in ((_R4B, failure.r4b), (_R5, failure.r5)):
                if reason is not None:
                    self._by_type[package][failure.line.resource_type] += 1
                    if len(self._examples[package]) < _MAX_EXAMPLES:
                        self._examples[package].append((failure.line, reason))


def find_failures(lines: Sequence[_Line]) -> list[_Failure]:
    """The lines that R4B's models refuse, with the reason, and R5's."""
    found = []
    for line in lines:
        reason = _invalid(line, _R4B)
        if reason is not None:
            found.append(_Failure(line._replace(content=b""), reason, _invalid(line, _R5)))
    return found


def _invalid(line: _Line, package: str) -> str | None:
    """Why the models of a package refuse a line, as places and kinds of error without the values; None if not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fhir.resources import R4B
        from fhir.resources import get_fhir_model_class as of_r5
        from pydantic import ValidationError

        find = of_r5 if package == _R5 else R4B.get_fhir_model_class
        try:
            model: Any = find(line.resource_type)
        except (KeyError, LookupError, ValueError):
            return "no resource type of this version"
        try:
            model.model_validate_json(line.content)
        except ValidationError as error:
            places = (".".join(str(part) for part in fault["loc"]) for fault in error.errors())
            kinds = (fault["type"] for fault in error.errors())
            return "; ".join(f"{place}: {kind}" for place, kind in zip(places, kinds, strict=True))[:300]
        except (TypeError, ValueError, AttributeError) as error:
            return type(error).__name__
    return None
