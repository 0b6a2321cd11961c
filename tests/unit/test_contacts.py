"""Whom to dial when: an address that did not answer is tried again within a second, for ever."""

from __future__ import annotations

from zerowait.engines.brokerless.addresses import AddressBook
from zerowait.engines.brokerless.contacts import CONNECT_LONG_S, CONNECT_S, Contact, Contacts

ADDRESS = "tcp://192.0.2.1:5511"


def contacts() -> Contacts:
    return Contacts(1, AddressBook({"c": ADDRESS}), lambda address: [address], lambda: 1.0)


def due(of: Contacts, now: float) -> list[Contact]:
    return of.due(["c"], (), lambda instance: False, now)


def test_between_two_dials_of_who_does_not_answer_lies_less_than_a_second() -> None:
    book, now = contacts(), 1_000.0
    for number in range(1, 50):
        [contact] = due(book, now)
        book.dialled(contact, number, now)
        now += 0.01
        book.lost(number, "it did not answer", now)
        assert due(book, now + 0.001) == []
        assert due(book, now + 0.9) != [], "at the latest, whatever chance says"
        now += 0.9


def test_every_eighth_dial_in_vain_waits_longer_and_who_was_met_is_dialled_quickly_again() -> None:
    book, now, waits = contacts(), 1_000.0, list[float]()
    for number in range(1, 17):
        [contact] = due(book, now)
        waits.append(contact.connect_s())
        book.dialled(contact, number, now)
        book.lost(number, "it did not answer", now)
        now += 1.0
    assert waits == [*[CONNECT_S] * 7, CONNECT_LONG_S] * 2
    [contact] = due(book, now)
    book.dialled(contact, 99, now)
    book.met(99, 7)
    book.lost(99, "closed", now)
    assert contact.connect_s() == CONNECT_S
    assert contact.vain == 1
