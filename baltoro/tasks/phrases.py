"""Words and declarations that vary between conversations."""

from __future__ import annotations

import random
from collections.abc import Sequence

from baltoro.tasks.task import Scene, ToolStyle

WORDS = (
    "river stone cloud apple table window garden music paper silver mountain yellow winter summer "
    "bridge candle doctor engine flower guitar hammer island jacket kitchen ladder market needle "
    "orange pencil quiet rabbit saddle tiger umbrella valley wagon anchor basket castle desert "
    "eagle forest glacier harbor iron jungle king lemon mirror north ocean planet queen rocket "
    "shadow tower uncle village whale yard zebra alpha beta delta sigma omega ruby pearl amber "
    "coral ivory maple cedar birch willow acorn badger copper dragon ember falcon granite hazel"
).split()

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a careful assistant.",
    "Be brief.",
    "Answer the user's question.",
    "You are a helpful assistant. Think before you answer.",
    "You are an agent that can call tools.",
    "Use the tools when they help.",
    "You answer questions about numbers.",
    "Please be precise and short.",
    "You are a terse assistant.",
    "You are an AI assistant. Think step by step.",
    "Help the user. Be honest about what you can't do.",
)

PYTHON_NAMES = (
    "python run_python python_exec execute_python code run_code exec interpreter py ipython "
    "code_interpreter sandbox python3 run execute eval_python python_repl repl notebook "
    "code_runner run-python py.run python_tool Python runPython executeCode"
).split()
PYTHON_PARAMETERS = (
    "code source script program input text snippet python_code cmd content body code_string src "
    "command statement py"
).split()
PYTHON_DESCRIPTIONS = (
    "Run Python code and return what it prints.",
    "Runs Python code and returns the printed output.",
    "Execute Python and return stdout.",
    "Executes a Python script and returns its standard output.",
    "Run a Python program. Returns what it prints.",
    "A Python interpreter. Only printed text is returned.",
    "Evaluate Python code in a sandbox and get the output.",
    "Use this to run Python code.",
    "Python code runner.",
    "Executes code written in Python and gives back the output.",
    "Run a snippet of Python. Use print to see results.",
    "Sandboxed Python. Returns everything printed to the screen.",
)

GET_NAMES = (
    "get lookup fetch read find kv_get load query db_get get_value retrieve look_up get_item "
    "read_key store.get get-value fetch_value search_key getValue table_get resolve"
).split()
GET_PARAMETERS = "key name id k item field path entry record label node query ref what".split()
GET_DESCRIPTIONS = (
    "Look up a key and return its value.",
    "Get the value of a key.",
    "Returns the value stored under a key.",
    "Read one entry from the table.",
    "Fetch the value for the given key.",
    "Looks a key up in the store.",
    "Key-value lookup.",
    "Retrieve what is stored under a name.",
    "Reads a record by its key.",
    "Return the entry with this name.",
)

OTHER_TOOLS = (
    ToolStyle("get_weather", "Get the weather for a city.", "city"),
    ToolStyle("search", "Search the web.", "query"),
    ToolStyle("send_mail", "Send a mail.", "text"),
    ToolStyle("translate", "Translate a text into English.", "text"),
    ToolStyle("play_music", "Play a song.", "title"),
    ToolStyle("set_alarm", "Set an alarm clock.", "time"),
    ToolStyle("open_page", "Open a web page.", "url"),
    ToolStyle("shell", "Run a shell command.", "command"),
)


EXTRA_SENTENCES = (
    "No network.",
    "Calls take at most ten seconds.",
    "State is kept between calls.",
    "Use it whenever it helps.",
    "Only the standard library is there.",
    "Returns text.",
    "One call at a time.",
)
PYTHON_NOTES = ("The code to run.", "Python code", "Code to execute.", "A Python program.")
GET_NOTES = ("The key to look up.", "The key", "Which entry to read.", "Name of the entry.")


def coined_name(rng: random.Random) -> str:
    """A name nobody chose, so that names must be read from the declaration."""
    count = rng.choice((1, 2, 2))
    return rng.choice("_-.").join(rng.sample(WORDS, count))


def vary(
    rng: random.Random,
    usual: ToolStyle,
    names: Sequence[str],
    descriptions: Sequence[str],
    parameters: Sequence[str],
    notes: Sequence[str],
) -> ToolStyle:
    """A declaration of the same tool under other names; sometimes the usual one."""
    if rng.random() < 0.3:
        return usual
    description, note = rng.choice(descriptions), ""
    if rng.random() < 0.15:
        description += " " + rng.choice(EXTRA_SENTENCES)
    if rng.random() < 0.25:
        note = rng.choice((*notes, " ".join(rng.sample(WORDS, rng.randint(1, 4)))))
    return ToolStyle(
        name=coined_name(rng) if rng.random() < 0.2 else rng.choice(names),
        description=description,
        parameter=rng.choice(WORDS) if rng.random() < 0.15 else rng.choice(parameters),
        note=note,
        closed=rng.random() < 0.15,
    )


def python_style(rng: random.Random) -> ToolStyle:
    usual = ToolStyle("python", PYTHON_DESCRIPTIONS[0], "code")
    return vary(rng, usual, PYTHON_NAMES, PYTHON_DESCRIPTIONS, PYTHON_PARAMETERS, PYTHON_NOTES)


def get_style(rng: random.Random) -> ToolStyle:
    usual = ToolStyle("get", GET_DESCRIPTIONS[0], "key")
    return vary(rng, usual, GET_NAMES, GET_DESCRIPTIONS, GET_PARAMETERS, GET_NOTES)


def system_prompt(rng: random.Random) -> str | None:
    """None half of the time; else a usual sentence, or one about something else altogether."""
    roll = rng.random()
    if roll < 0.5:
        return None
    if roll < 0.85:
        return rng.choice(SYSTEM_PROMPTS)
    kind, thing, other = rng.choice(("assistant", "agent", "bot", "guide")), *rng.sample(WORDS, 2)
    return rng.choice(
        (
            f"You are {thing}, a helpful {kind}.",
            f"You are the {kind} of the {thing} {other} company. Be polite.",
            f"You work for {thing.title()}. Never talk about {other}.",
            f"Today is {rng.randint(1, 28)} {other}. You are a {kind}.",
        )
    )


def make_scene(rng: random.Random, needs: tuple[str, ...]) -> Scene:
    """A scene that offers what is needed, and sometimes more."""
    scene = Scene(system=system_prompt(rng))
    if "python" in needs or rng.random() < 0.15:
        scene.python = python_style(rng)
    if "get" in needs or rng.random() < 0.1:
        scene.get = get_style(rng)
    styles = [style for style in (scene.python, scene.get) if style]
    if rng.random() < 0.2:
        styles += rng.sample(OTHER_TOOLS, rng.choice((1, 1, 2)))
    rng.shuffle(styles)
    unique = {style.name: style for style in reversed(styles)}
    if len(unique) < len(styles):  # two tools drew one name
        return make_scene(rng, needs)
    scene.styles = styles
    return scene


def politely(rng: random.Random, question: str) -> str:
    """The same question as different people would put it."""
    roll = rng.random()
    if roll < 0.12:
        return (
            rng.choice(("Hi! ", "Hello, ", "Hey, ", "Please help: ", "Quick question: ")) + question
        )
    if roll < 0.2:
        return question + rng.choice((" Thanks!", " Please.", " Think first.", " Answer briefly."))
    if roll < 0.26:
        return question[0].lower() + question[1:]
    return question
