"""The command `ragbus`. Only signatures here: what a command needs is imported when it runs, so that help is quick."""

import functools
import os
import sys
import traceback
from bdb import BdbQuit
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ParamSpec

import typer

from ops.errors import CommandError

if TYPE_CHECKING:
    from ops.target import Target

P = ParamSpec("P")

app = typer.Typer(
    name="ragbus",
    help="Retrieval-augmented answers over Azure Service Bus: run it here, ask, look inside, replay.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
_debug = False

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Folder = Annotated[Path, typer.Option(envvar="RAGBUS_FOLDER", help="Where the laptop's stack keeps its state.")]
After = Annotated[int, typer.Option(min=0, help="Begin after this sequence number.")]
Config = Annotated[Path | None, typer.Option(help="The configuration folder, if not the running stack's.")]


@app.callback()
def options(debug: Annotated[bool, typer.Option(help="Show tracebacks.")] = False) -> None:
    """Take the options that come before the command."""
    global _debug
    _debug = debug
    # Captured messages and a stack's state hold questions, answers and documents: they are their owner's alone.
    os.umask(0o077)


def plainly(work: Callable[P, None]) -> Callable[P, None]:
    """Say what went wrong in a sentence and end with status 2."""

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
            _complain(failure)
            raise typer.Exit(2) from None

    return guarded


def _target(folder: Path, config: Path | None = None) -> "Target":
    """What the command talks to; says so."""
    from ops import console, target

    found = target.find(folder=folder, config=config)
    console.err(f"target: {found}")
    for line in found.differences():
        console.err(line)
    return found


def _complain(failure: Exception) -> None:
    from ops.console import harmless

    known = isinstance(failure, CommandError)
    said = str(failure) if known else f"unexpected: {failure!r} (`ragbus --debug …` shows where)"
    sys.stderr.write(f"ragbus: {harmless(said)}\n")


@app.command()
@plainly
def up(
    free_ports: Annotated[bool, typer.Option("--free-ports", help="Take any free ports, not the usual ones.")] = False,
    reset: Annotated[bool, typer.Option("--reset", help="Forget data, logs and edited documents first.")] = False,
    config: Annotated[
        Path | None,
        typer.Option(envvar="RAGBUS_CONFIG", help="The folder with callers.yaml and the rest; the example's."),
    ] = None,
    folder: Folder = Path(".ragbus"),
) -> None:
    """Start the whole system on this machine and keep it running."""
    from ops.commands.up import up

    raise typer.Exit(up(folder, config=config, free_ports=free_ports, reset=reset))


@app.command()
@plainly
def demo(
    # Not $RAGBUS_FOLDER: the demonstration begins by throwing away what is there.
    folder: Annotated[Path, typer.Option(help="Where the demonstration keeps its state.")] = Path(".ragbus/demo"),
    keep: Annotated[bool, typer.Option("--keep-lake", help="Do not start from the handbook as it was.")] = False,
) -> None:
    """Start everything, index the handbook, ask, edit a document, ask again; status 0 only if all went as promised."""
    from ops.commands.demo import demo

    raise typer.Exit(demo(folder, reset=not keep))


@app.command()
@plainly
def ask(
    question: str,
    use_case: Annotated[
        str | None, typer.Option(help="One of the caller's use cases; none needed if it has one.")
    ] = None,
    caller: Annotated[str | None, typer.Option("--as", help="A caller in callers.yaml; the first.")] = None,
    http: Annotated[bool, typer.Option("--http", help="Ask the gateway, not its queue.")] = False,
    session: Annotated[str | None, typer.Option(help="The session of the reply queue to be answered in.")] = None,
    timeout: Annotated[float, typer.Option(min=2, help="Seconds until it is too late.")] = 60,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Work it out again, whatever the answer cache has.")
    ] = False,
    message_id: Annotated[str | None, typer.Option(help="The ask's id; a new one.")] = None,
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
    door = at.gateway if http else "its queue"
    console.err(f"asking {door} as {question_.message_id}")
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
    caller: Annotated[str | None, typer.Option("--as", help="Whose ask it was: a caller in callers.yaml.")] = None,
    http: Annotated[bool, typer.Option("--http", help="Tell the gateway, and print the outcome it has now.")] = False,
    folder: Folder = Path(".ragbus"),
) -> None:
    """Take a question back: its caller is told `cancelled`, unless it has its outcome."""
    from ops import console
    from ops.commands import cancel as cancelling

    at = _target(folder)
    if http:
        return console.print_json(cancelling.by_http(at, what))
    cancelling.by_queue(at, what, caller)
    return console.err("sent; `cancelled` comes where the answer would have come, unless that was quicker")


