"""Between a `ChatModel` and Inspect's models, both ways.

`ChatModelAPI` lets Inspect ask any of our models, so stock tasks, simulated users and judges can;
`InspectChatModel` lets our agent ask any of Inspect's, so each reply is an event of Inspect's log.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, cast

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    Content,
    ContentReasoning,
    ContentText,
    GenerateConfig,
    Model,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    StopReason,
    modelapi,
)
from inspect_ai.solver import TaskState
from inspect_ai.solver._task_state import sample_state
from inspect_ai.tool import ToolCall as InspectCall
from inspect_ai.tool import ToolChoice as InspectChoice
from inspect_ai.tool import ToolFunction, ToolInfo, ToolParams
from inspect_ai.util import LimitExceededError, sample_limits

from baltoro.agent.retries import Retries
from baltoro.chat.chat_model import (
    ChatModel,
    ChatRequest,
    Completion,
    ContentDelta,
    ContextLengthError,
    EndpointError,
    Event,
    ReasoningDelta,
    Sampling,
    ToolChoice,
    Usage,
    complete,
)
from baltoro.chat.messages import Message, Tool, ToolCall
from baltoro.checkpoint.bundled import find_checkpoint
from baltoro.engine.open_model import open_model
from baltoro.evals.journal import Journal

DECLARATION = "baltoro_declaration"  # in a tool's options: its declaration as it came
ARGUMENTS = "baltoro_arguments"  # in a message's metadata: its calls' arguments as written
TOO_LONG = "baltoro_too_long"  # in an output's metadata: what was wrong with the prompt

STOP_REASONS: dict[str, StopReason] = {
    "stop": "stop",
    "length": "max_tokens",
    "tool_calls": "tool_calls",
}
FINISH_REASONS = {reason: name for name, reason in STOP_REASONS.items()}


class ChatModelAPI(ModelAPI):
    """A bundled model, a checkpoint's folder or an endpoint's model as one of Inspect's."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 - as Inspect declares it
        chat_model: ChatModel | None = None,  # one that is open already
        journal: Journal | None = None,
        connections: int = 8,
        retries: Retries | None = None,
    ):
        super().__init__(model_name, base_url, api_key, [], config)
        if chat_model is not None:
            self.chat_model = chat_model
        elif base_url is None:
            find_checkpoint(model_name)  # a wrong name is told before anything runs
        self.journal = journal
        self.connections = connections
        self.retries = retries or Retries()
        self.has_answered = False
        self.failures: dict[str, Exception] = {}  # by attempt: why its model failed

    @functools.cached_property
    def chat_model(self) -> ChatModel:
        """Opened when it is first asked: Inspect makes models whose name alone it wants to know."""
        # Inspect keeps the models that it makes; a native one must not outlive its module.
        atexit.register(vars(self).pop, "chat_model")
        name = self.model_name if self.base_url else None
        return open_model(self.base_url or self.model_name, name=name, api_key=self.api_key or "")

    def max_connections(self) -> int:
        return self.connections

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: InspectChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        request = ChatRequest(
            messages=[read_message(message) for message in input],
            tools=[read_tool(tool) for tool in tools],
            sampling=read_config(config),
            tool_choice=read_choice(tool_choice),
        )
        try:
            return write_output(self.model_name, await self.ask(request))
        except ContextLengthError as error:
            output = ModelOutput.from_content(self.model_name, "", stop_reason="model_length")
            output.metadata = {TOO_LONG: str(error)}
            return output

    async def ask(self, request: ChatRequest) -> Completion:
        state = sample_state()
        if state is not None:
            check_steps()
        try:
            return await self.ask_patiently(request, state)
        except ContextLengthError:
            raise
        except Exception as error:
            if state is not None:
                self.failures[state.uuid] = error  # not every stock solver lets it through
            raise

    async def ask_patiently(self, request: ChatRequest, state: TaskState | None) -> Completion:
        """The reply, asked for again where an endpoint fails for a while; not where nothing has
        ever answered, which is likely a wrong address."""
        attempt = 0
        while True:
            try:
                reply = await self.ask_once(request, state)
            except EndpointError as error:
                attempt += 1
                wait = self.retries.wait(attempt, error)
                if wait is None or (error.unreachable and not self.has_answered):
                    raise
            else:
                self.has_answered = True
                return reply
            await asyncio.sleep(wait)

    async def ask_once(self, request: ChatRequest, state: TaskState | None) -> Completion:
        if state is None or self.journal is None:
            return await complete(self.chat_model, request)
        return await self.journal.ask(self.chat_model, request, scope_of(state), state.uuid)


