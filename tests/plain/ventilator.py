"""PUSH: binds, tells the sink that a batch begins, waits for a line on stdin, and gives out so many tasks."""

import sys

import zmq


def main(endpoint: str = "tcp://*:5557", sink: str = "tcp://localhost:5558", tasks: str = "100") -> None:
    context = zmq.Context()
    sender = context.socket(zmq.PUSH)
    sender.bind(endpoint)
    told = context.socket(zmq.PUSH)
    told.connect(sink)
    print("ready", flush=True)
    sys.stdin.readline()
    told.send(b"0")
    for number in range(int(tasks)):
        sender.send_string(str(number % 5))
    sys.stdin.readline()


main(*sys.argv[1:])
