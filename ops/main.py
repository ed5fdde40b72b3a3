"""The command `ragbus`. Only signatures here: what a command needs is imported when it runs, so that help is quick."""

import functools
import os
import sys
import traceback
from bdb import BdbQuit
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ParamSpec

import typer

from ops.errors import CommandError

if TYPE_CHECKING:
    from ops.target import Target

P = ParamSpec("P")

app = typer.Typer(
    name="ragbus",
    help="Retrieval-augmented answers over Azure Service Bus: run the system, ask, inspect queues and index, replay.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
_debug = False

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Folder = Annotated[Path, typer.Option(envvar="RAGBUS_FOLDER", help="The folder with the laptop stack's state.")]
After = Annotated[int, typer.Option(min=0, help="Start after this sequence number.")]
Config = Annotated[Path | None, typer.Option(help="The configuration folder; default: the running stack's.")]


@app.callback()
def options(debug: Annotated[bool, typer.Option(help="Show tracebacks.")] = False) -> None:
    """Take the options that come before the command."""
    global _debug
    _debug = debug
    # Captured messages and a stack's state hold questions, answers and documents: they are their owner's alone.
    os.umask(0o077)


def plainly(work: Callable[P, None]) -> Callable[P, None]:
    """Print a failure in one sentence and exit with status 2."""

    @functools.wraps(work)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            work(*args, **kwargs)
        except typer.Exit:
            raise
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except BdbQuit:
            # `q` in the debugger. `python -m pdb` ends the program itself; after a bare `breakpoint()` we do.
            if any(frame.f_globals.get("__name__") == "bdb" for frame, _ in traceback.walk_stack(None)):
                raise
            raise typer.Exit(130) from None
        except Exception as failure:
            if _debug:
                raise
            from ops.console import harmless

            known = isinstance(failure, CommandError)
            said = str(failure) if known else f"unexpected: {failure!r} (run `ragbus --debug …` for the traceback)"
            sys.stderr.write(f"ragbus: {harmless(said)}\n")
            raise typer.Exit(2) from None

    return guarded


def _target(folder: Path, config: Path | None = None) -> "Target":
    """The installation that the command uses; printed on stderr. Raises `CommandError`."""
    from ops import console, target

    found = target.find(folder=folder, config=config)
    console.err(f"target: {found}")
    for line in found.differences():
        console.err(line)
    for wrong in found.wrong_addresses():
        raise CommandError(wrong)
    return found


@app.command()
@plainly
def up(
    free_ports: Annotated[
        bool, typer.Option("--free-ports", help="Use any free ports instead of the usual ones.")
    ] = False,
    reset: Annotated[bool, typer.Option("--reset", help="Delete data, logs and edited documents first.")] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            envvar="RAGBUS_CONFIG", help="The folder with callers.yaml, models.yaml, …; default: the example."
        ),
    ] = None,
    folder: Folder = Path(".ragbus"),
) -> None:
    """Start the whole system on this machine and keep it running."""
    from ops.commands.up import up

    raise typer.Exit(up(folder, config=config, free_ports=free_ports, reset=reset))


@app.command()
@plainly
def demo(
    # Not $RAGBUS_FOLDER: the demonstration first deletes what is in its folder.
    folder: Annotated[Path, typer.Option(help="The folder with the demonstration's state.")] = Path(".ragbus/demo"),
    keep: Annotated[bool, typer.Option("--keep-lake", help="Keep the documents of the last run.")] = False,
) -> None:
    """Start everything, index the handbook, ask, edit a document, ask again; status 0 if every check passes."""
    from ops.commands.demo import demo

    raise typer.Exit(demo(folder, reset=not keep))


