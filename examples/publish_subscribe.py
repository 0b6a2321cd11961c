"""What happens, told to all who want to know: prices, a screen that shows them, and a service that counts.

    zerowait run examples.publish_subscribe:app       # a service: each event is counted by one process of its group
    python -m examples.publish_subscribe screen       # shows what comes; start as many as you like
    python -m examples.publish_subscribe bank         # publishes, once somebody listens

Without an argument it is all of that in one process.
"""

import sys
from collections.abc import Iterable

from zerowait import App, Client, Context, Topic

PRICES = Topic[float]("prices.*", retain=True, history=100)

app = App("counter")
counted: list[float] = []


@app.subscribe(PRICES, group="counter", durable=True)  # what comes while nobody counts waits at the bank
def count(price: float, ctx: Context) -> None:
    counted.append(price)
    ctx.publish("counts.prices", len(counted))


def bank(zw: Client, prices: Iterable[float], listeners: int = 1) -> None:
    zw.subscribers(PRICES).at_least(listeners).result(30)  # no sleep: from here on they hear it
    for price in prices:
        zw.publish(PRICES.at("eur"), price)
    addressed = zw.publish(PRICES.at("usd"), 1.0).result()
    print(f"the last price is addressed to {addressed}")


def screen(zw: Client) -> None:
    with zw.subscribe(PRICES, replay=5, idle=3) as events:
        for event in events:
            missed = f" ({event.missed} missed)" if event.missed else ""
            print(f"{event.topic} {event.value} from {event.sender}{missed}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["bank"]:
            with Client("bank") as zw:
                bank(zw, (1.5, 2.5, 3.5))
        case ["screen"]:
            with Client("screen") as zw:
                screen(zw)
        case _:
            with app, Client("bank") as zw, Client("screen") as other:
                events = other.subscribe(PRICES, idle=1)
                bank(zw, (1.5, 2.5, 3.5), listeners=2)
                print("shown:", [event.value for event in events])
            print("counted:", sorted(counted))
