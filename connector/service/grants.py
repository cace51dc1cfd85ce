"""What needs a person about OAuth grants, from what is stored of them in the clear."""

from __future__ import annotations

from collections.abc import Sequence

from connector.domain.attention import AttentionItem
from connector.domain.errors import Problem
from connector.domain.lanes import Millis
from connector.domain.oauth import KLAVIYO_OAUTH, KLAVIYO_SCOPES, WARN_BEFORE, GrantInfo
from connector.ports import StoredSecret

_DAY = 86_400_000


def attention(stored: Sequence[StoredSecret], now: Millis) -> list[AttentionItem]:
    """Grants that have ended, that end soon, or that lack a scope."""
    found: list[AttentionItem] = []
    for secret in stored:
        if secret.name == KLAVIYO_OAUTH:
            name = secret.owner
            for problem, text in grant_problems(GrantInfo.load(secret.info), name, now):
                found.append(AttentionItem(f"grant {problem} {name}", f"{name}: {text}", problem))
    return found


def grant_problems(info: GrantInfo, name: str, now: Millis) -> list[tuple[Problem, str]]:
    """Each problem of a grant with what it affects and what to do."""
    if info.ended_at is not None:
        problem, hours = Problem.KLAVIYO_ACCESS_ENDED, (now - info.ended_at) / 3_600_000
        text = f"{problem.meaning}, {hours:.0f} h ago; records wait: connector connect {name}"
        return [(problem, text)]
    found: list[tuple[Problem, str]] = []
    if info.expires_at - now < WARN_BEFORE:
        problem, days = Problem.KLAVIYO_ACCESS_ENDING, max(0, (info.expires_at - now) // _DAY)
        text = f"{problem.meaning} (in {days} days): enable the connection and run the daemon"
        found.append((problem, text))
    for scope in info.missing(list(KLAVIYO_SCOPES)):
        text = (
            f"the scope {scope} was not granted: {KLAVIYO_SCOPES[scope]}; add it to the app at "
            f"Klaviyo, then connector connect {name}"
        )
        found.append((Problem.KLAVIYO_SCOPE, text))
    return found
