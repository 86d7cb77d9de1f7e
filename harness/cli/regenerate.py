"""`harness regenerate`: the target's own answers to one's prompts."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from drafters.configs import context_of, read_config
from harness.console import plain_console, print_json, say, user_errors, watching
from harness.options import AsJson, ChatTemplate, RayAddress, WritableOut, check_void, checked, given_options
from simulator.errors import InputError
from simulator.numbers import counted

if TYPE_CHECKING:  # these take seconds
    from harness.recording.regenerate import Regenerated
    from harness.recording.suite import Generation


def regenerate(
    context: typer.Context,
    target: Annotated[str, typer.Option(help="The model: a folder, a hub id or a GGUF file, `smollm2`, or a pair's name.")],
    prompts: Annotated[
        list[Path],
        typer.Option(
            metavar="FILE",
            help="A JSONL file: turns, prompt, messages or conversations a line, or a gateway's log (repeatable).",
        ),
    ],
    to: Annotated[Path | None, typer.Option(help="The file to write; by default one in --out, in responses.")] = None,
    engine: Annotated[
        Literal["specyard", "vllm", "logged"],
        typer.Option(help="Who answers: vLLM is an optional extra; logged: whoever did, the answers stand in the files."),
    ] = "specyard",
    limit: Annotated[int | None, typer.Option(help="First N prompts of each file.")] = None,
    chat_template: ChatTemplate = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="1 is off.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="0 is off.")] = 0,
    max_new_tokens: Annotated[int, typer.Option(help="Length limit of a response.")] = 512,
    thinking: Annotated[
        bool, typer.Option(help="Whether the chat template opens a thinking section, where it can.")
    ] = False,
    batch: Annotated[int, typer.Option(help="Conversations held together.")] = 24,
    seed: Annotated[int, typer.Option(help="Same seed, same responses.")] = 0,
    skip_long_prompts: Annotated[bool, typer.Option(help="Leave out prompts that do not fit the target's context.")] = False,
    actors: Annotated[int | None, typer.Option(help="Workers; by default one a core, or one a GPU.")] = None,
    gpus_per_actor: Annotated[
        float | None, typer.Option(help="GPUs of each worker; by default one where there are any.")
    ] = None,
    ray_address: RayAddress = None,
    out: WritableOut = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Let a model answer prompts, on all workers, as a file that `--responses` reads. Stopped, the same command goes on."""
    with user_errors("harness"):
        check_void(context, {}, apart={"top_p": "temperature", "top_k": "temperature"} if temperature == 0 else {})
        if engine != "specyard":
            void: tuple[str, ...] = ("batch", "actors", "gpus_per_actor", "ray_address", "skip_long_prompts")
            void += ("max_new_tokens", "seed", "thinking") if engine == "logged" else ()
            check_void(context, {}, apart=dict.fromkeys(void, "engine"))
        from harness.cluster import Cluster

        cluster = Cluster(ray_address, actors, gpus_per_actor)
        cluster.check()

        from harness.recording.pair import asked_pair, check_hub, load_pair
        from harness.recording.sources import check_sources, check_whole
        from harness.recording.suite import read_conversations

        with watching() as watcher:
            if to is not None and to.is_dir():
                raise InputError(f"--to {to}: is a folder; name a file")
            if to is not None and to.exists():  # a training may have begun with it
                raise InputError(f"--to {to}: is there, and is not written over; name another file")
            found = read_conversations(prompts, _limit(limit), watcher.say)
            asked = tuple(prompt for prompt, _ in found)
            pair = load_pair(asked_pair("tiny", target, chat_template=chat_template)[0])
            generation = _generation(temperature, top_p, top_k, max_new_tokens, thinking)
            if engine != "logged":
                _check_context(pair.target, max_new_tokens)
            if cluster.address is None:  # other machines have caches and networks of their own
                check_sources(pair, [])
                check_whole(pair.target, weights=engine != "logged")
                check_hub(pair, [], watcher.say)
            from harness.recording.regenerate import RegenerationPlan, file_in, logged, written
            from harness.recording.regenerate import regenerate as answered

            files = tuple(str(path.resolve()) for path in prompts)
            with checked():
                plan = RegenerationPlan(pair=pair, prompts=files, generation=generation, limit=limit, batch=batch, seed=seed)
            if engine == "logged":
                sampled = {"temperature", "top_p", "top_k"} & given_options(context).keys()
                made = logged(plan, found, generation.sampling if sampled else None, to, out, watcher)
            elif engine == "vllm":
                from harness.vllm.responses import answers

                given = answers(pair, asked, generation, seed, watcher)
                made = written(plan, asked, given, (), to or file_in(out, plan, "vllm"))
            else:
                made = answered(plan, asked, to, out, cluster, watcher, skip_long=skip_long_prompts)
        print_regenerated(made, target, out, chat_template, as_json=as_json)


