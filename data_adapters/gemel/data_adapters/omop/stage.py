"""One table of a CDM, from text to typed columns in the facts' database: each row is accepted or has one fault."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

import pyarrow as pa

from gemel.core.errors import GemelError
from gemel.data_adapters.meaning.dates import FIRST_YEAR, LAST_YEAR
from gemel.data_adapters.meaning.facts import Facts
from gemel.data_adapters.omop.account import OmopAccount
from gemel.data_adapters.omop.source import Damage, OmopSource, Only
from gemel.data_adapters.omop.tables import Column
from gemel.data_adapters.reading.intake import MAX_REJECTS_LISTED, Fault, FileCount, Reject
from gemel.data_adapters.reading.shape import quote_name, quote_text

_DUCKDB_TYPES = {
    "integer": "BIGINT",
    "number": "DOUBLE",
    "day": "DATE",
    "end": "DATE",
    "time": "TIMESTAMP",
    "text": "VARCHAR",
}
# Persons who are withheld: none of their rows is judged or kept.
WITHHELD = "withheld"
_REPEATED = Fault("GEM251", "", "the primary key names two different rows")


class Stage:
    """Reads tables of a source into the facts' database, and keeps the account of their rows.

    A staged table is a temporary table of the columns that were asked for (NULL where the source has no such column),
    typed, with `row` before them and `fault` after them: NULL, or the index of a fault.
    """

    def __init__(self, source: OmopSource, facts: Facts, account: OmopAccount) -> None:
        self._source = source
        self._facts = facts
        self._account = account
        self._faults: list[Fault] = []
        self._rows = 0
        facts.run(f"CREATE OR REPLACE TEMP TABLE {WITHHELD} (person_id BIGINT)")

    def has(self, table: str) -> bool:
        """Whether the source has a table; one that it has not is named in the account."""
        if self._source.columns(table) is not None:
            return True
        self._account.unread.append(f"{table}: the source has no such table")
        return False

    def place(self, table: str) -> str:
        """How reports call a table."""
        return self._source.place(table)

    def load(
        self, table: str, columns: Sequence[Column], *, checks: Sequence[tuple[str, Fault]] = (), name: str
    ) -> None:
        """Stage a table under a name and judge its rows.

        Args:
            table: The table of the CDM.
            columns: Its columns; the first is the primary key.
            checks: Further rules: SQL over the typed columns that is true of a row at fault, and the fault.
            name: The staged table's name.

        Raises:
            GemelError: GEM250 when a needed column is missing.
        """
        self._faults, rules = _rules(columns, checks)
        typed = _typed(columns, self._present(table, columns))
        cases = " ".join(f"WHEN {rule} THEN {i}" for i, rule in enumerate(rules))
        seen = f"WHERE person_id IS NULL OR person_id NOT IN (SELECT person_id FROM {WITHHELD})"
        self._create(
            name,
            f"SELECT * EXCLUDE (bad), CASE {cases} END AS fault FROM ({typed}) {seen}",
            self._numbered(table, [column.name for column in columns]),
        )
        self._refuse_repeated(table, name, columns)
        self._count(table, name)

    def reject(self, table: str, name: str, fault: Fault, rule: str) -> int:
        """Reject further rows of a staged table, by SQL over its columns; gives how many."""
        self._faults.append(fault)
        condition = f"fault IS NULL AND ({rule})"
        [(number,)] = self._facts.run(f"SELECT count(*) FROM {name} WHERE {condition}")
        if number:
            rows = self._facts.run(
                f"SELECT row FROM {name} WHERE {condition} ORDER BY row LIMIT {MAX_REJECTS_LISTED}"
            )
            self._facts.run(f"UPDATE {name} SET fault = {len(self._faults) - 1} WHERE {condition}")
            count = self._account.files[-1]
            count.accepted -= number
            count.types[table] = count.accepted
            self._reject(table, fault, int(number), [int(row) for (row,) in rows])
        return int(number)

    def note_orphans(self, table: str, name: str) -> None:
        """Count the accepted rows of a staged table whose person is not known."""
        [(number,)] = self._facts.run(
            f"SELECT count(*) FROM {name} ANTI JOIN known USING (person_id) WHERE fault IS NULL"
        )
        if number:
            self._account.orphans[table] = int(number)

    def load_codes(
        self, table: str, columns: Sequence[Column], *, name: str, only: Only | None = None
    ) -> None:
        """Stage a table of the vocabulary: rows without a number or a code in them cannot be asked for."""
        typed = _typed(columns, self._present(table, columns))
        known = " AND ".join(f"{quote_name(column.name)} IS NOT NULL" for column in columns)
        names = [column.name for column in columns]
        wanted = ", ".join(quote_name(column) for column in names)
        rows = self._numbered(table, names, only=only)
        self._create(name, f"SELECT DISTINCT {wanted} FROM ({typed}) WHERE {known}", rows)
        damaged = self._source.damaged(table)
        if damaged:
            raise GemelError(
                "GEM250",
                f"{self._source.place(table)} row {damaged[0].row}: {damaged[0].reason}; a vocabulary has to be whole.",
            )

    def _present(self, table: str, columns: Sequence[Column]) -> frozenset[str]:
        present = frozenset(self._source.columns(table) or ())
        missing = [column.name for column in columns if column.needed and column.name not in present]
        if missing:
            raise GemelError("GEM250", f"{self._source.place(table)} has no column {', '.join(missing)}.")
        return present

    def _numbered(
        self, table: str, columns: Sequence[str], *, only: Only | None = None
    ) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        """The rows of the columns that are there, all text, with their number `row`, from 1."""
        present = self._source.columns(table) or ()
        names = [name for name in columns if name in present]
        schema = pa.schema([("row", pa.int64()), *((name, pa.string()) for name in names)])

        def numbered() -> Iterator[pa.RecordBatch]:
            row, self._rows = 1, 0
            for batch in self._source.batches(table, names, only=only):
                numbers = pa.array(range(row, row + batch.num_rows), pa.int64())
                row += batch.num_rows
                self._rows += batch.num_rows
                texts = (column.cast(pa.string()) for column in batch.columns)
                yield pa.RecordBatch.from_arrays([numbers, *texts], schema=schema)

        return schema, numbered()

    def _create(self, name: str, sql: str, rows: tuple[pa.Schema, Iterator[pa.RecordBatch]]) -> None:
        connection = self._facts.connection
        failure: list[GemelError] = []

        def guarded() -> Iterator[pa.RecordBatch]:
            try:
                yield from rows[1]
            except GemelError as error:  # It would come out of DuckDB as another kind of error.
                failure.append(error)

        connection.register("gemel_text", pa.RecordBatchReader.from_batches(rows[0], guarded()))
        try:
            self._facts.run(f"CREATE OR REPLACE TABLE {name} AS {sql}")
        finally:
            connection.unregister("gemel_text")
        if failure:
            raise failure[0]

    def _refuse_repeated(self, table: str, name: str, columns: Sequence[Column]) -> None:
        """Of rows that are the same keep one; refuse all rows of a key that stands for different ones."""
        key = quote_name(columns[0].name)
        content = ", ".join(quote_name(column.name) for column in columns)
        self._facts.run(f"""
            CREATE OR REPLACE TEMP TABLE repeated AS
            SELECT {key} AS key, min(row) AS first, count(DISTINCT ({content})) AS kinds FROM {name}
            WHERE fault IS NULL AND {key} IN
                (SELECT {key} FROM {name} WHERE fault IS NULL GROUP BY {key} HAVING count(*) > 1)
            GROUP BY {key}""")
        [(number,)] = self._facts.run("SELECT count(*) FROM repeated")
        if not number:
            return
        self._faults += [_REPEATED._replace(path=columns[0].name), Fault("", "", "")]
        differing, same = len(self._faults) - 2, len(self._faults) - 1
        self._facts.run(f"""
            UPDATE {name} SET fault = CASE WHEN kinds > 1 THEN {differing} ELSE {same} END FROM repeated
            WHERE fault IS NULL AND {key} = key AND (kinds > 1 OR row <> first)""")
        [(same_rows,)] = self._facts.run(f"SELECT count(*) FROM {name} WHERE fault = {same}")
        if same_rows:
            self._account.superseded[table] = int(same_rows)

    def _count(self, table: str, name: str) -> None:
        damaged = self._source.damaged(table)
        [(seen,)] = self._facts.run(f"SELECT count(*) FROM {name}")
        count = FileCount(
            self._source.place(table), read=self._rows + len(damaged), accepted=self._rows, types={}
        )
        if self._rows > seen:
            self._account.excluded[f"{table}: withheld"] = self._rows - int(seen)
        self._account.files.append(count)
        for fault, number in self._facts.run(
            f"SELECT fault, count(*) FROM {name} WHERE fault IS NOT NULL GROUP BY fault ORDER BY fault"
        ):
            if not self._faults[fault].code:  # A repeated row is accepted, and not used.
                continue
            rows_at_fault = self._facts.run(
                f"SELECT row FROM {name} WHERE fault = {fault} ORDER BY row LIMIT {MAX_REJECTS_LISTED}"
            )
            count.accepted -= number
            self._reject(table, self._faults[fault], int(number), [int(row) for (row,) in rows_at_fault])
        count.types[table] = count.accepted
        for damage in damaged:
            self._list(table, Fault("GEM251", "", damage.reason), damage.row)
        self._tally("GEM251", len(damaged))
        count.rejected += len(damaged)

    def _reject(self, table: str, fault: Fault, number: int, rows: Sequence[int]) -> None:
        self._account.files[-1].rejected += number
        self._tally(fault.code, number)
        records = _records(rows, self._source.damaged(table))
        for record in records:
            self._list(table, fault, record)

    def _list(self, table: str, fault: Fault, record: int) -> None:
        if len(self._account.rejects) < MAX_REJECTS_LISTED:
            place = self._source.place(table)
            self._account.rejects.append(Reject(place, record, table, fault.path, fault.reason, fault.code))

    def _tally(self, code: str, number: int) -> None:
        if number:
            by_code = self._account.rejects_by_code
            by_code[code] = by_code.get(code, 0) + number


def _records(rows: Sequence[int], damaged: Sequence[Damage]) -> list[int]:
    """The numbers of rows among all records of the file, the damaged ones between them included."""
    # The k-th damaged record (from 0) stands after `record - k - 1` whole rows.
    whole_before = [damage.row - k - 1 for k, damage in enumerate(damaged)]
    return [row + bisect_right(whole_before, row - 1) for row in rows]


_DAY = (
    "CASE WHEN regexp_full_match({0}, '[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}([ T].*)?') "
    "THEN TRY_CAST(left({0}, 10) AS DATE) END"
)
_TEXT_AS = {
    "day": _DAY,
    "end": _DAY,
    "integer": "CASE WHEN regexp_full_match({0}, '[+-]?[0-9]{{1,18}}([.]0*)?') "
    "THEN CAST(split_part({0}, '.', 1) AS BIGINT) END",
    "number": "CASE WHEN regexp_full_match({0}, '[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][+-]?[0-9]+)?') "
    "THEN TRY_CAST({0} AS DOUBLE) END",
    # A zone behind the time is left off: what counts is the time by the hospital's clock.
    "time": "CASE WHEN regexp_full_match({0}, '[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}[ T].*') "
    "THEN TRY_CAST({0} AS TIMESTAMP) WHEN regexp_full_match({0}, '[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}') "
    "THEN TRY_CAST({0} AS TIMESTAMP) END",
    "text": "{0}",
}
_NEVER_AT_FAULT = ("text", "end")
_NO_SUCH = {
    "integer": "not a whole number",
    "number": "not a finite number",
    "day": "not a date YYYY-MM-DD",
    "time": "not a date and time YYYY-MM-DD hh:mm:ss",
}


def _typed(columns: Sequence[Column], present: frozenset[str]) -> str:
    """SQL from `gemel_text`: the columns typed, and `bad`, the list of those that cannot be."""
    texts, values, bad = ["row"], ["row"], []
    for column in columns:
        name = quote_name(column.name)
        if column.name not in present:
            values.append(f"CAST(NULL AS {_DUCKDB_TYPES[column.kind]}) AS {name}")
            continue
        # \N is how PostgreSQL's COPY writes NULL.
        texts.append(f"nullif(nullif(trim({name}), ''), '\\N') AS {name}")
        value = _TEXT_AS[column.kind].format(name)
        if column.kind == "number":
            value = f"CASE WHEN isfinite({value}) THEN {value} END"
        values.append(f"{value} AS {name}")
        if column.kind not in _NEVER_AT_FAULT:
            bad.append(
                f"CASE WHEN {name} IS NOT NULL AND ({value}) IS NULL THEN {quote_text(column.name)} END"
            )
    if_odd = [
        f"{quote_name(column.name)} IS NOT NULL AND ({_TEXT_AS['end'].format(quote_name(column.name))}) IS NULL"
        for column in columns
        if column.kind == "end" and column.name in present
    ]
    odd_end = " OR ".join(if_odd) or "FALSE"
    failed = f"[{', '.join(bad)}]" if bad else "CAST([] AS VARCHAR[])"
    return f"SELECT {', '.join(values)}, {odd_end} AS odd_end, {failed} AS bad FROM (SELECT {', '.join(texts)} FROM gemel_text)"


def _rules(columns: Sequence[Column], checks: Sequence[tuple[str, Fault]]) -> tuple[list[Fault], list[str]]:
    """Faults, and for each the SQL that is true of a row that has it; the first that is true counts."""
    faults: list[Fault] = []
    rules: list[str] = []
    for column in columns:
        if column.kind not in _NEVER_AT_FAULT:
            code = "GEM210" if column.kind in ("day", "time") else "GEM214"
            faults.append(Fault(code, column.name, _NO_SUCH[column.kind]))
            rules.append(f"list_contains(bad, {quote_text(column.name)})")
    for rule, fault in checks:
        faults.append(fault)
        rules.append(rule)
    for column in columns:
        if column.kind in ("day", "time"):
            reason = f"the year is a placeholder or an error: not in {FIRST_YEAR} to {LAST_YEAR}"
            faults.append(Fault("GEM210", column.name, reason))
            rules.append(f"year({quote_name(column.name)}) NOT BETWEEN {FIRST_YEAR} AND {LAST_YEAR}")
    return faults, rules


def missing(column: str) -> tuple[str, Fault]:
    """The rule that a row has a value in a column."""
    return f"{quote_name(column)} IS NULL", Fault("GEM207", column, "the row has no value here")
