"""What several commands are asked alike, of both programs: options and arguments, and how their text becomes values.

Where the help of two commands differs, each has its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from harness import stops
from simulator.errors import InputError, NoSuchLayout
from simulator.numbers import counted
from simulator.sla import Sla, bounds, share_of

if TYPE_CHECKING:  # these take seconds
    from results.store.database import Store
    from simulator.hardware.profile import Profile
    from simulator.load import Load
    from simulator.policies import PolicySpec

_OUT = "Folder of the database, the reports and everything else a run writes."


def _folder_of_results(context: typer.Context, out: Path) -> Path:
    """An --out as it was typed. Raises InputError at once where a file stands in its place."""
    if not context.resilient_parsing:
        from results.store.connection import check_folder

        check_folder(out)
    return out


def _writable_folder(context: typer.Context, out: Path) -> Path:
    """An --out that a command writes into. Raises InputError at once where nothing could be."""
    if not context.resilient_parsing:
        from results.store.connection import check_folder

        check_folder(out, writable=True)
    return out


Out = Annotated[Path, typer.Option("--out", callback=_folder_of_results, help=_OUT)]
WritableOut = Annotated[Path, typer.Option("--out", callback=_writable_folder, help=_OUT)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON alone on stdout; progress goes to stderr.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run id, the start of one, or `latest`.")]

Hardware = Annotated[
    str | None, typer.Option(help="A profile: device/model, or the file of one's own; see `harness hardware list`.")
]
ModelFile = Annotated[
    Path | None,
    typer.Option("--model", help="The target's config.json, or its folder: --hardware then names a device, as l40s."),
]
TensorParallel = Annotated[int | None, typer.Option("--tp", help="GPUs that share the model, of a modelled profile.")]
Layouts = Annotated[
    str | None,
    typer.Option(
        "--tp", help="GPUs that share the model, of a modelled profile; 1,2 compares both ways to share out --gpus."
    ),
]
Gpus = Annotated[
    int | None, typer.Option(help="GPUs in all, of a modelled profile: --replicas of --tp each; one of the two follows.")
]
Weights = Annotated[
    Literal["bf16", "fp8", "fp4", "int4"] | None, typer.Option(help="Format of weights, of a modelled profile.")
]
KvFormat = Annotated[
    Literal["bf16", "fp8"] | None, typer.Option("--kv", help="Format of keys and values, of a modelled profile.")
]
MeanContext = Annotated[
    int | None,
    typer.Option(help="Context at which windows and compressed caches are averaged, of a modelled profile; else 2,048."),
]
Captured = Annotated[
    int | None, typer.Option(help="Tokens of the largest pass the engine captures as a graph; by default the profile's.")
]
Drafters = Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only this drafter (repeatable).")]
PairName = Annotated[str, typer.Option("--pair", help="A pair's YAML file, or the name of a bundled one.")]
TargetSource = Annotated[
    str | None, typer.Option("--target", help="In place of --pair: the target's folder, hub id or GGUF file, or `smollm2`.")
]
PairDrafters = Annotated[
    list[str] | None,
    typer.Option(
        "--drafter", metavar="NAME", help="Only this drafter of the pair; NAME=PATH: one of your own (repeatable)."
    ),
]
ChatTemplate = Annotated[
    str | None,
    typer.Option(metavar="FILE|plain", help="In place of the target's own: a file of Jinja, or plain: the bare text."),
]
Policies = Annotated[
    list[str] | None,
    typer.Option(
        metavar="POLICY",
        help="Policies, as fixed:3,none,FILE.py:CLASS (repeatable); by default none, fixed:γ, prefix_scheduler.",
    ),
]
DraftsChosen = Annotated[
    Literal["sampled", "greedy"] | None,
    typer.Option(help="How drafts are chosen; by default sampled, or greedy where vLLM's policy is asked for."),
]
RayAddress = Annotated[str | None, typer.Option(help="Ray cluster to join.")]

ThinkSeconds = Annotated[float, typer.Option(help="Mean pause of a user between an answer and the next request.")]
Requests = Annotated[
    int | None, typer.Option(help="Requests that users ask in all, as a benchmark's client; by default without end.")
]
Staggered = Annotated[
    bool, typer.Option("--staggered", help="Those users begin spread over the time of an answer, not all at once.")
]
Rates = Annotated[list[str] | None, typer.Option(metavar="RATES", help="Requests a second of an open loop, as 2,4,8.")]
Cv = Annotated[float, typer.Option(help="Spread of the gaps in an open loop: 1 is Poisson, 0 constant.")]
Arrivals = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE",
        help="Recorded arrivals (repeatable): a gateway's log, a published trace, or a CSV; see docs/loads.md.",
    ),
]
Speed = Annotated[float, typer.Option(help="Recorded arrivals so many times as fast.")]
Window = Annotated[
    str | None,
    typer.Option(metavar="FROM..TO", help="A stretch of recorded arrivals: 10m..20m, 600..1200 (s), ..1h or 2d.."),
]
PrefixCache = Annotated[
    bool,
    typer.Option("--prefix-cache/--no-prefix-cache", help="Whether what prompts of --arrivals begin with is kept."),
]
Mix = Annotated[
    list[str] | None, typer.Option(metavar="DOMAIN=SHARE", help="Share of requests by domain, as math=0.4,code=0.6.")
]
PromptTokens = Annotated[int | None, typer.Option(help="Length of every prompt; by default as recorded.")]
OutputTokens = Annotated[int | None, typer.Option(help="Length of every answer; by default as recorded.")]
OutputCv = Annotated[
    float, typer.Option(help="Spread of answers around those lengths, deviation over mean: 1 is much, 0 is none.")
]
Share = Annotated[str, typer.Option(help="Share of requests to which the promise is made, all bounds together.")]
StepTokens = Annotated[int, typer.Option(help="Tokens of one target pass, prompts included.")]
KvCapacityTokens = Annotated[int | None, typer.Option(help="Context that fits; by default the profile's.")]


@contextmanager
def checked() -> Iterator[None]:
    """While a value is built from options: what its own validation refuses is the user's mistake."""
    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        raise InputError(str(error)) from None


