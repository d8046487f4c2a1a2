"""SQL files as pg_dump and psql know them: statements, COPY with its rows, and lines that begin with a backslash.

The file is cut as psql cuts it, and its statements are executed one by one, so what psql could restore can be loaded here
without psql. What cannot mean anything on a scratch server is left out: tablespaces, subscriptions (they would connect
to somewhere), security labels, and settings that an older server does not know.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg

from zdmigrate.errors import ServerUnavailable, UsageError
from zdmigrate.sqltext import Token, tokens

Connection = psycopg.Connection[Any]

_SKIPPED_COMMANDS = frozenset({"restrict", "unrestrict", "echo", "qecho", "warn", "timing", "pset", "x", "t", "a"})
_SKIPPED_VARIABLES = frozenset({"ON_ERROR_STOP", "ON_ERROR_ROLLBACK", "ECHO", "VERBOSITY", "QUIET", "AUTOCOMMIT"})
_SKIPPED_HEADS = (
    ("SECURITY", "LABEL"), ("CREATE", "SUBSCRIPTION"), ("ALTER", "SUBSCRIPTION"), ("COMMENT", "ON", "SUBSCRIPTION"),
    ("COMMENT", "ON", "EXTENSION"), ("SET", "DEFAULT_TABLESPACE"), ("SET", "SESSION", "AUTHORIZATION"),
    ("RESET", "SESSION", "AUTHORIZATION"),
)  # fmt: skip
_PSEUDO_ROLES = frozenset({"public", "current_user", "current_role", "session_user", "none"})
_END_OF_ROWS = re.compile(r"^\\\.\r?(?:\n|\Z)", re.MULTILINE)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A statement, or a line for psql. `words` are its tokens but for spaces and comments, `rows` what COPY reads."""

    text: str
    line: int
    words: tuple[Token, ...] = ()
    rows: str | None = None

    @property
    def is_command(self) -> bool:
        """Whether it is for psql, not for the server."""
        return self.text.startswith("\\")

    def begins(self, *head: str) -> bool:
        """Whether these are its first words."""
        found = tuple(token.text.upper() for token in self.words[: len(head)] if token.kind == "word")
        return found == head


