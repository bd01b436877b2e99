"""An export of FHIR resources becomes facts in one pass, and an account of everything that was left out."""

from __future__ import annotations

import functools
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import local

import pyarrow as pa
import pyarrow.compute as pc

from gemel.core.errors import GemelError
from gemel.core.programme import Programme
from gemel.data_adapters.meaning.account import (
    MOST_FREQUENT,
    FactsAccount,
    UnitProblem,
    UnmappedCode,
    WithheldLines,
)
from gemel.data_adapters.meaning.arrow_values import column, scalar
from gemel.data_adapters.meaning.concepts import ConceptIndex
from gemel.data_adapters.meaning.consent import NOBODY, Withheld
from gemel.data_adapters.meaning.elements import fact_shapes
from gemel.data_adapters.meaning.facts import MEMORY_LIMIT, READING_LIMIT, Facts, return_memory
from gemel.data_adapters.meaning.fhir_version import STU3_STATUSES, believed_version
from gemel.data_adapters.meaning.judge import Judge, Judged
from gemel.data_adapters.meaning.labels import count_labelled
from gemel.data_adapters.meaning.sieve import Plain, Sieve
from gemel.data_adapters.meaning.site_mapping import NO_MAPPING, SiteMapping
from gemel.data_adapters.meaning.staging import Staging, concept_facts, describe_facts
from gemel.data_adapters.meaning.statements import statements
from gemel.data_adapters.meaning.tallies import Tallies
from gemel.data_adapters.meaning.waiting import WaitingLines
from gemel.data_adapters.reading.intake import Fault, Intake
from gemel.data_adapters.reading.reader import LineFault, ReadBlock, Reader, open_reader
from gemel.data_adapters.reading.versions import Versions
from gemel.data_adapters.sources.deletions import deletions
from gemel.data_adapters.sources.files import DELETED_FOLDER, Block, list_unread, open_export, read_blocks

# Lines of one type judged at a time, and lines of all types that wait for it: fewer cost more planning of statements
# than work, more cost memory.
_CHUNK_LINES = 12_288
_OPEN_LINES = 24_576
# An export of many small files: each part costs memory of its own.
_CHUNK_PARTS = 256
# A block fits into the processor's second cache; what is done in columns is worth it for several of them.
_BLOCK_BYTES = 1 << 20
_GROUP_BYTES = 4 << 20
_SUBJECTS_AT_ONCE = 100_000

LOOKED_UP = frozenset({"Patient", "Medication"})

# Called with the file's index, the block and how it was read: for those who look at the lines themselves.
OnBlock = Callable[[int, Block, ReadBlock], None]


def read_fhir(
    export: Path,
    programme: Programme | None,
    facts: Facts,
    *,
    mapping: SiteMapping = NO_MAPPING,
    withheld: Withheld = NOBODY,
    workers: int = 1,
    on_block: OnBlock | None = None,
) -> FactsAccount:
    """Fill the tables of facts from an export, and account for every line.

    The facts do not depend on the order of lines or files, nor on how often older versions of a resource are there.

    Args:
        export: Folder of FHIR files, or one file; R4, R4B or R5.
        programme: Whose concepts to look for; without one there are no facts, and codes and units are not mapped.
        facts: The tables to fill; empty.
        mapping: The site's own words.
        withheld: Patients whose lines nothing may see.
        workers: Threads.
        on_block: Called with each block after it was read.

    Raises:
        GemelError: GEM208 when the export cannot be read, GEM241 when the mapping does not fit. Lines at fault are in the account, not raised; whether the
            export may be used at all is for `require_usable` to say.
    """
    if programme is not None:
        ConceptIndex(programme, mapping)  # A mapping that cannot hold is refused before anything is opened.
    settings = (mapping, withheld, workers, on_block is not None)
    with _Reading(export, programme, facts, *settings) as reading, WaitingLines() as waiting:
        deleted = set(deletions(export)) if _has_deletions(export) else set()
        for chunk in reading.chunks(deleted, on_block):
            reading.submit(chunk, final=False)
            reading.collect(waiting, all_of_it=False)
        reading.collect(waiting, all_of_it=True)
        # Whom lines name, and which medication, is looked up in what is left of patients and medications.
        reading.forget(deleted, looked_up=True)
        for resource, batch in waiting.take():
            reading.judge_waiting(resource, batch)
        reading.forget(deleted, looked_up=False)
        return reading.finish()


