"""The golden vectors: decisions that any implementation must make alike, as data (`pointsman/vectors.json`).

`python -m tests.golden` checks that this interpreter makes them, its rows in several orders; `--write` makes the file
anew from the cases below, which is right only where the rules themselves have changed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

from pointsman.cache.indexes import TABLES, Change, Indexes
from pointsman.engine.capacity import Counter, State
from pointsman.engine.configuration import turn
from pointsman.engine.decide import Decision, decide
from pointsman.engine.explain import explain
from pointsman.engine.geo import UNICODE_VERSION
from pointsman.engine.record import digest, head, named, packed_state
from pointsman.engine.zones import TZDATA_VERSION, zone
from pointsman.model import Lead, instant, micros
from pointsman.wire import plain, reason_json

Image = dict[str, Any]
Row = tuple[str, Image]

FILE = Path(__file__).resolve().parents[1] / "pointsman" / "vectors.json"
ABOUT = (
    "Decisions that every implementation of Pointsman's rules makes alike. `rows` are images of configuration rows as "
    "`pointsman.config_log` has them, in any order: ids as text, instants in microseconds since 1970-01-01T00:00Z, "
    "JSON columns as text. `used` counts leads by holder (`offer_id` null: the buyer's own counter) and window start, "
    "`positions` are the decisions that last served an enrollment; what is missing is 0. `state` and `digest` are "
    "specified in docs/records.md. `eligible` is in rank order."
)


# making vectors out of data


def lead_of(document: dict[str, Any]) -> Lead:
    ids = {key: document[key] and UUID(document[key]) for key in ("id", "offer_id", "vertical_id", "market_id")}
    return Lead(**ids, postal_code=document["postal_code"], city=document["city"])


def indexes_of(vector: dict[str, Any], rows: Iterable[list[Any]]) -> Indexes:
    made = Indexes(vector["config_version"], UUID(vector["token"]))
    for table, image in rows:
        made.apply(Change(table, "", with_ids(image)), vector["config_version"])
    return made


def with_ids(image: Image) -> Image:
    ids = ("id", "offer_id", "vertical_id", "market_id", "buyer_id")
    return {key: UUID(value) if key in ids and value is not None else value for key, value in image.items()}


def state_of(vector: dict[str, Any]) -> State:
    state = State()
    for row in vector["used"]:
        offer_id = UUID(row["offer_id"]) if row["offer_id"] else UUID(int=0)
        counter = Counter.of(UUID(row["buyer_id"]), offer_id, row["kind"], row["window_start"])
        state.used[counter] = row["used"]
    for row in vector["positions"]:
        state.positions[turn(UUID(row["buyer_id"]), UUID(row["offer_id"]))] = row["position"]
    return state


def expected(vector: dict[str, Any], rows: Iterable[list[Any]]) -> dict[str, Any]:
    """What is decided on a vector, its rows given in some order."""
    indexes, state = indexes_of(vector, rows), state_of(vector)
    decision = decide(lead_of(vector["lead"]), indexes, state, vector["at"])
    standing = explain(decision, indexes, state)
    written = written_state(decision, state)
    return {
        **result(decision),
        "eligible": [str(ranked.buyer_id) for ranked in standing.eligible],
        "excluded": [
            {"buyer_id": str(excluded.buyer_id), "reasons": [reason_json(reason) for reason in excluded.reasons]}
            for excluded in standing.excluded
        ],
        "state": written.hex(),
        "digest": digest(head(decision, indexes.version, indexes.token), written).hex(),
    }


def written_state(decision: Decision, state: State) -> bytes:
    """The state of a decision that was made on `state`, if the claim proves just that."""
    used = [(number, state.usage(cap.counter)) for cap, number in named(decision)]
    return packed_state(used, state.positions_of(decision.compared))


def result(decision: Decision) -> dict[str, Any]:
    policy, winner = decision.policy, decision.winner
    return {
        "outcome": decision.outcome.value,
        "cause": decision.cause and decision.cause.value,
        "buyer_id": winner and str(winner.buyer_id),
        "policy_id": policy and str(policy.id),
        "policy_version": policy and policy.version,
        "flags": [flag.value for flag in decision.flags],
    }


def read() -> dict[str, Any]:
    """The vectors that come with the package."""
    document: dict[str, Any] = json.loads((files("pointsman") / "vectors.json").read_text("utf-8"))
    return document


def wrong(document: dict[str, Any], seeds: Iterable[int] = (0, 1, 2)) -> list[str]:
    """The names of vectors that come out otherwise, their rows shuffled in several ways."""
    found = []
    for vector in document["vectors"]:
        for seed in seeds:
            rows = list(vector["rows"])
            Random(seed).shuffle(rows)
            if expected(vector, rows) != vector["expected"]:
                found.append(vector["name"])
                break
    return found


# the cases


def uid(kind: int, number: int) -> UUID:
    return UUID(int=(kind << 96) | number)


OFFER, VERTICAL, MARKET, POLICY = uid(0xF, 1), uid(0xE, 1), uid(0xA, 1), uid(0xC, 1)
OTHER = uid(0xF, 2)
TOKEN = UUID("5f0c8e7a-1111-4222-8333-944455556666")
RULES: dict[str, Any] = {
    "strategy": {"kind": "priority"},
    "tie_breakers": ["lead_hash", "buyer_id"],
    "constraints": ["buyer_active", "acceptance_hours"],
    "exclusivity": {"when_ineligible": "fail_closed"},
}
TURNS = {"strategy": {"kind": "rotation"}}
WEIGHTS = {"strategy": {"kind": "weighted", "salt": "2026"}}
FALLBACK = {"exclusivity": {"when_ineligible": "fallback_allowed"}}
OFFICE = {"weekly": {day: [["09:00", "17:00"]] for day in ("mon", "tue", "wed", "thu", "fri")}}
NIGHT = {"weekly": {"fri": [["20:00", "02:00"]]}}
NOON = "2026-06-10T12:00:00"  # a Wednesday


def buyer(number: int) -> UUID:
    return uid(0xB, number)


def candidate(number: int, *, area: Image | None = None, zone_name: str = "UTC", **over: Any) -> list[Row]:
    """A buyer that covers the market and can have the lead; columns of `buyers` may have the prefix `buyer_`."""
    one = {
        "id": buyer(number),
        "status": "active",
        "timezone": zone_name,
        "acceptance_hours": None,
        "funded": True,
        "sla_response_seconds": None,
        "hourly_cap": None,
        "daily_cap": None,
    }
    enrolled = {
        "buyer_id": buyer(number),
        "offer_id": OFFER,
        "is_active": True,
        "priority_rank": 100,
        "weight": 1,
        "hourly_cap": None,
        "daily_cap": None,
        "enrolled_at": 0,
    }
    covers = {
        "id": uid(5, number),
        "buyer_id": buyer(number),
        "market_id": MARKET,
        "scope": "market",
        "value": None,
        "is_active": True,
    } | (area or {})
    for key, value in over.items():
        place = one if key.startswith("buyer_") or key not in enrolled else enrolled
        place[key.removeprefix("buyer_") if place is one else key] = value
    if isinstance(one["acceptance_hours"], dict):
        one["acceptance_hours"] = json.dumps(one["acceptance_hours"])
    return [("buyers", one), ("buyer_offers", enrolled), ("buyer_service_areas", covers)]


def exclusivity(holder: int, number: int = 1, **over: Any) -> list[Row]:
    row = {
        "id": uid(0xD, number),
        "offer_id": OFFER,
        "buyer_id": buyer(holder),
        "market_id": None,
        "scope": "offer",
        "value": None,
        "valid_from": None,
        "valid_to": None,
        "is_active": True,
    }
    return [("offer_exclusivities", row | over)]


def policy(number: int = 1, *, rules: Any = None, **over: Any) -> Row:
    row = {
        "id": uid(0xC, number),
        "offer_id": None,
        "vertical_id": None,
        "market_id": None,
        "version": 1,
        "is_active": True,
        "rules": json.dumps(RULES | (rules or {})),
    }
    return "routing_policies", row | over


def case(
    name: str,
    *rows: list[Row],
    rules: Any = None,
    policies: list[Row] | None = None,
    offer: Image | None = None,
    lead: Image | None = None,
    at: str = NOON,
    used: Iterable[tuple[int, bool, str, int]] = (),
    positions: dict[int, int] | None = None,
) -> dict[str, Any]:
    """A vector. `used`: buyer, whether of the buyer's own counter, kind, count, in the window that holds `at`."""
    moment = micros(datetime.fromisoformat(at).replace(tzinfo=UTC))
    offers = {"id": OFFER, "vertical_id": VERTICAL, "market_id": None, "is_active": True} | (offer or {})
    flat = [("offers", offers), *([policy(rules=rules)] if policies is None else policies)]
    flat += [row for some in rows for row in some]
    zones = {row["id"]: row["timezone"] for table, row in flat if table == "buyers"}
    vector: dict[str, Any] = {
        "name": name,
        "config_version": 7,
        "token": str(TOKEN),
        "at": moment,
        "instant": plain(instant(moment)),
        "lead": plain(
            {
                "id": uid(1, 1),
                "offer_id": OFFER,
                "vertical_id": VERTICAL,
                "market_id": MARKET,
                "postal_code": "60614",
                "city": "Chicago",
            }
            | (lead or {})
        ),
        "rows": [[table, plain(image)] for table, image in sorted(flat, key=lambda row: TABLES.index(row[0]))],
        "used": [
            {
                "buyer_id": str(buyer(number)),
                "offer_id": None if own else str(OFFER),
                "kind": kind,
                "window_start": window_start(zones[buyer(number)], kind, moment),
                "used": count,
            }
            for number, own, kind, count in used
        ],
        "positions": [
            {"buyer_id": str(buyer(number)), "offer_id": str(OFFER), "position": position}
            for number, position in (positions or {}).items()
        ],
    }
    vector["expected"] = expected(vector, vector["rows"])
    return vector


