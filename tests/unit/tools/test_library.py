"""Searching, opening and finding, in a local index and on a web of this machine."""

from __future__ import annotations

import asyncio
import gzip
import json
import sqlite3

import pytest
from fastapi import FastAPI
from fastapi.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse

from baltoro.chat.messages import ToolCall
from baltoro.config import BaltoroError
from baltoro.tools.fetch import Fetcher, is_public
from baltoro.tools.index import Document, Index, read_documents
from baltoro.tools.library import Library, LocalSource, WebSource
from baltoro.tools.tool import ToolBox, ToolError

pytest.importorskip("trafilatura")

PAGE = """<html><head><title>The glacier</title></head><body><nav>Home | Shop | Login</nav>
<article><h1>The glacier</h1><p>{}</p><p>It is 63 kilometres long and leads to the second highest
mountain. Walkers need about twelve days to the foot of the mountain and back.</p></article>
</body></html>""".format("The Baltoro glacier lies in the Karakoram range. " * 8)


async def use(library: Library, name: str, **arguments) -> str:
    return await ToolBox(library.tools).run(ToolCall("functions.x:0", name, json.dumps(arguments)))


@pytest.fixture
def index(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "tea.md").write_text("# Tea\nGreen tea is brewed at 75 degrees.\n" * 400)
    (tmp_path / "notes" / "page.html").write_text(PAGE)
    (tmp_path / "notes" / "picture.png").write_bytes(b"\x89PNG")
    lines = [{"id": "p1", "title": "Ice", "text": "Glaciers are melting."}, {"text": "Untitled."}]
    (tmp_path / "notes" / "papers.jsonl").write_text("\n".join(map(json.dumps, lines)))
    opened = Index(tmp_path / "index.db", create=True)
    assert opened.add(read_documents(tmp_path / "notes")) == 4
    yield opened
    opened.close()


async def test_what_is_added_is_found_opened_and_searched(index):
    library = Library([LocalSource(index)])
    said = await use(library, "search", query="long glacier", count=2)
    first, second = said.split("\n\n")
    assert "page.html] The glacier" in first
    assert second.startswith("[p1] Ice\nGlaciers are melting.")
    assert "Login" not in await use(library, "open", id=first[1:].split("]")[0])
    assert "63 kilometres" in await use(library, "find", text="63 KILOMETRES")
    tea = (await use(library, "search", query="tea")).split("]")[0][1:]
    assert "page 2 of 3" in await use(library, "open", id=tea, page=2)
    assert "more places)" in await use(library, "find", text="green tea")
    assert "has only 3 pages" in await use(library, "open", id=tea, page=4)


async def test_mistakes_are_answered_with_what_to_do(index):
    library = Library([LocalSource(index)])
    assert "Open one first" in await use(library, "find", text="x")
    assert "Try fewer or other words" in await use(library, "search", query="zzz")
    assert "Try fewer or other words" in await use(library, "search", query='"*) OR (')
    assert "Take an id from the results" in await use(library, "open", id="nothing")


def test_adding_again_replaces_and_a_bad_source_is_named(index, tmp_path):
    before = len(index)
    index.add([Document("p1", "Ice", "Nothing left.")])
    assert len(index) == before
    with pytest.raises(BaltoroError, match="there is no file or folder"):
        list(read_documents(tmp_path / "missing"))
    (tmp_path / "bad.jsonl").write_text("{}\n")
    with pytest.raises(BaltoroError, match=r"bad.jsonl, line 1 is no JSON object with a text"):
        list(read_documents(tmp_path / "bad.jsonl"))
    with pytest.raises(BaltoroError, match="baltoro index add"):
        Index(tmp_path / "none.db")


async def test_numbers_and_characters_of_a_models_json_do_no_harm(index):
    library = Library([LocalSource(index)])
    assert "page 1 of 1" in await use(library, "open", id="p1", page=1.0)
    assert "[p1] Ice" in await use(library, "search", query="glaciers", count=3.0)
    assert "There is no document '?'" in await use(library, "open", id="\ud83d")
    assert "Try fewer or other words" in await use(library, "search", query="\ud83d")


def documents(count: int, text: str):
    return (Document(f"d{i}", "T", f"{text} {i}") for i in range(count))


