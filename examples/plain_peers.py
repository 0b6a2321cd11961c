"""Programs that know nothing of zerowait, in any language: bare ZeroMQ sockets of all six types.

`python -m examples.plain_peers` plays both sides: an app and a client of ours, and beside them what others have written
with plain pyzmq. Elsewhere the endpoints are those of the others, `tcp://host:5555`.
"""

import os
import threading
from pathlib import Path
from tempfile import gettempdir

import zmq

from zerowait import App, Client, Plain, PushChannel, RequestChannel, Topic


def at(name: str) -> str:
    return f"ipc://{Path(gettempdir())}/zerowait-example-{os.getpid()}-{name}"


NUMBERS = PushChannel[int]("plain.numbers", plain=Plain("text", connect=at("numbers")))
SQUARES = PushChannel[str]("plain.squares", plain=Plain("text", bind=at("squares")))
HELLO = RequestChannel[str, str]("plain.hello", plain=Plain("text", bind=at("hello")))
CLOCK = RequestChannel[str, int]("plain.clock", timeout=2, plain=Plain("text", connect=at("clock")))
STATION = Topic[str]("plain.station", plain=Plain("text", bind=at("station")))
WEATHER = Topic[str]("plain.weather", plain=Plain("text", connect=at("station"), prefix="1000"))

app = App("squares")


@app.pull(NUMBERS, to=SQUARES)  # from a zmq.PUSH that binds, to every zmq.PULL that connects
def square(number: int) -> str:
    return str(number * number)


@app.reply(HELLO)  # asked by any number of zmq.REQ
def hello(text: str) -> str:
    return text.replace("Hello", "World")


def others(context: zmq.Context[zmq.Socket[bytes]], ready: threading.Event) -> None:
    """What somebody else has written."""
    push, pull = context.socket(zmq.PUSH), context.socket(zmq.PULL)
    push.bind(at("numbers"))
    pull.connect(at("squares"))
    for number in range(3):
        push.send_string(str(number))
    print("squares:", sorted(pull.recv_string() for _ in range(3)))

    req = context.socket(zmq.REQ)
    req.connect(at("hello"))
    req.send_string("Hello")
    print("we answered:", req.recv_string())

    rep, sub = context.socket(zmq.REP), context.socket(zmq.SUB)
    rep.bind(at("clock"))
    sub.connect(at("station"))
    sub.subscribe("10001 ")
    ready.set()
    rep.recv()
    rep.send_string("1200")
    print("a plain subscriber:", sub.recv_string())


def main() -> None:
    context, ready = zmq.Context[zmq.Socket[bytes]](), threading.Event()
    with app, Client("weather") as zw, zw.subscribe(WEATHER, idle=10) as updates:
        them = threading.Thread(target=others, args=(context, ready))
        them.start()
        ready.wait(10)
        print("they answered:", zw.request(CLOCK, "what time is it?").result())
        while zw.publish(STATION, "59937 -3 40").result() < 2:  # both have subscribed, each to something else
            pass
        zw.publish(STATION, "10001 21 55")
        them.join()  # before the next line is printed: theirs is printed by another thread
        print("our subscriber:", next(iter(updates)).value)
    context.destroy(linger=0)
    for left in Path(gettempdir()).glob(f"zerowait-example-{os.getpid()}-*"):  # ZeroMQ leaves its socket files behind
        left.unlink()


if __name__ == "__main__":
    main()