def window_start(name: str, kind: str, moment: int) -> int:
    found = zone(name)
    if found is None:
        raise ValueError(f"no such zone: `{name}`")
    return (found.hour(moment) if kind == "hour" else found.day(moment)).start


def cases() -> Iterator[dict[str, Any]]:
    both = (candidate(1), candidate(2))
    yield case("nobody is enrolled")
    yield case("one buyer gets it", candidate(1))
    yield case("priority: the smaller rank", candidate(1, priority_rank=2), candidate(2, priority_rank=1))
    yield case("priority: equal ranks by the hash of the lead", *both, candidate(3))
    yield case(
        "tie-breakers in their order",
        candidate(1, weight=5),
        candidate(2, weight=5, enrolled_at=-1),
        rules={"tie_breakers": ["weight", "enrolled_at", "buyer_id"]},
    )
    yield case(
        "unknown enrolment instant and response time come last",
        candidate(1, enrolled_at=None),
        candidate(2),
        rules={"tie_breakers": ["sla_response_seconds", "enrolled_at", "buyer_id"]},
    )
    yield case("rotation: never served before all", *both, candidate(3), rules=TURNS, positions={1: 8, 2: 5})
    yield case("rotation: served longest ago", *both, candidate(3), rules=TURNS, positions={1: 8, 2: 5, 3: 6})
    yield case("rotation: a position beyond four bytes", *both, rules=TURNS, positions={1: 2**40, 2: 2**40 + 1})
    for weights in ((1, 1, 1), (1, 10, 100), (5, 1, 1)):
        for number in (1, 2, 3):
            yield case(
                f"weighted {weights}, lead {number}",
                *(candidate(place, weight=weight) for place, weight in enumerate(weights, start=1)),
                rules=WEIGHTS,
                lead={"id": uid(1, number)},
            )
    yield case("weighted: 0 is never chosen", candidate(1, weight=0), candidate(2), rules=WEIGHTS)
    yield case("weighted: a weight beyond four bytes", candidate(1, weight=2**40), candidate(2), rules=WEIGHTS)
    prefer = {"sla": {"mode": "prefer", "max_response_seconds": 60}}
    yield case(
        "sla: prompt ones before better ranks",
        candidate(1, priority_rank=1, sla_response_seconds=61),
        candidate(2, sla_response_seconds=60),
        candidate(3, priority_rank=0),
        rules=prefer,
    )
    yield case(
        "sla: required",
        candidate(1, sla_response_seconds=61),
        candidate(2),
        rules={"sla": {"mode": "require", "max_response_seconds": 60}},
    )
    yield from _standing()
    yield from _hours_and_windows()
    yield from _places()
    yield from _exclusivities()
    yield from _policies()


