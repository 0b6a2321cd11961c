"""Each rule has bugs that leave it out, or says why it has none; no bug is without its rule."""

from __future__ import annotations

from collections import Counter

from tests.mutants.planting import BUGS
from tests.mutants.table import PARTS, RULES, SECTIONS, WITHOUT

NUMBERS = {
    f"{section}.{rule}" if rule else str(section)
    for section, rules in SECTIONS.items()
    for rule in (range(1, rules + 1) if rules and section != 7 else range(rules + 1))
}


def test_each_rule_has_a_bug_that_leaves_it_out_or_says_why_there_is_none() -> None:
    assert set(RULES) | set(WITHOUT) == NUMBERS
    assert not set(RULES) & set(WITHOUT)
    assert all(RULES.values())
    assert all(WITHOUT.values())
    assert all(part.split(",")[0] in NUMBERS for part in PARTS)


def test_each_bug_leaves_out_one_rule() -> None:
    named = Counter(words for bugs in RULES.values() for words in bugs)
    assert set(named) == set(BUGS)
    assert [words for words, times in named.items() if times > 1] == []