# Inspect knows it as `baltoro/NAME`. Its registry wants models that are made through this.
make_api = cast(Callable[..., ChatModelAPI], modelapi(name="baltoro")(ChatModelAPI))


def check_steps() -> None:
    """Raises `LimitExceededError` where the steps of the sample are used up. Inspect counts a step
    after its reply, and a stock solver that goes on all the same would ask for more of them."""
    turns = sample_limits().turn
    if turns.limit is not None and turns.usage > turns.limit:
        raise LimitExceededError("turn", value=turns.usage, limit=turns.limit)


def scope_of(state: TaskState) -> str:
    """What the replies of one sample are kept under."""
    return f"{state.sample_id}/{state.epoch}"


class InspectChatModel:
    """Any of Inspect's models as ours."""

    def __init__(self, model: Model):
        self.model = model

    @property
    def name(self) -> str:
        return self.model.name

    async def stream(self, request: ChatRequest) -> AsyncIterator[Event]:
        """Raises `ContextLengthError` for a prompt that leaves no room for a reply."""
        output = await self.model.generate(
            [write_message(message) for message in request.messages],
            [write_tool(tool) for tool in request.tools],
            write_choice(request.tool_choice),
            write_config(request.sampling),
        )
        if output.stop_reason == "model_length":
            raise ContextLengthError((output.metadata or {}).get(TOO_LONG) or "the prompt is long.")
        reply = read_output(output)
        if reply.reasoning_content:
            yield ReasoningDelta(reply.reasoning_content)
        if reply.content:
            yield ContentDelta(reply.content)
        yield reply


def write_message(message: Message) -> ChatMessage:
    text = text_of(message.get("content"))
    match message["role"]:
        case "system":
            return ChatMessageSystem(content=text)
        case "tool":
            return ChatMessageTool(content=text, tool_call_id=message["tool_call_id"])
        case "assistant":
            return write_reply(message)
        case _:
            return ChatMessageUser(content=text)


def write_reply(message: Message) -> ChatMessageAssistant:
    calls = message.get("tool_calls") or []
    parts: list[Content] = []
    if message.get("reasoning_content") is not None:
        parts.append(ContentReasoning(reasoning=message["reasoning_content"]))
    if text := text_of(message.get("content")):
        parts.append(ContentText(text=text))
    return ChatMessageAssistant(
        content=parts or "",
        tool_calls=[write_call(call) for call in calls] or None,
        metadata={ARGUMENTS: {call["id"]: call["function"]["arguments"] for call in calls}},
    )


def write_call(call: dict[str, Any]) -> InspectCall:
    name, written = call["function"]["name"], call["function"]["arguments"]
    try:
        arguments = json.loads(written)
        fault = None if isinstance(arguments, dict) else "The arguments are no JSON object."
    except (ValueError, RecursionError) as error:
        arguments, fault = {}, f"The arguments are not valid JSON: {error}."
    return InspectCall(call["id"], name, {} if fault else arguments, parse_error=fault)


