"""Every port of the store keeps its contract in memory, in a file and on PostgreSQL."""

from __future__ import annotations

from connector.testing.contracts.actions import ActionsContract
from connector.testing.contracts.address_scopes import AddressScopesContract
from connector.testing.contracts.approvals import ApprovalsContract
from connector.testing.contracts.backfills import BackfillsContract
from connector.testing.contracts.bulk_observations import BulkObservationsContract
from connector.testing.contracts.event_sourced import EventSourcedContract
from connector.testing.contracts.identity import IdentityContract
from connector.testing.contracts.memberships import MembershipsContract
from connector.testing.contracts.notifications import NotificationsContract
from connector.testing.contracts.process_reports import ProcessReportsContract
from connector.testing.contracts.profile_addresses import ProfileAddressesContract
from connector.testing.contracts.profiles import ProfilesContract
from connector.testing.contracts.reads import ReadsContract
from connector.testing.contracts.retry_now import RetryNowContract
from connector.testing.contracts.secrets import SecretsContract
from connector.testing.contracts.settings import SettingsContract
from connector.testing.contracts.store import StoreContract
from connector.testing.contracts.stuck_people import StuckPeopleContract
from connector.testing.contracts.throughput import ThroughputContract
from connector.testing.contracts.unanswered_claims import UnansweredClaimsContract
from connector.testing.contracts.unset_fields import UnsetFieldsContract


class TestStore(StoreContract):
    pass


class TestApprovals(ApprovalsContract):
    pass


class TestNotifications(NotificationsContract):
    pass


class TestProcessReports(ProcessReportsContract):
    pass


class TestRetryNow(RetryNowContract):
    pass


class TestStuckPeople(StuckPeopleContract):
    pass


class TestThroughput(ThroughputContract):
    pass


class TestSecrets(SecretsContract):
    pass


class TestSettings(SettingsContract):
    pass


class TestReads(ReadsContract):
    pass


class TestProfileAddresses(ProfileAddressesContract):
    pass


class TestProfiles(ProfilesContract):
    pass


class TestEventSourcedFields(EventSourcedContract):
    pass


class TestBulkObservations(BulkObservationsContract):
    pass


class TestBackfills(BackfillsContract):
    pass


class TestMemberships(MembershipsContract):
    pass


class TestUnsetFields(UnsetFieldsContract):
    pass


class TestActions(ActionsContract):
    pass


class TestUnansweredClaims(UnansweredClaimsContract):
    pass


class TestIdentity(IdentityContract):
    pass


class TestAddressScopes(AddressScopesContract):
    pass
