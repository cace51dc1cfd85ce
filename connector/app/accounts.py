"""Asking Klaviyo which accounts the configured keys belong to, while webhooks are taken already.

Lanes wait for the answer, because a key of another account than before must send nothing. Where
Klaviyo does not answer, a connection whose account was named before runs on, as that account; one
that never was waits (guarantee 13).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from connector.app.connections import Connections
from connector.app.problems import ProcessProblems
from connector.app.wiring.accounts import Account
from connector.domain.attention import AttentionItem
from connector.domain.errors import AmbiguousError, DeliveryError, Problem, RetryLater
from connector.domain.lanes import KLAVIYO
from connector.net.retry import Backoff, retry_read
from connector.ports import Clock
from connector.runtime import log

_TIMEOUT = 8.0
"""Seconds after which a connection that was named before runs on without the answer."""
_RETRY_BASE, _RETRY_MAX = 2.0, 60.0


class _Replaced(Exception):
    """A reload has replaced the account while it was asked for; its successor is asked for too."""


class AccountLookups:
    """connector.ports.workers.Loop that asks for every account that is not confirmed, until it is.

    `restart` builds connections again where one that runs already turns out to belong to another
    account.
    """

    def __init__(
        self,
        connections: Connections,
        problems: ProcessProblems,
        clock: Clock,
        *,
        restart: Callable[[], Awaitable[None]],
    ) -> None:
        self.wakeup = connections.unconfirmed
        self._connections = connections
        self._problems = problems
        self._clock = clock
        self._restart = restart
        self._failures: dict[str, DeliveryError] = {}
        """The last of each credential."""
        self._rounds = 0
        self._backoff = Backoff(_RETRY_BASE, _RETRY_MAX)
        self._log = log.get("accounts")

    async def idle(self) -> bool:
        return True

    async def attention(self) -> Sequence[AttentionItem]:
        """None: a connection that waits is a problem of the process."""
        return ()

    async def run_once(self) -> float | None:
        readers = {a.credential: a for a in self._unconfirmed().values()}
        async with asyncio.TaskGroup() as group:
            lookups = []
            for account in readers.values():
                lookups.append(group.create_task(self._tried(account)))
                await asyncio.sleep(0)  # a hundred that begin at once would delay webhooks
        found = [lookup.result() for lookup in lookups]
        if True in found:
            await self._restart()
        for account, error in zip(readers.values(), found, strict=True):
            # A reload closes the clients of the accounts that it replaces.
            if isinstance(error, Exception) and self._is_in_use(account):
                raise error
        self._rounds = self._rounds + 1 if self._unconfirmed() else 0
        return self._backoff(self._rounds) if self._rounds else None

    def _is_in_use(self, account: Account) -> bool:
        return any(account is other for other in self._connections.accounts.values())

    def _unconfirmed(self) -> dict[str, Account]:
        """Accounts to ask for, or whose answer has not started their connection. Only those whose
        lease this process holds: the others are another one's."""
        connections = self._connections
        return {
            name: account
            for name, account in connections.accounts.items()
            if not (account.confirmed and name in connections.running)
            and name in connections.runtimes
            and connections.runtimes[name].lease.valid()
        }

    async def _tried(self, account: Account) -> bool | Exception:
        """The result of a look-up, or what it raised: that ends no other."""
        try:
            return await self._look_up(account)
        except Exception as error:
            return error

    async def _look_up(self, account: Account) -> bool:
        """Whether the connections must be restarted for what was found."""
        known = self._connections.known_accounts
        if account.credential not in known:
            try:
                async with asyncio.timeout(_TIMEOUT):
                    known[account.credential] = await retry_read(
                        lambda: self._read(account), clock=self._clock
                    )
            except _Replaced:
                return False
            except TimeoutError:
                await self._unreadable(account, self._why_unanswered(account))
                return False
            except DeliveryError as error:
                await self._unreadable(account, error)
                return False
        return await self._found(account.credential, known[account.credential])

    async def _read(self, account: Account) -> str:
        if not self._is_in_use(account):
            raise _Replaced
        try:
            return await account.read()
        except DeliveryError as error:
            self._failures[account.credential] = error
            raise

    def _why_unanswered(self, account: Account) -> DeliveryError:
        """A call that waits for quota is not slow: what the calls before it met is the cause."""
        timed_out = AmbiguousError(Problem.TIMED_OUT)
        if not account.waits_for_quota():
            return timed_out
        return self._failures.get(account.credential, timed_out)

    async def _found(self, credential: str, id: str) -> bool:
        async with self._connections.changing:
            of_key = [n for n, a in self._unconfirmed().items() if a.credential == credential]
            return any([await self._settle(name, id) for name in of_key])

    async def _settle(self, name: str, id: str) -> bool:
        connections = self._connections
        if conflicts := connections.find_conflicts(name, id):
            self._wait(name, Problem.MAPPING_FAULTY, conflicts[0])
            return False
        lanes = connections.runtimes[name].dispatchers
        in_question = any(lane.state.problem is Problem.KLAVIYO_ACCOUNT for lane in lanes)
        if connections.accounts[name].id != id or in_question:
            if name in connections.running:
                return True
            await connections.rebuild(name, id, ours=True)
        connections.confirm(name)
        self._run(name)
        return False

    async def _unreadable(self, asked: Account, error: DeliveryError) -> None:
        """Without any answer a connection waits unless it has a known account. A refusal is an
        answer: its lanes will meet it too, and say so."""
        connections = self._connections
        async with connections.changing:
            if not self._is_in_use(asked):
                return  # a reload closed its client, which says nothing about Klaviyo
            for name, account in self._unconfirmed().items():
                if account.credential != asked.credential or name in connections.running:
                    continue
                if account.id is None and isinstance(error, RetryLater | AmbiguousError):
                    detail = (
                        f"Klaviyo does not say which account the key belongs to ({error.detail}); "
                        "webhooks are stored meanwhile, and delivered once it does"
                    )
                    self._wait(name, error.problem, detail)
                    continue
                self._log.warning(
                    "klaviyo_account_unreadable",
                    connection=name,
                    problem=error.problem.value,
                    detail=error.detail,
                    assumed=account.id or "unknown",
                )
                self._run(name)

    def _run(self, name: str) -> None:
        if f"account {name}" in self._problems:
            self._problems.clear(f"account {name}")
            self._log.info("connection_continues", connection=name)
        self._connections.run(name)

    def _wait(self, name: str, problem: Problem, detail: str) -> None:
        key = f"account {name}"
        if key not in self._problems:
            self._log.error(
                "connection_waits", connection=name, problem=problem.value, detail=detail
            )
        text = f"{name}: {detail}"
        self._problems.set(key, problem, text, connection=name, remote=KLAVIYO)