def _generation(temperature: float, top_p: float, top_k: int, max_new_tokens: int, thinking: bool) -> Generation:
    """How answers are drawn. Raises InputError, naming the option."""
    from harness.recording.suite import Generation

    for option, value, fits, wanted in (
        ("--top-p", top_p, 0 < top_p <= 1, "above 0, and 1 at most"),
        ("--top-k", top_k, top_k >= 0, "0, which keeps all tokens, or more"),
        ("--max-new-tokens", max_new_tokens, max_new_tokens >= 2, "2 or more"),
    ):
        if not fits:
            raise InputError(f"{option} {value}: must be {wanted}")
    try:
        return Generation(
            temperature=temperature, top_p=top_p, top_k=top_k, max_new_tokens=max_new_tokens, thinking=thinking
        )
    except ValueError as error:  # of the temperature
        raise InputError(f"--{error}") from None


def _check_context(target: str, max_new_tokens: int) -> None:
    """Raise InputError where the longest answer fills all that the target can look back on."""
    folder = Path(target)
    most = context_of(read_config(folder)) if folder.is_dir() else None
    if most is not None and max_new_tokens >= most:
        raise InputError(
            f"--max-new-tokens {max_new_tokens}: the target's context is {most:,} tokens, prompts included; give fewer"
        )


def _limit(limit: int | None) -> int | None:
    if limit is not None and limit < 1:
        raise InputError(f"--limit must be at least 1, got {limit}")
    return limit


def print_regenerated(made: Regenerated, target: str, out: Path, chat_template: str | None = None, *, as_json: bool) -> None:
    """What was answered, where it lies, and the command that takes it."""
    from results.store.commands import typed

    if as_json:
        print_json("regenerated", {"regenerated": dataclasses.asdict(made)})
        return
    console = plain_console()
    templated = () if chat_template is None else ("--chat-template", chat_template)
    cut = f"{made.cut:,} cut" + (f" at {made.generation.max_new_tokens}" if made.data_dir is None else "")
    say(
        console, f"{counted(made.responses, 'response')} to {counted(made.prompts, 'prompt')}: {made.tokens:,} tokens, {cut}"
    )
    if made.unreached:
        say(console, f"{counted(made.unreached, 'turn')} not reached: the conversation did not fit the target's context")
    if made.left_out:
        say(console, f"left out as too long: {', '.join(made.left_out)}")
    for note in made.notes:
        say(console, f"· {note}")
    say(console, f"  {made.file}")
    if made.data_dir is None:
        say(console, "next, a drafter that learns from them:")
        train = typed("harness", "train", "dspark", "--target", target, *templated, "--responses", made.file, out=out)
        say(console, f"  {train}")
        return
    say(console, "record it, with a suite for its settings (a task is a file of the folder):")
    sampling = made.generation.sampling
    rest = "" if not sampling.temperature else f" --top-p {sampling.top_p:g} --top-k {sampling.top_k}"
    folder, file, target = (shlex.quote(str(name)) for name in (made.data_dir, made.file, made.target))
    say(
        console,
        f"  harness record suites/math_code_chat --data-dir {folder} --responses {file} --temperature "
        f"{sampling.temperature:g}{rest} --target {target} {shlex.join([*templated, '--drafter'])} NAME=FOLDER",
    )
