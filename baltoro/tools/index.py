"""A local search engine: documents in one SQLite file, found by BM25.

    baltoro index add notes.db folder/ page.html papers.jsonl

Adding a document again replaces it.
"""

from __future__ import annotations

import json
import re
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from baltoro.config import BaltoroError

TEXT_ENDINGS = {".txt", ".md", ".rst", ".csv", ".tex"}
HTML_ENDINGS = {".html", ".htm", ".xhtml"}
SNIPPET_WORDS = 40

TABLES = (
    "CREATE VIRTUAL TABLE IF NOT EXISTS documents USING fts5("
    "title, text, id UNINDEXED, tokenize='porter unicode61 remove_diacritics 2')",
    # Where a document is: the table for full text would look at each of its rows for an id.
    "CREATE TABLE IF NOT EXISTS places (id TEXT PRIMARY KEY, place INTEGER) WITHOUT ROWID",
)


@dataclass(frozen=True)
class Document:
    id: str  # a path or an address
    title: str
    text: str


@dataclass(frozen=True)
class Hit:
    id: str
    title: str
    snippet: str


class Index:
    """Documents on disk."""

    def __init__(self, path: str | Path, *, create: bool = False):
        """Raises `BaltoroError` if there is no such index. Never changes a file of another kind."""
        if not create and not Path(path).is_file():
            raise BaltoroError(f"there is no index {path}. Make one with: baltoro index add {path}")
        try:
            self.db = sqlite3.connect(path)
            self._make_tables(path, create)
        except sqlite3.Error as error:
            raise BaltoroError(
                f"{path} is no index, or an older one that cannot be brought up to date: {error}."
            ) from None

    def _make_tables(self, path: str | Path, create: bool) -> None:
        found = dict(self.db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'"))
        if not _is_index(found) and (found or not create):
            held = f"holds other tables ({', '.join(sorted(found))})" if found else "is empty"
            raise BaltoroError(
                f"{path} is no index: it {held}. Make one in a file of its own with: "
                "baltoro index add INDEX FOLDER"
            )
        if "places" in found:
            return
        with self.db:
            self.db.execute("BEGIN IMMEDIATE")
            for table in TABLES:
                self.db.execute(table)
            # An index may have been made before there were places.
            self.db.execute("INSERT OR REPLACE INTO places SELECT id, rowid FROM documents")

    def add(self, documents: Iterable[Document]) -> int:
        """Add documents; returns how many there were."""
        count = 0
        with self.db:
            for each in documents:
                self._put(*map(_storable, (each.id, each.title, each.text)))
                count += 1
        return count

    def _put(self, id: str, title: str, text: str) -> None:
        for (place,) in self.db.execute("SELECT place FROM places WHERE id = ?", (id,)).fetchall():
            self.db.execute("DELETE FROM documents WHERE rowid = ?", (place,))
        row = (title, text, id)
        put = self.db.execute("INSERT INTO documents (title, text, id) VALUES (?, ?, ?)", row)
        self.db.execute("INSERT OR REPLACE INTO places VALUES (?, ?)", (id, put.lastrowid))

    def search(self, query: str, count: int = 5) -> list[Hit]:
        """The best documents for a query: those with all of its words before those with some."""
        words = re.findall(r"\w+", query)
        if not words:
            return []
        hits: dict[str, Hit] = {}
        for joint in (" ", " OR "):
            if len(hits) < count:
                quoted = joint.join(f'"{word}"' for word in words)
                found = self.db.execute(
                    "SELECT id, title, snippet(documents, 1, '', '', '…', ?) FROM documents "
                    "WHERE documents MATCH ? ORDER BY bm25(documents, 4.0, 1.0) LIMIT ?",
                    (SNIPPET_WORDS, quoted, count),
                )
                for row in found:
                    hits.setdefault(row[0], Hit(row[0], row[1], " ".join(row[2].split())))
        return list(hits.values())[:count]

    def read(self, id: str) -> Document | None:
        query = (
            "SELECT documents.id, title, text FROM places JOIN documents "
            "ON documents.rowid = place WHERE places.id = ?"
        )
        row = self.db.execute(query, (_storable(id),)).fetchone()
        return Document(*row) if row else None

    def __len__(self) -> int:
        return self.db.execute("SELECT count(*) FROM documents").fetchone()[0]

    def close(self) -> None:
        self.db.close()


def _is_index(tables: dict[str, str]) -> bool:
    """Whether a file with these tables, each with the SQL that made it, is one of ours."""
    return "fts5(title, text, id UNINDEXED" in tables.get("documents", "")


def _storable(text: str) -> str:
    """The text in characters that SQLite takes: half of a surrogate pair is a question mark."""
    return text.encode("utf-8", errors="replace").decode()


def read_documents(source: Path) -> Iterator[Document]:
    """The documents of a file or of a folder with all folders in it.

    JSON lines need `text`, and may have `id` (or `url`) and `title`. Files of other kinds in a
    folder are passed over; of JSON lines that are no documents, a line on standard error says so.
    Raises `BaltoroError` for a source that is not there or a file of JSON lines without text.
    """
    if source.is_dir():
        for path in sorted(source.rglob("*")):
            if path.is_file() and path.suffix.lower() == ".jsonl":
                yield from _json_lines_if_documents(path)
            elif path.is_file() and path.suffix.lower() in TEXT_ENDINGS | HTML_ENDINGS:
                yield from read_documents(path)
    elif not source.is_file():
        raise BaltoroError(f"there is no file or folder {source}.")
    elif source.suffix.lower() == ".jsonl":
        yield from _json_lines(source)
    else:
        text = source.read_text(encoding="utf-8", errors="replace")
        if source.suffix.lower() in HTML_ENDINGS:
            yield page_document(str(source), text)
        else:
            yield Document(str(source), _first_line(text) or source.name, text)


def _json_lines_if_documents(source: Path) -> list[Document]:
    """All documents of a file that may be of another program's, or none with a note."""
    try:
        return list(_json_lines(source))
    except BaltoroError as error:
        print(f"passed over: {error}", file=sys.stderr)
        return []


def _json_lines(source: Path) -> Iterator[Document]:
    try:
        lines = source.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise BaltoroError(
            f"{source} is no text in UTF-8 (byte {error.start}). Convert it, for example with: "
            "iconv -f latin1 -t utf-8"
        ) from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            text = str(entry["text"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise BaltoroError(f"{source}, line {number} is no JSON object with a text.") from None
        id = str(entry.get("id") or entry.get("url") or f"{source}#{number}")
        yield Document(id, str(entry.get("title") or _first_line(text)), text)


def page_document(id: str, html: str) -> Document:
    """What there is to read on a page. Raises `BaltoroError` without trafilatura."""
    try:
        import trafilatura  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise BaltoroError(
            "reading HTML needs trafilatura. Install it with: pip install 'baltoro[tools]'"
        ) from None
    found = trafilatura.bare_extraction(html, include_links=True, include_tables=True)
    title = (getattr(found, "title", None) or "") if found else ""
    text = (getattr(found, "text", None) or "") if found else ""
    return Document(id, title or _first_line(text) or id, text)


def _first_line(text: str) -> str:
    return next((line.strip("# \t") for line in text.split("\n") if line.strip()), "")[:120]