@app.command()
@plainly
def ask(
    question: Annotated[str, typer.Argument(help="The question.")],
    use_case: Annotated[str | None, typer.Option(help="The use case; optional for a caller with one.")] = None,
    caller: Annotated[str | None, typer.Option("--as", help="A caller in callers.yaml; default: the first.")] = None,
    http: Annotated[bool, typer.Option("--http", help="Ask over HTTP instead of the queue.")] = False,
    session: Annotated[
        str | None, typer.Option(help="The reply queue's session for the answer; default: a new one.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=2, help="The deadline, in seconds.")] = 60,
    refresh: Annotated[bool, typer.Option("--refresh", help="Do not use a cached answer.")] = False,
    message_id: Annotated[str | None, typer.Option(help="The ask's id; default: a new one.")] = None,
    json: AsJson = False,
    config: Config = None,
    folder: Folder = Path(".ragbus"),
) -> None:
    """Ask a question, as an upstream app would, and print the cited answer."""
    from ops import console
    from ops.answers import show
    from ops.commands import ask as asking

    at = _target(folder, config)
    question_ = asking.Question(
        question, use_case, caller, session, timeout, refresh=refresh, message_id=message_id or asking.new_id()
    )
    console.err(f"asking {at.gateway if http else 'by queue'} under the id {question_.message_id}")
    try:
        answer, seconds = (asking.by_http if http else asking.by_queue)(at, question_)
    except KeyboardInterrupt:
        console.err(asking.goes_on(question_, http=http))
        raise
    if json:
        console.print_json({**answer, "seconds": round(seconds, 4)})
    else:
        show(answer, seconds)
    raise typer.Exit(0 if answer.get("outcome") in ("answered", "no_answer") else 1)


@app.command()
@plainly
def cancel(
    what: Annotated[str, typer.Argument(help="The ask's message_id; with --http, the request id.")],
    caller: Annotated[
        str | None, typer.Option("--as", help="The caller that asked; default: the first in callers.yaml.")
    ] = None,
    http: Annotated[bool, typer.Option("--http", help="Cancel over HTTP, and print the outcome.")] = False,
    folder: Folder = Path(".ragbus"),
) -> None:
    """Cancel a request that has no outcome yet; its caller gets `cancelled`."""
    from ops import console
    from ops.commands import cancel as cancelling

    at = _target(folder)
    if http:
        return console.print_json(cancelling.by_http(at, what))
    cancelling.by_queue(at, what, caller)
    return console.err("sent; the caller gets `cancelled` instead of the answer, unless the answer was faster")


@app.command()
@plainly
def queues(
    watch: Annotated[bool, typer.Option("--watch", help="Refresh every second.")] = False,
    json: AsJson = False,
    folder: Folder = Path(".ragbus"),
) -> None:
    """Show the active, dead-lettered and scheduled messages of every queue."""
    from ops.commands import queues as depths

    at = _target(folder)
    depths.show(at, watch=watch, as_json=json)


dlq = typer.Typer(help="Show dead letters without changing them.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(dlq, name="dlq")


@dlq.command("ls")
@plainly
def dlq_ls(
    queue: Annotated[
        str, typer.Argument(help="The queue; `dead` has the dead letters of all request queues.")
    ] = "dead",
    condition: Annotated[
        str | None, typer.Option("--where", help="A filter, for example: reason==Crashed and tenant~=acme")
    ] = None,
    after: After = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Read at most this many; default: all.")] = None,
    alive: Annotated[bool, typer.Option("--alive", help="Show the queue's active messages instead.")] = False,
    json: AsJson = False,
    folder: Folder = Path(".ragbus"),
) -> None:
    """List dead letters, grouped by reason and description."""
    from ops.commands import dlq as dead_letters
    from ops.messages import REQUESTS, Place

    at = _target(folder)
    place = Place(queue, not alive)
    dead_letters.list_dead(at, place, condition=condition, after=after, limit=limit, as_json=json)
    if place == REQUESTS and not json:
        dead_letters.mention_others(at)


@dlq.command("show")
@plainly
def dlq_show(
    sequence: Annotated[int, typer.Argument(help="The message's sequence number.")],
    queue: Annotated[str, typer.Argument(help="The queue.")] = "dead",
    alive: Annotated[bool, typer.Option("--alive", help="Show the queue's active messages instead.")] = False,
    folder: Folder = Path(".ragbus"),
) -> None:
    """Show one message in full: its system properties, application properties and body."""
    from ops.commands import dlq as dead_letters
    from ops.messages import Place

    at = _target(folder)
    dead_letters.show(at, Place(queue, not alive), sequence)


@app.command()
@plainly
def capture(
    queue: Annotated[str, typer.Argument(help="The queue.")],
    dead: Annotated[bool, typer.Option("--dead", help="Capture its dead letters.")] = False,
    out: Annotated[Path, typer.Option(help="The folder for the files.")] = Path("captured"),
    after: After = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Capture at most this many; default: all.")] = None,
    request: Annotated[str | None, typer.Option(help="Only messages of this request id.")] = None,
    condition: Annotated[str | None, typer.Option("--where", help="A filter, as in `ragbus dlq ls`.")] = None,
    folder: Folder = Path(".ragbus"),
) -> None:
    """Write messages to files, one each; they stay in the queue."""
    from ops import console
    from ops.commands.capture import capture
    from ops.messages import Place

    at = _target(folder)
    place = Place(queue, dead)
    if not capture(at, place, out, request=request, condition=condition, after=after, limit=limit):
        console.err(f"nothing to capture in {place}")
        raise typer.Exit(1)


@app.command()
@plainly
def replay(
    files: Annotated[list[Path], typer.Argument(help="Files that `ragbus capture` wrote.")],
    to: Annotated[str, typer.Option(help="The target: `local`, or the name of the namespace.")] = "local",
    rerun: Annotated[
        bool, typer.Option("--rerun", help="Repeat the work even if the request has its outcome.")
    ] = False,
    queue: Annotated[str | None, typer.Option(help="The queue; default: the one the message came from.")] = None,
    inline: Annotated[
        bool, typer.Option("--inline", help="Run the handler in this process and print what it would send.")
    ] = False,
    azure: Annotated[bool, typer.Option("--yes-send-to-azure", help="Allow sending to a namespace in Azure.")] = False,
    config: Config = None,
    folder: Folder = Path(".ragbus"),
) -> None:
    """Send captured messages again, as replays under new ids."""
    from ops.commands import replay as resend

    captured = resend.read(files)
    at = _target(folder, config)
    resend.check_target(at, to, allowed=azure)
    (resend.inline if inline else resend.replay)(at, captured, rerun=rerun, queue=queue)


index = typer.Typer(help="Manage the documents in the lake and the index.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(index, name="index")


@index.command("put")
@plainly
def index_put(
    files: Annotated[list[Path], typer.Argument(help="The documents.")],
    to: Annotated[str, typer.Option(help="The folder in the lake; default: its root.")] = "",
    folder: Folder = Path(".ragbus"),
) -> None:
    """Copy documents into the lake; the indexer follows."""
    from ops.commands import index

    at = _target(folder)
    index.put(at, files, to)


@index.command("rm")
@plainly
def index_rm(
    paths: Annotated[list[str], typer.Argument(help="Paths in the lake, as `ragbus index status` lists them.")],
    folder: Folder = Path(".ragbus"),
) -> None:
    """Remove documents from the lake; the indexer follows."""
    from ops.commands import index

    at = _target(folder)
    index.remove(at, paths)


@index.command("status")
@plainly
def index_status(json: AsJson = False, folder: Folder = Path(".ragbus")) -> None:
    """List what is indexed: version, passages, state, age."""
    from ops.commands import index

    at = _target(folder)
    index.status(at, as_json=json)


@index.command("reconcile")
@plainly
def index_reconcile(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the differences, send nothing.")] = False,
    folder: Folder = Path(".ragbus"),
) -> None:
    """Compare lake and index, and send the missing events."""
    from ops.commands import index

    at = _target(folder)
    index.reconcile(at, dry_run=dry_run)


budget = typer.Typer(help="Show and change what tenants may spend.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(budget, name="budget")
Tenant = Annotated[str, typer.Argument(help="The tenant, as in callers.yaml.")]
OfUseCase = Annotated[str | None, typer.Option("--use-case", help="Its budget for this use case.")]
OfCaller = Annotated[str | None, typer.Option("--caller", help="The budget of this caller of the tenant.")]


@budget.command("show")
@plainly
def budget_show(tenant: Tenant, json: AsJson = False, config: Config = None, folder: Folder = Path(".ragbus")) -> None:
    """List a tenant's limits: spent, reserved and left; and what operators changed."""
    from ops import console
    from ops.commands import budget as budgets

    rows, changes = budgets.show(_target(folder, config), tenant)
    if json:
        console.print_json({"limits": [asdict(row) for row in rows], "changes": changes})
    else:
        budgets.print_rows(rows, changes)


@budget.command("set")
@plainly
def budget_set(
    tenant: Tenant,
    window: Annotated[str, typer.Argument(help="minute, day or month.")],
    limit: Annotated[float, typer.Argument(help="The most tokens, or with --usd the most US dollars.")],
    minutes: Annotated[
        float, typer.Option("--for", min=1, max=57_600, help="How many minutes it holds; up to 40 days.")
    ],
    usd: Annotated[bool, typer.Option("--usd", help="The limit is in US dollars.")] = False,
    use_case: OfUseCase = None,
    caller: OfCaller = None,
    config: Config = None,
    folder: Folder = Path(".ragbus"),
) -> None:
    """Set a limit for a while, in the place of the configured one."""
    from ops import console
    from ops.commands import budget as budgets

    wanted = budgets.limit_of(budgets.scope_of(use_case, caller), window, limit, usd=usd)
    said = budgets.set_limit(_target(folder, config), tenant, wanted, timedelta(minutes=minutes))
    console.err(said)


@budget.command("reset")
@plainly
def budget_reset(
    tenant: Tenant,
    use_case: OfUseCase = None,
    caller: OfCaller = None,
    config: Config = None,
    folder: Folder = Path(".ragbus"),
) -> None:
    """Begin a budget anew: nothing is spent, and limits that operators set are forgotten."""
    from ops import console
    from ops.commands import budget as budgets

    console.err(budgets.reset(_target(folder, config), tenant, budgets.scope_of(use_case, caller)))


@app.command()
@plainly
def doctor(json: AsJson = False, config: Config = None, folder: Folder = Path(".ragbus")) -> None:
    """Check for common faults and print their fixes; status 1 if something is broken."""
    from ops.commands import doctor

    raise typer.Exit(doctor.examine(folder, config, as_json=json))


if __name__ == "__main__":
    app(prog_name="ragbus")