def _standing() -> Iterator[dict[str, Any]]:
    yield case(
        "paused, inactive, below its balance",
        candidate(1, status="paused"),
        candidate(2, is_active=False),
        candidate(3, funded=False),
    )
    yield case(
        "every reason of one buyer",
        candidate(
            1, status="paused", funded=False, hourly_cap=0, buyer_daily_cap=2, weight=0, acceptance_hours={"weekly": {}}
        ),
        rules=WEIGHTS,
        used=[(1, True, "day", 3)],
    )
    yield case("a buyer that does not exist", candidate(1)[1:])
    yield case(
        "hours and a zone that cannot be read",
        candidate(1, acceptance_hours='{"weekly": 1}'),
        candidate(2, zone_name="Mars/Olympus", daily_cap=3),
        candidate(3, zone_name="Mars/Olympus"),
    )
    yield case(
        "numbers that cannot be",
        candidate(1, priority_rank=None),
        candidate(2, hourly_cap=-1),
        candidate(3, buyer_daily_cap=-1),
    )
    yield case(
        "constraints that are not listed are not enforced",
        candidate(1, status="paused", acceptance_hours={"weekly": {}}),
        rules={"constraints": []},
    )
    caps = {"hourly_cap": 2, "daily_cap": 9, "buyer_hourly_cap": 4, "buyer_daily_cap": 30}
    yield case(
        "all four caps are counted under",
        candidate(1, **caps),
        used=[(1, False, "hour", 1), (1, True, "hour", 3), (1, False, "day", 8), (1, True, "day", 29)],
    )
    yield case(
        "full ones that would have gone first are shown full, in order of buyers",
        candidate(3, priority_rank=1, daily_cap=2),
        candidate(1, priority_rank=2, hourly_cap=1, daily_cap=1),
        candidate(2, priority_rank=3),
        candidate(4, priority_rank=4, daily_cap=1),
        used=[(3, False, "day", 2), (1, False, "hour", 1), (1, False, "day", 1), (4, False, "day", 1)],
    )
    yield case("a cap of 0 needs no proof", candidate(1, priority_rank=1, hourly_cap=0), candidate(2))
    yield case(
        "everybody is full",
        candidate(1, daily_cap=1),
        candidate(2, buyer_hourly_cap=1),
        used=[(1, False, "day", 1), (2, True, "hour", 2)],
    )
    yield case(
        "rotation among those with room",
        candidate(1, daily_cap=1),
        candidate(2),
        candidate(3),
        rules=TURNS,
        used=[(1, False, "day", 1)],
        positions={1: 1, 2: 3, 3: 2},
    )


