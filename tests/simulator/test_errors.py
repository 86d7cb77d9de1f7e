"""What ends a command is one sentence."""

from __future__ import annotations

import pickle

import pytest

from simulator.errors import InputError, NoSuchLayout


@pytest.mark.parametrize("kind", [InputError, NoSuchLayout])
@pytest.mark.parametrize("name", ["a\nb", "a\r\nb", "a\x85b", "a\u2028b"])
def test_words_of_a_file_break_no_line(kind: type[InputError], name: str) -> None:
    """A model's name in a server's log may have anything in it."""
    error = kind(f"served.jsonl: requests of servers set otherwise ({name}, m): give those of one")
    assert str(error) == "served.jsonl: requests of servers set otherwise (a b, m): give those of one"
    again = pickle.loads(pickle.dumps(error))  # as a worker sends it
    assert (type(again), str(again)) == (kind, str(error))
