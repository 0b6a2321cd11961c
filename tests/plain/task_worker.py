"""PULL and PUSH: sleeps as many milliseconds as a task says, and tells the sink with an empty message."""

import sys
import time

import zmq


def main(tasks: str = "tcp://localhost:5557", sink: str = "tcp://localhost:5558") -> None:
    context = zmq.Context()
    receiver = context.socket(zmq.PULL)
    receiver.connect(tasks)
    sender = context.socket(zmq.PUSH)
    sender.connect(sink)
    while True:
        task = receiver.recv_string()
        time.sleep(int(task) * 0.001)
        sender.send(b"")


main(*sys.argv[1:])
