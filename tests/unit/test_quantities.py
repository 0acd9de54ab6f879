from __future__ import annotations

import pytest

from vmprov.spec.quantities import format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512MiB", 512 * 1024**2),
        ("2GiB", 2 * 1024**3),
        ("2G", 2 * 1024**3),
        ("2g", 2 * 1024**3),
        ("2GB", 2 * 10**9),
        ("1.5 GiB", 3 * 1024**3 // 2),
        ("100B", 100),
    ],
)
def test_a_size_is_a_number_and_a_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["2048", "", "GiB", "-1G", "1e9", "2 gibibytes", "2G iB", "0x10M"])
def test_a_size_without_a_clear_meaning_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize(("size", "text"), [(0, "0B"), (1024**2, "1MiB"), (1536, "1.5KiB"), (10**12, "931.3GiB")])
def test_a_size_is_written_shortly(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("5m", 300), ("1.5h", 5400), ("250ms", 0.25)])
def test_a_duration_is_a_number_and_perhaps_a_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-5m", "5 minutes", "m"])
def test_a_duration_without_a_clear_meaning_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


def test_a_duration_ends_before_the_calendar_does() -> None:
    assert parse_duration("36500d") == 36500 * 86400
    with pytest.raises(ValueError, match="'36501d' is more than 100 years"):
        parse_duration("36501d")
