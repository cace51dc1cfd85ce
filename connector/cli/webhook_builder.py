"""`connector webhook-builder`: a webhook to paste into a Klaviyo flow."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from connector.cli import session

if TYPE_CHECKING:
    from connector.service.webhook_builder import Webhook


def register(app: typer.Typer) -> None:
    app.command("webhook-builder")(webhook_builder)


def webhook_builder(
    context: typer.Context,
    connection: session.ConnectionName,
    action: Annotated[str | None, typer.Option(help="increase, decrease, adjust or push.")] = None,
    amount: Annotated[
        str | None, typer.Option(help="Points: a number, or one {{ variable }} with --at-most.")
    ] = None,
    at_most: Annotated[int | None, typer.Option(help="Upper bound of a variable amount.")] = None,
    reason: Annotated[
        str | None, typer.Option(help="Shown to the person; may contain {{ variables }}.")
    ] = None,
    message: Annotated[str | None, typer.Option(help="Push: the text.")] = None,
    url: Annotated[str | None, typer.Option(help="Push: the URL that it opens.")] = None,
    trigger: Annotated[
        str | None, typer.Option(help="What starts the flow: metric, list, date or segment.")
    ] = None,
    once_per: Annotated[
        str | None, typer.Option(help="Counts again after this duration, such as 300d.")
    ] = None,
    use_case: Annotated[
        str | None, typer.Option(help="reward, refund, redeem, remove_earned or expire.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Start from a ready-made step.")] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the step in its key. Default: from the reason.")
    ] = None,
    event_id: Annotated[
        str | None, typer.Option(help="Path of the event's id, such as event.order_id.")
    ] = None,
    direct: Annotated[
        bool, typer.Option("--direct", help="Call the platform directly. Not deduplicated.")
    ] = False,
    show_secret: Annotated[
        bool, typer.Option("--show-secret", help="Show the secret when stdout is not a terminal.")
    ] = False,
    send_test: Annotated[
        str | None,
        typer.Option(help="Make the call once for this e-mail address. It is a real call."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before the test call.")] = False,
    as_json: session.AsJson = False,
) -> None:
    """Build a webhook to paste into a Klaviyo flow. URL, headers, JSON body and a curl command.
    Sends nothing, except with --send-test."""
    from connector.app.flow_target import flow_target
    from connector.service.webhook_builder import (
        PRESETS,
        InvalidStep,
        build,
        build_direct,
        step_of,
    )

    config = session.read(context.obj)
    session.connection(config, connection)
    if preset is not None and preset not in PRESETS:
        raise typer.BadParameter(f"no preset {preset!r}; available: {', '.join(PRESETS)}")
    given = {
        "action": _one_of("action", action),
        "amount": amount,
        "at_most": at_most,
        "reason": reason,
        "message": message,
        "url": url,
        "trigger": _one_of("trigger", trigger),
        "once_per": once_per,
        "use_case": _one_of("use_case", use_case),
        "name": name,
        "event_id": event_id,
    }
    try:
        step = step_of(preset, given)
        target = flow_target(lambda: config, connection)
        webhook = (build_direct if direct else build)(step, target)
    except InvalidStep as error:
        for fault in error.faults:
            print(fault, file=sys.stderr)
        raise typer.Exit(2) from None
    notes = list(webhook.notes)
    if preset:
        notes.insert(0, f"The flow starts with {PRESETS[preset].starts_with(target)}.")
    if send_test is not None:
        _send_test(webhook, send_test, direct=direct, yes=yes)
    if not (show_secret or sys.stdout.isatty()):
        webhook = webhook.masked()
        notes.append("The secret is masked: it is shown on a terminal or with --show-secret.")
    parts = {
        "url": webhook.url,
        "headers": webhook.headers,
        "body": webhook.body,
        "curl": webhook.curl,
    }
    print(json.dumps({**parts, "notes": notes}, indent=2) if as_json else _sheet(webhook, notes))


def _send_test(webhook: Webhook, email: str, *, direct: bool, yes: bool) -> NoReturn:
    """Make the call, print the answer and exit: 0 for a 2xx."""
    import time

    from connector.net.http import send
    from connector.service.webhook_builder.trial import send_test

    if direct:
        raise typer.BadParameter("--send-test calls the connector: use it without --direct")
    if not yes:
        typer.confirm(f"Make a real call for {email}?", abort=True, err=True)
    run = str(round(time.time() * 1000))
    status, text = session.run(send_test(webhook, email, run, send))
    print(f"POST {webhook.url} → {status or 'no response'}")
    print(text.strip())
    if status == 0:
        print("is the connector running, and does [server] public_url lead to it?", file=sys.stderr)
    raise typer.Exit(0 if 200 <= status < 300 else 1)


def _one_of(option: str, value: str | None) -> Any:
    from typing import get_args

    from connector.domain.actions import ActionName
    from connector.service.webhook_builder import Trigger, UseCase

    choices = get_args({"action": ActionName, "trigger": Trigger, "use_case": UseCase}[option])
    if value is not None and value not in choices:
        raise typer.BadParameter(
            f"--{option.replace('_', '-')} is one of {', '.join(choices)}, not {value!r}"
        )
    return value


def _sheet(webhook: Webhook, notes: list[str]) -> str:
    """The webhook as text, in the order of Klaviyo's form."""
    lines = ["URL", f"  {webhook.url}", "", "Headers"]
    lines += [f"  {key}: {value}" for key, value in webhook.headers.items()]
    lines += ["", "JSON body", webhook.body]
    lines += [
        "",
        "Try it (this is a real call: use your own address)",
        f"  {webhook.curl}",
        "",
        "Notes",
    ]
    return "\n".join([*lines, *(f"  - {note}" for note in notes)])
