"""What each problem affects, and what to do about it: one line each, by problem code.

A remedy is one sentence for the command line and the console. Where they differ it has a slot,
which `by` writes: `at_command_line` fills it with commands, `in_console` with the page that has a
button for it. `connector.domain.errors.Problem` gives `effect` and `remedy` as they are at the
command line; the pages in docs/problems/ say more. A test compares both.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final, NamedTuple
from urllib.parse import quote, urlencode


class Page(StrEnum):
    """A page of the console, by its label. NONE: what only the command line has."""

    STATE = "State"
    FIELDS = "Fields and metrics"
    LINKS = "Lists and segments"
    SETTINGS = "Settings"
    NEEDS_YOU = "Needs you"
    FAILED = "Failed"
    BACKFILLS = "Backfills"
    PEOPLE = "People"
    BUILDER = "Webhook builder"
    NONE = ""

    def path(self, connection: str, cause: str) -> str:
        """Its path. "" where it is a page of a connection and none is named."""
        about = {"connection": connection, "cause": cause}
        query = urlencode({key: value for key, value in about.items() if value})
        if self in _TABS:
            return f"/connections/{quote(connection)}{_TABS[self]}" if connection else ""
        if self in (Page.FAILED, Page.BACKFILLS, Page.PEOPLE, Page.BUILDER) and query:
            return f"{_PATHS[self]}?{query}"
        return _PATHS[self]


_TABS = {Page.STATE: "", Page.FIELDS: "/fields", Page.LINKS: "/links", Page.SETTINGS: "/settings"}
_PATHS = {
    Page.NEEDS_YOU: "/attention",
    Page.FAILED: "/dead-letters",
    Page.BACKFILLS: "/backfills",
    Page.PEOPLE: "/people",
    Page.BUILDER: "/webhook-builder",
}
_SLOT = re.compile(r"\{(" + "|".join(re.escape(page) for page in Page) + r"):([^{}]*)\}")


def by(page: Page, command: str) -> str:
    """A slot of a remedy: done on this page, or as the words of `command` say."""
    return f"{{{page}:{command}}}"


def at_command_line(remedy: str, connection: str = "") -> str:
    """The remedy with its commands in backticks."""
    text = _SLOT.sub(lambda slot: slot[2], remedy)
    return text.replace("CONNECTION", connection) if connection else text


def in_console(remedy: str, connection: str = "", cause: str = "") -> str:
    """The remedy with `[label](path)` of the pages where it is done; only the label where the
    connection is not known. `cause`: of the failed records that it is about."""

    def link(slot: re.Match[str]) -> str:
        page = Page(slot[1])
        if page is Page.NONE:
            return ""
        path = page.path(connection, cause)
        return f"under [{page}]({path})" if path else f"under {page}"

    return _SLOT.sub(link, remedy)


def retried(remedy: str, code: str) -> str:
    """The remedy of records that died of this code, with the command that retries them."""
    command = f"`connector dead-letters retry --cause {code}`"
    return remedy + by(Page.NONE, f" ({command})" if "retry" in remedy else f"; then {command}")


def refreshed(remedy: str, code: str) -> str:
    """The remedy of people whose profile or read died of this code, with the command that refreshes
    them."""
    command = f"`connector people refresh CONNECTION --cause {code}`"
    if "refresh" in remedy:
        return remedy + by(Page.NONE, f" (all of them: {command})")
    with_it = by(Page.NONE, f" with {command}")
    if f"{{{Page.PEOPLE}:" not in remedy:
        with_it = " " + by(Page.PEOPLE, f"with {command}")
    return f"{remedy}, then refresh them{with_it}"


class Advice(NamedTuple):
    """`effect`: what happens meanwhile. `remedy`: what a person does, with slots."""

    effect: str
    remedy: str


_DEAD_BEFORE = "the record is a dead letter; no request was made, and the lane continues"
_BLOCKED = "the lane is blocked and tried every [delivery] probe_every; intake continues"
_READS_BLOCKED = (
    "reads are blocked and tried every [delivery] probe_every; events are sent without fresh fields"
)
_RETRIED = "records wait and are retried with growing delays; intake continues"
_AMBIGUOUS = "events are sent again singly, and Klaviyo drops repeats; profile writes are repeated"
_CALL_REFUSED = "the call was not stored, and Klaviyo does not repeat it"
_LINK_STOPPED = "nothing is read and no one is removed; other links continue"
_KEY = "the variable that `[connections.klaviyo] private_key` names"
_NUDGE = by(Page.NONE, "; then `connector resume CONNECTION` tries at once")


def _enter(variable: str) -> str:
    """Where a secret is entered."""
    return by(Page.SETTINGS, f"in `.env`, under {variable}, then `connector reload`")


_IN_FILE = by(Page.SETTINGS, "in `[connections.settings]`, then `connector reload`")
_RESUME = by(Page.STATE, "with `connector resume CONNECTION`")
_REFRESH = by(Page.PEOPLE, "with `connector refresh CONNECTION PERSON`")
_CONNECT = "connect Klaviyo " + by(Page.SETTINGS, "with `connector connect CONNECTION`")
_DECIDE = "approve or reject " + by(
    Page.NEEDS_YOU, "with `connector approvals approve ID` or `reject ID`"
)
_DECIDE_SYNC = _DECIDE + by(
    Page.NONE,
    "; after a rejection `connector audiences sync CONNECTION NAME` or `connector segments sync "
    "CONNECTION NAME` asks again",
)
_IN_LINKS = by(Page.LINKS, "in the file, then `connector reload`")
_AGAIN = "start it again " + by(Page.BACKFILLS, "with the same command")

ADVICE: Final[dict[str, Advice]] = {
    "C10": Advice(
        "nothing was changed; a running daemon keeps its previous configuration",
        "fix every line that it lists, then start or reload again",
    ),
    "C20": Advice(
        "nothing was changed; a running daemon keeps the mapping that it has",
        "fix the mapping file, `connector mappings check`, then `connector reload`",
    ),
    "C30": Advice(
        "the daemon continues with its previous configuration, completely",
        "fix the file, then `connector reload` again",
    ),
    "C40": Advice(
        "its connections are stopped and answer webhooks 503; all others run",
        "fix or install the package, then restart",
    ),
    "S10": Advice(
        "webhooks are answered 503, so that platforms repeat them; nothing is sent",
        "bring the database back, free its disk if it is full, or end the program that locks the "
        "store's file (`fuser -v state/connector.db`, or as `[store] url` says, names it); the "
        "connector reconnects by itself",
    ),
    "S20": Advice(
        "webhooks are answered 503, so that platforms repeat them; deliveries continue",
        "free disk space, or lower `[store] min_free`",
    ),
    "S30": Advice(
        "the daemon does not start",
        "run `connector store upgrade`, or install the version that wrote the store",
    ),
    "S40": Advice(
        "this process sends nothing; the other one does",
        "leave the other process, which works; this one is not needed, or needs a store of its own",
    ),
    "S50": Advice(
        "webhooks and flow calls are answered 503; deliveries on undamaged pages continue",
        "stop the daemon, `connector store restore` a backup; the damaged file is kept",
    ),
    "S60": Advice(
        "a webhook with the value is answered 400; everything else continues",
        "look at the record, fix its source, retry it",
    ),
    "S70": Advice(
        "webhooks and flow calls are answered 503, so that their senders repeat them",
        "move the same file back; if it was deleted, rescue it from the daemon before you stop it "
        "(`connector problem S70`)",
    ),
    "S80": Advice(
        "the connection that needs the secret is blocked and probed; intake continues",
        "put the old key back, after the new one if there is one",
    ),
    "W400": Advice(
        "the webhook was answered 400 and not stored", "find the sender; fix its body or header"
    ),
    "W401": Advice(
        "the webhook was answered 401 and not stored; the platform repeats it a few times",
        "enter the secret of the platform's integration page "
        + _enter("the variable that `[connections.settings] webhook_secret` names"),
    ),
    "W413": Advice(
        "the webhook was answered 413 and not stored", "find the sender; the limit is fixed"
    ),
    "A10": Advice(
        "the action waits for a person and is not sent again; everything else continues",
        "check at the platform, then decide "
        + by(Page.NEEDS_YOU, "with `connector actions applied ID`, `again ID` or `refuse ID`"),
    ),
    "A20": Advice(
        "further adjustments of the person are held; an approval waits",
        f"check for a loop, then {_DECIDE}",
    ),
    "A30": Advice(
        "adjustments beyond the cap are held; an approval waits",
        _DECIDE,
    ),
    "A40": Advice(
        "the action is held, and released once the person is known",
        "identify the person in the flow as the platform does: by e-mail address, at White Label "
        "Loyalty by `customer_id`",
    ),
    "A50": Advice(
        "the action is retried for a while and then refused; other people's are sent",
        "send points only to members: add a filter to the flow",
    ),
    "A60": Advice(
        "the action is refused and not repeated; other people's are sent",
        "usually nothing: too few points, or a closed account",
    ),
    "A400": Advice(
        _CALL_REFUSED, "build the body " + by(Page.BUILDER, "with `connector webhook-builder`")
    ),
    "A401": Advice(
        _CALL_REFUSED,
        "use the same secret in the flow and " + by(Page.SETTINGS, "in `[connections.actions]`"),
    ),
    "A409": Advice(
        "the call was not stored; the earlier action is unchanged",
        "give each flow step a key of its own",
    ),
    "A429": Advice(
        "calls from that address are answered 429, which Klaviyo repeats for a day",
        "fix the flow's secret",
    ),
    "I10": Advice(
        "the record is held until the person's address is known",
        "usually nothing: the record is sent when the person's address is known",
    ),
    "I20": Advice(
        "the record is held and not sent",
        "fix the address at the platform; later records are sent",
    ),
    "I30": Advice(
        "the other person's profile is not written; events of both are sent",
        f"give each person an address of their own at the platform, then refresh them {_REFRESH}",
    ),
    "M10": Advice(_DEAD_BEFORE, "fix the mapping or report the detail, then retry the cause"),
    "M20": Advice(
        _DEAD_BEFORE,
        "open the record "
        + by(Page.FAILED, "with `connector dead-letters show ID`")
        + ", let its event through"
        + by(Page.NONE, " by an entry in the mapping and `connector reload`")
        + ", then retry the cause",
    ),
    "E10": Advice(
        _DEAD_BEFORE,
        f"disable the event {by(Page.FIELDS, 'in the mapping')} or fix it at the platform; "
        "else discard",
    ),
    "E11": Advice(
        _DEAD_BEFORE,
        "find the long text "
        + by(Page.FAILED, "with `connector dead-letters show ID`")
        + "; shorten it at its source",
    ),
    "E12": Advice(_DEAD_BEFORE, "shorten the list at its source, or discard"),
    "E13": Advice(_DEAD_BEFORE, "flatten the value at its source, or discard"),
    "E14": Advice(
        _DEAD_BEFORE, "fix the clock at the platform and discard; the record cannot be sent"
    ),
    "E15": Advice(_DEAD_BEFORE, "remove what makes it large from the mapping's `add`"),
    "E16": Advice(_DEAD_BEFORE, "give the event a shorter `name` in the mapping, reload, retry"),
    "E17": Advice(_DEAD_BEFORE, "report it to the author of the platform adapter"),
    "K300": Advice(_BLOCKED, "correct `[connections.klaviyo] base_url`, then `connector reload`"),
    "K400": Advice(
        "the record is a dead letter; the others of its request are sent",
        "read which field Klaviyo names "
        + by(
            Page.FAILED,
            "with `connector dead-letters show ID` (`connector dead-letters list` has the ids)",
        )
        + ", fix it, retry the cause",
    ),
    "K401": Advice(_BLOCKED, f"enter a valid private key {_enter(_KEY)}"),
    "K403": Advice(_BLOCKED, f"create a key with the missing scope and enter it {_enter(_KEY)}"),
    "K404": Advice(
        "the lane is stopped and tried every [delivery] probe_every; intake continues",
        "correct `[connections.klaviyo] base_url`, then `connector reload`; the next full sync"
        + by(Page.NONE, ", or `connector audiences sync CONNECTION NAME`,")
        + " finds a list that is gone, or makes it again",
    ),
    "K409": Advice(
        "the record is a dead letter; the rest of its request continues",
        "look at the two profiles at Klaviyo, then retry",
    ),
    "K410": Advice(_BLOCKED, "set a current `revision`, then `connector reload`"),
    "K413": Advice(
        "the record that is too large is a dead letter; all others are delivered",
        "find what makes the record large; report it",
    ),
    "K429": Advice(_RETRIED, "wait; if it is often, lower `rate_share`"),
    "K503": Advice(_RETRIED, "look at Klaviyo's status page; the retries continue"),
    "K600": Advice(
        "deliveries of the connection are paused; intake continues",
        f"if the change is intended, resume {_RESUME}; else restore the old key",
    ),
    "K610": Advice(
        "all lanes of the connection to Klaviyo are blocked; intake continues",
        _CONNECT,
    ),
    "K620": Advice(
        "all lanes of the connection to Klaviyo are blocked; intake continues",
        _CONNECT,
    ),
    "K630": Advice("nothing yet", "enable the connection and run the daemon"),
    "P400": Advice(
        "the read is given up; the event is sent without fresh fields",
        f"fix the address at the platform, then refresh the person {_REFRESH}",
    ),
    "P401": Advice(
        _READS_BLOCKED,
        "enter valid credentials " + _enter("the variables that `[connections.settings]` names"),
    ),
    "P403": Advice(
        _READS_BLOCKED, "give the key the missing permission, or create one that has it"
    ),
    "P404": Advice(
        _READS_BLOCKED,
        f"correct the program or the base URL {_IN_FILE}",
    ),
    "P429": Advice(
        _RETRIED,
        f"wait; if it is often, lower the rate {by(Page.SETTINGS, '(`rate_per_second`)')}",
    ),
    "P503": Advice(_RETRIED, "look at the platform's status page; the retries continue"),
    "P410": Advice(
        "reads are held and no further person counts as gone; events are sent without fresh fields",
        f"correct the program and the base URL {_IN_FILE}",
    ),
    "J10": Advice(
        "its people are written again, one by one", "nothing: its profiles are sent again"
    ),
    "J20": Advice(
        "what is new of its people waits; all other profiles and events continue",
        "ask Klaviyo's support about the job",
    ),
    "J30": Advice(
        "its people are written again, one by one", "nothing: its profiles are sent again"
    ),
    "J40": Advice(
        "nothing more is written for the person until something new is observed",
        f"fix the data, then refresh the person {_REFRESH}",
    ),
    "N10": Advice(_RETRIED, f"fix name resolution on this machine{_NUDGE}"),
    "N20": Advice(
        _RETRIED,
        f"check firewall, certificate and the `base_url` of the host that is named{_NUDGE}",
    ),
    "N30": Advice(
        _AMBIGUOUS,
        "check the network and Klaviyo's status page; the retries continue",
    ),
    "N40": Advice(_AMBIGUOUS, "find what cuts connections, unless it ends by itself"),
    "N50": Advice(_AMBIGUOUS, "check for a proxy between this machine and Klaviyo"),
    "N60": Advice(_AMBIGUOUS, "look at Klaviyo's status page; the retries continue"),
    "N70": Advice(_AMBIGUOUS, "nothing; find out why the process ended"),
    "N80": Advice(_RETRIED, "change the outgoing address, unless it ends by itself"),
    "N90": Advice(
        "nothing is sent to that host",
        "use https, or add the host to `[security] allow_http`",
    ),
    "R10": Advice(
        "the work of this worker is late and nothing is lost; other workers continue",
        "save a support bundle (`connector support-bundle FILE.zip`) and report it",
    ),
    "B10": Advice(
        "the run failed or did not begin; everything else continues",
        f"fix or move the file, then {_AGAIN}",
    ),
    "B20": Advice(
        "the run has stopped; live traffic continues",
        f"nothing, or {_AGAIN} to be asked again",
    ),
    "B30": Advice(
        "the run has failed at its cursor; live traffic continues",
        f"fix what the text names, then {_AGAIN}",
    ),
    "L10": Advice(
        "the lane is held and one record is tried every [delivery] probe_every; intake continues",
        "find the cause, fix it, then resume "
        + by(Page.STATE, "with `connector reload` or `connector resume CONNECTION`"),
    ),
    "L20": Advice(
        "the record is a dead letter; the lane continues",
        "read the last reason in the detail; when it is resolved, retry the cause",
    ),
    "L30": Advice("no one is removed; joins continue", _DECIDE_SYNC),
    "L31": Advice(
        "people who would join are held; no one leaves",
        _DECIDE_SYNC,
    ),
    "L32": Advice(
        "they stay off the list; all other members are synchronised",
        'add them back at Klaviyo, or set `on_manual_removal = "re-add"`',
    ),
    "L33": Advice(_LINK_STOPPED, f"correct the name {_IN_LINKS}"),
    "L34": Advice(_LINK_STOPPED, f"use the id {_IN_LINKS}"),
    "L35": Advice(
        "everything else of the connection continues",
        f"remove the entry {by(Page.LINKS, 'from the configuration')}",
    ),
    "L36": Advice(
        "its scan waits and no one is removed; members found so far are synchronised",
        "nothing; the scan continues by itself",
    ),
    "L37": Advice(
        "the field stays as it is; everything else of these people is written",
        _DECIDE,
    ),
    "L40": Advice("nothing is sent; webhooks are received and stored", f"resume {_RESUME}"),
    "L41": Advice(
        "the records are held until the module or the live mode is on again",
        f"switch it on again {by(Page.STATE, 'and `connector reload`')}, or discard the records",
    ),
}


def _look(code: str) -> str:
    """Where the detail of people is shown."""
    return by(Page.PEOPLE, f"with `connector people list --cause {code}`")


OF_PEOPLE: Final[dict[str, str]] = {
    "M10": f"fix the mapping, or report the detail that is shown {_look('M10')}",
    "E11": f"find the long text {_look('E11')}; shorten it at its source",
    "E13": "flatten the value at its source",
    "K400": f"read which field Klaviyo names {_look('K400')} and fix it",
    "K409": f"look at the two profiles at Klaviyo; who it is about is shown {_look('K409')}",
    "K413": f"find what makes the profile large {_look('K413')}; report it",
    "S60": f"find the value {_look('S60')} and fix its source",
    "L20": f"read the last reason {_look('L20')} and resolve it",
}
"""Remedies of a person's profile, read or membership that died, where that of a record differs."""

WAITS_FOR_REMOTE: Final[frozenset[str]] = frozenset(
    {"K429", "K503", "P429", "P503", "N10", "N20", "N30", "N40", "N50", "N60", "N80"}
)
"""The remote side is away or slow and the connector retries by itself: degraded, and a matter for
a person only after `[[notify]] patience`."""