def require_usable(account: FactsAccount) -> None:
    """Refuse an export that must not train a twin, before anything is computed on it.

    Raises:
        GemelError: GEM213 of FHIR STU3 or of mixed versions, GEM211 synthetic records, GEM205 without patients.
    """
    if account.fhir_version not in ("R4", "R5"):
        seen = ", ".join(f"{version}: {number} lines" for version, number in account.versions.items())
        raise GemelError(
            "GEM213",
            f"The export is believed to be FHIR {account.fhir_version} ({seen}); R4, R4B or R5 are read.",
        )
    if account.synthetic:
        raise GemelError("GEM211", f"{account.synthetic} resources say that they are synthetic.")
    if not account.patients:
        held_back = f"; {account.withheld.patients} patients withheld" if account.withheld.patients else ""
        raise GemelError(
            "GEM205",
            f"No Patient in {len(account.files)} files; rejects: {account.rejects_by_code}; "
            f"entries not read: {len(account.unread)}{held_back}.",
        )


@functools.cache
def _fact_reader(*, texts: bool, classes: bool) -> Reader:
    """The reader of what facts are made of: opened once, since that costs as much as reading ten megabytes."""
    return open_reader(fact_shapes(texts=texts, classes=classes))


def _has_deletions(export: Path) -> bool:
    folder = export / DELETED_FOLDER
    return folder.is_dir() and any(folder.iterdir())


@dataclass
class _Chunk:
    """Lines of one resource type from one or more blocks: (file, lines, where they stand)."""

    resource: str
    parts: list[tuple[int, pa.RecordBatch, pa.Array]] = field(default_factory=list)
    lines: int = 0

    def add(self, file: int, batch: pa.RecordBatch, block: Block) -> None:
        if block.places is None:
            places = pa.nulls(len(batch), pa.string())
        else:
            offsets = pc.subtract(batch.column("line"), block.first_line)
            places = pa.array(block.places, pa.string()).take(offsets)
        self.parts.append((file, batch, places))
        self.lines += len(batch)

    def table(self) -> pa.Table:
        """`file`, `line`, `place`, and the elements of the resource."""
        batches = []
        for file, batch, places in self.parts:
            elements = batch.column("r")
            names = [elements.type.field(i).name for i in range(elements.type.num_fields)]
            columns = [pa.repeat(scalar(pa.int64(), file), len(batch)), batch.column("line"), places]
            batches.append(
                pa.RecordBatch.from_arrays([*columns, *elements.flatten()], ["file", "line", "place", *names])
            )
        return pa.Table.from_batches(batches)


@dataclass(frozen=True)
class _Group:
    """Blocks of one file that were read: what is to be judged of them together, and what needs no judging."""

    blocks: list[tuple[Block, ReadBlock]]
    tables: dict[str, pa.RecordBatch]
    plain: Plain | None
    labelled: int


def _grouped(blocks: Iterable[Block]) -> Iterator[list[Block]]:
    """Blocks to read together; those that were taken out of Bundles stay alone."""
    group: list[Block] = []
    size = 0
    for block in blocks:
        if block.places is not None:
            if group:
                yield group
            yield [block]
            group, size = [], 0
            continue
        group.append(block)
        size += len(block.data)
        if size >= _GROUP_BYTES:
            full, group, size = group, [], 0
            yield full
            del full
    if group:
        yield group


