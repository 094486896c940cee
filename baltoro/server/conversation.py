"""A chat request's way to its answers, whichever API it came by."""

from __future__ import annotations

from baltoro.chat.chat_model import ChatRequest
from baltoro.server.controls import read_response_format, read_tool_choice
from baltoro.server.keys import Caller
from baltoro.server.messages import read_messages, read_tools
from baltoro.server.reply import ChatReply, Choices
from baltoro.server.schemas import ChatBody
from baltoro.server.service import Service


def chat_reply(service: Service, body: ChatBody) -> ChatReply:
    """The form that the answer to a conversation takes."""
    model = service.check_model(body.model)
    return ChatReply(
        model=model,
        tokenizer=service.tokenizer,
        logprobs=bool(body.logprobs),
        top_logprobs=body.top_logprobs or 0,
        return_token_ids=bool(body.return_token_ids),
        return_expert_choices=bool(body.return_expert_choices),
        include_usage=body.include_usage,
        include_reasoning=body.include_reasoning is not False,
        reasoning_alias=bool(body.reasoning_alias),
        # Each heavy answer has trajectories of its own, whose prompts all count.
        prompts_shared_by=1 if service.is_heavy(model) else body.num_answers,
        num_choices=body.num_answers,
    )


def chat_choices(service: Service, body: ChatBody, reply: ChatReply, caller: Caller) -> Choices:
    """The answers to a conversation. Raises `ApiError` for what cannot be honoured."""
    service.check_token_level(body)
    chat = read_chat(body, service.default_max_tokens)
    return service.answers(chat, body.num_answers, caller, reply.model)


def read_chat(body: ChatBody, default_max_tokens: int) -> ChatRequest:
    """What the model is asked. Raises `ApiError` naming what is wrong."""
    tools = read_tools(body.tools)
    names = [tool["function"]["name"] for tool in tools]
    return ChatRequest(
        messages=read_messages(body.messages),
        tools=tools,
        sampling=body.sampling(default_max_tokens),
        tool_choice=read_tool_choice(body.tool_choice, body.parallel_tool_calls, names),
        response_schema=read_response_format(body.response_format),
        keep_thinking=body.keep_thinking,
    )
