"""What a migration means for versions that are in use: its revision says so, and this holds."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.operations import Operations
from alembic.operations.ops import AddColumnOp, CreateIndexOp, CreateTableOp, MigrateOperation
from alembic.runtime.migration import MigrationContext
from alembic.script import Script

from connector.store import counters, schema
from connector.store.tables.counts import COUNTERS

from .releases import NEXT, OVERHAUL, release

COUNTED = ("0001", "57f56b8c83cc7909")
"""The revision that last changed a counter (connector/store/tables/counts.py), and a digest of the
counters. Only a migration with which no older version works may change them: it alone creates their
triggers again."""


def history() -> list[Script]:
    return list(reversed([*schema.scripts().walk_revisions()]))


def broken_rules() -> list[str]:
    """What is wrong with the migrations after the baseline."""
    baseline, *others = history()
    found, before = [], baseline.revision
    for script in others:
        number, oldest = script.revision[:4], schema.oldest_for(script.revision)
        if not re.fullmatch(r"\d{4}_since_\d{4}", script.revision):
            found.append(f"{script.revision}: is not named NUMBER_since_OLDEST")
        elif int(number) != int(before[:4]) + 1:
            found.append(f"{script.revision}: does not follow {before}")
        elif not schema.oldest_for(before) <= oldest <= number:
            found.append(f"{script.revision}: versions before {before}'s oldest work with it?")
        elif oldest < number:
            found += [f"{script.revision}: {fault}" for fault in _more_than_additions(script)]
        before = script.revision
    return found


def _more_than_additions(script: Script) -> Iterator[str]:
    """What older versions might not work with, or would wait for."""
    operations = recorded(script)
    made = {each.table_name for each in operations if isinstance(each, CreateTableOp)}
    altered = set[str]()
    for each in operations:
        if isinstance(each, CreateTableOp):
            if any(column.foreign_keys for column in each.to_table().columns):
                yield f"{each.table_name} has a foreign key, whose creation locks the other table"
        elif isinstance(each, AddColumnOp):
            altered.add(each.table_name)
            column = each.column
            if not column.nullable and not _is_constant(column.server_default):
                yield f"{column.name} is neither nullable nor has a constant server_default"
            if column.unique or column.index or column.foreign_keys:
                yield f"{column.name} has a constraint or an index"
        elif isinstance(each, CreateIndexOp):
            if each.table_name in made:
                continue
            if each.unique:
                yield f"{each.index_name} refuses rows that older versions may write"
            if not each.kw.get("postgresql_concurrently"):
                yield f"{each.index_name} is not created by migrations.indexes.create_index"
            elif len(operations) > 1:
                yield f"{each.index_name} needs a migration of its own"
        else:
            yield f"{type(each).__name__} does more than add"
    if len(altered) > 1:
        yield f"{', '.join(sorted(altered))} are locked together: a migration for each of them"


def _is_constant(default: object) -> bool:
    return isinstance(default, sa.DefaultClause) and isinstance(default.arg, str)


def recorded(script: Script) -> list[MigrateOperation]:
    """The operations of a migration, which are not carried out."""
    found: list[MigrateOperation] = []
    context = MigrationContext.configure(
        dialect_name="postgresql",
        opts={"as_sql": True, "output_buffer": StringIO(), "beside_others": True},
    )
    with pytest.MonkeyPatch.context() as patch, Operations.context(context):
        patch.setattr(Operations, "invoke", lambda _, operation: found.append(operation))
        script.module.upgrade()
    return found


def test_migrations_say_which_versions_work_with_them_and_that_is_so() -> None:
    assert broken_rules() == []


@pytest.mark.parametrize("added", [NEXT, OVERHAUL])
def test_additions_keep_the_rules(tmp_path: Path, added: dict[str, str]) -> None:
    with release(tmp_path, added):
        assert broken_rules() == []


@pytest.mark.parametrize(
    ("revisions", "fault"),
    [
        (["0002"], "is not named"),
        (["0002_note"], "is not named"),
        (["0003_since_0001"], "does not follow 0001"),
        (["0002_since_0003"], "oldest"),
        (["0002_since_0002", "0003_since_0001"], "oldest"),
    ],
)
def test_a_revision_that_says_nothing_or_the_impossible_is_found(
    tmp_path: Path, revisions: list[str], fault: str
) -> None:
    with release(tmp_path, dict.fromkeys(revisions, "    pass\n")):
        [found] = broken_rules()
    assert fault in found


@pytest.mark.parametrize(
    ("operations", "fault"),
    [
        (["add('outbox', nullable=False)"], "neither nullable"),
        (["add('outbox', nullable=False, server_default=sa.func.now())"], "neither nullable"),
        (["add('outbox', unique=True)"], "has a constraint"),
        (["add('outbox', sa.ForeignKey('people.id'))"], "has a constraint"),
        (["add('outbox')", "add('people')"], "outbox, people are locked together"),
        (
            ["op.create_table('a', sa.Column('b', sa.ForeignKey('people.id')))"],
            "a has a foreign key",
        ),
        (["op.drop_column('outbox', 'name')"], "DropColumnOp"),
        (["op.rename_table('outbox', 'inbox')"], "RenameTableOp"),
        (["op.execute('UPDATE outbox SET name = 1')"], "ExecuteSQLOp"),
        (["op.alter_column('outbox', 'name', nullable=True)"], "AlterColumnOp"),
        (["op.create_index('a', 'outbox', ['name'])"], "not created by migrations.indexes"),
        (["create_index('a', 'outbox', ['name'], unique=True)"], "refuses rows"),
        (["add('outbox')", "create_index('a', 'outbox', ['b'])"], "needs a migration of its own"),
    ],
)
def test_more_than_additions_are_found(tmp_path: Path, operations: list[str], fault: str) -> None:
    add = """\
    def add(table, *constraints, **options):
        op.add_column(table, sa.Column("b", sa.Text(), *constraints, **options))
"""
    body = add + "".join(f"    {operation}\n" for operation in operations)
    with release(tmp_path, {"0002_since_0001": body}):
        [found] = broken_rules()
    assert fault in found


def test_counters_are_changed_by_a_migration_with_which_no_older_version_works() -> None:
    statements = [
        text
        for counter in COUNTERS
        for make in (counters._on_sqlite, counters._on_postgresql)
        for text in make(counter)
    ]
    digest = hashlib.sha256("\n".join(statements).encode()).hexdigest()[:16]
    [changed_by] = [each for each in history() if each.revision == COUNTED[0]]
    assert schema.oldest_for(changed_by.revision) == changed_by.revision[:4]
    assert digest == COUNTED[1], f"changed by which migration? COUNTED = (revision, {digest!r})"