class _Reading:
    """One pass over an export: blocks are read and chunks are judged, by threads or in turn."""

    def __init__(
        self,
        export: Path,
        programme: Programme | None,
        facts: Facts,
        mapping: SiteMapping,
        withheld: Withheld,
        workers: int,
        keeps_tables: bool,
    ) -> None:
        self._export, self._programme, self._facts = export, programme, facts
        self._mapping, self._withheld = mapping, withheld
        self._reader = _fact_reader(texts=bool(mapping.texts), classes=bool(mapping.finished_classes))
        self._types = fact_shapes().keys()
        self._subjects = {name: statement.subject for name, statement in statements(mapping).items()}
        self._intake, self._tallies = Intake(), Tallies()
        self._versions, self._looked_up = Versions(export), Versions(export)
        self._staging = Staging(facts)
        facts.limit_memory(READING_LIMIT)
        self._sieve = Sieve(programme, mapping, withheld)
        self._subject_counts: list[pa.Table] = []
        self._workers, self._keeps_tables = workers, keeps_tables
        self._pool = ThreadPoolExecutor(max_workers=workers) if workers > 1 else None
        self._own, self._judges = local(), list[Judge]()
        self._judging: deque[tuple[_Chunk, Future[Judged] | Judged]] = deque()

    def __enter__(self) -> _Reading:
        return self

    def __exit__(self, *_: object) -> None:
        self._dismiss()
        self._facts.limit_memory(MEMORY_LIMIT)
        self._versions.close()
        self._looked_up.close()

    def _dismiss(self) -> None:
        """End the threads and their databases, whose memory is then free."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        while self._judges:
            self._judges.pop().close()

    def chunks(self, deleted: set[tuple[str, str]], on_block: OnBlock | None) -> Iterator[_Chunk]:
        """Read the export; the lines of each resource type in chunks that are worth judging together."""
        self._intake.unread = list_unread(self._export)
        open_chunks: dict[str, _Chunk] = {}
        for file, group in self._groups():
            for block, read in group.blocks:
                self._intake.take_in(file, block, self._renamed(read))
                deleted.update(block.deleted)
                if on_block is not None:
                    on_block(file, block, read)
            self._tallies.synthetic += group.labelled
            if group.plain is not None:
                self._take_in_plain(file, group.plain)
            for resource, batch in group.tables.items():
                chunk = open_chunks.setdefault(resource, _Chunk(resource))
                chunk.add(file, batch, group.blocks[0][0])
                if chunk.lines >= _CHUNK_LINES or len(chunk.parts) >= _CHUNK_PARTS:
                    yield open_chunks.pop(resource)
            while sum(chunk.lines for chunk in open_chunks.values()) >= _OPEN_LINES:
                yield open_chunks.pop(max(open_chunks, key=lambda name: open_chunks[name].lines))
        yield from open_chunks.values()

    def _groups(self) -> Iterator[tuple[int, _Group]]:
        """The blocks of all files in their order, some at a time, as they were read."""
        for exported in open_export(self._export):
            file = self._intake.add_file(exported.name)
            groups = _grouped(read_blocks(exported, block_bytes=_BLOCK_BYTES))
            if self._pool is None:
                for blocks in groups:
                    yield file, self._read(blocks)
                continue
            ahead: deque[Future[_Group]] = deque()
            for blocks in groups:
                ahead.append(self._pool.submit(self._read, blocks))
                if len(ahead) >= self._workers:
                    yield file, ahead.popleft().result()
            for future in ahead:
                yield file, future.result()

    def _read(self, blocks: Sequence[Block]) -> _Group:
        """Read blocks of one file, and take out the lines that need no judging."""
        read = [self._reader.read(block) for block in blocks]
        labelled = sum(
            count_labelled(block, one, besides=self._types, withheld=self._withheld)
            for block, one in zip(blocks, read, strict=True)
        )
        names = dict.fromkeys(name for one in read for name in one.tables)
        tables = {
            name: pa.concat_batches([one.tables[name] for one in read if name in one.tables])
            for name in names
        }
        plain = None
        if "Observation" in tables:
            tables["Observation"], plain = self._sieve.sift(tables["Observation"])
        filled = {name: table for name, table in tables.items() if len(table)}
        if not self._keeps_tables:
            read = [replace(one, tables={}) for one in read]
        return _Group(list(zip(blocks, read, strict=True)), filled, plain, labelled)

    def _take_in_plain(self, file: int, plain: Plain) -> None:
        self._tallies.unmapped.update(plain.unmapped)
        self._add_version(file, "Observation", plain.lines)
        if plain.subjects is not None:
            self._subject_counts.append(plain.subjects)
        if sum(len(counts) for counts in self._subject_counts) >= _SUBJECTS_AT_ONCE:
            self._stage_subjects()

    def _stage_subjects(self) -> None:
        if self._subject_counts:
            self._staging.add("subject", pa.concat_tables(self._subject_counts))
            self._subject_counts.clear()

    def _renamed(self, read: ReadBlock) -> ReadBlock:
        """The same, where a status that is a text is told for what it is: FHIR STU3's."""
        if not read.faults:
            return read
        faults: list[LineFault] = []
        for fault in read.faults:
            what = fault.fault
            if (
                fault.resource_type == "Condition"
                and what.code == "GEM214"
                and what.path in STU3_STATUSES
                and "str" in what.reason
            ):
                self._tallies.versions["STU3", "Condition"] += 1
                fault = fault._replace(fault=Fault("GEM213", what.path, "the element is FHIR STU3's"))
            faults.append(fault)
        return replace(read, faults=tuple(faults))

    def submit(self, chunk: _Chunk, *, final: bool) -> None:
        """Have a chunk judged."""
        if self._pool is None:
            self._judging.append((chunk, self._judge(chunk.resource, chunk.table(), final=final)))
        else:
            work = self._pool.submit(self._judge, chunk.resource, chunk.table(), final=final)
            self._judging.append((chunk, work))

    def _judge(self, resource: str, table: pa.Table, *, final: bool) -> Judged:
        judge: Judge | None = getattr(self._own, "judge", None)
        if judge is None:
            judge = self._own.judge = Judge(self._programme, self._mapping, self._withheld)
            self._judges.append(judge)
        return judge.judge(resource, table, final=final)

    def collect(self, waiting: WaitingLines, *, all_of_it: bool) -> None:
        """Take in what was judged, in the order in which it was read."""
        while self._judging and (all_of_it or len(self._judging) > self._workers - 1):
            chunk, judged = self._judging.popleft()
            if isinstance(judged, Future):
                judged = judged.result()
            self._take_in(judged, chunk.table() if judged.faults else None)
            waits = judged.waiting
            if waits is not None:
                waiting.add(judged.resource, waits)
            self._count_versions(chunk, judged)

    def _count_versions(self, chunk: _Chunk, judged: Judged) -> None:
        """Lines at fault replace no older version of themselves; those that wait may be at fault yet."""
        for file, batch, _ in chunk.parts:
            left = _lines_at_fault(judged, file)
            if judged.waiting is not None:
                here = judged.waiting.filter(pc.equal(judged.waiting["file"], scalar(pa.int64(), file)))[
                    "line"
                ]
                left = pa.concat_arrays([left, *here.chunks])
            if len(left):
                batch = batch.filter(pc.invert(pc.is_in(batch.column("line"), value_set=left)))
            self._add_version(file, chunk.resource, batch)

    def _add_version(self, file: int, resource: str, lines: pa.RecordBatch) -> None:
        versions = self._looked_up if resource in LOOKED_UP else self._versions
        versions.add(file, ReadBlock(len(lines), {}, {resource: lines}, ()))

    def _take_in(self, judged: Judged, table: pa.Table | None) -> None:
        self._tallies.add(judged.tallies)
        for name, rows in judged.rows.items():
            self._staging.add(name, rows)
        if judged.faults and table is not None:
            self._reject(judged, table)

    def _reject(self, judged: Judged, table: pa.Table) -> None:
        bundled = table["place"].null_count < table.num_rows
        for file, line, fault in judged.faults:
            place = None
            if bundled:
                here = pc.and_(pc.equal(table["file"], file), pc.equal(table["line"], line))
                place = table["place"].filter(here)[0].as_py()
            count = self._intake.files[file]
            count.accepted -= 1
            count.types[judged.resource] -= 1
            self._intake.reject(file, line, judged.resource, fault, place=place)

    def forget(self, deleted: Iterable[tuple[str, str]], *, looked_up: bool) -> None:
        """Undo what the export deletes, and what newer versions replace: of what others look up, or of the rest."""
        self._staging.drop_resources(pair for pair in deleted if (pair[0] in LOOKED_UP) == looked_up)
        versions = self._looked_up if looked_up else self._versions
        superseded = versions.find_superseded()
        if len(superseded.places):
            lines = superseded.table.select(["resource_type", "file", "line"])
            self._staging.drop_lines(lines.rename_columns(["resource", "file", "line"]), "superseded")

    def judge_waiting(self, resource: str, batch: pa.Table) -> None:
        """Judge lines that waited, now that all patients and medications are known."""
        subject = self._subjects.get(resource, "subject")
        table = self._staging.resolve(batch, subject)
        judged = self._judge(resource, table, final=True)
        self._take_in(judged, table)
        for file in pc.unique(batch["file"]).to_pylist():
            mine = (
                batch.filter(pc.equal(batch["file"], scalar(pa.int64(), file)))
                .select(["line", "id"])
                .combine_chunks()
            )
            ids = pa.StructArray.from_arrays(mine["id"].chunks, ["id"])
            lines = pa.RecordBatch.from_arrays([mine["line"].chunk(0), ids], ["line", "r"])
            out = _lines_at_fault(judged, file)
            self._add_version(
                file, resource, lines.filter(pc.invert(pc.is_in(lines.column("line"), value_set=out)))
            )

    def finish(self) -> FactsAccount:
        """Fill the tables and close the account."""
        self._stage_subjects()
        self._dismiss()
        return_memory()
        self._facts.limit_memory(MEMORY_LIMIT)
        staging, tallies, intake = self._staging, self._tallies, self._intake
        orphans = staging.orphans()
        superseded, deleted = staging.gone("superseded"), staging.gone("deleted")
        merged = staging.merge_patients()
        undated, duplicates = staging.finish()
        concepts = [concept.name for concept in self._programme.concepts] if self._programme else []
        described = describe_facts(self._facts, concepts)
        [(patients,)] = self._facts.run("SELECT count(*) FROM person")
        order = {file.file: i for i, file in enumerate(intake.files)}
        intake.rejects.sort(key=lambda reject: (order[reject.file], reject.line))
        return FactsAccount(
            fhir_version=believed_version(tallies.versions, _accepted_lines(intake)),
            versions=_version_lines(tallies),
            files=intake.files,
            unread=intake.unread,
            rejects=intake.rejects,
            rejects_by_code=dict(sorted(intake.by_code.items())),
            patients=patients,
            merged=merged,
            sampled=tallies.sampled,
            synthetic=tallies.synthetic,
            excluded={f"{kind}: {why}": n for (kind, why), n in sorted(tallies.excluded.items())},
            superseded=superseded,
            deleted=deleted,
            orphans=orphans,
            undated=undated,
            odd_ends=dict(sorted(tallies.odd_ends.items())),
            unused={f"{kind}: {concept}": n for (kind, concept), n in sorted(tallies.unused.items())},
            concepts=[
                concept_facts(
                    name,
                    described[name],
                    duplicates=duplicates.get(name, 0),
                    implausible=tallies.implausible[name],
                    absent=tallies.absent[name],
                    units={unit: n for (of, unit), n in sorted(tallies.units.items()) if of == name},
                )
                for name in concepts
            ],
            default_units=dict(sorted(tallies.default_units.items())),
            unmapped=[
                UnmappedCode(system, code, n)
                for (system, code), n in sorted(
                    tallies.unmapped.items(), key=lambda item: (-item[1], item[0])
                )
            ][:MOST_FREQUENT],
            unmapped_total=tallies.unmapped.total(),
            unit_problems=_unit_problems(tallies, intake),
            implausible_examples=tallies.examples,
            partial_dates=dict(sorted(tallies.partial_dates.items())),
            withheld=WithheldLines(tallies.withheld["Patient"], tallies.withheld.total()),
        )


def _accepted_lines(intake: Intake) -> Counter[str]:
    """Accepted lines by resource type."""
    accepted: Counter[str] = Counter()
    for file in intake.files:
        accepted.update(file.types)
    return accepted


def _version_lines(tallies: Tallies) -> dict[str, int]:
    """Lines that show a version of FHIR, by version."""
    versions: Counter[str] = Counter()
    for (version, _), number in tallies.versions.items():
        versions[version] += number
    return dict(sorted(versions.items()))


def _lines_at_fault(judged: Judged, file: int) -> pa.Array:
    return column(pa.int64(), [line for number, line, _ in judged.faults if number == file])


def _unit_problems(tallies: Tallies, intake: Intake) -> list[UnitProblem]:
    """The most frequent unit problems, each with the first line that has it among the rejects that are listed."""
    first: dict[tuple[str, str], str] = {}
    for reject in intake.rejects:
        first.setdefault((reject.code, reject.reason), f"{reject.file}:{reject.place or reject.line}")
    most = sorted(tallies.unit_problems.items(), key=lambda item: (-item[1], item[0]))[:MOST_FREQUENT]
    return [
        UnitProblem(code, concept, unit, number, first.get((code, reason), ""), reason)
        for (code, concept, unit, reason), number in most
    ]