def _hours_and_windows() -> Iterator[dict[str, Any]]:
    chicago = "America/Chicago"
    for at, said in (
        ("2026-06-10T13:59:59.999999", "before"),
        ("2026-06-10T14:00:00", "at"),
        ("2026-06-10T22:00:00", "after"),
    ):
        yield case(f"hours: {said} them", candidate(1, zone_name=chicago, acceptance_hours=OFFICE), at=at)
    for at in ("2026-06-13T06:30:00", "2026-06-13T07:00:00"):
        yield case(f"hours over midnight at {at}", candidate(1, zone_name=chicago, acceptance_hours=NIGHT), at=at)
    holiday = OFFICE | {"dates": {"2026-12-25": [], "2026-12-26": [["10:00", "24:00"]]}}
    for at in ("2026-12-25T16:00:00", "2026-12-26T16:00:00"):
        yield case(
            f"a date replaces its weekday at {at}", candidate(1, zone_name=chicago, acceptance_hours=holiday), at=at
        )
    repeated = {"weekly": {"sun": [["01:30", "01:45"]]}}
    for at in ("2026-11-01T06:30:00", "2026-11-01T07:30:00", "2026-11-01T07:45:00"):
        yield case(f"a repeated hour at {at}", candidate(1, zone_name=chicago, acceptance_hours=repeated), at=at)
    yield case(
        "a skipped hour does not exist",
        candidate(1, zone_name=chicago, acceptance_hours={"weekly": {"sun": [["02:00", "03:00"]]}}),
        at="2026-03-08T08:00:00",
    )
    for name, at in (
        (chicago, "2026-11-01T12:00:00"),  # a day of 25 hours
        (chicago, "2026-03-08T12:00:00"),  # a day of 23 hours
        ("Asia/Kolkata", "2026-06-10T18:29:59"),  # hours that begin at half past
        ("Australia/Lord_Howe", "2026-04-04T15:10:00"),  # half an hour back
        ("America/Sao_Paulo", "2018-11-04T03:00:00"),  # a day that begins at one o'clock
        ("America/Havana", "2026-11-01T05:30:00"),  # midnight comes twice
        ("Pacific/Apia", "2011-12-30T09:59:59"),  # the last second before a day that does not exist
        ("Pacific/Apia", "2011-12-30T10:00:00"),
        ("America/Juneau", "1867-10-19T00:00:00"),  # a day that is lived twice
    ):
        yield case(
            f"windows in {name} at {at}",
            candidate(1, zone_name=name, hourly_cap=3, daily_cap=4),
            at=at,
            used=[(1, False, "hour", 3), (1, False, "day", 4)],
        )