def test_adding_is_work_in_proportion_to_what_is_added(tmp_path):
    def work(count: int) -> int:
        """How many times SQLite did ten instructions."""
        done = []
        index = Index(tmp_path / f"{count}.db", create=True)
        index.db.set_progress_handler(lambda: done.append(1), 10)
        for text in ("words", "others"):
            index.add(documents(count, text))
        index.close()
        return len(done)

    assert work(2000) < 11 * work(200)


def make_old_index(path, count: int) -> None:
    """An index without a table of places."""
    with sqlite3.connect(path) as db:
        db.execute(
            "CREATE VIRTUAL TABLE documents USING fts5("
            "title, text, id UNINDEXED, tokenize='porter unicode61 remove_diacritics 2')"
        )
        db.executemany(
            "INSERT INTO documents VALUES ('T', ?, ?)",
            ((f"old {i}", f"d{i}") for i in range(count)),
        )
    db.close()


@pytest.mark.parametrize("create", [False, True])
def test_an_index_without_places_is_read_and_added_to(tmp_path, create: bool):
    make_old_index(tmp_path / "old.db", 5)
    index = Index(tmp_path / "old.db", create=create)
    assert index.read("d3") == Document("d3", "T", "old 3")
    index.add(documents(4, "new"))
    assert len(index) == 5
    assert index.read("d3") == Document("d3", "T", "new 3")
    assert index.read("d4") == Document("d4", "T", "old 4")
    assert [hit.id for hit in index.search("new 3", 1)] == ["d3"]
    index.close()


@pytest.mark.parametrize("create", [False, True])
def test_a_database_of_another_program_is_refused_and_stays_as_it_is(tmp_path, create: bool):
    path = tmp_path / "theirs.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE documents (id, body)")
        db.execute("CREATE TABLE accounts (name)")
    db.close()
    before = path.read_bytes()
    with pytest.raises(BaltoroError, match=r"no index: it holds other tables \(accounts, docum"):
        Index(path, create=create)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_or_an_empty_one_is_refused(tmp_path):
    (tmp_path / "text.db").write_text("This is a text, and a long one at that. " * 40)
    with pytest.raises(BaltoroError, match="file is not a database"):
        Index(tmp_path / "text.db", create=True)
    (tmp_path / "empty.db").touch()
    with pytest.raises(BaltoroError, match="it is empty"):
        Index(tmp_path / "empty.db")
    assert (tmp_path / "empty.db").read_bytes() == b""


def test_lines_of_other_programs_are_passed_over_in_a_folder_and_refused_by_name(tmp_path, capsys):
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "latin.jsonl").write_bytes('{"text": "Grüße"}\n'.encode("latin-1"))
    (folder / "run.jsonl").write_text('{"text": "a document"}\n{"event": "started"}\n')
    (folder / "good.jsonl").write_text('{"text": "kept"}\n')
    assert [each.text for each in read_documents(folder)] == ["kept"]
    noted = capsys.readouterr().err
    assert "passed over: " in noted
    assert "latin.jsonl is no text in UTF-8 (byte 12). Convert it" in noted
    assert "run.jsonl, line 2 is no JSON object with a text" in noted
    for name, fault in (("latin", "no text in UTF-8"), ("run", "line 2 is no JSON object")):
        with pytest.raises(BaltoroError, match=fault):
            list(read_documents(folder / f"{name}.jsonl"))


def test_half_of_a_surrogate_pair_costs_one_character_of_a_document(tmp_path):
    (tmp_path / "half.jsonl").write_text('{"id": "h\\ud83d", "text": "half \\ud83d of it"}\n')
    index = Index(tmp_path / "index.db", create=True)
    assert index.add(read_documents(tmp_path / "half.jsonl")) == 1
    assert index.read("h?") == Document("h?", "half ? of it", "half ? of it")
    index.close()


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.8.9.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
        *("0.0.0.0", "100.64.0.1", "224.0.0.1", "255.255.255.255", "198.18.0.1", "::1", "::"),
        *("fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1"),
        *("64:ff9b::7f00:1", "2002:7f00:1::", "::127.0.0.1"),
        *("fec0::1", "64:ff9b:1::a00:1", "::ffff:0:127.0.0.1", "::ffff:0:8.8.8.8"),
    ],
)
def test_private_addresses_are_known_in_every_form(address: str):
    assert not is_public(address)


