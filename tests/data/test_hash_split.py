"""Division into splits by a hash of each source."""

from ptl_prefix.data.hash_split import Division


def test_shares_are_met_on_average() -> None:
    division = Division(validation=0.2, test=0.1, seed=0)

    splits = [division.split_of(f"in {number}") for number in range(5_000)]

    assert 0.18 < splits.count("validation") / 5_000 < 0.22
    assert 0.08 < splits.count("test") / 5_000 < 0.12


def test_another_seed_divides_otherwise() -> None:
    one, other = (Division(validation=0.5, test=0.0, seed=seed) for seed in (0, 1))

    assert [one.split_of(f"in {n}") for n in range(50)] != [other.split_of(f"in {n}") for n in range(50)]


def test_the_division_is_the_same_on_every_machine() -> None:
    division = Division(validation=0.3, test=0.3, seed=0)

    assert [division.split_of(f"in {number}") for number in range(6)] == [
        "train",
        "test",
        "train",
        "train",
        "validation",
        "test",
    ]
