"""What `include` of a Klaviyo read adds: the resources that others are related to.

Guess: without the scope flows:read every request that would include flows is a 403. Tags, push
tokens, conversations, attributions and the actions of flows are not emulated: there are none.
"""

from __future__ import annotations

from starlette.datastructures import URL

from connector.sandbox.klaviyo import views
from connector.sandbox.klaviyo.account import AccountState
from connector.sandbox.klaviyo.documents import Relations
from connector.sandbox.klaviyo.segments import Segments
from connector.sandbox.klaviyo.views import Resource


def relations(account: AccountState, segments: Segments) -> Relations:
    """The relations of every type of this account."""

    def flows_by_id(resource: Resource, url: URL) -> list[Resource]:
        return [views.flow(found, url) for found in account.flows.started_by(resource["id"])]

    def flows_by_name(metric: Resource, url: URL) -> list[Resource]:
        name = metric["attributes"]["name"]
        return [views.flow(found, url) for found in account.flows.started_by(name)]

    def lists_of(profile: Resource, url: URL) -> list[Resource]:
        person = account.memory.by_id(profile["id"])
        found = [each for each in account.lists.all if person and person.number in each.members]
        return [views.member_list(each, url) for each in found]

    def segments_of(profile: Resource, url: URL) -> list[Resource]:
        person = account.memory.by_id(profile["id"])
        found = [each for each in segments.all if person and person.number in each.members]
        return [segments.view(each, url) for each in found]

    def lists_of_job(job: Resource, url: URL) -> list[Resource]:
        named = job["relationships"]["lists"]["data"]
        found = [account.lists.get(each["id"]) for each in named]
        return [views.member_list(each, url) for each in found if each is not None]

    def profile_of(event: Resource, url: URL) -> list[Resource]:
        person = account.memory.by_id(event["relationships"]["profile"]["data"]["id"])
        return [views.profile(person, url)] if person else []

    def metric_of(event: Resource, url: URL) -> list[Resource]:
        id = event["relationships"]["metric"]["data"]["id"]
        names = (name for name, at in account.memory.metrics.items() if views.metric_id(at) == id)
        return [views.metric(account.memory, name, url) for name in names]

    def none(_: Resource, __: URL) -> list[Resource]:
        return []

    return {
        ("profile", "lists"): lists_of,
        ("profile", "segments"): segments_of,
        ("profile", "push-tokens"): none,
        ("profile", "conversations"): none,
        ("list", "flow-triggers"): flows_by_id,
        ("list", "tags"): none,
        ("segment", "flow-triggers"): flows_by_id,
        ("segment", "tags"): none,
        ("metric", "flow-triggers"): flows_by_name,
        ("flow", "flow-actions"): none,
        ("flow", "tags"): none,
        ("event", "profile"): profile_of,
        ("event", "metric"): metric_of,
        ("profile-bulk-import-job", "lists"): lists_of_job,
    }
