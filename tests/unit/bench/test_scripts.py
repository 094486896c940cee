"""The scripts of `benchmarks/`, which no other test runs in whole."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
NAMED = re.compile(r"(?<![\w/])benchmarks/[\w/]+\.(?:py|sh|md)")


def test_each_script_that_a_text_of_the_repository_names_is_there():
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("docs/**/*.json")]
    scripts = [*ROOT.glob("benchmarks/**/*.py"), *ROOT.glob("tests/**/*.py")]
    named = {
        (path.relative_to(ROOT), script)
        for path in [ROOT / "Makefile", *documents, *scripts]
        for script in NAMED.findall(path.read_text())
    }
    assert len(named) > 50
    assert {(where, script) for where, script in named if not (ROOT / script).exists()} == set()
