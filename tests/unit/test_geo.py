"""Postal codes and cities in one form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.engine import geo

from .worlds import ONE, OTHER_MARKET, candidate, codes, decided, explained, facts, make_lead, make_world, uid, winner

WHITE_SPACE = "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2005\u2028\u2029\u202f\u205f\u3000"


@pytest.mark.parametrize("text", ["sw1a 1aa", " SW1A1AA ", "s w\t1\xa0a1\u3000aa", "Sw1A\n1Aa"])
def test_postal_codes_are_upper_case_without_white_space(text):
    assert geo.postal_code(text) == "SW1A1AA"


def test_leading_zeros_of_a_postal_code_count():
    assert geo.postal_code("02") == "02"


@pytest.mark.parametrize("text", ["-", "606-01", "０２"])
def test_nothing_but_case_and_white_space_of_a_postal_code_changes(text):
    assert geo.postal_code(text) == text


@pytest.mark.parametrize("normalise", [geo.postal_code, geo.city])
@pytest.mark.parametrize("text", [None, "", " ", WHITE_SPACE])
def test_what_is_blank_is_missing(normalise, text):
    assert normalise(text) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  New \t\xa0 York ", "new york"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("Ｃｈｉｃａｇｏ", "chicago"),
        ("Sa\u0303o Paulo", "são paulo"),
        ("ﬁnland", "finland"),
        ("St.\u2003Louis", "st. louis"),
        ("İstanbul", "i̇stanbul"),
    ],
)
def test_cities_are_compatibility_composed_case_folded_trimmed_and_collapsed(text, expected):
    assert geo.city(text) == expected


@pytest.mark.parametrize("space", WHITE_SPACE)
def test_every_white_space_that_python_splits_at_is_white_space(space):
    assert (geo.postal_code(f"a{space}b"), geo.city(f"a{space}b")) == ("AB", "a b")


@pytest.mark.parametrize("text", ["a\u200bb", "a\u2060b", "a\ufeffb"])
def test_what_python_does_not_split_at_is_no_white_space(text):
    assert text.upper() == geo.postal_code(text)


@given(st.text())
def test_a_normalised_postal_code_stays_as_it_is(text):
    once = geo.postal_code(text)
    assert once == geo.postal_code(once)


@given(st.text(alphabet=st.characters(codec="latin-1")))
def test_a_normalised_city_stays_as_it_is(text):
    once = geo.city(text)
    assert once == geo.city(once)


# who covers a lead


@pytest.mark.parametrize(
    "area",
    [
        {"scope": "market"},
        {"scope": "market", "value": " "},
        {"scope": "city", "value": "  CHICAGO"},
        {"scope": "postal_code", "value": " 606 01"},
    ],
)
def test_an_area_covers_a_lead_whose_place_it_names(area):
    assert winner(make_world(candidate(1, area=area))) == ONE


@pytest.mark.parametrize(
    "area",
    [
        {"market_id": None},
        {"is_active": False},
        {"scope": "city", "value": "Chicago Heights"},
        {"scope": "city", "value": "60601"},
        {"scope": "city", "value": None},
        {"scope": "postal_code", "value": "0601"},
        {"scope": "postal_code", "value": "6060"},
        {"scope": "postal_code", "value": "060601"},
        {"scope": "postal_code", "value": " "},
        {"scope": "county", "value": "60601"},
        {"scope": "Market"},
        {"scope": None},
    ],
)
def test_an_area_covers_no_other_lead(area):
    assert codes(explained(make_world(candidate(1, area=area)))) == ["not_in_service_area"]


def test_a_short_postal_code_never_matches_the_end_of_a_longer_one():
    world = make_world(candidate(1, area={"scope": "postal_code", "value": "02"}))
    assert decided(world, lead=make_lead(postal_code="502")).winner is None


def test_an_area_covers_leads_of_its_own_market_only():
    world = make_world(candidate(1))
    assert codes(explained(world, lead=make_lead(market_id=None))) == ["not_in_service_area"]


@pytest.mark.parametrize(
    ("lead", "areas", "missing"),
    [
        ({"postal_code": None}, ["postal_code"], ["postal_code"]),
        ({"postal_code": " "}, ["postal_code"], ["postal_code"]),
        ({"city": "\u3000"}, ["city"], ["city"]),
        ({"postal_code": None, "city": None}, ["city", "postal_code"], ["postal_code", "city"]),
        ({"postal_code": None, "city": None}, ["city"], ["city"]),
        ({"postal_code": None, "city": None}, ["postal_code"], ["postal_code"]),
    ],
)
def test_a_buyer_whose_areas_all_need_what_the_lead_lacks_is_geo_missing(lead, areas, missing):
    standing = explained(make_world(covering_only(areas)), lead=make_lead(**lead))
    assert [("geo_missing", {"missing": missing})] == list(zip(codes(standing), facts(standing), strict=True))


@pytest.mark.parametrize(
    ("lead", "areas"),
    [
        ({"postal_code": None}, ["city"]),
        ({"postal_code": None}, ["city", "postal_code"]),
        ({"city": None}, ["city", "postal_code"]),
        ({"postal_code": None, "city": None}, []),
    ],
)
def test_a_buyer_with_an_area_that_the_lead_could_have_matched_is_not_in_service_area(lead, areas):
    assert codes(explained(make_world(covering_only(areas)), lead=make_lead(**lead))) == ["not_in_service_area"]


def test_areas_of_other_markets_make_nothing_geo_missing():
    rows = candidate(1, area={"scope": "postal_code", "value": "60601", "market_id": OTHER_MARKET})
    assert codes(explained(make_world(rows), lead=make_lead(postal_code=None))) == ["not_in_service_area"]


@pytest.mark.parametrize("scope", ["market", "city"])
def test_a_lead_without_a_postal_code_is_covered_by_city_or_market(scope):
    rows = candidate(1, area={"scope": scope, "value": None if scope == "market" else "chicago"})
    assert winner(make_world(rows), lead=make_lead(postal_code=None)) == ONE


def covering_only(scopes):
    """A buyer with an area of each scope, elsewhere in the market."""
    buyer, enrollment, area = candidate(1)
    areas = [
        (area[0], area[1] | {"id": uid(0x5, number), "scope": scope, "value": "elsewhere"})
        for number, scope in enumerate(scopes)
    ]
    return [buyer, enrollment, *areas]