@app.command()
@plainly
def queues(
    watch: Annotated[bool, typer.Option("--watch", help="Look again every second.")] = False,
    json: AsJson = False,
    folder: Folder = Path(".ragbus"),
) -> None:
    """Show how much waits, is dead and is scheduled in every queue."""
    from ops.commands import queues as depths

    at = _target(folder)
    depths.show(at, watch=watch, as_json=json)


dlq = typer.Typer(help="Look at dead letters, without touching them.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(dlq, name="dlq")


@dlq.command("ls")
@plainly
def dlq_ls(
    queue: Annotated[
        str, typer.Argument(help="Whose dead letters; `dead` holds those of all request queues.")
    ] = "dead",
    condition: Annotated[
        str | None, typer.Option("--where", help="For example: reason==Crashed and tenant~=acme")
    ] = None,
    after: After = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Look at no more than so many; all.")] = None,
    alive: Annotated[bool, typer.Option("--alive", help="Look at the queue itself.")] = False,
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
    queue: Annotated[str, typer.Argument(help="Whose dead letters.")] = "dead",
    alive: Annotated[bool, typer.Option("--alive", help="Look at the queue itself.")] = False,
    folder: Folder = Path(".ragbus"),
) -> None:
    """Show one message whole: what the broker says of it, its properties, its body."""
    from ops.commands import dlq as dead_letters
    from ops.messages import Place

    at = _target(folder)
    dead_letters.show(at, Place(queue, not alive), sequence)


@app.command()
@plainly
def capture(
    queue: str,
    dead: Annotated[bool, typer.Option("--dead", help="Its dead letters.")] = False,
    out: Annotated[Path, typer.Option(help="Where the files go.")] = Path("captured"),
    after: After = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Capture no more than so many; all.")] = None,
    request: Annotated[str | None, typer.Option(help="Only what belongs to this request id.")] = None,
    condition: Annotated[str | None, typer.Option("--where", help="As in `ragbus dlq ls`.")] = None,
    folder: Folder = Path(".ragbus"),
) -> None:
    """Write messages to files, one each, without taking them from the queue."""
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
    files: list[Path],
    to: Annotated[str, typer.Option(help="Where to: `local`, or the namespace's name.")] = "local",
    rerun: Annotated[bool, typer.Option("--rerun", help="Work it out again, even if it has its outcome.")] = False,
    queue: Annotated[str | None, typer.Option(help="The queue to send to, if not the one it came from.")] = None,
    inline: Annotated[bool, typer.Option("--inline", help="Run the handler here, print what it would send.")] = False,
    azure: Annotated[bool, typer.Option("--yes-send-to-azure", help="Really send to a namespace in Azure.")] = False,
    config: Config = None,
    folder: Folder = Path(".ragbus"),
) -> None:
    """Send captured messages again, as replays that are told from the originals."""
    from ops.commands import replay as resend

    captured = resend.read(files)
    at = _target(folder, config)
    resend.check_target(at, to, allowed=azure)
    (resend.inline if inline else resend.replay)(at, captured, rerun=rerun, queue=queue)


index = typer.Typer(help="The documents: lake and index.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(index, name="index")


@index.command("put")
@plainly
def index_put(
    files: list[Path],
    to: Annotated[str, typer.Option(help="The folder in the lake.")] = "",
    folder: Folder = Path(".ragbus"),
) -> None:
    """Copy documents into the lake; the index follows."""
    from ops.commands import index

    at = _target(folder)
    index.put(at, files, to)


@index.command("rm")
@plainly
def index_rm(paths: list[str], folder: Folder = Path(".ragbus")) -> None:
    """Remove documents from the lake; the index follows."""
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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what differs.")] = False,
    folder: Folder = Path(".ragbus"),
) -> None:
    """Compare lake and index, and send the events that are missing."""
    from ops.commands import index

    at = _target(folder)
    index.reconcile(at, dry_run=dry_run)


@app.command()
@plainly
def doctor(json: AsJson = False, config: Config = None, folder: Folder = Path(".ragbus")) -> None:
    """Check what usually goes wrong, and say how to mend it; status 1 when something is broken."""
    from ops.commands import doctor

    raise typer.Exit(doctor.examine(folder, config, as_json=json))


if __name__ == "__main__":
    app(prog_name="ragbus")