def read_message(message: ChatMessage) -> Message:
    if isinstance(message, ChatMessageTool):
        text = message.error.message if message.error else message.text
        return {"role": "tool", "tool_call_id": message.tool_call_id, "content": text}
    if not isinstance(message, ChatMessageAssistant):
        return {"role": message.role, "content": message.text}
    read: Message = {"role": "assistant", "content": message.text or None}
    thoughts = [part for part in message.content_list if isinstance(part, ContentReasoning)]
    if thoughts:
        read["reasoning_content"] = "".join(part.reasoning for part in thoughts)
    if message.tool_calls:
        written = (message.metadata or {}).get(ARGUMENTS, {})
        read["tool_calls"] = [
            read_call(call, written).to_message_part() for call in message.tool_calls
        ]
    return read


def read_call(call: InspectCall, written: dict[str, str]) -> ToolCall:
    """The call with its arguments as the model wrote them, where that is known."""
    text = written.get(call.id)
    return ToolCall(call.id, call.function, json.dumps(call.arguments) if text is None else text)


def write_tool(tool: Tool) -> ToolInfo:
    function = tool["function"]
    return ToolInfo(
        name=function["name"],
        description=function.get("description", ""),
        parameters=ToolParams.model_validate(function.get("parameters") or {}),
        options={DECLARATION: tool},  # Inspect's form knows only a part of JSON schema
    )


def read_tool(tool: ToolInfo) -> Tool:
    if tool.options and DECLARATION in tool.options:
        return tool.options[DECLARATION]
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters.model_dump(exclude_none=True),
    }
    return {"type": "function", "function": function}


def write_choice(choice: ToolChoice) -> InspectChoice:
    if choice.mode == "required":
        return ToolFunction(choice.names[0]) if choice.names else "any"
    return choice.mode


def read_choice(choice: InspectChoice) -> ToolChoice:
    if isinstance(choice, ToolFunction):
        return ToolChoice(mode="required", names=(choice.name,))
    return ToolChoice(mode="required") if choice == "any" else ToolChoice(mode=choice)


def write_config(sampling: Sampling) -> GenerateConfig:
    return GenerateConfig(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k or None,
        seed=sampling.seed,
        max_tokens=sampling.max_tokens,
        stop_seqs=list(sampling.stop) or None,
        reasoning_tokens=sampling.thinking_budget,
    )


def read_config(config: GenerateConfig) -> Sampling:
    default = Sampling()
    return Sampling(
        temperature=default.temperature if config.temperature is None else config.temperature,
        top_p=config.top_p,
        top_k=config.top_k or 0,
        seed=config.seed,
        max_tokens=config.max_tokens or default.max_tokens,
        stop=tuple(config.stop_seqs or ()),
        thinking_budget=config.reasoning_tokens,
    )


def write_output(model: str, reply: Completion) -> ModelOutput:
    usage = reply.usage
    choice = ChatCompletionChoice(
        message=write_reply(reply.to_message()).model_copy(
            update={"model": model, "source": "generate"}
        ),
        stop_reason=STOP_REASONS.get(reply.finish_reason, "unknown"),
    )
    counted = ModelUsage(
        input_tokens=usage.prompt - usage.cached,
        input_tokens_cache_read=usage.cached,
        output_tokens=usage.completion,
        reasoning_tokens=usage.reasoning,
        total_tokens=usage.prompt + usage.completion,
    )
    return ModelOutput(model=model, choices=[choice], usage=counted)


def read_output(output: ModelOutput) -> Completion:
    message = read_message(output.message)
    usage = output.usage or ModelUsage()
    cached = usage.input_tokens_cache_read or 0
    return Completion(
        reasoning_content=message.get("reasoning_content"),
        content=message["content"],
        tool_calls=[
            ToolCall(call["id"], call["function"]["name"], call["function"]["arguments"])
            for call in message.get("tool_calls", [])
        ],
        finish_reason=FINISH_REASONS.get(output.stop_reason, "stop"),
        usage=Usage(
            prompt=usage.input_tokens + cached,
            completion=usage.output_tokens,
            reasoning=usage.reasoning_tokens or 0,
            cached=cached,
        ),
    )


def text_of(content: str | Sequence[dict[str, Any]] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(part.get("text", "") for part in content)