def read(path: Path) -> str:
    """A file's text; bytes that are not UTF-8 survive until they are sent.

    Raises:
        UsageError: there is none, or it is no SQL.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    if data.startswith(b"PGDMP"):
        raise UsageError(f"{path} is pg_dump's own format, not SQL", hint=f"pg_restore --file schema.sql {path}")
    if data.startswith(b"\x1f\x8b"):
        raise UsageError(f"{path} is compressed", hint=f"gunzip {path}")
    return data.decode("utf-8", errors="surrogateescape")


def pieces(text: str) -> Iterator[Piece]:
    """The file, cut as psql cuts it."""
    place, line = 0, 1
    while place < len(text):
        words, start, end = _statement(text, place)
        piece = Piece(text=text[start:end].rstrip(), line=line + text.count("\n", place, start), words=words)
        if _reads_rows(piece):
            first, last, end = _rows(text, end)
            piece = dataclasses.replace(piece, rows=text[first:last])
        if words or piece.is_command:
            yield piece
        line += text.count("\n", place, end)
        place = end


def _rows(text: str, place: int) -> tuple[int, int, int]:
    """Where the rows begin and end that follow a COPY, and where the file goes on."""
    start = _line_end(text, place)
    closing = _END_OF_ROWS.search(text, start)
    return (start, closing.start(), closing.end()) if closing else (start, len(text), len(text))


def _statement(text: str, place: int) -> tuple[tuple[Token, ...], int, int]:
    """The next statement's words, where it begins, and where it ends: at a semicolon, with psql's line, or the text."""
    words: list[Token] = []
    closing: list[str] = []
    start = len(text)
    for token in tokens(text, place):
        end = place + len(token.text)
        if token.kind not in ("space", "comment"):
            if token.text == "\\" and _at_line_start(text, place):
                return (tuple(words), start, place) if words else ((), place, _line_end(text, place))
            start = min(start, place)
            if token.text == ";" and not closing:
                return tuple(words), start, end
            _nest(closing, words, token)
            words.append(token)
        place = end
    return tuple(words), start, place


def _nest(closing: list[str], words: Sequence[Token], token: Token) -> None:
    """Follow parentheses and BEGIN ATOMIC … END, whose semicolons end no statement."""
    word = token.text.upper() if token.kind in ("word", "other") else ""
    if word == "(":
        closing.append(")")
    elif (word == "ATOMIC" and _texts(words[-1:]) == ["BEGIN"]) or (word == "CASE" and "END" in closing):
        closing.append("END")
    elif closing and word == closing[-1]:
        closing.pop()


def _at_line_start(text: str, place: int) -> bool:
    return not text[text.rfind("\n", 0, place) + 1 : place].strip()


def _line_end(text: str, place: int) -> int:
    return text.find("\n", place) + 1 or len(text)


def _reads_rows(piece: Piece) -> bool:
    texts = [token.text.upper() for token in piece.words]
    return piece.begins("COPY") and ("FROM", "STDIN") in itertools.pairwise(texts)


def roles_of(words: Sequence[Token]) -> set[str]:
    """The roles that a statement names as owners, grantees, or in a policy."""
    found: set[str] = set()
    for index, word in _top_words(words):
        following = words[index + 1 :]
        match word:
            case "AUTHORIZATION" | "ROLE" if word == "AUTHORIZATION" or _texts(words[:3]) == _DEFAULTS:
                found |= set(_names(following))
            case "TO" if _names_roles_after_to(words, index):
                found |= set(_names(following))
            case "FROM" if _gives(words):
                found |= set(_names(following))
    if _texts(words[:1]) in (["GRANT"], ["REVOKE"]) and "ON" not in {word for _, word in _top_words(words)}:
        found |= set(_names(words[1:]))  # GRANT readers TO shop_app
    return found


_DEFAULTS = ["ALTER", "DEFAULT", "PRIVILEGES"]


def _gives(words: Sequence[Token]) -> bool:
    return _texts(words[:1]) in (["GRANT"], ["REVOKE"]) or _texts(words[:3]) == _DEFAULTS


def _names_roles_after_to(words: Sequence[Token], index: int) -> bool:
    before = _texts(words[index - 1 : index])
    return _gives(words) or before == ["OWNER"] or (_texts(words[1:2]) == ["POLICY"] and before != ["RENAME"])


def _texts(words: Sequence[Token]) -> list[str]:
    return [token.text.upper() for token in words]


def _top_words(words: Sequence[Token]) -> Iterator[tuple[int, str]]:
    """The words outside of parentheses, with their places."""
    depth = 0
    for index, token in enumerate(words):
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        if depth == 0 and token.kind == "word":
            yield index, token.text.upper()


def _names(words: Sequence[Token]) -> Iterator[str]:
    """A list of names, as long as it goes on."""
    for index, token in enumerate(words):
        if index % 2:
            if token.text != ",":
                return
        elif token.name is None:
            return
        elif token.kind == "quoted" or token.name not in _PSEUDO_ROLES:
            yield token.name


def extensions_of(script: Sequence[Piece]) -> list[str]:
    """The extensions that a script creates, sorted."""
    created = (piece.words for piece in script if piece.begins("CREATE", "EXTENSION"))
    names = (
        next((t.name for t in words[2:] if t.text.upper() not in ("IF", "NOT", "EXISTS")), None) for words in created
    )
    return sorted({name for name in names if name is not None})


def load(
    connection: Connection, script: Sequence[Piece], *, name: str, make_role: Callable[[Connection, str], None]
) -> None:
    """Execute a script, statement by statement, on an autocommit connection; `make_role` makes the roles it lacks.

    A role that is not superuser owns what it makes: for it owners are left out, and their default privileges are its own.

    Raises:
        UsageError: a line for psql that cannot be done here; the message has `name` and the line.
        ServerUnavailable: the server refuses a statement.
    """
    facts = _Facts.of(connection)
    known = set(facts.roles)
    for written in script:
        if written.is_command:
            _refuse_unless_harmless(written, name)
        elif not _left_out(written, facts):
            piece = written if facts.superuser else _of_whoever_loads(written)
            created = _created_role(piece)
            for role in sorted((roles_of(piece.words) | created) - known):
                make_role(connection, role)
                known.add(role)
            if not created:  # what else it may do is not for a scratch server
                _execute(connection, piece, name)


def _created_role(piece: Piece) -> set[str]:
    if not any(piece.begins("CREATE", kind) for kind in ("ROLE", "USER", "GROUP")) or piece.begins(
        "CREATE", "USER", "MAPPING"
    ):
        return set()
    return {name for token in piece.words[2:3] if (name := token.name) is not None}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What the server knows."""

    superuser: bool
    roles: Collection[str]
    settings: Collection[str]

    @classmethod
    def of(cls, connection: Connection) -> _Facts:
        def column(query: str) -> set[Any]:
            return {row[0] for row in connection.execute(query.encode()).fetchall()}

        return cls(
            superuser=True in column("SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user"),
            roles=column("SELECT rolname FROM pg_catalog.pg_roles"),
            settings=column("SELECT lower(name) FROM pg_catalog.pg_settings"),
        )


