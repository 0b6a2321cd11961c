"""Programs of the tests of topics: `python -m tests.integration.feeds publish prices prices.eur 1 5`."""

from __future__ import annotations

import os
import sys
import time

from zerowait import App, Client, Context, Topic

PRICES = Topic[int]("prices.*", history=100)
ORDERS = Topic[int]("orders.>")

billing = App("billing")


@billing.subscribe(ORDERS, group="billing", durable=True)
def bill(order: int, ctx: Context) -> None:
    witness("billed", order, ctx.channel, os.getpid())


sharing = App("sharing")


@sharing.subscribe(ORDERS, group="sharing")
async def share(order: int, ctx: Context) -> None:
    witness("shared", order, ctx.channel, os.getpid())


def witness(*words: object) -> None:
    with open(os.environ["WITNESS"], "a", encoding="utf-8") as file:
        file.write(" ".join(map(str, words)) + "\n")


def publish(name: str, topic: str, first: str, count: str, subscribers: str = "1", stay: str = "") -> None:
    """Once so many subscribe, `count` numbers from `first` on; says to how many the last was addressed."""
    with Client(name) as zw:
        if int(subscribers):
            zw.subscribers(topic).at_least(int(subscribers)).result(20)
        last = [zw.publish(topic, number) for number in range(int(first), int(first) + int(count))][-1]
        print("addressed", last.result(5), flush=True)
        while stay:
            time.sleep(1)  # until it is killed


def subscribe(name: str, pattern: str, queue: str = "1000") -> None:
    with Client(name) as zw, zw.subscribe(pattern, yields=int, queue=int(queue)) as events:
        print("ready", flush=True)
        for event in events:
            print(event.topic, event.value, event.missed, event.sender, flush=True)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