def listed(texts: list[str] | None) -> list[str] | None:
    """Options that may be repeated, and each hold several with commas between."""
    return [part.strip() for text in texts for part in text.split(",")] if texts else None


def joined(texts: list[str] | None) -> str | None:
    """The same as one text with commas, where more than words stands between them; None where nothing was given."""
    return ",".join(texts) if texts else None


def shares(texts: list[str] | None) -> dict[str, float] | None:
    """Shares of domains, as math=0.4,code=0.6. Raises InputError."""
    mix = joined(texts)
    if mix is None:
        return None
    parts = [part.split("=") for part in mix.split(",")]
    try:
        found = {domain: float(share) for domain, share in parts}
    except ValueError:
        raise InputError(f"--mix {mix}: is written as math=0.4,code=0.6") from None
    if len(found) < len(parts):
        raise InputError(f"--mix {mix}: names a domain twice")
    if not all(0 <= share < math.inf for share in found.values()) or not any(found.values()):
        raise InputError(f"--mix {mix}: shares must be 0 or more and finite, and one above 0")
    return found


def profile_of(
    hardware: str | None, model: Path | None = None, tp: int | None = None,
    weights: Literal["bf16", "fp8", "fp4", "int4"] | None = None, kv: Literal["bf16", "fp8"] | None = None,
    captured: int | None = None, mean_context: int | None = None,
) -> Profile:  # fmt: skip
    """The profile that --hardware names, or that is made of a device and a model. Raises InputError."""
    from simulator.hardware.catalogue import Asked, find_profile

    if hardware is None:
        raise InputError("name a hardware profile with --hardware; `harness hardware list` shows them")
    asked = Asked(model=model, gpus=tp, weights=weights, cache=kv, mean_context=mean_context, captured=captured)
    return find_profile(hardware, asked)


def profiles_of(
    profile_of: Callable[[int | None], Profile], layouts: Sequence[tuple[int | None, int]], say: Callable[[str], None]
) -> list[tuple[Profile, int]]:
    """(profile, replicas) of every layout whose GPUs hold the model; others are told. Raises InputError where none do."""
    found: list[tuple[Profile, int]] = []
    impossible = list[NoSuchLayout]()
    for gpus, replicas in layouts:
        try:
            found.append((profile_of(gpus), replicas))
        except NoSuchLayout as error:
            impossible.append(error)
    if not found:
        raise impossible[0]
    for other in impossible:
        say(f"left out: {other}")
    return found