def _refuse_unless_harmless(piece: Piece, name: str) -> None:
    command, *arguments = piece.text[1:].split() or [""]
    if command in _SKIPPED_COMMANDS or (command == "set" and arguments[:1] and arguments[0] in _SKIPPED_VARIABLES):
        return
    hint = "write the file with pg_dump, without --create" if command in ("connect", "c") else None
    raise UsageError(
        f"{name}:{piece.line}: \\{command} is a command of psql that is not done here",
        hint=hint or "write one file of plain SQL, for example with pg_dump --schema-only",
    )


def _left_out(piece: Piece, facts: _Facts) -> bool:
    if any(piece.begins(*head) for head in _SKIPPED_HEADS):
        return True
    texts = _texts(piece.words)
    if piece.begins("CREATE", "SCHEMA") and [token.name for token in piece.words[2:]] == ["public"]:
        return True
    if piece.begins("SET") and len(texts) > 1 and texts[1] not in ("LOCAL", "SESSION", "TIME", "ROLE"):
        return "." not in texts and texts[1].lower() not in facts.settings
    if not facts.superuser and "OWNER" in texts and piece.begins("ALTER"):
        return True
    # A role of a newer server's own (pg_maintain) cannot be made here.
    return any(role.startswith("pg_") and role not in facts.roles for role in roles_of(piece.words))


def _of_whoever_loads(piece: Piece) -> Piece:
    """Default privileges of the role that makes the objects here, instead of those that made them there."""
    words = piece.words
    if not (piece.begins(*_DEFAULTS) and _texts(words[3:5]) in (["FOR", "ROLE"], ["FOR", "USER"])):
        return piece
    end = next(index for index, word in _top_words(words) if word in ("IN", "GRANT", "REVOKE"))
    kept = (*words[:3], *words[end:])
    return dataclasses.replace(piece, words=kept, text=" ".join(token.text for token in kept))


def _execute(connection: Connection, piece: Piece, name: str) -> None:
    statement = piece.text.encode("utf-8", errors="surrogateescape")
    try:
        if piece.rows is None:
            connection.execute(statement)
            return
        with connection.cursor() as cursor, cursor.copy(statement.rstrip(b";")) as copy:
            copy.write(piece.rows.encode("utf-8", errors="surrogateescape"))
    except psycopg.Error as error:
        position = int(error.diag.statement_position or 1)
        line = piece.line + piece.text.count("\n", 0, position)
        reason = error.diag.message_primary or error
        raise ServerUnavailable(
            f"{name}:{line}: the scratch server refuses it: {reason}", hint=error.diag.message_hint
        ) from error