def test_public_addresses_are_public():
    assert is_public("1.1.1.1")
    assert is_public("2606:4700::1111")
    assert is_public("::ffff:1.1.1.1")
    assert is_public("64:ff9b::101:101")


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1/", "http://localhost:8000/v1", "http://[::1]/", "http://2130706433/"),
        *("http://0x7f.1/", "http://127.1/", "https://169.254.169.254/latest/meta-data/"),
        *("file:///etc/passwd", "ftp://example.com/x", "http:///x", "gopher://127.0.0.1:1/"),
    ],
)
async def test_private_and_other_addresses_are_refused(url: str):
    with pytest.raises(ToolError, match=r"private network|no http or https|not known|could not"):
        await Fetcher(max_seconds=5).get(url)


def web() -> FastAPI:
    app = FastAPI()

    @app.get("/page")
    def page():
        return HTMLResponse(PAGE)

    @app.get("/to")
    def to(url: str):
        return RedirectResponse(url)

    @app.get("/huge")
    def huge():
        return StreamingResponse((b"x" * 65536 for _ in range(10**6)), media_type="text/plain")

    @app.get("/endless")
    async def endless():
        async def drip():
            while True:
                yield b"."
                await asyncio.sleep(0.02)

        return StreamingResponse(drip(), media_type="text/plain")

    @app.get("/bomb")
    def bomb():
        headers = {"Content-Encoding": "gzip"}
        packed = gzip.compress(bytes(5_000_000))
        return Response(packed, headers=headers, media_type="text/plain")

    @app.get("/binary")
    def binary():
        return Response(b"\x00", media_type="application/octet-stream")

    @app.get("/search")
    def search(q: str):
        return {"results": [{"url": "http://x/page", "title": "T", "content": f"about {q}"}]}

    return app


async def test_pages_are_read_and_bounded_and_redirects_are_checked_anew(start_server):
    url = start_server(web())
    host = url.removeprefix("http://")
    fetcher = Fetcher(allowed=[host], max_bytes=100_000, max_seconds=2)
    assert "63 kilometres" in (await fetcher.get(f"{url}/page")).text
    assert (await fetcher.get(f"{url}/to?url=/page")).url == f"{url}/page"
    for target in ("http://localhost:1/", "http://10.0.0.1/", "file:///etc/passwd"):
        with pytest.raises(ToolError, match=r"private network|no http or https"):
            await fetcher.get(f"{url}/to?url={target}")
    with pytest.raises(ToolError, match="more than 5 redirects"):
        await fetcher.get(f"{url}/to?url=/to?url=/to?url=/to?url=" + "/to%3Furl=" * 9 + "/page")
    assert len((await fetcher.get(f"{url}/huge")).text) == 100_000
    assert len((await fetcher.get(f"{url}/bomb")).text) == 100_000
    with pytest.raises(ToolError, match="longer than 2 seconds"):
        await fetcher.get(f"{url}/endless")
    with pytest.raises(ToolError, match="application/octet-stream, which cannot be read"):
        await fetcher.get(f"{url}/binary")
    with pytest.raises(ToolError, match="answered 404"):
        await fetcher.get(f"{url}/missing")
    with pytest.raises(ToolError, match="private network"):
        await Fetcher().get(f"{url}/page")
    with pytest.raises(ToolError, match="is blocked"):
        await Fetcher(blocked=["example.org"]).get("https://data.example.org/x")


async def test_a_name_that_changes_its_address_reaches_only_the_one_that_was_checked(start_server):
    url = start_server(web())
    port = int(url.rsplit(":", 1)[1])
    asked = []

    async def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    fetcher = Fetcher(allowed=["rebinding.test"], resolve=resolve)
    # One look-up for a request: the name in the address is not looked up again to connect.
    assert "glacier" in (await fetcher.get(f"http://rebinding.test:{port}/page")).text
    assert asked == ["rebinding.test"]


async def test_the_web_is_searched_through_searxng_and_read(start_server):
    url = start_server(web())
    fetcher = Fetcher(allowed=[url.removeprefix("http://")])
    library = Library([WebSource(url, fetcher)])
    assert await use(library, "search", query="ice") == "[http://x/page] T\nabout ice"
    assert "63 kilometres" in await use(library, "open", id=f"{url}/page")
    library = Library([WebSource(None, fetcher)])
    assert "no search service" in await use(library, "search", query="ice")