def _places() -> Iterator[dict[str, Any]]:
    postal, town = {"scope": "postal_code"}, {"scope": "city"}
    yield case(
        "postal codes are compared whole",
        candidate(1, area=postal | {"value": "02"}),
        candidate(2, area=postal | {"value": " 5 02"}),
        lead={"postal_code": "502"},
    )
    yield case(
        "postal codes without white space, upper-case",
        candidate(1, area=postal | {"value": "sw1a 1aa"}),
        lead={"postal_code": "SW1A\u20031AA"},
    )
    yield case(
        "cities folded and collapsed",
        candidate(1, area=town | {"value": "Gro\u00dfe  Stra\u00dfe"}),
        lead={"city": " GROSSE \t STRASSE "},
    )
    yield case(
        "cities in compatible forms",
        candidate(1, area=town | {"value": "S\u00e3o Paulo"}),
        lead={"city": "Sa\u0303o \uff30aulo"},
    )
    yield case(
        "a lead without a place is covered by the market",
        candidate(1),
        candidate(2, area=town | {"value": "X"}),
        candidate(3, area=postal | {"value": "1"}),
        lead={"postal_code": " ", "city": None},
    )
    yield case("another market", candidate(1, area={"market_id": uid(0xA, 2)}))
    yield case("areas that cover nothing", candidate(1, area={"is_active": False}), candidate(2, area=postal))


