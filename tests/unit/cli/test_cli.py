"""The command line: what a verb prints, and how mistakes look."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from baltoro.cli import main
from baltoro.config import PRESETS


@pytest.fixture
def baltoro(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs `baltoro` in this process; returns exit code, output and errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["baltoro", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return run


def test_every_verb_explains_itself(baltoro):
    _, listed, _ = baltoro("--help")
    verbs = [
        "serve",
        "chat",
        "agent",
        "inspect",
        "plan",
        "quantize",
        "train",
        "eval",
        "doctor",
        "trace",
        "index",
    ]
    for verb in verbs:
        assert verb in listed
        code, text, _ = baltoro(verb, "--help")
        assert code == 0
        assert "Usage" in text


def test_inspect_prints_the_published_numbers(baltoro):
    code, text, _ = baltoro("inspect", "k2-thinking", "--no-measure")
    assert code == 0
    assert "1,026.4B parameters" in text
    assert "594.2 GB" in text
    assert "70,272 bytes of cache per token" in text


def test_a_plan_takes_its_assumptions_from_options_and_a_file(baltoro, tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text("[training]\nutilization = 0.5\n")
    options = ("--assumptions", str(path), "--tokens", "1e12", "--json")
    code, text, _ = baltoro("plan", "k2-thinking", *options)
    assert code == 0
    training = json.loads(text)["assumptions"]["training"]
    assert (training["utilization"], training["tokens"]) == (0.5, 1e12)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["plan", "k2-thinking", "--devices", "3"], "devices is 3, but must be a multiple of"),
        (["plan", "k2-thinking", "--assumptions", "/no/such.toml"], "there is no file /no/such"),
        (
            ["inspect", "no-such-model", "--no-measure"],
            "'no-such-model' is neither a checkpoint folder nor",
        ),
        (["chat", "Hi", "--model", "/no/such/folder"], "there is no model '/no/such/folder'"),
        (
            ["agent", "Hi", "--base-url", "http://x/v1", "--tools", "pyhton"],
            "Did you mean 'python'",
        ),
        (["train", "sft", "/no/such.toml"], "there is no file /no/such.toml"),
        (["quantize", "/no/such/source", "/tmp/target"], "/no/such/source"),
        (["serve", "--api-key-file", "/no/such/keys"], "cannot read the API key file"),
        (["agent", "Hi", "--base-url", "http://x/v1", "--trace", "/no/such/f"], "cannot write the"),
        (["agent", "--base-url", "http://x/v1"], "give a task, or --resume"),
        (["agent", "--base-url", "http://x/v1", "--resume"], "--resume needs --trace FILE"),
        (["agent", "Hi", "--base-url", "http://x/v1", "--context", "x"], "no context strategy 'x'"),
        (["agent", "Hi", "--base-url", "http://x/v1", "--max-money", "1"], "which is not known"),
        (["agent", "Hi", "--base-url", "http://x/v1", "--tools", "search"], "--index FILE"),
        (["trace", "show", "/no/such/trace"], "cannot read the trace"),
        (
            ["eval", "skills", "--base-url", "http://x/v1", "--model", "x", "--skill", "y"],
            "no task 'y'",
        ),
    ],
)
def test_a_mistake_is_a_sentence_without_traceback_and_exit_code_2(baltoro, arguments, sentence):
    if "--base-url" in arguments:
        arguments = [*arguments, "--model", "x"]
    code, _, said = baltoro(*arguments)
    assert code == 2
    assert said.startswith("baltoro: ")
    assert sentence in said
    assert "Traceback" not in said


def test_a_file_that_can_not_be_read_is_a_sentence_too(baltoro, tmp_path):
    code, _, said = baltoro("train", "sft", str(tmp_path))
    assert code == 2
    assert said.startswith("baltoro: ")
    assert str(tmp_path) in said


@pytest.mark.parametrize(
    ("arguments", "model", "upstream", "upstream_model"),
    [
        ([], "tiny", None, None),
        (["--model", "/some/folder"], "/some/folder", None, None),
        (["--upstream", "http://x/v1"], "tiny", "http://x/v1", None),
        (["--upstream", "http://x/v1", "--model", "big"], "tiny", "http://x/v1", "big"),
    ],
)
def test_serve_passes_on_which_model_of_which_endpoint(
    baltoro, monkeypatch, arguments, model, upstream, upstream_model
):
    seen = []
    monkeypatch.setattr("baltoro.server.serve.serve", seen.append)
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    assert baltoro("serve", *arguments)[0] == 0
    (config,) = seen
    assert (config.model, config.upstream) == (model, upstream)
    assert config.upstream_model == upstream_model
    assert config.upstream_api_key == ("secret" if upstream else "")


def test_an_upstream_that_does_not_answer_is_a_sentence(baltoro):
    code, _, said = baltoro("serve", "--upstream", "http://127.0.0.1:9/v1", "--port", "0")
    assert code == 2
    assert said.startswith("baltoro: http://127.0.0.1:9/v1 did not say which models it has")


def test_what_the_system_refuses_is_a_sentence_with_the_file(baltoro, tmp_path):
    folder = tmp_path / "model.safetensors"
    folder.mkdir()
    (tmp_path / "config.json").write_text(PRESETS["tiny"].to_json())
    assert baltoro("inspect", str(tmp_path))[::2] == (2, f"baltoro: {folder}: Is a directory.\n")


def test_a_wrong_option_is_exit_code_2(baltoro):
    assert baltoro("chat", "Hi", "--temperature", "hot")[0] == 2
    assert baltoro("agent", "Hi", "--max-steps", "0")[0] == 2
    assert baltoro("serve", "--port", "99999")[0] == 2
    assert baltoro("dance")[0] == 2


def test_doctor_tells_kernels_and_sandbox(baltoro):
    code, text, _ = baltoro("doctor")
    assert code == 0
    facts = dict(line.split(maxsplit=1) for line in text.splitlines())
    assert {"baltoro", "cores", "kernels", "memory", "models", "sandbox"} <= set(facts)
    assert "works" in facts["sandbox"]


def test_doctor_tells_what_to_expect_of_a_model(baltoro):
    code, text, _ = baltoro("doctor", "--model", "tiny")
    assert code == 0
    facts = dict(line.split(maxsplit=1) for line in text.splitlines())
    assert "tokens/s of tiny alone" in facts["decode"]
    assert facts["prompt"].endswith("to the first one of a reply")
    assert baltoro("doctor", "--model", "/no/such/model")[0] == 2


IMPORTS = """
import json, sys
sys.argv = ["baltoro", *{arguments!r}]
from baltoro.cli import main
from baltoro.config import PRESETS
try:
    main()
