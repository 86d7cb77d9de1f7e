"""Numbers as people write them."""

from __future__ import annotations


def written(number: float) -> str:
    """A number as briefly as people write it, no digit lost."""
    return brief if float(brief := f"{number:g}") == number else repr(float(number))


def four_digits(number: float) -> str:
    """A number to four digits, all digits of large ones, without an exponent."""
    return f"{number:,.0f}" if number >= 1000 else f"{number:.4g}"


def abbreviated(number: float) -> str:
    """A number to three digits and its thousands as a letter: 57.3 k, 12.4 M."""
    for unit, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number:.3g}"


def counted(number: float, unit: str) -> str:
    """A number of things: `1 user`, `64 users`, `1,000 requests`, `2.5 GPUs`; the unit in the singular."""
    return f"{f'{number:,.0f}' if number == int(number) else written(number)} {unit}{'s' * (number != 1)}"


def is_whole(value: object) -> bool:
    """Whether a value of somebody's own code is a whole number, of whatever library, and no truth value."""
    return type(value) is int or (hasattr(value, "__index__") and not isinstance(value, bool))


def whole(text: str) -> int:
    """A whole number as people write it. Raises ValueError in words of theirs."""
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text.strip() or 'nothing'} is no whole number") from None


def real(text: str) -> float:
    """A number as people write it. Raises ValueError in words of theirs."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text.strip() or 'nothing'} is no number") from None


def as_share(text: str) -> float:
    """A share as people write it, 2% or 0.02. Raises ValueError for what is no number."""
    number = text.strip()
    return round(real(number.removesuffix("%")) / 100, 9) if number.endswith("%") else real(number)


def give_or_take(value: float | None, half: float | None, form: str) -> str:
    """A figure in a format, and half the width of its interval where that is known; a dash where nothing is."""
    return "–" if value is None else f"{value:{form}}" + ("" if half is None else f" ± {half:{form}}")
