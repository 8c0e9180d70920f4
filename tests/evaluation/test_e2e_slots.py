import pytest

from ptl_prefix.evaluation.e2e_slots import count_slot_errors, parse_slots

FULL = (
    "name : Blue Spice | Type : pub | food : Chinese | price : cheap | customer rating : low | area : riverside | "
    "family friendly : yes | near : Café Rouge"
)


def test_an_input_is_read_as_it_is_rendered_and_as_it_was_released() -> None:
    released = (
        "name[Blue Spice], eatType[pub], food[Chinese], priceRange[cheap], customer rating[low], area[riverside], "
        "familyFriendly[yes], near[Café Rouge]"
    )

    assert parse_slots(FULL) == parse_slots(released)
    assert parse_slots("name : A | price : £20-25") == {"name": "A", "price": "£20-25"}


@pytest.mark.parametrize("source", ["", "A long article.", "city : Rome | kind : pub", " | Mars : color : red"])
def test_what_is_no_input_of_e2e_has_no_slots(source: str) -> None:
    assert parse_slots(source) is None


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        ("Blue Spice is a cheap, poorly rated, child friendly Chinese pub by the river near Café Rouge.", (0, 0, 0)),
        ("The Blue Spice, a low-priced Chinese pub near Cafe Rouge in the riverside area, has a low customer rating. "
         "Families are welcome.", (0, 0, 0)),
        ("", (8, 0, 0)),
        ("Blue Spice is a restaurant.", (7, 0, 0)),
        ("Blue Spice is a pub. Blue Spice serves Chinese food for less than £20 at the riverside near Café Rouge. "
         "Kids are welcome, and it is rated 1 out of 5.", (0, 0, 0)),
        ("Blue Spice is a cheap, low rated, family friendly Chinese and Indian pub by the river near Café Rouge in the "
         "city centre.", (0, 2, 0)),
        ("Blue Spice is a cheap Chinese pub by the river near Café Rouge. This pub serves Chinese food. It has a low "
         "rating and is kid friendly.", (0, 0, 2)),
        ("Blue Spice is a cheap, low rated Chinese pub at the river near Café Rouge. Not family friendly.", (1, 1, 0)),
        ("Blue Spice is a cheap, low rated Chinese pub for adults by the river near Café Rouge.", (1, 1, 0)),
        ("Blue Spice is an expensive, highly rated Chinese pub at the river near Café Rouge. Kids welcome.", (2, 2, 0)),
    ],
)  # fmt: skip
def test_values_that_a_text_lacks_adds_and_repeats_are_counted(text: str, errors: tuple[int, int, int]) -> None:
    slots = parse_slots(FULL)
    assert slots is not None

    assert count_slot_errors(slots, text) == errors


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("price : less than £20", "It costs less than £20."),
        ("price : less than £20", "The price range is under £20"),
        ("price : £20-25", "Prices are £20 to £25."),
        ("price : £20-25", "It is moderately priced."),
        ("price : more than £30", "You pay £30 and more."),
        ("price : high", "Its price range is high."),
        ("price : moderate", "The price range is moderate."),
        ("customer rating : 5 out of 5", "It has a five star rating."),
        ("customer rating : 3 out of 5", "Customers rate it 3 out of 5."),
        ("customer rating : high", "It is highly rated."),
        ("customer rating : average", "The customer rating is average."),
        ("area : city centre", "It lies in the center of the city."),
        ("family friendly : no", "It isn't child friendly."),
        ("family friendly : no", "It does not welcome kids."),
        ("family friendly : no", "This is an adults only place."),
        ("Type : coffee shop | near : Café Sicilia", "There is a coffee shop near Café Sicilia."),
        ("Type : pub | near : Café Sicilia", "There is a pub near Café Sicilia."),
        ("food : French | near : Raja Indian Cuisine", "French food near Raja Indian Cuisine."),
    ],
)
def test_there_are_many_ways_to_say_a_value(source: str, text: str) -> None:
    slots = parse_slots(source)
    assert slots is not None

    assert count_slot_errors(slots, text) == (0, 0, 0)