def _exclusivities() -> Iterator[dict[str, Any]]:
    both = (candidate(1), candidate(2))
    at = micros(datetime.fromisoformat(NOON).replace(tzinfo=UTC))
    yield case("the holder alone", *both, exclusivity(2))
    yield case("a holder that is paused closes the offer", candidate(1), candidate(2, status="paused"), exclusivity(2))
    yield case(
        "a holder that is paused is passed over",
        candidate(1),
        candidate(2, status="paused"),
        exclusivity(2),
        rules=FALLBACK,
    )
    yield case(
        "a holder that is full closes the offer",
        candidate(1),
        candidate(2, daily_cap=1),
        exclusivity(2),
        used=[(2, False, "day", 1)],
    )
    yield case(
        "a holder that is full is passed over, and shown full",
        candidate(1, priority_rank=1),
        candidate(2, priority_rank=9, daily_cap=1),
        exclusivity(2),
        rules=FALLBACK,
        used=[(2, False, "day", 1)],
    )
    yield case("a holder that is not enrolled", candidate(1), exclusivity(9))
    yield case(
        "the narrower scope shadows the wider",
        *both,
        candidate(3, status="paused"),
        exclusivity(1),
        exclusivity(2, 2, scope="market", market_id=MARKET),
        exclusivity(3, 3, scope="city", market_id=MARKET, value="CHICAGO"),
    )
    yield case("by postal code", *both, exclusivity(2, scope="postal_code", market_id=MARKET, value=" 606 14"))
    for said, over in (
        ("until now", {"valid_to": at}),
        ("from now", {"valid_from": at}),
        ("not yet", {"valid_from": at + 1}),
    ):
        yield case(f"valid {said}", *both, exclusivity(2, **over), rules=FALLBACK)
    yield case("two of one scope: the older", *both, exclusivity(2, 1, valid_from=5), exclusivity(1, 2, valid_from=4))
    yield case("two of one scope and age: the smaller id", *both, exclusivity(2, 2), exclusivity(1, 1))
    yield case("rows that hold nothing", *both, exclusivity(2, market_id=MARKET), exclusivity(2, 2, scope="city"))


def _policies() -> Iterator[dict[str, Any]]:
    one = candidate(1)
    yield case("no policy", one, policies=[])
    yield case("no policy is active", one, policies=[policy(is_active=False)])
    yield case(
        "rules that cannot be used win all the same",
        one,
        policies=[policy(), policy(2, offer_id=OFFER, rules={"x": 1})],
    )
    yield case(
        "offer before vertical before market",
        one,
        policies=[policy(1, market_id=MARKET), policy(2, vertical_id=VERTICAL), policy(3, offer_id=OFFER)],
    )
    yield case(
        "vertical with market before vertical",
        one,
        policies=[policy(1, vertical_id=VERTICAL), policy(2, vertical_id=VERTICAL, market_id=MARKET)],
    )
    yield case(
        "the newest version, then the smallest id",
        one,
        policies=[policy(1), policy(3, version=2), policy(2, version=2)],
    )
    yield case("an inactive offer", one, offer={"is_active": False})
    yield case("an offer of another vertical", one, offer={"vertical_id": uid(0xE, 2)})
    yield case("an offer for another market", one, offer={"market_id": uid(0xA, 2)})
    yield case("a lead without an offer", one, lead={"offer_id": None})
    yield case("an unknown offer", one, lead={"offer_id": OTHER})


def write() -> str:
    """The text of the file."""
    vectors = list(cases())
    names = [vector["name"] for vector in vectors]
    if len(set(names)) < len(names):
        raise ValueError("two vectors have one name")
    about = {"format": 1, "about": ABOUT, "tzdata_version": TZDATA_VERSION, "unicode_version": UNICODE_VERSION}
    lines = ",\n".join(json.dumps(plain(vector)) for vector in vectors)
    return f'{json.dumps(about)[:-1]}, "vectors": [\n{lines}\n]}}\n'


if __name__ == "__main__":
    if "--write" in sys.argv:
        FILE.write_text(write(), "utf-8", newline="\n")
    failed = wrong(read())
    sys.stdout.write("\n".join(failed))
    sys.exit(bool(failed))
