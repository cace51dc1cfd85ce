"""The public surface for platforms by others: everything that an adapter imports.

A package adds a platform by an entry point of the group `connector.platforms`; `connector new
platform NAME` writes a package that works. Tests import from `connector.testing` besides. Nothing
else of `connector` is stable. `API_VERSION` is the version of this list: a name is removed or
changes its meaning only with a new version, and a platform for another version is not loaded.
"""

from __future__ import annotations

from connector.config import (
    Allowed,
    Duration,
    DurationOrNever,
    Interval,
    PlatformSettings,
    PositiveDuration,
    Secrets,
    Section,
    Url,
    setting,
)
from connector.domain.actions import Action
from connector.domain.attention import Check
from connector.domain.errors import (
    AmbiguousError,
    Blocked,
    ConfigError,
    DeliveryError,
    Malformed,
    Problem,
    Rejected,
    RetryLater,
    Unauthorised,
)
from connector.domain.lanes import Millis
from connector.domain.records import Record
from connector.mapping import MISSING, VIEW_PATHS, ConversionError, getter, parse_path
from connector.mapping.paths import is_blank
from connector.net.auth import HeaderKey, OAuthToken, QueryKey
from connector.net.http import ApiResponse, Credential, Http
from connector.net.rate_limit import Limit, RateLimiter
from connector.platforms.extras import (
    Extra,
    LoadedExtras,
    load_extras,
    unless_unavailable,
    with_extras,
)
from connector.platforms.json_api import (
    JsonApi,
    before_action,
    credential_check,
    json_object,
    per_second,
    unknown_person_on_404,
)
from connector.platforms.kit import NOT_APPLIED, Kit
from connector.platforms.settings import BaseUrl, Rate
from connector.platforms.webhooks import (
    is_any_secret,
    is_signed,
    malformed,
    parse_body,
    parse_object,
    text_field,
    time_field,
    unauthorised,
    usable_secrets,
)
from connector.ports import (
    Actions,
    Audiences,
    Client,
    Clock,
    DirectCall,
    History,
    Member,
    MembershipResult,
    MembershipWriter,
    MembersPage,
    Offer,
    PeoplePage,
    PeoplePageItem,
    PersonRef,
    PersonSnapshot,
    Platform,
    Quota,
    Reader,
    Stream,
    Webhook,
)
from connector.ports.platform import API_VERSION, EventView, PersonView
from connector.runtime.clock import iso, to_millis
from connector.runtime.log import get as get_logger

__all__ = [
    "API_VERSION",
    "MISSING",
    "NOT_APPLIED",
    "VIEW_PATHS",
    "Action",
    "Actions",
    "Allowed",
    "AmbiguousError",
    "ApiResponse",
    "Audiences",
    "BaseUrl",
    "Blocked",
    "Check",
    "Client",
    "Clock",
    "ConfigError",
    "ConversionError",
    "Credential",
    "DeliveryError",
    "DirectCall",
    "Duration",
    "DurationOrNever",
    "EventView",
    "Extra",
    "HeaderKey",
    "History",
    "Http",
    "Interval",
    "JsonApi",
    "Kit",
    "Limit",
    "LoadedExtras",
    "Malformed",
    "Member",
    "MembersPage",
    "MembershipResult",
    "MembershipWriter",
    "Millis",
    "OAuthToken",
    "Offer",
    "PeoplePage",
    "PeoplePageItem",
    "PersonRef",
    "PersonSnapshot",
    "PersonView",
    "Platform",
    "PlatformSettings",
    "PositiveDuration",
    "Problem",
    "QueryKey",
    "Quota",
    "Rate",
    "RateLimiter",
    "Reader",
    "Record",
    "Rejected",
    "RetryLater",
    "Secrets",
    "Section",
    "Stream",
    "Unauthorised",
    "Url",
    "Webhook",
    "before_action",
    "credential_check",
    "get_logger",
    "getter",
    "is_any_secret",
    "is_blank",
    "is_signed",
    "iso",
    "json_object",
    "load_extras",
    "malformed",
    "parse_body",
    "parse_object",
    "parse_path",
    "per_second",
    "setting",
    "text_field",
    "time_field",
    "to_millis",
    "unauthorised",
    "unknown_person_on_404",
    "unless_unavailable",
    "usable_secrets",
    "with_extras",
]
