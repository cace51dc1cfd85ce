"""What the pages that set a connection up share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.responses import Response

from connector.config import Connection, Klaviyo
from connector.console.session import Visit, error_text
from connector.console.view import content_policy
from connector.domain.errors import ConnectorError
from connector.service.connection_setup.form import faults_by_key

MODULES = {
    "events": "Events become metrics of profiles at Klaviyo.",
    "profiles": "Balance, tier and the other fields are kept on profiles at Klaviyo.",
    "audiences": "Audiences of the platform are kept as lists at Klaviyo.",
    "segments": "Segments of Klaviyo are sent to the platform.",
    "actions": "Flows at Klaviyo give points and send pushes.",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether a change was made; else its faults by key, and those of no key in `others`."""

    done: bool
    faults: Mapping[str, str] = field(default_factory=dict)
    others: tuple[str, ...] = ()

    @classmethod
    async def of(cls, visit: Visit, kind: str, args: Mapping[str, Any]) -> Answer:
        """Carry out a command that changes settings, with its secrets encrypted."""
        name, setup = args["connection"], visit.services.setup
        try:
            sealed = setup.sealed(name, args["set"], args.get("source"))
        except ConnectorError as error:
            return cls(False, others=(error.detail,))
        done, result = await visit.run(kind, {**args, "set": sealed})
        if done:
            return cls(True)
        faults, others = faults_by_key(name, result.get("faults") or ())
        if not faults and not others:
            others = [error_text(result)]
        return cls(False, faults, tuple(others))


def texts(form: Mapping[str, Any]) -> dict[str, str]:
    """The texts of a form by the name of their field."""
    return {key: value for key, value in form.items() if isinstance(value, str)}


def set_in_file(visit: Visit, name: str) -> frozenset[str]:
    """Those of the keys with a switch of their own that a file sets."""
    config = visit.services.config()
    keys = ("enabled", "modules")
    return frozenset(key for key in keys if config.is_set(f"connections.{name}.{key}"))


def find_connection(visit: Visit, name: str) -> Connection:
    """A configured connection; 404 without one."""
    try:
        return visit.services.config().connection(name)
    except KeyError:
        raise HTTPException(404) from None


def allow_oauth(visit: Visit, response: Response, connection: Connection | None) -> Response:
    """Let the button that connects Klaviyo lead there: a browser follows the redirects of a form
    only to where the page allows it."""
    config = visit.services.config()
    if config.klaviyo_app.client_id:
        klaviyo = connection.klaviyo if connection else Klaviyo()
        urls = map(urlsplit, (config.server.public_url, klaviyo.authorize_url))
        origins = " ".join(f"{url.scheme}://{url.netloc}" for url in urls)
        response.headers["content-security-policy"] = content_policy(origins)
    return response