def say_gpus(profile: Profile, hardware: str | None, asked: int | str | None, say: Callable[[str], None]) -> None:
    """Tell which device a modelled profile takes, and that it was given more than one where nobody asked for any number."""
    from simulator.hardware.roofline import Assumptions

    if hardware is not None and "/" not in hardware and profile.source == "roofline":  # a device, which may come with less
        say(f"{profile.name}: {counted(profile.gpus, 'GPU')}, {profile.device}")
    if profile.gpus > 1 and asked is None and profile.source == "roofline" and not str(hardware).endswith(".json"):
        share = f"{Assumptions().least_cache_share:.0%}"
        say(
            f"{profile.name}: {profile.gpus} GPUs share the model, the fewest that hold it and the largest drafter "
            f"and leave {share} for caches; --gpus 1, or as many as there are, if your drafter is smaller"
        )


def shared_out(
    context: typer.Context, gpus: int | None, tp: int | None, replicas: int, measured_on: int | None = None
) -> tuple[int | None, int]:
    """(GPUs of a replica, replicas) where so many GPUs are given in all. Raises InputError where they do not share out.

    `measured_on` is how many GPUs share the model in a profile of what was measured, which are then a replica's.
    """
    if gpus is None:
        return tp, replicas
    if gpus < 1:
        raise InputError(f"--gpus {gpus}: must be 1 or more")
    given = given_options(context)
    if "replicas" not in given:
        each = (measured_on or gpus) if tp is None else tp
        if each < 1 or gpus % each:
            of = f"--tp {each}" if tp is not None or measured_on is None else f"the {each} that the profile is measured on"
            raise InputError(f"--gpus {gpus}: is no multiple of {of}")
        return each, gpus // each
    if replicas < 1 or gpus % replicas or tp not in (None, gpus // replicas):
        told = f"--replicas {replicas}" + ("" if tp is None else f" of --tp {tp} each")
        raise InputError(f"--gpus {gpus}: cannot be {told}; leave one of them out")
    return gpus // replicas, replicas


def layouts_of(
    context: typer.Context, gpus: int | None, tp: str | None, replicas: int, measured_on: int | None = None
) -> list[tuple[int | None, int]]:
    """(GPUs of a replica, replicas) of every layout that --tp names, one without. Raises InputError; see `shared_out`."""
    try:
        sizes = [int(size) for size in dict.fromkeys(listed([tp]) or ())] if tp is not None else []
    except ValueError:
        raise InputError(f"--tp {tp}: must be a whole number, or several as 1,2, which compares them") from None
    if len(sizes) < 2:
        return [shared_out(context, gpus, sizes[0] if sizes else None, replicas, measured_on)]
    if gpus is None:
        raise InputError(f"--tp {tp}: compares ways to share out GPUs; say with --gpus how many there are in all")
    given = given_options(context)
    for name, why in (("replicas", "follows from --gpus and each --tp"), ("rows", "is of one layout")):
        if name in given:
            raise InputError(f"{given[name]}: {why}; leave it out, or name one --tp")
    return [shared_out(context, gpus, size, replicas) for size in sizes]


def loads_of(
    concurrency: list[str] | None, think_s: float, rate: list[str] | None, cv: float, arrivals: Sequence[Path] | None,
    speed: float, window: str | None, say: Callable[[str], None], requests: int | None = None, staggered: bool = False,
) -> list[Load]:  # fmt: skip
    """The loads that are asked for, at least one. Raises InputError; `say` hears how they were read."""
    from simulator.load import loads

    found = loads(
        joined(concurrency), think_s, joined(rate), cv, arrivals or (), speed, say, window,
        requests=requests, staggered=staggered,
    )  # fmt: skip
    if not found:
        raise InputError("name a load: --concurrency, --rate or --arrivals")
    return found


def slas_of(texts: list[str] | None, share: str, say: Callable[[str], None]) -> list[Sla]:
    """What is promised to a share of the requests. Raises InputError; `say` hears what is hardly meant."""
    found = [Sla.asked(text, share_of(share)) for text in bounds(texts or [])]
    for sla in found:
        if sla.doubt:
            say(f"note: {sla.doubt}")
    return found


def check_resumed(context: typer.Context) -> None:
    """Raise InputError where an option beside `--resume` asks for something else than was planned."""
    for name, spelling in given_options(context).items():
        if name not in ("resume", *stops.BESIDE_RESUME, *stops.IN_PLACE):
            raise InputError(
                f"{spelling}: cannot stand beside --resume, which goes on as planned; leave it out, or begin anew"
            )


LENGTHS = ("prompt_tokens", "output_tokens", "output_cv")
"""Parameters that say what recorded arrivals say themselves."""
OF_LOADS = {
    "think_s": "concurrency", "requests": "concurrency", "staggered": "requests", "cv": "rate", "speed": "arrivals",
    "window": "arrivals", "prefix_cache": "arrivals",
}  # fmt: skip
"""What parameters say something about which loads."""


def check_void(context: typer.Context, needs: Mapping[str, str], apart: Mapping[str, str] | None = None) -> None:
    """Raise InputError where an option is given that would change nothing.

    Args:
        needs: parameters that say something about another one, by which: {"cv": "rate"}.
        apart: parameters that another one stands in for: {"pair": "architecture"}.
    """
    given = given_options(context)
    spellings = {str(p.name): p.opts[0] for p in context.command.params}
    for name, other in needs.items():
        if name in given and other not in given:
            raise InputError(f"{given[name]}: is of no use without {spellings[other]}; give both, or leave it out")
    for name, other in (apart or {}).items():
        if name in given and other in given:
            raise InputError(f"{given[name]}: is of no use beside {given[other]}; leave one of them out")


def check_void_of_loads(context: typer.Context, needs: Mapping[str, str]) -> None:
    """`check_void` for a command that takes loads of all kinds, which do not all read the same options."""
    given = given_options(context)
    only_logs = "arrivals" in given and not {"concurrency", "rate"} & given.keys()
    check_void(context, {**OF_LOADS, **needs}, dict.fromkeys(LENGTHS if only_logs else (), "arrivals"))
    if only_logs and "seconds" in given:  # often beside other loads too, so it may stay
        stops.say("note: --seconds says nothing of --arrivals, which are simulated until all are served")


def check_void_of_policies(context: typer.Context, policies: Sequence[PolicySpec] | None) -> None:
    """Raise InputError where an option is given that none of the policies asked for looks at."""
    from simulator.policies import NO_DRAFTER

    drafts = [policy != NO_DRAFTER for policy in policies or ()]
    reads = {
        "drafter": drafts,
        "drafting": drafts,
        "confidences": [policy.reads_confidences and not policy.wants_raw_confidences for policy in policies or ()],
        "believed_hardware": [policy.needs_cost for policy in policies or ()],
    }
    for name, option in given_options(context).items():
        if policies and not any(reads.get(name, [True])):
            raise InputError(f"{option}: is of no use with --policy {','.join(map(str, policies))}; leave it out")


def given_options(context: typer.Context) -> dict[str, str]:
    """The parameters that stand on the command line, by name, as users call them."""
    found = {}
    for parameter in context.command.params:
        name = str(parameter.name)
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            named = parameter.opts[0] if parameter.param_type_name == "option" else str(parameter.metavar or name).upper()
            found[name] = named
    return found


def mix_of(store: Store, run_id: str, texts: list[str] | None) -> dict[str, float] | None:
    """Shares of domains that a run has; see `shares`. Raises InputError, before anything else is read, for others."""
    mix = shares(texts)
    if mix is None:
        return None
    with store.reading() as connection:
        rows = connection.execute("SELECT DISTINCT domain FROM responses WHERE run_id = ?", [run_id]).fetchall()
    known = sorted(str(domain) for (domain,) in rows)
    if known and (unknown := sorted(set(mix) - set(known))):
        raise InputError(f"--mix: no {', '.join(unknown)} in run {run_id}; it has {', '.join(known)}")
    return mix
