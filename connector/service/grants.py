"""What needs a person about OAuth grants, from what is stored of them in the clear."""

from __future__ import annotations

from collections.abc import Sequence

from connector.domain.attention import Affected, AttentionItem
from connector.domain.errors import Problem
from connector.domain.lanes import Millis
from connector.domain.oauth import KLAVIYO_OAUTH, KLAVIYO_SCOPES, WARN_BEFORE, GrantInfo
from connector.domain.remedies import Page, by
from connector.ports import StoredSecret

_DAY = 86_400_000


def attention(stored: Sequence[StoredSecret], now: Millis) -> list[AttentionItem]:
    """Grants that have ended, that end soon, or that lack a scope."""
    found: list[AttentionItem] = []
    for secret in stored:
        if secret.name == KLAVIYO_OAUTH:
            name = secret.owner
            for problem, text, todo in grant_problems(GrantInfo.load(secret.info), name, now):
                key = f"grant {problem} {name} {todo}" if todo else f"grant {problem} {name}"
                # Its lanes are blocked for it as well, once they have something to send.
                ended = problem is Problem.KLAVIYO_ACCESS_ENDED
                affected = Affected(name, "") if ended else None
                item = AttentionItem(key, f"{name}: {text}", problem, todo, affected=affected)
                found.append(item)
    return found


def grant_problems(info: GrantInfo, name: str, now: Millis) -> list[tuple[Problem, str, str]]:
    """Each problem of a grant: the code, what happened and what it affects, what to do."""
    connect = f"connect Klaviyo {by(Page.SETTINGS, f'with `connector connect {name}`')}"
    if info.ended_at is not None:
        problem, hours = Problem.KLAVIYO_ACCESS_ENDED, (now - info.ended_at) / 3_600_000
        return [(problem, f"{problem.meaning}, {hours:.0f} h ago; what arrives waits", connect)]
    found: list[tuple[Problem, str, str]] = []
    if info.expires_at - now < WARN_BEFORE:
        problem, days = Problem.KLAVIYO_ACCESS_ENDING, max(0, (info.expires_at - now) // _DAY)
        found.append((problem, f"{problem.meaning} (in {days} days)", problem.advice))
    for scope in info.missing(list(KLAVIYO_SCOPES)):
        text = f"the scope {scope} was not granted: {KLAVIYO_SCOPES[scope]}"
        todo = f"add {scope} to the app at Klaviyo, then {connect}"
        found.append((Problem.KLAVIYO_SCOPE, text, todo))
    return found
