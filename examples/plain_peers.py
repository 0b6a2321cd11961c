"""Programs that know nothing of zerowait, in any language: bare PUSH and PULL sockets on a channel.

`feed` connects to a `zmq.PUSH` that binds tcp://*:5559 and sends strings; what it gets is forwarded to a bare
`zmq.PULL` at 5560.
"""

from zerowait import App, Plain, PushChannel

NUMBERS = PushChannel[int]("plain.numbers", plain=Plain("text", connect="tcp://127.0.0.1:5559"))
SQUARES = PushChannel[str]("plain.squares", plain=Plain("text", bind="tcp://*:5560"))
app = App("squares")


@app.pull(NUMBERS, to=SQUARES)
def square(number: int) -> str:
    return str(number * number)
