"""The routes of Anthropic's Messages API, at /v1/messages and below /anthropic."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request, Response

from baltoro.server.anthropic_replies import MessageReply
from baltoro.server.anthropic_requests import CountTokensBody, MessagesBody
from baltoro.server.conversation import chat_choices, chat_reply
from baltoro.server.errors import anthropic_body
from baltoro.server.openapi import (
    GENERATING,
    AnthropicErrorOut,
    AnthropicMessageOut,
    InputTokensOut,
    answers,
)
from baltoro.server.sending import (
    caller_of,
    check_key,
    json_response,
    rules_of,
    send,
    service_of,
    warning_headers,
)
from baltoro.server.sse import Framing, named_frame
from baltoro.server.strict import check_strict
from baltoro.server.token_routes import COUNTING, conversation_ids

router = APIRouter(dependencies=[Depends(check_key)])

FRAMING = Framing(named_frame, anthropic_body, b"")


@router.post(
    "/v1/messages",
    responses=answers(
        AnthropicMessageOut, errors=GENERATING, error=AnthropicErrorOut, streams=True
    ),
)
@router.post("/anthropic/v1/messages", include_in_schema=False)
async def messages(body: MessagesBody, request: Request) -> Response:
    """Answer a conversation: thinking blocks where they are asked for, text, tool uses."""
    service = service_of(request)
    chat = body.to_chat()
    headers = warning_headers(chat)
    if rules_of(request).strict:
        check_strict(chat)
    reply = MessageReply(service.check_model(chat.model), body.shows_thinking)
    return await send(
        request,
        chat_choices(service, chat, chat_reply(service, chat), caller_of(request)),
        whole=reply.whole,
        chunks=reply.chunks,
        stream=bool(body.stream),
        headers=headers,
        framing=FRAMING,
    )


@router.post(
    "/v1/messages/count_tokens",
    responses=answers(InputTokensOut, errors=COUNTING, error=AnthropicErrorOut),
)
@router.post("/anthropic/v1/messages/count_tokens", include_in_schema=False)
def count_tokens(body: CountTokensBody, request: Request) -> Response:
    """How many tokens a conversation has as a prompt."""
    service = service_of(request)
    service.check_model(body.model)
    fields = body.chat_fields()
    count = len(conversation_ids(service, fields["messages"], fields.get("tools")))
    return json_response({"input_tokens": count})
