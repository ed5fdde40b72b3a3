"""Who gets a slot next, by the rule alone and by a worker."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.bus.port import ATTEMPT
from shared.contracts.envelope import Envelope
from shared.contracts.request import Request
from shared.errors import DependencyDown
from shared.flow.rules import MOST, limit
from shared.redis import FailFastRedis
from shared.worker.shared_breaker import Circuit, SharedBreaker
from shared.worker.slots import FEW, Leaving, Share, Slots
from tests.support.builders import NOW
from tests.support.virtual_time import in_no_time
from tests.support.worker import a_bus, a_worker, post

SHARE = Share.among_tenants(16)
tenants = st.sampled_from(["a", "b", "c"])


@pytest.mark.parametrize(
    ("waiting", "using", "chosen"),
    [
        ("", {}, None),
        ("aa", {}, 0),
        ("aaab", {"a": 3}, 3),
        ("aaab", {"a": 3, "b": 3}, 0),
        ("aa", {"a": 16}, None),  # alone: all slots, and no more
        ("aab", {"a": 16}, 2),  # another tenant need not wait for one of them
        ("aab", {"a": 16, "b": 3}, 2),
        ("aab", {"a": 16, "b": 4}, None),  # the reserve is used up
        ("aab", {"a": 8, "b": 8}, None),  # it has its share
        ("aabc", {"a": 11, "b": 5, "c": 0}, 3),
        ("b", {"a": 16}, 0),
    ],
)
def test_a_slot_goes_to_the_tenant_with_the_fewest(waiting: str, using: dict[str, int], chosen: int | None) -> None:
    assert SHARE.next(waiting, using) == chosen


@given(st.lists(tenants, min_size=1), st.dictionaries(tenants, st.integers(0, 20)))
def test_no_slot_stays_free_while_a_delivery_waits(waiting: Sequence[str], using: dict[str, int]) -> None:
    used, chosen = sum(using.values()), SHARE.next(waiting, using)
    if used < SHARE.slots:
        assert chosen is not None
    if chosen is not None:
        assert used < SHARE.slots + SHARE.reserve
        assert using.get(waiting[chosen], 0) == min(using.get(tenant, 0) for tenant in waiting)
        assert waiting.index(waiting[chosen]) == chosen


def test_a_share_of_slots_is_in_whole_slots() -> None:
    assert Share.among_tenants(18) == Share(18, reserve=4, ahead=18 + 4 + FEW)
    assert Share.among_tenants(1) == Share(1, reserve=1, ahead=1 + FEW)


async def test_a_slot_that_was_given_back_no_longer_counts_for_its_tenant() -> None:
    slots, served = Slots(Share(2)), []

    async def hold(key: str, tenant: str) -> None:
        await slots.enter(key, tenant)
        served.append(key)

    await hold("a1", "a")
    await hold("b1", "b")
    waiting = [asyncio.create_task(hold(key, key[0])) for key in ("b2", "a2")]
    await asyncio.sleep(0)
    slots.leave("a1")
    slots.leave("a1")  # has no effect: it holds none
    await asyncio.sleep(0)
    assert served == ["a1", "b1", "a2"]
    slots.leave("b1")
    await asyncio.gather(*waiting)
    assert served == ["a1", "b1", "a2", "b2"]


@given(st.lists(st.one_of(tenants, st.none()), max_size=100))
def test_one_tenant_alone_never_uses_the_reserve(steps: list[str | None]) -> None:
    """A tenant comes, or the slot that was given first becomes free."""

    async def play() -> None:
        slots, held = Slots(Share.among_tenants(4)), dict[int, str]()

        async def come(key: int, tenant: str) -> None:
            await slots.enter(key, tenant)
            held[key] = tenant

        coming = []
        for key, tenant in enumerate(steps):
            if tenant is not None:
                coming.append(asyncio.create_task(come(key, tenant)))
            elif held:
                first = next(iter(held))
                del held[first]
                slots.leave(first)
            await asyncio.sleep(1)
            used = Counter(held.values())
            assert used.total() <= (5 if len(used) > 1 else 4)
        slots.send_away()
        ended = await asyncio.gather(*coming, return_exceptions=True)
        assert {type(end) for end in ended} <= {type(None), Leaving}

    in_no_time(play())


@given(st.integers(1, 256), st.integers(1, 10))
def test_generators_have_all_in_hand_that_is_under_way(slots: int, replicas: int) -> None:
    assert replicas * Share.among_tenants(slots).in_hand >= MOST * limit(replicas * slots)


# -- in a worker


def test_a_quiet_tenant_overtakes_a_noisy_backlog() -> None:
    """The noisy tenant's calls never end; the other's ask is answered while they are all still open."""
    began: list[str] = []

    async def life() -> None:
        bus, stopping, over = a_bus(), asyncio.Event(), asyncio.Event()

        async def handle(request: Request) -> list[Envelope]:
            began.append(request.request_id)
            if request.tenant == "noisy":
                await over.wait()
            return []

        for number in range(24):
            await post(bus, request_id=f"noisy{number}", tenant="noisy", answer_by=NOW + timedelta(hours=1))
        await post(bus, request_id="quiet", tenant="quiet", answer_by=NOW + timedelta(hours=1))
        running = asyncio.create_task(a_worker(bus, handle, shared=True).run(stopping, timedelta(seconds=10)))
        await asyncio.sleep(60)
        assert sorted(began) == sorted([*(f"noisy{number}" for number in range(16)), "quiet"])
        over.set()
        await asyncio.sleep(60)
        assert len(began) == 25
        stopping.set()
        await running

    in_no_time(life())


def test_at_sigterm_what_waits_for_a_slot_is_handed_back_at_once() -> None:
    async def life() -> None:
        bus, stopping, over = a_bus(), asyncio.Event(), asyncio.Event()

        async def handle(request: Request) -> list[Envelope]:
            await over.wait()
            return []

        for number in range(20):
            await post(bus, request_id=f"r{number}", answer_by=NOW + timedelta(hours=1))
        running = asyncio.create_task(a_worker(bus, handle, shared=True).run(stopping, timedelta(seconds=50)))
        await asyncio.sleep(10)
        stopping.set()
        await asyncio.sleep(5)
        back = [message for message in bus.sent if ATTEMPT in message.properties]
        assert [message.message_id.split("/")[0] for message in back if message.message_id] == [
            f"r{number}" for number in range(16, 20)
        ]
        assert {message.properties[ATTEMPT] for message in back} == {1}
        over.set()
        await running
        assert len(await bus.peek("retrieve")) == 4

    in_no_time(life())


class Opens(SharedBreaker):
    """Open from the first failure on."""

    opened = False

    @property
    def is_closed(self) -> bool:
        return not self.opened

    async def ask(self) -> Circuit:
        return Circuit.OPEN if self.opened else Circuit.CLOSED

    async def failed(self, why: str) -> None:
        self.opened = True


def test_when_the_breaker_opens_what_waits_for_a_slot_goes_back_and_is_not_tried() -> None:
    tried: list[str] = []

    async def life() -> None:
        bus, stopping = a_bus(), asyncio.Event()

        async def handle(request: Request) -> list[Envelope]:
            tried.append(request.request_id)
            await asyncio.sleep(5)
            raise DependencyDown("no answer")

        for number in range(20):
            await post(bus, request_id=f"r{number}", answer_by=NOW + timedelta(hours=1))
        worker = a_worker(bus, handle, shared=True, circuit_breaker=True)
        worker.breaker = Opens(FailFastRedis("redis://127.0.0.1:1/0"), "retrieve")
        running = asyncio.create_task(worker.run(stopping, timedelta(seconds=1)))
        await asyncio.sleep(20)
        assert tried == [f"r{number}" for number in range(16)]
        assert worker.in_flight == 0
        assert len(await bus.peek("retrieve")) == 20
        stopping.set()
        await running

    in_no_time(life())
