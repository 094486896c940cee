"""A run of a small model, by one process or by several, and what it leaves behind."""

import dataclasses
import multiprocessing
import os
import socket

import torch
from torch.distributed.tensor import DTensor

from baltoro.config import preset
from baltoro.model.transformer import Transformer
from baltoro.train.export import export_checkpoint
from baltoro.train.ranks import Ranks, join_ranks
from baltoro.train.schedule import Schedule
from baltoro.train.sharded import make_trainer
from baltoro.train.trainer import Trainer, teacher_forced

# Odd sizes leave ranks with fewer rows than others, and some with none.
CONFIG = dataclasses.replace(
    preset("tiny"), vocab_size=63, hidden_size=64, num_hidden_layers=2, pad_token_id=0,
    intermediate_size=50, moe_intermediate_size=32, n_routed_experts=8, q_lora_rank=3,
    bos_token_id=1, eos_token_id=(2,),
)  # fmt: skip
# Batches of two rows leave two of four ranks without any; the threshold is passed at once.
SCHEDULE = Schedule(steps=2, tokens_per_step=300, tokens_per_batch=60, warmup_steps=1, threads=1,
                    qk_clip_threshold=0.002, eval_every=2, save_every=100)  # fmt: skip


def make_sample(step):
    """Some tokens said twice; the second time can be learned."""

    def make(rng):
        span = [rng.randrange(3, 63) for _ in range(rng.randrange(5, 16))]
        return span * 2, [0] * len(span) + [1] * len(span)

    return make


def evaluate(model):
    return {"copying": teacher_forced(model, [([5, 6, 5, 6], [0, 0, 1, 1])])}


def small_trainer(folder, ranks: Ranks | None = None, **changes) -> Trainer:
    torch.manual_seed(0)
    schedule = dataclasses.replace(SCHEDULE, **changes)
    return make_trainer(Transformer(CONFIG), schedule, make_sample, folder, evaluate, ranks=ranks)


def steps_taken(trainer: Trainer) -> list[dict]:
    """The run's steps, each as its log row, the (clipped) gradients and the state behind it."""
    taken = []
    while trainer.step < trainer.schedule.steps:
        row = trainer.train_step()
        gradients = {name: whole(p.grad) for name, p in trainer.model.named_parameters()}
        trainer.step += 1
        taken.append({"row": row, "gradients": gradients, **state_of(trainer)})
    return taken


def state_of(trainer: Trainer) -> dict:
    state = trainer.updater.state_dict()
    momenta = {
        f"{i}.{name}": whole(value)
        for i, values in state["optimizer"]["state"].items()
        for name, value in values.items()
    }
    return {
        "step": trainer.step,
        "weights": {name: whole(value) for name, value in state["model"].items()},
        "optimizer": momenta,
    }


def whole(value):
    if isinstance(value, DTensor):
        value = value.full_tensor()
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


def in_ranks(count: int, work, *arguments) -> None:
    """`work(ranks, *arguments)` in `count` processes that talk over gloo."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["baltoro.train.export", "baltoro.train.sharded", "torch._dynamo"]
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        context.Process(target=one_rank, args=(rank, count, port, work, arguments))
        for rank in range(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * count


def one_rank(rank: int, count: int, port: int, work, arguments) -> None:
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    with join_ranks(1) as ranks:
        work(ranks, *arguments)


def take_steps(ranks: Ranks, folder, cases) -> None:
    """Write what each case, changes of the schedule, comes to."""
    for name, changes in cases.items():
        ranks = Ranks(changes.get("expert_parallel", 1), ranks.device)
        taken = steps_taken(small_trainer(folder / name, ranks, **changes))
        if ranks.is_first:
            torch.save(taken, folder / f"{name}.pt")


def save_and_export(ranks: Ranks, folder, tokenizer) -> None:
    """Save a run after two steps, and export it."""
    ranks = Ranks(2, ranks.device)
    trainer = small_trainer(folder, ranks, expert_parallel=2, eval_every=1)
    trainer.run(trainer.schedule)
    export_checkpoint(trainer.model, tokenizer, folder / "int4", int4=True)


def log_and_resume(ranks: Ranks, folder) -> None:
    """Resume where nothing was saved and a kill cut the log off."""
    if ranks.is_first:
        (folder / "metrics.jsonl").write_text('{"step": 0}\n{"ste')
    trainer = small_trainer(folder, ranks)
    trainer.run(trainer.schedule, resume=True)


def go_on(ranks: Ranks, folder, expert_parallel: int, steps: int, result) -> None:
    """Write the state that a run resumes from, and that in which it ends."""
    ranks = Ranks(expert_parallel, ranks.device)
    trainer = small_trainer(folder, ranks, expert_parallel=expert_parallel, steps=steps)
    trainer.load_latest()
    resumed = state_of(trainer)
    trainer.run(trainer.schedule, resume=True)
    ended = state_of(trainer)
    if ranks.is_first:
        torch.save([resumed, ended], result)
