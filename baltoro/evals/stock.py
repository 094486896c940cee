"""Solvers and scorers of inspect_evals that are used as they are, with what our results add:
how each attempt ended, and that saying nothing is never right."""

from __future__ import annotations

from collections.abc import Sequence

from inspect_ai.model import ChatMessageAssistant, get_model
from inspect_ai.model._model import sample_model_usage
from inspect_ai.scorer import Score, Scorer, Target, accuracy, scorer, stderr
from inspect_ai.solver import Generate, Solver, TaskState, chain, solver
from inspect_ai.util import LimitExceededError, sample_limits

from baltoro.agent.retries import is_too_long
from baltoro.chat.chat_model import EndpointError
from baltoro.evals.inspect_model import ChatModelAPI
from baltoro.evals.solver import OUTCOME, Outcome, summary


@solver
def watched(*solvers: Solver) -> Solver:
    """The same solvers, with their outcome in the sample's metadata; too many steps end them.

    A model that failed fails the sample, even where a stock solver takes that for silence.
    """
    work = chain(list(solvers))

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        reason = "answered"
        try:
            state = await work(state, generate)
        except LimitExceededError:
            reason = "step_limit"
        except EndpointError as error:
            if not is_too_long(error):
                raise
        if (failure := failure_of(state)) is not None:
            if not (isinstance(failure, EndpointError) and is_too_long(failure)):
                raise failure
            reason = "context_full"
        turns = sample_limits().turn
        if turns.limit is not None and turns.usage >= turns.limit:
            reason = "step_limit"
        state.metadata[OUTCOME] = summary(outcome_of(state, reason))
        return state

    return solve


def failure_of(state: TaskState) -> Exception | None:
    """Why a model failed in this attempt, or the one that plays the user."""
    for model in (get_model(), get_model(role="user")):
        if isinstance(model.api, ChatModelAPI) and state.uuid in model.api.failures:
            return model.api.failures.pop(state.uuid)
    return None


def outcome_of(state: TaskState, reason: str) -> Outcome:
    # A problem may itself be a conversation, whose replies are not this model's.
    replies = [
        m for m in state.messages if isinstance(m, ChatMessageAssistant) and m.source != "input"
    ]
    if state.output.choices and state.output.stop_reason in ("max_tokens", "model_length"):
        reason = "reply_cut"
    elif reason == "answered" and not said_something(replies):
        reason = "no_answer"
    return Outcome(
        stop_reason=reason,
        steps=len(replies),
        tool_calls=sum(len(reply.tool_calls or []) for reply in replies),
        tokens=sum(usage.output_tokens for usage in sample_model_usage().values()),
        answer="(see the conversation)" if reason == "answered" else None,
    )


def said_something(replies: Sequence[ChatMessageAssistant]) -> bool:
    return any(visible_text(reply) or reply.tool_calls for reply in replies)


def visible_text(reply: ChatMessageAssistant) -> str:
    """What a reply says, thinking left out."""
    return reply.text.strip()


@scorer(metrics=[accuracy(), stderr()])
def only_if_answered(stock: Scorer) -> Scorer:
    """The stock score of an attempt that came to an end; 0 for one that said nothing or was cut.

    A stock scorer may take silence for the wise decision to call no tool.
    """

    async def score(state: TaskState, target: Target) -> Score:
        outcome = state.metadata[OUTCOME]
        if not outcome["answered"]:
            return Score(value=0, explanation=f"No answer: {outcome['stop_reason']}.")
        found = await stock(state, target)
        assert found is not None
        return found

    return score
