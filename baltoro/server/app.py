"""The HTTP server: OpenAI's routes, and what every server has."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from prometheus_client import CONTENT_TYPE_LATEST

from baltoro.chat.chat_model import ChatModel
from baltoro.server import anthropic_routes, token_routes
from baltoro.server.conversation import chat_choices, chat_reply
from baltoro.server.errors import ApiError, install_error_handlers
from baltoro.server.guard import Guard
from baltoro.server.keys import Key, KeyRing
from baltoro.server.openapi import (
    ChatCompletionOut,
    FailedOut,
    HealthOut,
    ModelListOut,
    ModelOut,
    TextCompletionOut,
    answers,
    true_schema,
)
from baltoro.server.reply import TextReply
from baltoro.server.rules import Rules
from baltoro.server.schemas import ChatBody, CompletionBody
from baltoro.server.sending import (
    WARNING_HEADER,
    caller_of,
    check_key,
    json_response,
    rules_of,
    send,
    service_of,
    warning_headers,
)
from baltoro.server.service import Service
from baltoro.server.strict import check_strict

# Nothing from elsewhere, nothing inline: what a model writes can never run on the page.
PAGE_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
}
PAGE_FILES = {
    "page.css": "text/css",
    **dict.fromkeys(("page.js", "api.js", "view.js", "experts.js"), "text/javascript"),
}


def create_app(
    model: ChatModel,
    *,
    served_model_names: Sequence[str] = (),
    keys: Sequence[Key] = (),
    rules: Rules | None = None,
) -> FastAPI:
    """The server for one model, which answers to its own name and to `served_model_names`.

    Without `keys` any key is accepted, also none.
    """
    rules = rules or Rules()
    app = FastAPI(title="baltoro", docs_url=None, redoc_url=None)  # their pages load from elsewhere
    app.state.service = Service(
        model,
        served_model_names=served_model_names,
        max_requests=rules.max_requests,
        heavy=rules.heavy,
    )
    app.state.keys = KeyRing(keys)
    app.state.rules = rules
    app.state.started = int(time.time())
    app.add_middleware(Guard, max_body_bytes=rules.max_body_bytes, log_content=rules.log_content)
    if rules.allow_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(rules.allow_origins),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=[WARNING_HEADER, "Retry-After"],
        )
    install_error_handlers(app)
    for router in (public, v1, token_routes.router, anthropic_routes.router):
        app.include_router(router)
    app.openapi = lambda: true_schema(app)
    return app


public = APIRouter()
v1 = APIRouter(prefix="/v1", dependencies=[Depends(check_key)])


@public.get("/", include_in_schema=False)
def page() -> Response:
    """A page to chat with the model."""
    return page_file("index.html", "text/html")


@public.get("/page/{name}", include_in_schema=False)
def page_part(name: str) -> Response:
    if name not in PAGE_FILES:  # the name never becomes a path unless it is one of ours
        return json_response({"error": {"message": "there is no such file."}}, status=404)
    return page_file(name, PAGE_FILES[name])


def page_file(name: str, media_type: str) -> Response:
    content = files("baltoro.server").joinpath("web", name).read_bytes()
    return Response(content, media_type=media_type, headers=PAGE_HEADERS)


@public.get("/health", responses=answers(HealthOut, errors=(), also={503: FailedOut}))
def health(request: Request) -> Response:
    """200 while answers can be given; 503 with the reason once they can't."""
    service = service_of(request)
    reason = service.trouble()
    if not reason:
        return json_response({"status": "ok", "model": service.names[0]})
    state = {"status": "failed", "model": service.names[0], "reason": reason}
    return json_response(state, status=503)


@public.get("/metrics", responses={200: {"content": {"text/plain": {}}}})
def metrics(request: Request) -> Response:
    """What Prometheus scrapes."""
    return Response(service_of(request).metrics.text(), media_type=CONTENT_TYPE_LATEST)


@v1.get("/models", responses=answers(ModelListOut, errors=(401,)))
def models(request: Request) -> Response:
    """The names that the model answers to."""
    service = service_of(request)
    names = [*service.names, *service.heavy_names]
    return json_response({"object": "list", "data": [model_card(request, n) for n in names]})


@v1.get("/models/{name:path}", responses=answers(ModelOut, errors=(401, 404)))
def one_model(name: str, request: Request) -> Response:
    """One of them."""
    return json_response(model_card(request, service_of(request).check_model(name)))


def model_card(request: Request, name: str) -> dict[str, Any]:
    service = service_of(request)
    return {
        "id": name,
        "object": "model",
        "created": request.app.state.started,
        "owned_by": "baltoro",
        "root": service.names[0],
        "max_model_len": service.max_context,
        "n_routed_experts": service.num_experts,
        "tool_calls": service.how_calls_fit,
    }


@v1.post("/chat/completions", responses=answers(ChatCompletionOut, streams=True))
async def chat_completions(body: ChatBody, request: Request) -> Response:
    """Answer a conversation: thinking in `reasoning_content`, then content, then tool calls."""
    service = service_of(request)
    headers = warning_headers(body)
    if rules_of(request).strict:
        check_strict(body)
    reply = chat_reply(service, body)
    return await send(
        request,
        chat_choices(service, body, reply, caller_of(request)),
        whole=reply.whole,
        chunks=reply.chunks,
        stream=bool(body.stream),
        headers=headers,
    )


@v1.post("/completions", responses=answers(TextCompletionOut, streams=True))
async def completions(body: CompletionBody, request: Request) -> Response:
    """Continue a prompt, given as text or token ids, without any chat format."""
    service = service_of(request)
    headers = warning_headers(body)
    model = service.check_model(body.model)
    if service.is_heavy(model):
        message = f"{model} answers conversations; ask it through /v1/chat/completions."
        raise ApiError(message, param="model", code="unsupported_endpoint")
    sampling = body.sampling()
    _, tokenizer = service.token_level()
    prompts = [p if isinstance(p, list) else tokenizer.encode(p) for p in body.prompts()]
    reply = TextReply(
        model=model,
        tokenizer=tokenizer,
        logprobs=body.logprobs is not None,
        return_token_ids=bool(body.return_token_ids),
        include_usage=body.include_usage,
        prompts_shared_by=body.num_answers,
        num_choices=len(prompts) * (body.num_answers),
        echoes=[tokenizer.decode(p) for p in prompts] if body.echo else None,
    )
    return await send(
        request,
        service.texts(prompts, sampling, body.num_answers, caller_of(request)),
        whole=reply.whole,
        chunks=reply.chunks,
        stream=bool(body.stream),
        headers=headers,
    )
