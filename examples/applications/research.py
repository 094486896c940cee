"""Literature research over a local corpus: an answer whose citations are checked.

    python examples/applications/research.py --base-url http://127.0.0.1:8000/v1 \
        "How fast do debris-covered glaciers of the eastern basin thin?"

The corpus that ships is six invented abstracts; --index takes one of yours, made with
`baltoro index add`. Every citation must name a document that was opened, and every quoted passage
must stand in it word for word. A recipe for a capable model: `tiny` can not do this.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from baltoro.agent.events import Run
from baltoro.agent.loop import Agent
from baltoro.agent.view import TerminalView
from baltoro.chat.chat_model import ChatModel, Sampling
from baltoro.engine.open_model import open_model
from baltoro.tools.index import Index, read_documents
from baltoro.tools.library import Library, LocalSource

CORPUS = Path(__file__).parent / "research" / "corpus.jsonl"
SYSTEM = (
    "Answer from the library alone. Search, open what matters, and compare what the documents "
    'say. After each statement cite its source as [id: "quoted words"], the words exactly as they '
    "stand there. Say so where documents disagree or nothing is found."
)
# An id may be an address, so it ends at the colon before the quotation; and a passage may hold
# quotation marks, so it ends at those before the bracket.
CITATION = re.compile(r"\[([^\[\]]+?):\s*[\"“](.*?)[\"”]\s*\]", re.DOTALL)


def check_citations(answer: str, library: Library) -> list[str]:
    """What is wrong with the citations of an answer; nothing when all is well."""
    faults = [] if CITATION.search(answer) else ["the answer cites nothing"]
    for id, quoted in CITATION.findall(answer):
        document = library.kept.get(id.strip())
        words = " ".join(quoted.split())
        if document is None:
            faults.append(f"[{id}] was never opened")
        elif not words or words not in " ".join(document.text.split()):
            faults.append(f"[{id}] does not say: {quoted}")
    return faults


async def research(
    model: ChatModel, question: str, index: Index, *observers: Any
) -> tuple[Run, list[str]]:
    library = Library([LocalSource(index)])
    sampling = Sampling(max_tokens=16_384)
    agent = Agent(model, library.tools, sampling=sampling, observers=observers)
    run = await agent.run(
        [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
    )
    return run, check_citations(run.answer or "", library)


async def main(options: argparse.Namespace) -> None:
    model = open_model(options.base_url, name=options.model, api_key=options.api_key)
    with tempfile.TemporaryDirectory() as folder:
        index = Index(options.index or Path(folder) / "corpus.db", create=not options.index)
        if not options.index:
            index.add(read_documents(CORPUS))
        _, faults = await research(model, options.question, index, TerminalView(summary=True))
        index.close()
    print("\n".join(faults) or "Every citation was checked and stands in its source.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("question")
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--model")
    parser.add_argument("--api-key", default=os.environ.get("OPENAI_API_KEY", ""))
    parser.add_argument("--index", type=Path)
    asyncio.run(main(parser.parse_args()))