except SystemExit:
    pass
print(json.dumps(sorted({{name.split(".")[0] for name in sys.modules}})), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["doctor", "--model", "tiny"],
        ["inspect", "k2-thinking", "--no-measure"],
        ["plan", "k2-thinking"],
        ["serve", "--model", "/no/such/model", "--port", "0"],
        ["agent", "Hi", "--base-url", "http://127.0.0.1:9/v1", "--model", "x"],
        ["eval", "skills", "--model", "/no/such/model"],
    ],
)
def test_serving_acting_and_measuring_never_import_torch(arguments):
    code = IMPORTS.format(arguments=arguments)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = json.loads(done.stderr.splitlines()[-1])
    assert "baltoro" in modules
    assert not {"torch", "transformers", "matplotlib"} & set(modules)


def test_help_does_not_load_what_verbs_need():
    code = IMPORTS.format(arguments=["--help"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "fastapi", "httpx"} & set(json.loads(done.stderr.splitlines()[-1]))


def test_the_command_is_installed_beside_python():
    command = Path(sys.executable).with_name("baltoro")
    done = subprocess.run(
        [str(command), "inspect", "x", "--no-measure"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("baltoro: 'x' is neither")


START = """
import sys
from baltoro.server.serve import ServeConfig, open_app
_, model = open_app(ServeConfig(), [])
model.close()
print(*{name.split(".")[0] for name in sys.modules})
"""


def test_a_server_starts_without_what_only_some_requests_take():
    done = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    assert "fastapi" in modules
    assert not {"httpx", "jsonschema", "llguidance", "rich"} & modules


def test_options_in_groups_come_as_their_dataclass(baltoro, monkeypatch):
    seen = []
    monkeypatch.setattr("baltoro.server.serve.serve", seen.append)
    options = ["--threads", "2", "--max-body", "1MiB", "--allow-origin", "http://a", "--strict"]
    assert baltoro("serve", *options, "--no-access-log")[0] == 0
    (config,) = seen
    assert (config.engine.threads, config.rules.max_body_bytes) == (2, 1 << 20)
    assert (config.rules.allow_origins, config.rules.strict) == (("http://a",), True)
    assert config.access_log is False


def test_the_help_of_a_verb_shows_its_groups_of_options(baltoro):
    _, text, _ = baltoro("agent", "--help")
    headings = ("The model", "Replies", "Tools", "Limits", "The run")
    places = [text.index(f"─ {heading} ─") for heading in headings]
    assert places == sorted(places)
